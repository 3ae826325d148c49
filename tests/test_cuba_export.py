"""Current-based neurons on the chip: equal in sim, the reference, torch's integers and Lava, or refused by name."""

import numpy as np
import pytest
import torch
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.sim.inference import reference

from ottt_loihi import sim
from ottt_loihi.errors import ChipError
from ottt_loihi.nn.blocks import Block
from ottt_loihi.nn.connections import Conv2d, Linear, Readout
from ottt_loihi.nn.cuba import CubaLIF
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF

STATES = ("u", "v", "s")


def network(neuron, seed=0):
    """Weights on a grid of 1/128 with the largest 254/128: the chip holds them without rounding."""
    generator = torch.Generator().manual_seed(seed)
    net = Network([Block(Linear(8, 6), neuron)], Readout(6, 3), input_shape=(8,), time_steps=12)
    for connection in net.connections():
        weight = torch.randint(-100, 110, connection.weight.shape, generator=generator)
        weight[0, 0] = 127
        connection.weight.data = weight / 64
    return net.double()


def spikes_of(net, x):
    return net.run(torch.from_numpy(x).double(), "s").states["s"][0].detach().numpy()


def batch(shape=(8,), seed=1):
    return (np.random.default_rng(seed).random((6, 12, *shape)) < 0.4).astype(np.uint8)


def exported(net, x):
    """The integer network; its three executions agree in every state."""
    chip = quantize(from_torch(net)).chip
    results = [run(chip, x, STATES).states for run in (sim.run, reference.run, torch_integer.run)]
    for other in results[1:]:
        assert all(np.array_equal(a, b) for name in STATES for a, b in zip(results[0][name], other[name]))
    return chip, results[0]


EACH = torch.tensor([0.5, 1.0, 1.5, 2.0, 0.75, 1.25], dtype=torch.float64)


@pytest.mark.parametrize(
    "neuron",
    [
        lambda: CubaLIF(0.5, 0.75, 1.0, "zero"),
        lambda: CubaLIF(0.5, 0.75, EACH, "zero"),
        lambda: CubaLIF(0.0, 0.5, EACH, "zero", v_reset=-0.25, v_init=-0.25),
        lambda: CubaLIF(0.0, 0.5, EACH, "subtract"),
        lambda: CubaLIF(0.0, 0.5, 1.0, "subtract", learn=["beta"]),
        lambda: CubaLIF(0.0, 0.5, EACH, "delayed"),
        lambda: CubaLIF(0.0, 0.0, 1.0, "delayed"),
        lambda: CubaLIF(0.0, 0.5, 1.0, "none", at_threshold=True),
    ],
)
def test_the_chip_has_the_float_networks_spikes(neuron):
    net, x = network(neuron()), batch()
    states = exported(net, x)[1]
    expected = spikes_of(net, x)
    assert 0.05 < expected.mean() < 0.95
    different = (states["s"][0] != (expected > 0)).mean()
    assert different < 0.01, different  # a membrane that meets its threshold within 1/64 of a weight


def test_the_synaptic_current_is_u():
    chip, _ = exported(network(CubaLIF(0.5, 0.75, 1.0, "zero")), batch())
    assert (chip.layers[0].du, chip.layers[0].dv) == (2047, 1024)


def test_thresholds_of_channels_are_thresholds_of_neurons():
    generator = torch.Generator().manual_seed(0)
    neuron = CubaLIF(0.0, 0.5, torch.tensor([0.5, 1.0]).view(2, 1, 1), "zero")
    net = Network(
        [Block(Conv2d(1, 2, 3, generator=generator), neuron)],
        Readout(18, 2, generator=generator),
        input_shape=(1, 5, 5),
        time_steps=12,
    )
    chip, _ = exported(net, batch((1, 5, 5)))
    thresholds = chip.layers[0].thresholds.reshape(2, 9)
    assert (thresholds[1] == 2 * thresholds[0]).all() or abs(thresholds[1, 0] - 2 * thresholds[0, 0]) <= 1


def test_it_is_lif_without_a_current():
    assert (
        quantize(from_torch(network(CubaLIF(0.0, 0.5, 1.0)))).chip == quantize(from_torch(network(LIF(0.5, 1.0)))).chip
    )


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (lambda: CubaLIF(EACH / 4, 0.5, reset="zero"), r"hidden 1: neurons of unequal alpha, 0\.125 … 0\.5"),
        (lambda: CubaLIF(0.0, EACH / 4, reset="zero"), "hidden 1: neurons of unequal beta"),
        (lambda: CubaLIF(0.5, 0.5, reset="zero", v_reset=0.5), "v_reset = 0.5 needs alpha = 0"),
        (lambda: CubaLIF(0, 0.5, reset="zero", v_reset=2.0, v_init=2.0), "v_reset = 2 is not below the threshold"),
    ],
)
def test_what_has_no_form_on_the_chip_is_refused(neuron, message):
    with pytest.raises(ChipError, match=message):
        from_torch(network(neuron()))


def test_lava_computes_the_same():
    pytest.importorskip("lava")
    from ottt_loihi.converters.lava import graph as lava

    net, x = network(CubaLIF(0.5, 0.75, EACH, "zero")), batch()[:2]
    chip, states = exported(net, x)
    found = lava.run(chip, x, STATES).states
    assert all(np.array_equal(a, b) for name in STATES for a, b in zip(states[name], found[name]))
