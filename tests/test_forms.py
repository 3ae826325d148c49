"""Neurons that no stock neuron computes, as several of them: the same spikes in float, on the chip and in Lava."""

import math

import numpy as np
import pytest
import torch
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.export import Options, export_module
from ottt_loihi.converters.quantize import float_run, forms
from ottt_loihi.converters.quantize.float_connection import FloatConnection
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.converters.quantize.reach import most
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.network import Conv

from ottt_loihi import sim
from ottt_loihi.errors import ChipError
from ottt_loihi.nn.blocks import Block, Branch
from ottt_loihi.nn.connections import Conv2d, Linear, Readout
from ottt_loihi.nn.cuba import CubaLIF
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF

STATES = ("u", "v", "s")
STEPS = 11


def dense(neuron, bias=True):
    recurrent = Branch(Linear(6, 6, bias=False), 0, 1)
    blocks = [Block(Linear(8, 6, bias=bias), neuron(), branches=[recurrent]), Block(Linear(6, 5, bias=bias), neuron())]
    return on_the_grid(Network(blocks, Readout(5, 3), input_shape=(8,), time_steps=STEPS))


def convolution(neuron, bias=True):
    first = Block(Conv2d(2, 3, 3, padding=1, bias=bias), LIF(0.5, 1.0))
    blocks = [first, Block(Conv2d(3, 2, 3, bias=bias), neuron())]
    return on_the_grid(Network(blocks, Readout(18, 3), input_shape=(2, 5, 5), time_steps=STEPS))


def on_the_grid(net, seed=0):
    """Weights k/16 with the largest 127/64: the chip holds them and their halves without rounding."""
    generator = torch.Generator().manual_seed(seed)
    for connection in net.connections():
        fan_in = math.prod(connection.weight.shape[1:])
        most = max(2, round(48 / math.sqrt(fan_in)))
        connection.weight.data = torch.randint(-most, most + 3, connection.weight.shape, generator=generator) / 16
        connection.weight.data.view(-1)[0] = 127 / 64
        if connection.bias is not None:
            connection.bias.data = (torch.randint(-3, 3, connection.bias.shape, generator=generator) * 2 + 1) / 16
    return net.double()


def samples(net, seed=1):
    return (np.random.default_rng(seed).random((5, STEPS, *net.input_shape)) < 0.4).astype(np.uint8)


def spikes_of(net, x):
    return [s.detach().numpy() for s in net.run(torch.from_numpy(x).double(), "s").states["s"]]


NEURONS = {
    "soft reset without leak": lambda: CubaLIF(0.0, 1.0, 1.0, "subtract"),
    "late reset without leak": lambda: CubaLIF(0.0, 1.0, 1.0, "delayed", at_threshold=True),
    "synapse and soft reset": lambda: CubaLIF(0.5, 0.5, 1.5, "subtract"),
    "synapse and late reset": lambda: CubaLIF(0.5, 0.75, 1.5, "delayed"),
    "synapse without leak": lambda: CubaLIF(0.25, 1.0, 2.0, "subtract"),
    "synapse without decay": lambda: CubaLIF(1.0, 0.5, 4.0, "zero"),
    "synapse and no reset": lambda: CubaLIF(0.5, 0.5, 2.0, "none"),
    "begins above 0": lambda: CubaLIF(0.0, 0.5, 1.0, "zero", v_init=0.75),
    "begins above 0, synapse": lambda: CubaLIF(0.5, 0.5, 1.0, "zero", v_init=-2.0),
    "begins elsewhere than it is reset to": lambda: CubaLIF(0.0, 0.5, 1.0, "zero", v_reset=-0.5),
}


@pytest.mark.parametrize("build", [dense, convolution])
@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
def test_every_spike_is_there(neuron, build):
    net = build(neuron)
    x, real = samples(net), from_torch(net)
    expected = forms.helper_spikes([layer.name for layer in real.layers], spikes_of(net, x))
    assert len(expected) == len(real.layers) - 1
    chip = quantize(real).chip
    found = [run(chip, x, STATES).states for run in (sim.run, reference.run, torch_integer.run)]
    for other in found[1:]:
        assert all(np.array_equal(a, b) for name in STATES for a, b in zip(found[0][name], other[name]))
    in_float = float_run.run(real, x)
    for index, spikes in enumerate(expected):
        name = real.layers[index].name
        assert 0.02 < spikes.mean() < 0.98 or name == forms.HELPER
        assert np.array_equal(in_float[index].reshape(spikes.shape), spikes), name
        different = (found[0]["s"][index].reshape(spikes.shape) != (spikes != 0)).mean()
        assert different < 0.01, name  # membranes that meet their thresholds within 1/64 of a weight


def test_what_it_costs_is_said():
    real = from_torch(dense(NEURONS["synapse and soft reset"]))
    assert real.notes[0] == "hidden 1, hidden 2: a layer of two helping neurons brings what no bias of the chip can"
    said = f"a synaptic current beside a soft reset is its connections {STEPS} times"  # 0.5^10 is above 2^-15
    assert said in real.notes[1]
    assert sum(c.weight.size for c in real.connections if c.post == 1) == STEPS * (8 + 6 + 2) * 6
    net = dense(lambda: CubaLIF(0.25, 0.5, 1.5, "subtract"), bias=False)
    net.time_steps = 50
    (_, second) = from_torch(net).notes
    assert "is its connections 8 times, with delays; 240 synapses; 1.5e-05 of a current is left out behind" in second
    (note,) = export_module(dense(NEURONS["soft reset without leak"]), Options(check=0)).notes
    assert note == real.notes[0]


def test_the_helping_layer_stands_where_no_convolution_has_to_wait():
    real = from_torch(convolution(NEURONS["soft reset without leak"]))
    assert [c.kind is Conv for c in real.connections if c.weight.ndim == 4] == [True]
    net = dense(lambda: LIF(0.5, 1.0))
    assert from_torch(net).notes == ()
    assert forms.HELPER not in [layer.name for layer in from_torch(net).layers]


def test_a_negative_bias_counts_where_a_layer_can_reach():
    net = dense(NEURONS["soft reset without leak"])
    net.blocks[0].connection.bias.data[:] = -50
    real = from_torch(net)
    index = [layer.name for layer in real.layers].index("hidden 1")
    assert (most(real, index) < 0).all()


def test_too_many_synapses_are_refused():
    big = Network(
        [Block(Linear(9000, 200), CubaLIF(0.99, 0.5, 1.0))], Readout(200, 2), input_shape=(9000,), time_steps=60
    )
    with pytest.raises(ChipError, match=r"hidden 1: its synaptic current beside a soft reset takes 108,0.* synapses"):
        from_torch(big)


def test_a_connection_past_the_longest_delay_is_not_lost():
    far = FloatConnection(-1, forms.MAX_DELAY + 2, np.eye(2))
    assert len(list(forms._copies(far, 0.5, STEPS))) == 1  # its delay is refused where delays are checked


@pytest.mark.parametrize("kind", ["synapse and soft reset", "begins above 0"])
def test_lava_computes_the_same(kind):
    pytest.importorskip("lava")
    from ottt_loihi.converters.lava.backends import BACKENDS

    net = dense(NEURONS[kind])
    x, chip = samples(net)[:2], quantize(from_torch(net)).chip
    found, ours = (BACKENDS[name].run(chip, x, STATES).states for name in ("inprocess", "sim"))
    assert all(np.array_equal(a, b) for name in STATES for a, b in zip(found[name], ours[name]))
