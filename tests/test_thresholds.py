"""One-bit weights on the chip: exactly ±1, their sizes in a threshold for each channel; sim, torch and Lava equal."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.budget import budget
from ottt_loihi.converters.lava import graph as lava
from ottt_loihi.converters.lava.backends import BACKENDS
from ottt_loihi.converters.limits import LOIHI1, LOIHI2
from ottt_loihi.converters.netx import write as netx
from ottt_loihi.converters.quantize import channel_scale
from ottt_loihi.converters.quantize.contraction import loop_norms
from ottt_loihi.converters.quantize.float_connection import FloatConnection
from ottt_loihi.converters.quantize.float_network import FloatLayer, FloatNetwork, from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim import storage
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning.weight_formats import make_plastic
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal, Sparse

from ottt_loihi import sim
from ottt_loihi.errors import ChipError, FileError, UsageError
from ottt_loihi.nn.models import mlp

EVERYTHING = ("u", "v", "s")
RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def one_bit(rng, channels, fan_in, sizes):
    """Weights of one size a channel, float64 ``(channels, *fan_in)``."""
    signs = np.where(rng.random((channels, *fan_in)) < 0.5, -1.0, 1.0)
    return signs * np.reshape(sizes, (channels, *(1,) * len(fan_in)))


def dense_network(rng, sizes, reset, beta=0.5, bias=0.0, inputs=9, steps=6):
    """Inputs → 8-bit layer → one-bit layer of ``sizes`` → readout."""
    n = len(sizes)
    layers = (
        FloatLayer("first", (12,), None, reset, beta, 0.5),
        FloatLayer("one bit", (n,), bias * rng.normal(size=n) if bias else None, reset, beta, 1.0),
        FloatLayer("readout", (3,)),
    )
    weights = (rng.normal(0.1, 0.5, (12, inputs)), one_bit(rng, n, (12,), sizes), rng.normal(0, 0.5, (3, n)))
    connections = tuple(FloatConnection(i - 1, i, w) for i, w in enumerate(weights))
    return FloatNetwork((inputs,), steps, layers, connections)


def conv_network(rng, sizes, reset, beta=0.5, bias=0.0, steps=5):
    n = len(sizes)
    first = {"input_shape": (1, 6, 5), "padding": (1, 1)}
    second = {"input_shape": (3, 6, 5), "stride": (2, 1)}
    spread = None if not bias else np.broadcast_to(bias * rng.normal(size=(n, 1, 1)), (n, 2, 3)).copy()
    layers = (
        FloatLayer("first", (3, 6, 5), None, reset, beta, 0.5),
        FloatLayer("one bit", (n, 2, 3), spread, reset, beta, 1.0),
        FloatLayer("readout", (3,)),
    )
    connections = (
        FloatConnection(INPUT, 0, rng.normal(0.1, 0.5, (3, 1, 3, 3)), Conv, 0, first),
        FloatConnection(0, 1, one_bit(rng, n, (3, 3, 3), sizes), Conv, 0, second),
        FloatConnection(1, 2, rng.normal(0, 0.5, (3, n * 6))),
    )
    return FloatNetwork((1, 6, 5), steps, layers, connections)


def messages(net, batch, rng, density=0.5):
    return (rng.random((batch, net.num_steps, *net.input_shape)) < density).astype(np.uint8)


def assert_equal(a, b):
    for name in EVERYTHING:
        for left, right in zip(a.states[name], b.states[name], strict=True):
            np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(a.scores, b.scores)


def assert_one_bit(chip, index):
    """The stored mantissa is ±1 in 2 bits, and what a spike brings ±2^k."""
    c = chip.inputs_of(index)[0]
    (size,) = np.unique(np.abs(c.weight)).tolist()
    brought = size * 2.0**c.weight_exp
    assert c.num_weight_bits == 2
    assert size == 128 if isinstance(c, Dense) else size in 2 ** np.arange(8)
    assert np.log2(brought).is_integer()
    assert brought >= 1
    return brought


def assert_no_wrap(result):
    assert not any(counts.any() for counts in result.overflows.values())


ANY_ONE_BIT = {
    "seed": st.integers(0, 10**6),
    "kind": st.sampled_from([dense_network, conv_network]),
    "reset": st.sampled_from(["zero", "subtract"]),
    "beta": st.floats(0.1, 0.95),
    "bias": st.sampled_from([0.0, 0.3]),
    "channels": st.integers(1, 7),
    "width": st.floats(0.02, 2.0),
}


def any_one_bit(seed, kind, reset, beta, bias, channels, width):
    rng = np.random.default_rng(seed)
    net = kind(rng, width * np.exp(rng.normal(0, 0.5, channels)), reset, beta, bias)
    return net, messages(net, 4, rng)


@settings(max_examples=80, **RELAXED)
@given(**ANY_ONE_BIT)
@example(
    seed=1, kind=conv_network, reset="zero", beta=0.5, bias=0.0, channels=1, width=0.8127344074346782
)  # a threshold of 132.5008
def test_random_one_bit_networks(**drawn):
    """±1, thresholds within their rounding, no overflow whatever arrives, and one result: NumPy, numba, torch."""
    net, x = any_one_bit(**drawn)
    quantized = quantize(net)
    chip, report = quantized.chip, quantized.layers[1]
    unit = assert_one_bit(chip, 1)
    size = np.abs(net.connections[1].weight).reshape(drawn["channels"], -1)[:, 0]
    thresholds = chip.layers[1].thresholds.reshape(drawn["channels"], -1)
    assert (np.abs(thresholds - (unit / size)[:, None]) <= 0.5 + 1e-9).all()
    assert np.abs(report.vth_error).max() <= 0.5 / (thresholds.min() - 0.5) + 1e-9  # relative to what was wanted
    assert report.rms_error < 1e-12
    assert report.bits == 2
    expected = reference.run(chip, x, EVERYTHING)
    assert_equal(expected, sim.run(chip, x, EVERYTHING))
    assert_equal(expected, torch_integer.run(chip, x, EVERYTHING))
    assert expected.overflows["u"][1] == expected.overflows["v"][1] == 0
    full = sim.run(chip, np.ones_like(x))
    assert full.overflows["u"][1] == full.overflows["v"][1] == 0


@pytest.mark.slow
@pytest.mark.lava
@settings(max_examples=25, **RELAXED)
@given(**ANY_ONE_BIT)
def test_random_one_bit_networks_equal_lavas_models(**drawn):
    net, x = any_one_bit(**drawn)
    chip = quantize(net).chip
    assert_equal(reference.run(chip, x, EVERYTHING), BACKENDS["inprocess"].run(chip, x, EVERYTHING))


@pytest.mark.slow
@pytest.mark.lava
@pytest.mark.parametrize("kind", [dense_network, conv_network])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_one_bit_networks_equal_lava(kind, reset):
    rng = np.random.default_rng(5)
    net = kind(rng, [0.31, 0.2, 0.57, 0.4, 0.29], reset, bias=0.3)
    chip, x = quantize(net).chip, messages(net, 3, rng)
    assert isinstance(chip.layers[1].vth, np.ndarray)
    expected = reference.run(chip, x, EVERYTHING)
    assert 0.02 < expected.states["s"][1].mean() < 0.9
    assert_equal(expected, lava.run(chip, x, EVERYTHING))


@pytest.mark.lava
def test_a_pipeline_of_thresholds_equals_lava():
    rng = np.random.default_rng(6)
    net = dense_network(rng, [0.31, 0.2, 0.57, 0.4], "zero")
    chip, x = quantize(net).chip, messages(net, 5, rng)
    chip = replace(chip, layers=tuple(replace(layer, u_init=0) for layer in chip.layers))
    assert_equal(reference.run(chip, x, EVERYTHING), BACKENDS["lava"].stream(chip, x, EVERYTHING))


def float_run(layer, weight, sent):
    """Membranes (before the reset) and spikes of one layer of the float network, ``(T, n, neurons)``; kind: dense."""
    v, membranes, spikes = 0.0, [], []
    for s in sent:
        u = layer.beta * v + s @ weight.T + (0 if layer.bias is None else layer.bias)
        fired = u > layer.v_threshold
        v = u - layer.v_threshold * fired if layer.reset == "subtract" else u * ~fired
        membranes.append(u)
        spikes.append(fired)
    return np.array(membranes), np.array(spikes)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("biased", [False, True])
def test_sizes_of_powers_of_two_change_no_spike(reset, biased):
    """a, λ and the biases are powers of two, so nothing is rounded: every spike and membrane of the unfolded layer."""
    rng = np.random.default_rng(7)
    sizes = 2.0 ** -rng.integers(0, 5, 16)
    net = dense_network(rng, sizes, reset)
    if biased:
        layers = list(net.layers)
        layers[1] = replace(layers[1], bias=sizes * rng.integers(-1, 2, 16) / 2)
        net = replace(net, layers=tuple(layers))
    chip, x = quantize(net).chip, messages(net, 200, rng)
    unit = assert_one_bit(chip, 1)
    assert len(np.unique(chip.layers[1].thresholds)) == 5
    result = sim.run(chip, x, EVERYTHING)
    membranes, spikes = float_run(net.layers[1], net.connections[1].weight, result.states["s"][0].astype(float))
    assert 0.02 < spikes.mean() < 0.9
    np.testing.assert_array_equal(result.states["s"][1], spikes)
    v = np.where(spikes, 0, membranes) * unit / sizes * 64
    np.testing.assert_array_equal(result.states["v"][1], v)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("kind", [dense_network, conv_network])
def test_one_threshold_a_layer_is_the_former_form(kind, reset, tmp_path):
    net = kind(np.random.default_rng(8), [0.31, 0.2, 0.57, 0.4, 0.29], reset)
    quantized = quantize(net, thresholds="layer")
    c = quantized.chip.inputs_of(1)[0]
    assert (c.num_weight_bits, len(np.unique(np.abs(c.weight)))) == (8, 5)
    assert isinstance(quantized.chip.layers[1].vth, int)
    assert quantized.layers[1].rms_error > quantize(net).layers[1].rms_error == pytest.approx(0, abs=1e-12)
    if kind is dense_network:
        netx.write(quantized.chip, tmp_path / "a.net")
        with pytest.raises(ChipError, match=r"one bit.vth: .net holds one threshold a layer"):
            netx.write(quantize(net).chip, tmp_path / "b.net")
        assert np.isscalar(quantized.layers[1].scale)
        assert len(quantize(net).layers[1].vth) == 5


def test_sizes_are_found_only_where_there_are_some():
    rng = np.random.default_rng(9)
    weight = one_bit(rng, 4, (6,), [0.3, 0.2, 0.5, 0.7])
    weight[1, 2] = 0  # a weight that is not there
    dense = FloatConnection(INPUT, 0, weight)
    assert channel_scale.sizes(dense, (4,)).tolist() == [0.3, 0.2, 0.5, 0.7]
    weight = weight.copy()
    weight[2] = 0  # a channel that hears nothing has any size
    assert channel_scale.sizes(replace(dense, weight=weight), (4,)).tolist() == [0.3, 0.2, 0.7, 0.7]
    weight[0, 0] *= 1 + 1e-12
    assert channel_scale.sizes(replace(dense, weight=weight), (4,)) is None
    assert channel_scale.is_pattern(dense)
    assert not channel_scale.is_pattern(replace(dense, weight=weight[:, :1]))  # one weight is no pattern
    rows, columns = np.divmod(np.arange(24), 6)
    geometry = {"size": (4, 6), "rows": rows, "columns": columns}
    synapses = FloatConnection(INPUT, 0, dense.weight.ravel(), Sparse, 0, geometry)
    assert channel_scale.sizes(synapses, (4,)).tolist() == [0.3, 0.2, 0.5, 0.7]
    kernel = FloatConnection(INPUT, 0, one_bit(rng, 2, (1, 2, 2), [0.5, 0.25]), Conv, 0, {"input_shape": (1, 3, 3)})
    assert channel_scale.sizes(kernel, (2, 2, 2)).tolist() == [[[0.5] * 2] * 2, [[0.25] * 2] * 2]
    # beside a convolution, whose kernel is one for all places, sizes that differ in a channel do not fold
    synapses = replace(synapses, geometry=geometry | {"size": (8, 6)}, weight=np.full(24, 0.3))
    assert channel_scale.fold(synapses, [kernel], (2, 2, 2)) is not None
    synapses = replace(synapses, weight=np.where(rows == 1, 0.5, 0.3))
    assert channel_scale.fold(synapses, [], (2, 2, 2)) is not None
    assert channel_scale.fold(synapses, [kernel], (2, 2, 2)) is None


@pytest.mark.filterwarnings("error")
def test_a_channel_that_hears_nothing_folds_too():
    net = dense_network(np.random.default_rng(4), [0.3, 0.2, 0.5], "subtract")
    weight = net.connections[1].weight.copy()
    weight[1] = 0
    chip = quantize(
        replace(net, connections=(net.connections[0], replace(net.connections[1], weight=weight), *net.connections[2:]))
    ).chip
    assert not chip.inputs_of(1)[0].weight[1].any()
    assert chip.layers[1].thresholds[1] == chip.layers[1].thresholds[2]


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_shortcuts_have_8_bits_beside_the_one(reset):
    """A sum of two sizes has no common one: the shortcut's weights are rounded, channel by channel, the own are ±1."""
    net = mlp((8, 12, 12, 12, 3), binary="channel", shortcuts=True, seed=2, reset=reset, bias=True).double().eval()
    quantized = quantize(from_torch(net))
    chip = quantized.chip
    for index in (1, 2):
        assert_one_bit(chip, index)
        bits = [c.num_weight_bits for c in chip.inputs_of(index) if not isinstance(c, Diagonal)]
        assert bits == [2] + [8] * index
        assert quantized.layers[index].rms_error < 0.01
    x = np.random.default_rng(0).integers(0, 2, (20, 6, 8))
    expected = reference.run(chip, x, EVERYTHING)
    assert expected.spike_counts[:3].min() > 20
    assert_equal(expected, sim.run(chip, x, EVERYTHING))
    assert_equal(expected, torch_integer.run(chip, x, EVERYTHING))
    assert_no_wrap(expected)


@pytest.mark.parametrize("kind", ["ternary", "binary"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("thresholds", ["channel", "layer"])
@pytest.mark.parametrize("for_netx", [None, True])
def test_ternary_and_binary_weights_have_the_threshold_of_their_size(kind, reset, thresholds, for_netx):
    """Wide layers too, whose thresholds are many times their weights."""
    rng = np.random.default_rng(3)
    layers = (FloatLayer("hidden", (40,), None, reset, 0.5), FloatLayer("readout", (3,)))
    connections = (
        FloatConnection(INPUT, 0, rng.normal(0, 0.05, (40, 300))),
        FloatConnection(0, 1, rng.normal(0, 1, (3, 40))),
    )
    net = FloatNetwork((300,), 4, layers, connections)
    quantized = quantize(net, kind, thresholds=thresholds, for_netx=for_netx)
    c, lif = quantized.chip.inputs_of(0)[0], quantized.chip.layers[0]
    one = np.abs(c.weight).max() * 2.0**c.weight_exp
    kept = c.weight != 0
    assert kept.all() == (kind == "binary")
    sizes = [np.abs(w[k]).mean() for w, k in zip(connections[0].weight, kept)]
    one_size = thresholds == "layer" or for_netx
    mean = np.abs(connections[0].weight).mean(axis=None if one_size else 1, keepdims=True)
    if kind == "ternary":
        np.testing.assert_array_equal(kept, np.abs(connections[0].weight) > 0.7 * mean)
    if one_size:
        sizes = np.abs(connections[0].weight[kept]).mean()
        assert isinstance(lif.vth, int)
    np.testing.assert_allclose(lif.thresholds, one / np.array(sizes), atol=0.5)
    if reset == "subtract":
        total = sum(
            d.weight.astype(int) << d.weight_exp for d in quantized.chip.inputs_of(0) if isinstance(d, Diagonal)
        )
        assert (np.abs(total + lif.thresholds / 2) <= 0.5).all()


@pytest.mark.parametrize("kind", ["ternary", "binary"])
def test_neurons_with_one_weight_can_be_ternary_too(kind):
    rng = np.random.default_rng(0)
    layers = (FloatLayer("hidden", (6,), None, "zero", 0.5), FloatLayer("readout", (2,)))
    weights = (rng.normal(0, 1, (6, 1)), rng.normal(0, 1, (2, 6)))
    connections = tuple(FloatConnection(i - 1, i, w) for i, w in enumerate(weights))
    net = FloatNetwork((1,), 3, layers, connections)
    assert_one_bit(quantize(net, kind).chip, 0)
    assert quantize(net).layers[0].bits == 8


def test_scales_that_have_no_choice():
    net = dense_network(np.random.default_rng(0), [0.3, 0.2], "zero")
    with pytest.raises(UsageError, match="ternary weights have the scale of their size"):
        quantize(net, "ternary", scale="power-of-two")
    with pytest.raises(UsageError, match="thresholds: expected one of channel, layer, got 'row'"):
        quantize(net, thresholds="row")
    for lif in quantize(net, scale="power-of-two").chip.layers:
        assert isinstance(lif.vth, int)


def test_a_bias_far_above_the_weights_is_refused_with_the_layers_name():
    net = dense_network(np.random.default_rng(0), [1e-5, 0.2], "zero", bias=1.0)
    with pytest.raises(ChipError, match="one bit: weights of ±1 leave no room"):
        quantize(net)


def three(vth, shape=(3,)):
    """A layer of three channels."""
    rng = np.random.default_rng(0)
    size = int(np.prod(shape))
    weight = 2 * rng.integers(-20, 60, (size, 4))
    return ChipNetwork((4,), (LIF(shape, 4095, 2048, vth, name="three"),), (Dense(INPUT, 0, weight),), 5)


@pytest.mark.parametrize(
    ("vth", "says"),
    [
        (np.array([5, 0, 7]), r"three.vth: expected integers in \[1, 131071\], got 0 at \(1,\)"),
        (np.array([5, -3, 7]), r"got -3 at \(1,\)"),
        (np.array([5, 6, 131072]), r"got 131072 at \(2,\)"),
        (np.array([5, 6]), r"three.vth: expected one number, or one for each neuron of \(3,\), got \(2,\)"),
        (np.array([[5, 6, 7]] * 2), r"got \(2, 3\)"),
        (np.array([5.0, np.nan, 7.0]), "three.vth: expected integers, got dtype float64"),
        (np.array([], int), r"got \(0,\)"),
    ],
)
def test_thresholds_that_cannot_be_are_named(vth, says):
    with pytest.raises(ChipError, match=says):
        three(vth)


def test_equal_thresholds_are_one():
    assert three(np.full(3, 9)) == three(9)
    assert three(np.full(3, 9)).layers[0].vth == 9
    assert three(np.int64(9)).layers[0].vth == 9
    assert three(np.array([8, 9, 9])) != three(9)
    assert three(np.array([8, 9, 9])) == three(np.array([8, 9, 9], np.int16))
    spread = three(np.array([4, 5, 6]).reshape(3, 1, 1), (3, 2, 2)).layers[0]
    assert spread.vth.shape == (3, 2, 2)
    assert spread.thresholds.tolist() == [4] * 4 + [5] * 4 + [6] * 4
    assert not spread.vth.flags.writeable


def test_only_a_file_with_thresholds_needs_a_reader_of_version_3(tmp_path):
    path = tmp_path / "chip.h5"
    for chip, version in ((three(np.array([8, 9, 300])), 3), (three(np.full(3, 9)), 1)):
        storage.save(chip, path)
        assert storage.load(path) == chip
        with h5py.File(path) as file:
            assert file.attrs["version"] == version
            assert ("vth" in file["layers/0"]) == (version == 3)
    arriving = (Dense(INPUT, 0, np.eye(3, dtype=int) * 2),)
    host = replace(three(np.array([8, 9, 300])), num_steps=1)
    hosted = replace(three(9), host=host, input_shape=(3,), connections=arriving)
    storage.save(hosted, path)
    assert storage.load(path) == hosted
    with h5py.File(path) as file:
        assert file.attrs["version"] == 3


@pytest.mark.parametrize(
    ("vth", "says"),
    [
        (np.array([8, -9, 300]), "-9"),
        (np.array([8, 0, 300]), "got 0"),
        (np.array([8, 1 << 20, 300]), "1048576"),
        (np.array([8, 9, 10, 11]), "one for each neuron"),
        (np.array([8.5, 9, 10]), "expected integers"),
        (None, "vth: missing"),
    ],
)
def test_damaged_thresholds_are_refused(vth, says, tmp_path):
    path = tmp_path / "chip.h5"
    storage.save(three(np.array([8, 9, 300])), path)
    with h5py.File(path, "r+") as file:
        del file["layers/0/vth"]
        if vth is not None:
            file["layers/0"]["vth"] = vth
    with pytest.raises(FileError, match=says):
        storage.load(path)


def test_what_has_one_threshold_a_layer_says_so(tmp_path):
    chip = three(np.array([8, 9, 300]))
    with pytest.raises(
        ChipError, match=r"three.vth: .net holds one threshold a layer, found 8 … 300; .*thresholds layer"
    ):
        netx.write(chip, tmp_path / "a.net")
    learning = replace(
        chip,
        layers=(*chip.layers, LIF((2,), 4095, 4096, 131071, name="readout")),
        connections=(*chip.connections, Dense(0, 1, np.full((2, 3), 4))),
    )
    with pytest.raises(ChipError, match=r"layer\[0\] \(three\): learning needs one threshold a layer"):
        make_plan(make_plastic(learning), logit_scale=10)


def test_the_budget_counts_thresholds_on_a_core():
    rng = np.random.default_rng(0)
    weight = 2 * rng.integers(1, 100, (24, 4))
    # three thresholds would do on a core each, in any order; 24 different ones take three cores of 8
    for vth, cores in ((100 + np.arange(24) % 3, 1), (100 + np.arange(24), 3)):
        chip = ChipNetwork((4,), (LIF((24,), 4095, 2048, vth),), (Dense(INPUT, 0, weight),), 5)
        (layer,) = budget(chip, LOIHI1).layers
        assert layer.cores == cores
        assert layer.used["thresholds"] == (3 if cores == 1 else 8) / 8
        assert budget(chip, LOIHI2).layers[0].cores == 1
    assert "thresholds" not in budget(replace(chip, layers=(LIF((24,), 4095, 2048, 100),)), LOIHI1).layers[0].used
    kernel = np.full((9, 1, 2, 2), 2)
    lif = LIF((9, 3, 3), 4095, 2048, 100 + np.arange(9).reshape(9, 1, 1))
    found = budget(ChipNetwork((1, 4, 4), (lif,), (Conv(INPUT, 0, kernel, (1, 4, 4)),), 5), LOIHI1)
    with pytest.raises(ChipError, match="9 thresholds on a core, allowed are 8; export with --thresholds layer"):
        found.raise_if_broken()


def test_feedback_contracts_by_each_neurons_own_threshold():
    weight = np.array([[0, 40], [90, 0]])
    chip = ChipNetwork(
        (2,),
        (LIF((2,), 4095, 2048, np.array([80, 100])),),
        (Dense(INPUT, 0, 2 * np.eye(2, dtype=int)), Dense(0, 0, weight)),
        5,
    )
    assert list(loop_norms(chip).values()) == [pytest.approx(0.9)]


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_a_trained_one_bit_network_predicts_as_it_was_trained(reset):
    """Digits: ±1 with thresholds per channel against 8 bits with one threshold."""
    from ottt_loihi.converters.export import Options, export

    from ottt_loihi.data import load_data
    from ottt_loihi.rules import make_rule
    from ottt_loihi.training.trainer import Trainer

    split = load_data("digits")
    net = mlp((64, 96, 96, 10), binary="channel", bias=True, reset=reset, input_shape=split.input_shape)
    net.provenance |= {"data": "digits", "encoding": {"name": "constant"}}
    Trainer(net, make_rule("ottt"), loss="cross-entropy", encoding="constant").fit(split.x_train, split.y_train, 8)
    found = {}
    for thresholds in ("channel", "layer"):
        result = export(net, Options(check=360, thresholds=thresholds))
        found[thresholds] = result.agreement
        if thresholds == "channel":
            assert_one_bit(result.quantized.chip, 1)
            assert len(np.unique(result.quantized.chip.layers[1].thresholds)) > 50
    assert found["channel"].accuracy_float > 0.9
    assert found["channel"].accuracy_chip > found["channel"].accuracy_float - 0.01
    assert found["channel"].predictions >= max(0.98, found["layer"].predictions - 0.01)
