"""Networks that other frameworks train on digits: there, here, on the chip, and trained on with OTTT at 4 bits.

    make frameworks                                    the environment, its tests, and the short form of this
    .venv-frameworks/bin/python benchmarks/frameworks.py

1,437 images of scikit-learn's digits to train on, 360 to test, T = 10, random spikes; one thread, seed 0. Prints the
table of docs/frameworks.md.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ottt_loihi.converters.frameworks import check
from ottt_loihi.converters.lava.backends import BACKENDS
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.sim.network import ChipNetwork
from torch import Tensor, nn

import ottt_loihi as ol
from ottt_loihi import sim

STEPS = 10
EVERY = ("u", "v", "s")


def snntorch_mlp() -> nn.Module:
    import snntorch as snn

    def neurons() -> nn.Module:
        return snn.Leaky(beta=0.8, init_hidden=True)

    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), neurons(), nn.Linear(64, 10), neurons())


def snntorch_recurrent() -> nn.Module:
    import snntorch as snn

    recurrent = snn.RLeaky(beta=0.8, linear_features=48, init_hidden=True)
    last = snn.Leaky(beta=0.8, init_hidden=True)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), recurrent, nn.Linear(48, 10), last)


def spikingjelly_conv() -> nn.Module:
    from spikingjelly.activation_based.neuron import LIFNode

    def neurons() -> nn.Module:
        return LIFNode(tau=2.0, decay_input=False, detach_reset=True)

    first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), neurons(), nn.AvgPool2d(2))
    return nn.Sequential(first, nn.Conv2d(8, 16, 3), neurons(), nn.Flatten(), nn.Linear(64, 10), neurons())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # and the epochs it is trained for
    "snnTorch MLP 64-64-10": (snntorch_mlp, 12),
    "SpikingJelly 8C3-BN-AP2-16C3-10": (spikingjelly_conv, 8),
    "snnTorch RLeaky 48, recurrent": (snntorch_recurrent, 12),
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
        for name in ("reset_mem", "reset"):
            if callable(getattr(module, name, None)):
                getattr(module, name)()
                break


def run(net: nn.Module, x: Tensor) -> Tensor:
    """Return the spikes of the last layer, counted."""
    forget(net)
    return sum((net(x[:, t]) for t in range(STEPS)), torch.zeros(()))


def train(net: nn.Module, data: Digits, epochs: int) -> None:
    """Train with the framework's own backpropagation through time."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    net.train()
    for _ in range(epochs):
        for x, y in data.batches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(run(net, x), y).backward()
            optimizer.step()
    net.eval()


def train_on(net: ol.Network, data: Digits, epochs: int) -> None:
    """Train on with OTTT and weights of 4 bits."""
    net.train()
    net.quantize(4)
    rule, optimizer = ol.OTTT(), torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(epochs):
        for x, y in data.batches():
            rule.train_batch(net, x, y, ol.CrossEntropy(), optimizer)
    net.eval()


def on_chip(net: ol.Network, data: Digits, bits: int = 8) -> tuple[ChipNetwork, float, list[np.ndarray]]:
    chip = quantize(from_torch(net), bits).chip
    result = sim.run(chip, data.test.numpy().astype(np.uint8), ("s",))
    return chip, data.accuracy(result.scores), result.states["s"]


def measure(title: str, data: Digits, short: bool) -> list[str]:
    make, epochs = NETWORKS[title]
    torch.manual_seed(0)
    theirs = make()
    train(theirs, data, 1 if short else epochs)
    with torch.no_grad():
        in_module = data.accuracy(run(theirs, data.test))
    forget(theirs)
    check.compare(theirs, (1, 8, 8), STEPS, data.test.numpy()).raise_if_different()
    net = ol.from_module(theirs, (1, 8, 8), STEPS)
    with torch.no_grad():
        here = net.run(data.test, record="s")
    chip, eight, fired = on_chip(net, data)
    differ = np.mean([((a != 0) != (b.numpy().reshape(a.shape) != 0)).mean() for a, b in zip(fired, here.states["s"])])
    few = data.test[:5].numpy().astype(np.uint8)
    in_lava, in_sim = (BACKENDS[name].run(chip, few, EVERY) for name in ("inprocess" if short else "lava", "sim"))
    for name in EVERY:
        for a, b in zip(in_lava.states[name], in_sim.states[name], strict=True):
            np.testing.assert_array_equal(a, b)
    _, four, _ = on_chip(net, data, 4)
    train_on(net, data, 1 if short else 4)
    _, tuned, _ = on_chip(net, data, 4)
    cells = (in_module, data.accuracy(here.scores), eight, differ, four, tuned)
    return [title, *(f"{100 * cell:.1f} %" for cell in cells)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    short = parser.parse_args().short
    warnings.filterwarnings("ignore", module="snntorch")
    torch.set_num_threads(1)
    print("| network | module | here | chip | spikes that differ on the chip | 4 bits | 4 bits, trained on |")
    print("|---|---|---|---|---|---|---|")
    data = load(short)
    for title in NETWORKS:
        print(f"| {' | '.join(measure(title, data, short))} |", flush=True)


if __name__ == "__main__":
    main()
