"""Networks that other frameworks train on digits: there, here, on the chip, and fine-tuned with OTTT at 4 bits.

    make frameworks                                    the environment, its tests, and the short form of this
    .venv-frameworks/bin/python benchmarks/frameworks.py

1,437 images of scikit-learn's digits to train on, 360 to test, T = 10, random spikes; one thread, seed 0. Prints the
table of docs/frameworks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ottt_loihi.converters.frameworks import check, convert
from ottt_loihi.converters.lava.backends import BACKENDS
from ottt_loihi.converters.nir import read as nir_reader
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.float_run import run as float_run
from ottt_loihi.converters.quantize.forms import HELPER
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.sim.network import ChipNetwork
from torch import Tensor, nn

import ottt_loihi as ol
from ottt_loihi import sim
from ottt_loihi.errors import OtttError

STEPS = 10
EVERY = ("u", "v", "s")


def snntorch(kind: str) -> nn.Module:
    """Make a network; its constants have the layer's shape, which snnTorch's NIR exporter expects."""
    import snntorch as snn

    def neurons(*shape: int) -> nn.Module:
        return snn.Leaky(beta=torch.full(shape, 0.8), threshold=torch.ones(shape), init_hidden=True)

    if kind == "conv":
        first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), neurons(8, 8, 8), nn.AvgPool2d(2))
        return nn.Sequential(
            *first, nn.Conv2d(8, 16, 3), neurons(16, 2, 2), nn.Flatten(-3), nn.Linear(64, 10), neurons(10)
        )
    if kind == "recurrent":
        recurrent = snn.RLeaky(beta=0.8, linear_features=48, init_hidden=True)
        return nn.Sequential(nn.Flatten(-3), nn.Linear(64, 48), recurrent, nn.Linear(48, 10), neurons(10))
    return nn.Sequential(nn.Flatten(-3), nn.Linear(64, 64), neurons(64), nn.Linear(64, 10), neurons(10))


def spikingjelly(kind: str) -> nn.Module:
    """Make a network."""
    from spikingjelly.activation_based import layer
    from spikingjelly.activation_based.neuron import IFNode, LIFNode

    def neurons() -> nn.Module:
        return LIFNode(tau=2.0, decay_input=False, detach_reset=True)

    if kind == "conv":
        first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), neurons(), nn.AvgPool2d(2))
        return nn.Sequential(first, nn.Conv2d(8, 16, 3), neurons(), nn.Flatten(), nn.Linear(64, 10), neurons())
    if kind == "recurrent":
        recurrent = layer.LinearRecurrentContainer(neurons(), 48, 48)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), recurrent, nn.Linear(48, 10), neurons())
    soft = IFNode(v_reset=None, detach_reset=True)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), soft, nn.Linear(64, 10), neurons())


def norse(kind: str) -> nn.Module:
    """Make a network; the MLP has constants for each neuron, which Norse's NIR exporter expects."""
    from norse.torch import LIFBoxCell, LIFBoxParameters, LIFCell, LIFParameters, LIFRecurrentCell, SequentialState

    def box(*shape: int) -> nn.Module:
        values = {"tau_mem_inv": 400.0, "v_th": 1.0, "v_leak": 0.0, "v_reset": 0.0}
        return LIFBoxCell(LIFBoxParameters(**{name: torch.full(shape, value) for name, value in values.items()}))

    cuba = LIFParameters(tau_mem_inv=torch.as_tensor(400.0), tau_syn_inv=torch.as_tensor(600.0))
    if kind == "conv":
        first = (nn.Conv2d(1, 8, 3, padding=1), LIFCell(cuba), nn.AvgPool2d(2), nn.Conv2d(8, 16, 3), box())
        return SequentialState(*first, nn.Flatten(), nn.Linear(64, 10), box())
    if kind == "recurrent":
        return SequentialState(nn.Flatten(), LIFRecurrentCell(64, 48, cuba), nn.Linear(48, 10), box())
    return SequentialState(nn.Flatten(), nn.Linear(64, 64), box(64), nn.Linear(64, 10), box(10))


def sinabs(kind: str) -> nn.Module:
    """Make a network; it has constants for each neuron, which sinabs' NIR exporter expects."""
    from sinabs.activation import MaxSpike, SingleSpike
    from sinabs.layers import LIF, IAFSqueeze, LIFRecurrent, SumPool2d

    def neurons(size: int) -> nn.Module:
        layer = LIF(tau_mem=torch.full((size,), 8.0), spike_threshold=torch.ones(size), spike_fn=SingleSpike)
        return layer.requires_grad_(False)  # a layer on the chip has one decay: it is not trained

    if kind == "conv":
        one = [IAFSqueeze(batch_size=64, spike_fn=MaxSpike(3)) for _ in range(3)]
        first = (nn.Conv2d(1, 8, 3, padding=1, bias=False), one[0], SumPool2d(2), nn.Conv2d(8, 16, 3, bias=False))
        return nn.Sequential(*first, one[1], nn.Flatten(), nn.Linear(64, 10, bias=False), one[2])
    if kind == "recurrent":
        back = nn.Linear(48, 48, bias=False)
        again = LIFRecurrent(tau_mem=8.0, norm_input=False, spike_fn=SingleSpike, rec_connect=back)
        return nn.Sequential(nn.Flatten(2), nn.Linear(64, 48), again, nn.Linear(48, 10), neurons(10))
    net = nn.Sequential(nn.Flatten(2), nn.Linear(64, 64), neurons(64), nn.Linear(64, 10), neurons(10))
    for layer in (net[1], net[3]):  # the input is divided by eight in these neurons
        layer.weight.data *= 8
    return net


KINDS = {"mlp": 12, "conv": 8, "recurrent": 12}  # and the epochs it is trained for
FINE_TUNING = 12  # epochs with weights of 4 bits
NETWORKS: dict[str, tuple[Callable[[str], nn.Module], str]] = {
    "snnTorch MLP 64-64-10, `Leaky`": (snntorch, "mlp"),
    "snnTorch 8C3-AP2-16C3-10, `Leaky`": (snntorch, "conv"),
    "snnTorch recurrent 48, `RLeaky`": (snntorch, "recurrent"),
    "SpikingJelly MLP 64-64-10, soft `IFNode` with a bias": (spikingjelly, "mlp"),
    "SpikingJelly 8C3-BN-AP2-16C3-10, `LIFNode`": (spikingjelly, "conv"),
    "SpikingJelly recurrent 48, `LinearRecurrentContainer`": (spikingjelly, "recurrent"),
    "Norse MLP 64-64-10, `LIFBoxCell`": (norse, "mlp"),
    "Norse 8C3-AP2-16C3-10, `LIFCell`": (norse, "conv"),
    "Norse recurrent 48, `LIFRecurrentCell`": (norse, "recurrent"),
    "sinabs MLP 64-64-10, `LIF`": (sinabs, "mlp"),
    "sinabs 8C3-SumPool-16C3-10, `IAF`, up to 3 spikes a step": (sinabs, "conv"),
    "sinabs recurrent 48, `LIFRecurrent`": (sinabs, "recurrent"),
}


@dataclass
class Digits:
    """Images ``(n, 1, 8, 8)`` in [0, 1] and labels, tensors; the test spikes ``(n, T, 1, 8, 8)`` are drawn once."""

    x: Tensor
    y: Tensor
    test: Tensor
    labels: Tensor
    generator: torch.Generator

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=self.generator).split(64)
        return [(spikes(self.x[rows], self.generator), self.y[rows]) for rows in order]

    def accuracy(self, scores: Tensor | np.ndarray) -> float:
        return float((torch.as_tensor(scores).argmax(1) == self.labels).float().mean())


def spikes(x: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand((len(x), STEPS, *x.shape[1:]), generator=generator) < x[:, None]).float()


def load(short: bool) -> Digits:
    split, generator = ol.load_data("digits"), torch.Generator().manual_seed(1)
    train, test = (240, 60) if short else (None, None)
    images = torch.from_numpy(split.x_test[:test])[:, None]
    x, y = torch.from_numpy(split.x_train[:train])[:, None], torch.from_numpy(split.y_train[:train])
    return Digits(x, y, spikes(images, generator), torch.from_numpy(split.y_test[:test]), generator)


def forget(net: nn.Module) -> None:
    for module in net.modules():
        for name in ("reset_mem", "reset_states", "reset"):
            if callable(getattr(module, name, None)):
                getattr(module, name)()
                break


def run(make: Callable[[str], nn.Module], net: nn.Module, x: Tensor) -> Tensor:
    """Return the spikes of the last layer, counted, as a user of that framework runs it."""
    forget(net)
    if make is sinabs:
        squeezed = any(type(module).__name__ == "IAFSqueeze" for module in net)
        for module in net.modules():
            if squeezed and hasattr(module, "batch_size"):
                module.batch_size, module.num_timesteps = len(x), -1
        result = net(x.flatten(0, 1)).unflatten(0, x.shape[:2]) if squeezed else net(x)
        return result.sum(1)
    total, state = torch.zeros(()), None
    for t in range(x.shape[1]):
        spikes, state = net(x[:, t], state) if make is norse else (net(x[:, t]), None)
        total = total + spikes
    return total


def train(make: Callable[[str], nn.Module], net: nn.Module, data: Digits, epochs: int) -> None:
    """Train with the framework's own backpropagation through time."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    net.train()
    for _ in range(epochs):
        for x, y in data.batches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(run(make, net, x), y).backward()
            optimizer.step()
    net.eval()


def train_on(net: ol.Network, data: Digits, epochs: int) -> None:
    """Train on with OTTT and weights of 4 bits, with a learning rate that falls to 0."""
    net.quantize(4)
    ol.Trainer(net, ol.OTTT(), loss="cross-entropy", learning_rate=1e-3, batch_size=64).fit(
        data.x.numpy(), data.y.numpy(), epochs
    )


def on_chip(net: ol.Network, data: Digits, bits: int = 8) -> tuple[ChipNetwork, float, list[np.ndarray]]:
    chip = quantize(from_torch(net), bits).chip
    result = sim.run(chip, data.test.numpy().astype(np.uint8), ("s",))
    return chip, data.accuracy(result.scores), result.states["s"]


def by_nir(make: Callable[[str], nn.Module], net: nn.Module, x: np.ndarray, folder: Path) -> str:
    """Return "equal" if the module's spikes are those of its NIR file, else the share that differs or the reason."""
    writer, path = make.__name__, folder / "theirs.nir"
    forget(net)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exported(writer, net, path)
    except ModuleNotFoundError:
        return "it has no exporter"
    except Exception as error:  # each fails in its own way
        return f"its exporter fails: {type(error).__name__}"
    try:
        found = nir_reader.read(path, STEPS, writer=writer)
    except OtttError as error:
        return f"not read: {str(error).split(': ', 1)[-1]:.60}"
    imported = convert.read(net, (1, 8, 8), STEPS, dtype=torch.float64)
    theirs = check.spikes_of(net, imported, torch.from_numpy(x).double())
    ours = [
        s for layer, s in zip(found.layers, float_run(found, x)) if layer.reset is not None and layer.name != HELPER
    ]
    spikes = [theirs[path].numpy() for path in imported.paths if path in theirs]
    different = np.mean([(a.reshape(b.shape) != b).mean() for a, b in zip(ours, spikes, strict=True)])
    return "equal" if not different else f"{100 * different:.1f} % differ"


def exported(writer: str, net: nn.Module, path: Path) -> None:
    """Write a file with the framework's own exporter."""
    import nir

    module, name = {
        "snntorch": ("snntorch.export_nir", "export_to_nir"),
        "spikingjelly": ("spikingjelly.activation_based.nir_exchange.to_nir", "export_to_nir"),
        "norse": ("norse.torch.utils.export_nir", "to_nir"),
        "sinabs": ("sinabs.nir", "to_nir"),
    }[writer]
    sample = torch.zeros(1, 8, 8) if writer == "snntorch" else torch.zeros(1, 1, 8, 8)
    if writer == "norse" and isinstance(net[0], nn.Flatten):  # it knows no Flatten, and no batch axis
        net, sample = type(net)(*list(net)[1:]), torch.zeros(64)
    for layer in net.modules() if writer == "sinabs" else ():
        if hasattr(layer, "batch_size"):
            layer.batch_size = 1
    if writer == "sinabs" and isinstance(net[0], nn.Flatten):
        net, sample = net[1:], torch.zeros(1, 1, 64)
    nir.write(path, getattr(importlib.import_module(module), name)(net, sample))


def measure(title: str, data: Digits, short: bool) -> list[str]:
    make, kind = NETWORKS[title]
    torch.manual_seed(0)
    theirs = make(kind)
    train(make, theirs, data, 1 if short else KINDS[kind])
    with torch.no_grad():
        in_module = data.accuracy(run(make, theirs, data.test))
    forget(theirs)
    check.compare(theirs, (1, 8, 8), STEPS, data.test.numpy()).raise_if_different()
    net = ol.from_module(theirs, (1, 8, 8), STEPS)
    with torch.no_grad():
        here = net.run(data.test)
    trained = from_torch(net)
    chip, eight, fired = on_chip(net, data)
    few = data.test[:5].numpy().astype(np.uint8)
    expected = float_run(trained, data.test.numpy())
    hidden = [i for i, layer in enumerate(trained.layers) if layer.reset is not None and layer.name != HELPER]
    differ = np.mean([((expected[i] != 0) != (fired[i].reshape(expected[i].shape) != 0)).mean() for i in hidden])
    in_lava, in_sim = (BACKENDS[name].run(chip, few, EVERY) for name in ("inprocess" if short else "lava", "sim"))
    for name in EVERY:
        for a, b in zip(in_lava.states[name], in_sim.states[name], strict=True):
            np.testing.assert_array_equal(a, b)
    with tempfile.TemporaryDirectory() as folder:
        nir = by_nir(make, theirs, data.test[:20].numpy(), Path(folder))
    _, four, _ = on_chip(net, data, 4)
    train_on(net, data, 1 if short else FINE_TUNING)
    _, tuned, _ = on_chip(net, data, 4)
    cells = [f"{100 * cell:.1f} %" for cell in (in_module, data.accuracy(here.scores), eight, differ, four, tuned)]
    return [title, *cells, nir]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    short = parser.parse_args().short
    warnings.filterwarnings("ignore", module="snntorch")
    torch.set_num_threads(1)
    print("| network | module | here | chip | spikes that differ on the chip | 4 bits | 4 bits, fine-tuned | by NIR |")
    print("|---|---|---|---|---|---|---|---|")
    data = load(short)
    for title in NETWORKS:
        print(f"| {' | '.join(measure(title, data, short))} |", flush=True)


if __name__ == "__main__":
    main()
