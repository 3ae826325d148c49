import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.quantize.float_connection import FloatConnection
from ottt_loihi.converters.quantize.float_network import FloatLayer, FloatNetwork
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.converters.verify import compare
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.network import INPUT, Diagonal

from ottt_loihi import sim
from ottt_loihi.errors import ChipError, UsageError


def network(reset="subtract", beta=0.5, scale=0.5, seed=0, bias=False, v_threshold=1.0, sizes=(12, 16, 5)):
    rng = np.random.default_rng(seed)
    layers, weights = [], []
    for index, (n, m) in enumerate(pairwise(sizes)):
        readout = index == len(sizes) - 2
        weights.append(rng.normal(0, scale, (m, n)))
        b = rng.normal(0, scale / 4, m) if bias else None
        kwargs = {} if readout else {"reset": reset, "beta": beta, "v_threshold": v_threshold}
        layers.append(FloatLayer("readout" if readout else f"hidden {index + 1}", (m,), b, **kwargs))
    return dense_network((sizes[0],), layers, weights)


def dense_network(input_shape, layers, weights, num_steps=6):
    """Layers one after the other, all to all."""
    connections = tuple(FloatConnection(index - 1, index, weight) for index, weight in enumerate(weights))
    return FloatNetwork(input_shape, num_steps, tuple(layers), connections)


def run_float(net, x):
    """The equations of the paper in float64, on weights that the chip represents exactly; Σ_t o[t] and all spikes."""
    weights = [c.weight for c in net.connections]
    v = [np.zeros((len(x), len(weight))) for weight in weights[:-1]]
    scores, spikes = 0, []
    for t in range(net.num_steps):
        s = x[:, t].astype(float)
        for index, layer in enumerate(net.layers[:-1]):
            u = layer.beta * v[index] + s @ weights[index].T + (0 if layer.bias is None else layer.bias)
            s = (u > layer.v_threshold).astype(float)
            v[index] = u - layer.v_threshold * s if layer.reset == "subtract" else u * (1 - s)
        spikes.append(s)
        readout = net.layers[-1]
        scores = scores + s @ weights[-1].T + (0 if readout.bias is None else readout.bias)
    return scores, np.array(spikes)


def represented(net, quantized):
    """The integers as a float network in their own units, in which float64 is exact."""
    layers, weights = [], []
    for index, (layer, lif) in enumerate(zip(net.layers, quantized.chip.layers)):
        dense = next(c for c in quantized.chip.connections if c.post == index and not isinstance(c, Diagonal))
        bias = lif.bias_mant * 2.0**lif.bias_exp / 64 * (1 - layer.beta if layer.reset == "subtract" else 1)
        layers.append(FloatLayer(layer.name, layer.shape, bias, layer.reset, layer.beta, lif.vth))
        weights.append(dense.weight)
    return dense_network(net.input_shape, layers, weights)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_integer_network_is_the_represented_float_network(reset, bias):
    """With λ = 1/2 and few steps nothing is ever rounded, so every spike and every score is equal."""
    net = network(reset, bias=bias)
    quantized = quantize(net)
    x = (np.random.default_rng(1).random((200, 6, 12)) < 0.4).astype(np.uint8)
    scores, spikes = run_float(represented(net, quantized), x)
    result = reference.run(quantized.chip, x, ("s",))
    np.testing.assert_array_equal(result.states["s"][0], spikes.astype(bool))
    np.testing.assert_array_equal(result.scores, 64 * scores)
    assert 0.02 < spikes.mean() < 0.9


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_spikes_stay_close_to_the_trained_network(reset):
    net = network(reset, seed=3, bias=True)
    x = (np.random.default_rng(1).random((200, 6, 12)) < 0.4).astype(np.uint8)
    result = reference.run(quantize(net).chip, x, ("s",))
    assert (result.states["s"][0] == run_float(net, x)[1].astype(bool)).mean() > 0.98


@settings(max_examples=60, deadline=None)
@given(
    reset=st.sampled_from(["zero", "subtract"]),
    beta=st.floats(0.1, 0.99),
    scale=st.floats(1e-3, 2.0),
    bits=st.integers(3, 8),
    seed=st.integers(0, 1000),
)
def test_every_quantised_network_is_valid_and_close(reset, beta, scale, bits, seed):
    net = network(reset, beta, scale, seed)
    quantized = quantize(net, bits)  # ChipNetwork validates ranges, evenness and shapes
    for c, layer, r, lif in zip(net.connections, net.layers, quantized.layers, quantized.chip.layers):
        dense = next(found for found in quantized.chip.connections if found.weight.shape == c.weight.shape)
        inside = np.abs(c.weight * r.scale) < 256 - (1 << (9 - bits))
        step = 1 << (9 - bits)
        assert (np.abs(dense.weight - c.weight * r.scale)[inside] <= step / 2 + 1e-9).all()
        assert r.zeroed == ((dense.weight == 0) & (c.weight != 0)).sum()
        if layer.reset:
            assert abs(lif.vth - r.scale * layer.v_threshold) <= 1


def test_inhibition_is_lambda_times_threshold():
    chip = quantize(network("subtract", beta=0.5)).chip
    diagonal = next(c for c in chip.connections if isinstance(c, Diagonal))
    assert set(diagonal.weight.tolist()) == {-chip.layers[0].vth // 2}
    assert diagonal.weight.max() >= -254


def test_scale_follows_the_largest_weight():
    net = network("zero")
    report = quantize(net).layers[0]
    assert report.scale == pytest.approx(254 / np.abs(net.connections[0].weight).max())
    assert report.clipped == 0


def test_a_wide_readout_never_fires():
    rng = np.random.default_rng(0)
    weight = np.abs(rng.normal(1, 0.01, (3, 2000)))
    chip = quantize(dense_network((2000,), [FloatLayer("readout", (3,))], [weight], 2)).chip
    result = reference.run(chip, np.ones((1, 2, 2000), np.uint8), ("s", "v"))
    assert not result.states["s"][0].any()
    assert result.states["v"][0].min() > 0


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"v_threshold": 1e-4}, "threshold"),
        ({"reset": "zero", "v_threshold": 1e-4}, "rounds to 0"),
        ({"beta": 0.0}, "reset='zero'"),
    ],
)
def test_what_cannot_be_expressed_is_named(kwargs, says):
    with pytest.raises(ChipError, match=says) as error:
        quantize(network(**kwargs))
    assert "hidden 1" in str(error.value)


def test_a_large_bias_makes_the_scale_smaller():
    layer = FloatLayer("readout", (1,), np.array([5.0]))
    quantized = quantize(dense_network((2,), [layer], [np.array([[0.01, -0.01]])], 1))
    assert quantized.layers[0].scale == 4095 * 2 / 5
    lif = quantized.chip.layers[0]
    assert lif.bias_mant[0] << lif.bias_exp == 64 * 4095 * 2


def test_bits_out_of_range():
    with pytest.raises(UsageError, match="num_weight_bits"):
        quantize(network(), 9)


def recurrent(reset, ratio, seed=0, alpha=0.0):
    """12 → 38 with recurrence → 4, recurrent weights smaller than the input's by a factor."""
    rng = np.random.default_rng(seed)
    layer = FloatLayer("hidden", (38,), None, reset, 0.75, 1.0, alpha)
    inputs, recurrence, outputs = rng.normal(0, 0.5, (38, 12)), rng.normal(0, 0.5 / ratio, (38, 38)), np.eye(4, 38)
    connections = (
        FloatConnection(INPUT, 0, inputs),
        FloatConnection(0, 0, recurrence, delay=1),
        FloatConnection(0, 1, outputs),
    )
    return FloatNetwork((12,), 8, (layer, FloatLayer("readout", (4,))), connections)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("ratio", [1, 7, 40, 100])
def test_weights_of_each_connection_have_all_their_bits(reset, ratio):
    """An input and a recurrent connection of one layer: one scale, and an exponent for each."""
    net = recurrent(reset, ratio)
    quantized = quantize(net)
    scale = quantized.layers[0].scale
    found = {(c.pre, c.post): c for c in quantized.chip.connections if not isinstance(c, Diagonal)}
    for c in net.connections[:2]:
        chip = found[c.pre, c.post]
        error = chip.weight * 2.0**chip.weight_exp / scale - c.weight
        assert chip.weight_exp >= 0  # below 0 Lava rounds the sum
        assert np.sqrt((error**2).mean() / (c.weight**2).mean()) < 0.018
        assert np.abs(chip.weight).max() > 127
        assert np.abs(chip.weight).max() <= 254
    assert quantized.layers[0].zeroed <= 45


def test_a_connection_of_zeros_changes_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = recurrent("zero", 1)
        silent = replace(net.connections[1], weight=np.zeros((38, 38)))
        with_zeros = quantize(replace(net, connections=(net.connections[0], silent, net.connections[2])))
        without = quantize(replace(net, connections=(net.connections[0], net.connections[2])), for_netx=False)
    assert with_zeros.chip.layers == without.chip.layers
    assert not with_zeros.chip.connections[1].weight.any()


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_network_with_several_exponents_equals_torch(reset):
    quantized = quantize(recurrent(reset, 40, seed=2))
    assert any(c.weight_exp for c in quantized.chip.connections if not isinstance(c, Diagonal))
    x = (np.random.default_rng(1).random((50, 8, 12)) < 0.4).astype(np.uint8)
    a, b = (run(quantized.chip, x, ("u", "v", "s")) for run in (sim.run, torch_integer.run))
    compare(quantized.chip, a, b).raise_if_different("sim and torch")
    assert 0.02 < a.states["s"][0].mean() < 0.9
