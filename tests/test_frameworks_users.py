"""Modules as users of other frameworks write them: each is read with the same spikes, or refused by what is wrong."""

import numpy as np
import pytest
import torch
from dialects import example, real, stand_ins
from ottt_loihi.converters.frameworks import check, convert, norse, spikingjelly
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from test_frameworks_readouts import Leaky
from torch import nn
from torch.overrides import TorchFunctionMode

import ottt_loihi as ol
from ottt_loihi import sim
from ottt_loihi.errors import ChipError, UsageError

S, N, B = (stand_ins(name) for name in ("spikingjelly", "norse", "sinabs"))


class Sees(TorchFunctionMode):
    """Whether this torch shows ``x[t] = y``, of a tensor y, to a function mode."""

    def __init__(self):
        super().__init__()
        self.names = []
        with self:
            torch.zeros(2, 1)[0] = torch.zeros(1)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


SEES_INDICES = "__setitem__" in Sees().names


class Net(nn.Module):
    """Two layers of neurons of snnTorch; ``forward_`` runs them."""

    def __init__(self, forward_):
        super().__init__()
        self.a, self.n, self.b, self.m, self.c = (
            nn.Linear(6, 5),
            Leaky(0.5),
            nn.Linear(5, 5),
            Leaky(0.8),
            nn.Linear(5, 3),
        )
        self.forward_ = forward_
        torch.manual_seed(0)
        for value in self.parameters():
            value.data = torch.randn_like(value) / value.shape[-1] ** 0.5 + 0.2

    def forward(self, x):
        return self.forward_(self, x)


class Carried(Net):
    """One step; the caller carries the membranes."""

    def forward(self, x, mem1=None, mem2=None):
        s, mem1 = self.n(self.a(x), mem1)
        s, mem2 = self.m(self.b(s), mem2)
        return s, mem1, mem2


def filled(net, x):
    out = torch.zeros(len(x), x.shape[1], 5, dtype=x.dtype)
    for t, frame in enumerate(x):
        out[t] = net.m(net.b(torch.relu(net.n(net.a(frame))[0])))[0]
    return out


def residual(net, x):
    total = 0
    for frame in x:
        first = net.n(net.a(frame))[0]
        total = total + net.c(first + net.m(net.b(first))[0])
    return total


@pytest.mark.parametrize(
    ("net", "readout"),
    [(Carried(None), "spikes"), (Net(filled), "spikes"), (Net(residual), "sum")],
    ids=["states by hand", "outputs filled in", "a sum of layers"],
)
def test_it_has_the_modules_spikes(net, readout):
    if net.forward_ is filled and not SEES_INDICES:
        with pytest.raises(ChipError, match=r"the nearest is torch\.stack of the last layer's outputs"):
            check.compare(net, (6,), 9)
        return
    compared = check.compare(net, (6,), 9)
    compared.raise_if_different()
    assert sum(spikes for _, spikes, _ in compared.layers.values()) > 50
    assert compared.predictions == 8
    imported = convert.read(net, (6,), 9)
    assert (imported.readout, imported.notes) == (readout, [])


def test_a_linear_layer_of_several_layers_goes_to_the_chip():
    net, x = Net(residual), example((6,), 9)
    network = ol.from_module(net.double(), (6,), 9)
    with torch.no_grad():
        theirs = net(torch.from_numpy(x).double().transpose(0, 1))
        net.n.reset_mem(), net.m.reset_mem()
        assert torch.allclose(network(torch.from_numpy(x)), theirs, atol=1e-12)
    chip = quantize(from_torch(network)).chip
    assert len(chip.inputs_of(2)) == 2
    scores = sim.run(chip, x).scores
    assert np.corrcoef(scores.ravel(), theirs.numpy().ravel())[0, 1] > 0.99


def twice(net, x):
    return torch.stack([net.m(net.c(net.n(net.b(net.n(net.a(frame))[0]))[0]))[0] for frame in x])


def test_neurons_that_run_twice_in_a_step_are_refused_by_name():
    with pytest.raises(UsageError, match="n: these neurons run 2 times where others run once, and have one state"):
        ol.from_module(Net(twice), (6,), 5)
    node = S.LIFNode()
    with pytest.raises(UsageError, match="1, 3: the same neurons at several places"):
        ol.from_module(nn.Sequential(nn.Linear(6, 5), node, nn.Linear(5, 5), node), (6,), 5)


def test_cells_that_get_a_sequence_are_refused_by_name():
    whole = type("LI", (type(N.LICell()),), {"__module__": "norse.torch.module"})
    with pytest.raises(UsageError, match="1: these neurons take one step, and ran once for a sequence"):
        ol.from_module(nn.Sequential(nn.Linear(6, 5), N.LIFBoxCell(), nn.Linear(5, 3), whole()), (6,), 5)


def test_one_problem_is_one_line():
    net = nn.Sequential(nn.Linear(6, 5), B.IAF(spike_fn=B.MaxSpike(3)), nn.Linear(5, 3), B.IAF(spike_fn=B.MaxSpike(3)))
    net[1].min_v_mem = torch.tensor(-1.0)
    with pytest.raises(ChipError, match=r"^1 part has no counterpart here: 1 \(IAF\): min_v_mem"):
        ol.from_module(net, (6,), 4)


def test_a_module_that_has_run_with_a_gradient_is_copied():
    net = nn.Sequential(nn.Linear(6, 5), B.IAF(spike_fn=B.SingleSpike()), nn.Linear(5, 3))
    net[1].register_buffer("v_mem", net[0](torch.ones(2, 6)))
    assert convert.read(net, (6,), 4).network.num_classes == 3
    assert net[1].v_mem.requires_grad


def test_constants_are_multiplied_in_their_own_dtype():
    a = norse._rate(N.LIFBoxCell(), "tau_mem_inv")
    assert a == float(0.001 * torch.tensor(100.0)) != 0.1


def test_a_neuron_that_never_fires_is_a_readout():
    neurons = spikingjelly.FRAMEWORK.neurons["LIFNode"](S.LIFNode(v_threshold=float("inf")))
    assert (neurons.fires, neurons.reset, neurons.beta, neurons.gain) == (False, "none", 0.5, 0.5)


def made_by(framework):
    """A module as the framework's own tutorial has it, its input's shape and options."""
    torch.manual_seed(0)
    if framework == "snntorch":
        import snntorch as f

        class Tutorial(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.n, self.b, self.m = nn.Linear(12, 10), f.Leaky(0.8), nn.Linear(10, 4), f.Leaky(0.9)

            def forward(self, x):
                one, two, membranes = self.n.init_leaky(), self.m.init_leaky(), []
                for _ in range(9):
                    spikes, one = self.n(self.a(x), one)
                    spikes, two = self.m(self.b(spikes), two)
                    membranes.append(two)
                return torch.stack(membranes).max(0).values

        net = Tutorial()
        for value in net.parameters():
            value.data *= 2
        return net, (12,), {}
    if framework == "spikingjelly":
        from spikingjelly.activation_based import neuron

        class Voltages(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.n, self.b = nn.Linear(12, 10), neuron.LIFNode(), nn.Linear(10, 4)
                self.o = neuron.LIFNode(v_threshold=float("inf"))

            def forward(self, x):
                for frame in x:
                    self.o(self.b(self.n(self.a(frame))))
                return self.o.v

        net = Voltages()
        net.a.weight.data *= 5
        return net, (12,), {}
    if framework == "norse":
        import norse.torch as f

        class Memory(nn.Module):
            def __init__(self):
                super().__init__()
                fires = f.LIFParameters(v_th=torch.tensor(0.1))
                self.a, self.n, self.o = nn.Linear(12, 10), f.LIFRecurrentCell(10, 10, p=fires), f.LILinearCell(10, 4)

            def forward(self, x):
                one = two = None
                voltages = torch.zeros(len(x), x.shape[1], 4)
                for t, frame in enumerate(x):
                    spikes, one = self.n(self.a(frame), one)
                    voltages[t], two = self.o(torch.relu(spikes), two)
                return voltages.max(0).values

        net = Memory()
        net.n.input_weights.data *= 3
        return net, (12,), {}
    from sinabs.from_torch import from_model

    layers = [nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3, bias=False)]
    net = from_model(nn.Sequential(*layers, nn.ReLU()), input_shape=(2, 8, 8), batch_size=8).spiking_model
    return net, (2, 8, 8), {"approximate": True, "spikes_per_step": 4}


@pytest.mark.parametrize("framework", ["snntorch", "spikingjelly", "norse", "sinabs"])
def test_the_frameworks_own_tutorials_are_read(framework):
    try:
        real(framework)
    except ImportError:
        pytest.skip(f"{framework} is not installed")
    net, shape, options = made_by(framework)
    steps = None if framework == "snntorch" else 9
    compared = check.compare(net, shape, steps, **options)
    compared.raise_if_different()
    assert (compared.membranes, compared.predictions) == (framework != "sinabs", 8)
    assert sum(spikes for _, spikes, _ in compared.layers.values()) > 20
    assert quantize(from_torch(ol.from_module(net, shape, steps, **options))).chip.num_steps == 9
