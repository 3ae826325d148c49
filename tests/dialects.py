"""Networks of other frameworks: the same code makes them of the real classes, and of stand-ins where these are missing.

``python tests/dialects.py`` writes tests/fixtures/dialects.npz, in an environment that has the frameworks (make
frameworks): their weights, an input, and the spikes of every layer, as the framework itself computes them.
"""

import importlib
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

FIXTURE = Path(__file__).parent / "fixtures" / "dialects.npz"
STEPS, SAMPLES = 14, 4
CASES = {  # framework → name → (input shape, what makes it)
    "snntorch": {
        "dense": ((12,), lambda f: [nn.Linear(12, 10), f.Leaky(beta=0.9, init_hidden=True), nn.Linear(10, 8),
            f.Leaky(beta=0.8, threshold=0.7, reset_mechanism="zero", init_hidden=True)]),
        "conv": ((2, 6, 6), lambda f: [nn.Conv2d(2, 4, 3, padding=1), f.Leaky(beta=0.85, init_hidden=True),
            nn.AvgPool2d(2), nn.Conv2d(4, 5, 2), f.Leaky(beta=torch.linspace(0.5, 0.9, 2),
            threshold=0.5, init_hidden=True),
            nn.Flatten(), nn.Linear(20, 6), f.Leaky(beta=0.9, reset_mechanism="none", init_hidden=True)]),
        "recurrent": ((12,), lambda f: [nn.Linear(12, 10), f.RLeaky(beta=0.9, linear_features=10, init_hidden=True),
            nn.Linear(10, 6), f.RLeaky(beta=0.5, V=-0.5, all_to_all=False, init_hidden=True)]),
        "at_once": ((12,), lambda f: [nn.Linear(12, 10), f.Leaky(beta=0.8, reset_delay=False, init_hidden=True),
            nn.Linear(10, 8), f.RLeaky(beta=0.9, linear_features=8, reset_delay=False, init_hidden=True)]),
        "synaptic": ((12,), lambda f: [nn.Linear(12, 10), f.Synaptic(alpha=0.6, beta=0.8, init_hidden=True),
            nn.Linear(10, 8), f.Synaptic(alpha=0.5, beta=0.7, reset_mechanism="zero", reset_delay=False,
            init_hidden=True), nn.Linear(8, 6), f.RSynaptic(alpha=0.5, beta=0.5, linear_features=6,
            init_hidden=True)]),
        "loses": ((12,), lambda f: [nn.Linear(12, 10), f.RLeaky(beta=0.8, linear_features=10, reset_mechanism="zero",
            init_hidden=True), nn.Linear(10, 8), f.Synaptic(alpha=0.5, beta=0.75, reset_mechanism="zero",
            init_hidden=True), nn.Linear(8, 6), f.RSynaptic(alpha=0.5, beta=0.5, reset_mechanism="zero",
            linear_features=6, init_hidden=True), nn.Linear(6, 5), f.Lapicque(beta=0.8, threshold=0.25,
            reset_mechanism="zero", init_hidden=True)]),
        "lapicque": ((12,), lambda f: [nn.Linear(12, 8), f.Lapicque(beta=0.8, threshold=0.1, init_hidden=True)]),
    },
    "spikingjelly": {
        "dense": ((12,), lambda f: [f.layer.Linear(12, 10), f.LIFNode(tau=2.0), f.layer.Linear(10, 8),
            f.LIFNode(tau=3.0, decay_input=False, v_reset=None), f.layer.Linear(8, 6),
            f.ParametricLIFNode(init_tau=3.0)]),
        "potentials": ((12,), lambda f: [f.layer.Linear(12, 10), f.LIFNode(tau=2.0, v_reset=-0.25),
            f.layer.Linear(10, 6), f.IFNode(v_threshold=1.5, v_reset=0.5)]),
        "conv": ((2, 6, 6), lambda f: [f.layer.Conv2d(2, 4, 3, padding=1, bias=False), f.layer.BatchNorm2d(4),
            f.IFNode(v_reset=None), f.layer.MaxPool2d(2), f.layer.Conv2d(4, 5, 2), f.layer.BatchNorm2d(5),
            f.LIFNode(tau=2.0, decay_input=False), f.layer.Flatten(), f.layer.Dropout(0.5), f.layer.Linear(20, 6),
            f.IFNode()]),
        "one_dimension": ((2, 9), lambda f: [nn.Conv1d(2, 4, 3, padding=1), f.IFNode(v_reset=None), nn.MaxPool1d(2),
            nn.ConvTranspose1d(4, 3, 2, stride=2), f.LIFNode(), nn.MaxPool1d(3, ceil_mode=True), nn.Flatten(),
            nn.Linear(9, 6), f.IFNode(v_reset=None)]),
        "recurrent": ((12,), lambda f: [f.layer.Linear(12, 10), f.layer.LinearRecurrentContainer(
            f.LIFNode(tau=2.0, decay_input=False, v_reset=None), 10, 10), f.layer.Linear(10, 6), f.LIFNode()]),
    },
    "norse": {
        "box": ((12,), lambda f: [nn.Linear(12, 10), f.LIFBoxCell(), nn.Linear(10, 8), f.LIFBoxCell(dt=0.002)]),
        "cuba": ((2, 6, 6), lambda f: [nn.Conv2d(2, 4, 3, padding=1), f.LIFCell(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(36, 6), f.LIFCell(dt=0.003)]),
        "recurrent": ((12,), lambda f: [f.LIFRecurrentCell(12, 10), nn.Linear(10, 6), f.LIFBoxCell()]),
    },
    "sinabs": {
        "dense": ((12,), lambda f: [nn.Linear(12, 10), f.LIF(tau_mem=20.0, spike_fn=f.SingleSpike), nn.Linear(10, 6),
            f.LIF(tau_mem=10.0, norm_input=False, spike_fn=f.MaxSpike(1), reset_fn=f.MembraneReset())]),
        "synapse": ((12,), lambda f: [nn.Linear(12, 10), f.LIF(tau_mem=9.0, tau_syn=4.0, norm_input=False,
            spike_fn=f.SingleSpike, reset_fn=f.MembraneReset())]),
        "several": ((12,), lambda f: [nn.Linear(12, 10), f.LIF(tau_mem=8.0, norm_input=False,
            spike_fn=f.MaxSpike(3)), nn.Linear(10, 6), f.IAF(spike_fn=f.MaxSpike(4))]),
        "pools": ((2, 6, 6), lambda f: [nn.Conv2d(2, 3, 3, bias=False), f.IAFSqueeze(batch_size=SAMPLES,
            spike_fn=f.MaxSpike(3)), f.SumPool2d(2), nn.Conv2d(3, 4, 2), f.IAFSqueeze(batch_size=SAMPLES,
            spike_fn=f.MaxSpike(2)), nn.Flatten(), nn.Linear(4, 6), f.IAFSqueeze(batch_size=SAMPLES,
            spike_fn=f.SingleSpike)]),
        "resets": ((12,), lambda f: [nn.Linear(12, 10), f.LIF(tau_mem=8.0, norm_input=False, spike_fn=f.SingleSpike,
            reset_fn=f.MembraneReset(reset_value=-0.25)), nn.Linear(10, 8), f.LIF(tau_mem=8.0, norm_input=False,
            spike_fn=f.SingleSpike, reset_fn=f.MembraneSubtract(subtract_value=0.5)), nn.Linear(8, 6),
            f.LIFRecurrent(tau_mem=8.0, norm_input=False, spike_fn=f.MaxSpike(2), rec_connect=nn.Linear(6, 6))]),
        "conv": ((2, 6, 6), lambda f: [nn.Conv2d(2, 4, 3, padding=1, bias=False), f.IAFSqueeze(batch_size=SAMPLES,
            spike_fn=f.SingleSpike), f.SumPool2d(2), nn.Conv2d(4, 5, 2, bias=False), f.IAFSqueeze(batch_size=SAMPLES,
            spike_fn=f.MaxSpike(1)), nn.Flatten(), nn.Linear(20, 6), f.IAFSqueeze(batch_size=SAMPLES,
            spike_fn=f.SingleSpike)]),
    },
}  # fmt: skip


SCALES = {
    "snntorch": 2,
    "spikingjelly": 5,
    "norse": 20,
    "sinabs": 20,
}  # of weights, so that every layer fires now and then
SCALES |= {
    "sinabs/several": 5,
    "sinabs/pools": 1,
    "sinabs/resets": 5,
    "spikingjelly/conv": 2,
    "norse/cuba": 8,
    "sinabs/conv": 1,
    "sinabs/synapse": 3,
    "snntorch/lapicque": 2,
}


def build(framework, name, parts, seed=0):
    """The network of a case in float64, with dyadic weights: what meets a threshold does so exactly."""
    torch.manual_seed(seed)
    shape, layers = CASES[framework][name]
    net = parts.Sequential(*layers(parts)).eval()
    generator = torch.Generator().manual_seed(seed)
    for key, value in net.state_dict().items():
        if key.endswith(("weight", "weights", "bias", "running_mean")) and value.is_floating_point():
            drawn = torch.randint(-80, 120, value.shape, generator=generator) / 128
            if value.ndim > 1:
                drawn = (
                    drawn
                    * SCALES.get(f"{framework}/{name}", SCALES[framework])
                    / 2 ** round(np.log2(value[0].numel()) / 2)
                )
            elif key.endswith("weight"):  # of a batch normalisation
                drawn = drawn.abs() + 0.5
            value.copy_(drawn if value.ndim > 1 or key.endswith("weight") else drawn / 8)
    return net.double(), shape


def example(shape, steps=STEPS):
    return (np.random.default_rng(1).random((SAMPLES, steps, *shape)) < 0.4).astype(np.uint8)


def real(framework):
    """The framework's own classes, or an ImportError."""
    if framework == "snntorch":
        return SimpleNamespace(**vars(importlib.import_module("snntorch")), Sequential=nn.Sequential)
    if framework == "spikingjelly":
        neuron = importlib.import_module("spikingjelly.activation_based.neuron")
        layer = importlib.import_module("spikingjelly.activation_based.layer")
        return SimpleNamespace(
            **{n: getattr(neuron, n) for n in dir(neuron) if n.endswith("Node")}, layer=layer, Sequential=nn.Sequential
        )
    if framework == "norse":
        norse = importlib.import_module("norse.torch")
        return SimpleNamespace(**vars(norse), Sequential=norse.SequentialState)
    layers, activation = (importlib.import_module(f"sinabs.{name}") for name in ("layers", "activation"))
    return SimpleNamespace(**{**vars(layers), **vars(activation)}, Sequential=nn.Sequential)


def _stand_in(home, name, keep):
    """A class with the name, the home and the attributes of a framework's neuron, which computes nothing."""

    def __init__(self, *arguments, **settings):
        nn.Module.__init__(self)
        keep(self, *arguments, **settings)

    def forward(self, x, *state):
        x = x @ self.input_weights.t() if hasattr(self, "input_weights") else x
        return (x > 1).to(x.dtype)

    return type(name, (nn.Module,), {"__init__": __init__, "forward": forward, "__module__": home})


def _snntorch(
    self,
    beta,
    threshold=1.0,
    reset_mechanism="subtract",
    V=1.0,
    all_to_all=True,
    linear_features=None,
    reset_delay=True,
    alpha=0.5,
    **rest,
):
    code = ("subtract", "zero", "none").index(reset_mechanism)
    for name, value in {
        "threshold": threshold,
        "graded_spikes_factor": 1.0,
        "reset_mechanism_val": code,
        "beta": beta,
        "alpha": alpha,
    }.items():
        self.register_buffer(name, torch.as_tensor(value))
    self.reset_delay, self.inhibition, self.state_quant = reset_delay, False, False
    if linear_features:
        self.recurrent = nn.Linear(linear_features, linear_features)
    elif not all_to_all:
        self.V = nn.Parameter(torch.tensor(float(V)))
        self.recurrent = nn.Module()
        self.recurrent.V = self.V


def _spikingjelly(self, tau=2.0, decay_input=True, v_threshold=1.0, v_reset=0.0, init_tau=None, **rest):
    self.tau, self.decay_input, self.v_threshold, self.v_reset, self.step_mode = (
        tau,
        decay_input,
        v_threshold,
        v_reset,
        "s",
    )
    if init_tau is not None:
        self.w = nn.Parameter(torch.tensor(-np.log(init_tau - 1)))


def _norse(self, *sizes, dt=0.001, **rest):
    values = {"tau_syn_inv": 200.0, "tau_mem_inv": 100.0, "v_leak": 0.0, "v_th": 1.0, "v_reset": 0.0}
    self.p, self.dt = SimpleNamespace(**{name: torch.tensor(value) for name, value in values.items()}), dt
    if sizes:
        self.input_weights = nn.Parameter(torch.zeros(sizes[1], sizes[0]))
        self.recurrent_weights = nn.Parameter(torch.zeros(sizes[1], sizes[1]))


def _sinabs(self, tau_mem=None, tau_syn=None, norm_input=True, spike_fn=None, reset_fn=None, batch_size=None, **rest):
    for name, value in {"tau_mem": tau_mem, "tau_syn": tau_syn, "spike_threshold": 1.0}.items():
        if value is not None:
            setattr(self, name, nn.Parameter(torch.tensor(value)))
    self.norm_input, self.spike_fn, self.min_v_mem = norm_input, spike_fn, None
    self.reset_fn = reset_fn or type("MembraneSubtract", (), {"subtract_value": None})()
    if batch_size:
        self.batch_size = batch_size
    if "rec_connect" in rest:
        self.rec_connect = rest["rec_connect"]


class _Container(nn.Module):
    """SpikingJelly's LinearRecurrentContainer."""

    def __init__(self, sub_module, inputs, outputs):
        super().__init__()
        self.rc, self.sub_module, self.y = nn.Linear(inputs + outputs, inputs), sub_module, None

    def forward(self, x):
        before = torch.zeros_like(x) if self.y is None or self.y.shape != x.shape else self.y
        self.y = self.sub_module(self.rc(torch.cat((x, before), dim=-1)))
        return self.y


class _SumPool2d(nn.LPPool2d):
    def __init__(self, size):
        super().__init__(1, size)


class MembraneReset:
    def __init__(self, reset_value=0.0):
        self.reset_value = reset_value


class MembraneSubtract:
    def __init__(self, subtract_value=None):
        self.subtract_value = subtract_value


class MaxSpike:
    def __init__(self, most):
        self.max_num_spikes_per_bin = most


def stand_ins(framework):
    """Classes that look like the framework's, for where it is not installed."""
    home, keep, names = {
        "snntorch": ("snntorch._neurons", _snntorch, "Leaky RLeaky Lapicque Synaptic RSynaptic Alpha"),
        "spikingjelly": (
            "spikingjelly.activation_based.neuron",
            _spikingjelly,
            "IFNode LIFNode ParametricLIFNode PSN",
        ),
        "norse": ("norse.torch.module", _norse, "LIFBoxCell LIFCell LIFRecurrentCell LICell"),
        "sinabs": ("sinabs.layers", _sinabs, "LIF IAF IAFSqueeze LIFRecurrent ExpLeak"),
    }[framework]
    layers = SimpleNamespace(**{n: getattr(nn, n) for n in dir(nn)}, LinearRecurrentContainer=_Container)
    extra = {
        "layer": layers,
        "Sequential": nn.Sequential,
        "SumPool2d": _SumPool2d,
        "MembraneReset": MembraneReset,
        "MembraneSubtract": MembraneSubtract,
        "SingleSpike": type("SingleSpike", (), {}),
        "MaxSpike": MaxSpike,
    }
    return SimpleNamespace(**{name: _stand_in(home, name, keep) for name in names.split()}, **extra)


def main():
    from ottt_loihi.converters.frameworks import check, convert

    arrays, versions = {}, {"torch": torch.__version__}
    for framework, cases in CASES.items():
        parts = real(framework)
        try:
            versions[framework] = version(framework)
        except PackageNotFoundError:
            versions[framework] = "unknown"
        for name in cases:
            net, shape = build(framework, name, parts)
            x = example(shape)
            imported = convert.read(net, shape, STEPS, dtype=torch.float64)
            for path, spikes in check.spikes_of(net, imported, torch.from_numpy(x).double()).items():
                counts = spikes.numpy().astype(np.uint8)
                assert np.array_equal(counts, spikes.numpy())
                arrays[f"{framework}/{name}/{path}"] = counts if counts.max() > 1 else np.packbits(counts)
    np.savez_compressed(FIXTURE, versions=json.dumps(versions), **arrays)
    print(versions, len(arrays), FIXTURE.stat().st_size, file=sys.stderr)


if __name__ == "__main__":
    main()
