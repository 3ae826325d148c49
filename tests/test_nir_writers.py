"""The frameworks' own exporters write a file, which we read, and their importers read one of ours: spike for spike.

``make frameworks`` runs it once for each version of nir that writers pin; what is not installed is skipped.
"""

import importlib
import itertools
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import torch
from dialects import real
from ottt_loihi.converters.frameworks import check, convert
from ottt_loihi.converters.nir import read as nir_reader
from ottt_loihi.converters.nir import write as nir_writer
from ottt_loihi.converters.quantize.float_run import run
from ottt_loihi.converters.quantize.forms import HELPER
from ottt_loihi.sim.network import LIF, ChipNetwork, Dense
from torch import nn

from ottt_loihi import sim
from ottt_loihi.errors import UsageError

nir = pytest.importorskip("nir")
STEPS, SAMPLES = 12, 6


def installed(package):
    try:
        return tuple(int(part) for part in version(package).split(".")[:3])
    except (PackageNotFoundError, ValueError):
        return (0,)


NIR = installed("nir")
SCALARS = NIR < (1, 0, 8) and NIR != (1, 0, 6)  # are written
NEW = NIR >= (1, 0, 6)  # LIF has a v_reset, and snnTorch 1.0 and SpikingJelly 2.0 write one


def snntorch(f, kind):
    """Constants have the layer's shape, which its exporter expects."""

    def leaky(*shape, **settings):
        return f.Leaky(beta=torch.full(shape, 0.8), threshold=torch.full(shape, 0.9), init_hidden=True, **settings)

    if kind == "conv":
        first = [nn.Conv2d(2, 4, 3, padding=1), leaky(4, 6, 6), nn.AvgPool2d(2), nn.Conv2d(4, 5, 2), leaky(5, 2, 2)]
        return [*first, nn.Flatten(-3), nn.Linear(20, 6), leaky(6)]
    if kind == "recurrent":
        return [nn.Linear(12, 10), f.RLeaky(beta=0.8, linear_features=10, init_hidden=True), nn.Linear(10, 6), leaky(6)]
    if kind == "synaptic":
        both = {"alpha": torch.full((10,), 0.5), "beta": torch.full((10,), 0.8), "threshold": torch.full((10,), 1.5)}
        return [nn.Linear(12, 10), f.Synaptic(**both, init_hidden=True), nn.Linear(10, 6), leaky(6)]
    return [nn.Linear(12, 10), leaky(10), nn.Linear(10, 6), leaky(6)]


def spikingjelly(f, kind):
    def lif(**settings):
        return f.LIFNode(tau=2.0, **settings)

    if kind == "conv":
        first = [f.layer.Conv2d(2, 4, 3, padding=1), lif(), f.layer.AvgPool2d(2), f.layer.Conv2d(4, 5, 2), f.IFNode()]
        return [*first, f.layer.Flatten(), f.layer.Linear(20, 6), lif(decay_input=False)]
    parametric = f.ParametricLIFNode(init_tau=3.0, decay_input=False)
    return [f.layer.Linear(12, 10), parametric, f.layer.Linear(10, 6), f.IFNode()]


def norse(f, kind):
    if kind == "iaf":  # constants as they are by default
        return [nn.Linear(12, 10), f.IAFCell(), nn.Linear(10, 6), f.IAFCell()]

    def box(*shape):
        values = {"tau_mem_inv": 300.0, "v_th": 1.0, "v_leak": 0.0, "v_reset": 0.0}
        return f.LIFBoxCell(f.LIFBoxParameters(**{name: torch.full(shape, value) for name, value in values.items()}))

    if kind == "cuba":
        values = {"tau_mem_inv": 300.0, "tau_syn_inv": 400.0, "v_th": 1.0, "v_leak": 0.0, "v_reset": 0.0}
        cuba = f.LIFCell(f.LIFParameters(**{name: torch.full((10,), value) for name, value in values.items()}))
        return [nn.Linear(12, 10), cuba, nn.Linear(10, 6), box(6)]
    return [nn.Linear(12, 10), box(10), nn.Linear(10, 6), box(6)]


def sinabs(f, kind):
    def lif(size):
        return f.LIF(tau_mem=torch.full((size,), 6.0), spike_threshold=torch.ones(size), spike_fn=f.SingleSpike)

    if kind == "sequence":
        layers = [f.LIF(tau_mem=tau, spike_fn=f.SingleSpike) for tau in (6.0, 9.0)]
        return [nn.Linear(12, 10), layers[0], nn.Linear(10, 6), layers[1]]
    if kind == "conv":
        iaf = [f.IAFSqueeze(batch_size=1, spike_fn=f.SingleSpike) for _ in range(2)]
        return [nn.Conv2d(2, 4, 3, padding=1), iaf[0], f.SumPool2d(2), nn.Conv2d(4, 5, 3), iaf[1]]
    return [nn.Linear(12, 10), lif(10), nn.Linear(10, 6), lif(6)]


WRITERS = {  # framework → maker, exporter, factor of weights, {kind: the versions of nir with which its exporter works}
    "snntorch": (snntorch, "snntorch.export_nir:export_to_nir", 3,
        {"dense": True, "conv": NEW, "recurrent": NEW, "synaptic": True}),
    "spikingjelly": (spikingjelly, "spikingjelly.activation_based.nir_exchange.to_nir:export_to_nir", 4,
        {"dense": NEW, "conv": NEW}),
    "norse": (norse, "norse.torch.utils.export_nir:to_nir", 20,
        {"dense": NIR != (1, 0, 6), "cuba": NIR != (1, 0, 6), "iaf": SCALARS}),
    "sinabs": (sinabs, "sinabs.nir:to_nir", 20, {"dense": NIR != (1, 0, 6), "sequence": SCALARS, "conv": False}),
}  # fmt: skip
KINDS = [(framework, kind) for framework, (*_, kinds) in WRITERS.items() for kind in kinds]
SHAPES = {"conv": (2, 6, 6)}


def made(framework, kind):
    """The module, or a skipped test."""
    try:
        parts = real(framework)
        package, _ = WRITERS[framework][1].split(":")
        importlib.import_module(package)
    except ImportError as missing:
        pytest.skip(f"{framework}: {missing}")
    maker, _, factor, kinds = WRITERS[framework]
    if not kinds[kind]:
        pytest.skip(f"its exporter fails with nir {version('nir')}")
    torch.manual_seed(0)
    net = parts.Sequential(*maker(parts, kind)).eval()
    for name, value in net.named_parameters():
        value.data *= factor * (1 + (value.ndim > 2)) if name.endswith("weight") and value.ndim > 1 else 1
    return net


def written(framework, kind, net, shape, path):
    module, name = WRITERS[framework][1].split(":")
    batch = () if framework in ("snntorch", "norse") else (1,)
    steps = (5 if kind == "sequence" else 1,) if framework == "sinabs" and len(shape) == 1 else ()
    sample = torch.zeros(*batch, *steps, *shape)
    nir.write(path, getattr(importlib.import_module(module), name)(net, sample))


@pytest.mark.parametrize(("framework", "kind"), KINDS)
def test_what_an_exporter_writes_has_the_modules_spikes(framework, kind, tmp_path):
    net, shape = made(framework, kind), SHAPES.get(kind, (12,))
    imported = convert.read(net, shape, STEPS, dtype=torch.float64)
    x = (np.random.default_rng(0).random((SAMPLES, STEPS, *shape)) < 0.4).astype(np.float64)
    theirs = check.spikes_of(net, imported, torch.from_numpy(x))
    written(framework, kind, net, shape, tmp_path / "theirs.nir")
    found = nir_reader.read(tmp_path / "theirs.nir", STEPS, writer=framework)
    layers = zip(found.layers, run(found, x), strict=True)
    firing = [spikes for layer, spikes in layers if layer.reset is not None and layer.name != HELPER]
    assert len(firing) == len(theirs) > 1
    for path, spikes in zip(imported.paths, firing, strict=True):
        expected = theirs[path].numpy()
        assert 0.02 < expected.mean() < 0.98, path
        assert np.array_equal(spikes.reshape(expected.shape), expected), path


IMPORTERS = {
    "snntorch": "snntorch.import_nir",
    "spikingjelly": "spikingjelly.activation_based.nir_exchange.from_nir",
}


@pytest.mark.parametrize("framework", IMPORTERS)
def test_what_we_write_is_read_with_the_chips_spikes(framework, tmp_path):
    try:
        importer = importlib.import_module(IMPORTERS[framework]).import_from_nir
    except ImportError as missing:
        pytest.skip(f"{framework}: {missing}")
    rng, x = np.random.default_rng(0), (np.random.default_rng(1).random((SAMPLES, STEPS, 12)) < 0.4)
    sizes = (12, 10, 6)
    layers = tuple(LIF((n,), 4095, 2048, 181, name=f"layer {n}") for n in sizes[1:])  # odd, and weights are even
    weights = [2 * rng.integers(-60, 90, (post, pre)) for pre, post in itertools.pairwise(sizes)]
    connections = tuple(Dense(i - 1, i, weight) for i, weight in enumerate(weights))
    chip = ChipNetwork((12,), layers, connections, STEPS, "spike_count")
    if NIR < (1, 0, 5):
        with pytest.raises(UsageError, match=r"nir 1\.0\.5 or later"):
            nir_writer.write(chip, tmp_path / "ours.nir", 1e-4)
        return
    nir_writer.write(chip, tmp_path / "ours.nir", 1e-4)
    net, state, theirs = importer(nir.read(tmp_path / "ours.nir")), None, []
    for frame in torch.from_numpy(x.astype(np.float32)).unbind(1):
        out, state = net(frame, state)
        theirs.append(out.detach().numpy())
    run = sim.run(chip, x.astype(np.uint8), ("s",))
    assert 0.02 < run.states["s"][-1].mean() < 0.98
    assert np.array_equal(np.stack(theirs) != 0, run.states["s"][-1])
