"""Kernels, strides, paddings, dilations and poolings of two sizes, in one dimension and two, up to the chip."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.lava.backends import BACKENDS
from ottt_loihi.converters.nir import read as nir_reader
from ottt_loihi.converters.nir import write as nir_writer
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.network import Sparse
from torch import nn

from ottt_loihi import sim
from ottt_loihi.errors import UsageError
from ottt_loihi.fast.chunks import why_not
from ottt_loihi.nn.blocks import Block
from ottt_loihi.nn.connections import Conv2d, Readout, pooled_shape
from ottt_loihi.nn.description import YOUNGER, construct, describe
from ottt_loihi.nn.models import conv
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.rules import OTTT
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.engine import choose

STATES = ("u", "v", "s")
SETTINGS = [
    dict(kernel_size=(3, 1), stride=(1, 2), padding=(1, 0)),
    dict(kernel_size=(1, 3), dilation=(1, 2), padding=(0, 2)),
    dict(kernel_size=3, dilation=2, padding=2, groups=2),
    dict(kernel_size=(2, 3), stride=(2, 1), pool=(1, 2)),
    dict(kernel_size=2, dilation=2, pool=2),
    dict(kernel_size=(1, 2), dilation=(2, 3), pool=(2, 1)),
    dict(kernel_size=(3, 2), padding=(1, 1), pool=(2, 1), pool_after=(2, 1, 0)),
]


def network(geometry, frame=(2, 8, 8)):
    generator = torch.Generator().manual_seed(0)
    first = Conv2d(2, 4, bias=True, generator=generator, **geometry)
    shape = first.output_shape(frame)
    pool = (2, 1) if shape[1] > 1 else None
    inputs = shape[0] * (shape[1] // (2 if pool else 1)) * shape[2]
    readout = Readout(inputs, 3, True, generator, pool=pool)
    return Network([Block(first, LIF(0.5, 0.5, "zero"))], readout, input_shape=frame, time_steps=5)


@pytest.mark.parametrize("geometry", SETTINGS)
def test_it_computes_what_torch_does(geometry):
    net = network(geometry).double()
    mine = net.blocks[0].connection
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    own = {name: size for name, size in geometry.items() if not name.startswith("pool")}
    layers = [nn.AvgPool2d(geometry["pool"])] if "pool" in geometry else []
    layers.append(nn.Conv2d(2, 4, **own).double())
    layers[-1].load_state_dict({"weight": mine.weight, "bias": mine.bias})
    layers += [nn.AvgPool2d(*geometry["pool_after"])] if "pool_after" in geometry else []
    expected = nn.Sequential(*layers)(x)
    torch.testing.assert_close(mine(x), expected, rtol=1e-12, atol=1e-12)
    assert mine.output_shape((2, 8, 8)) == expected.shape[1:]


@pytest.mark.parametrize("geometry", SETTINGS)
def test_it_is_described_trained_and_exported_exactly(geometry):
    net = network(geometry)
    assert describe(construct(describe(net))) == describe(net)
    x = (np.random.default_rng(0).random((3, 5, 2, 8, 8)) < 0.4).astype(np.uint8)
    OTTT(update="sequence").backward(net, torch.from_numpy(x), torch.tensor([0, 1, 2]), SquaredError())
    assert net.blocks[0].connection.weight.grad.abs().max() > 0
    states = executed(quantize(from_torch(net)).chip, x)
    expected = net.run(torch.from_numpy(x), "s").states["s"][0].detach().numpy()
    assert (states["s"][0] != (expected > 0)).mean() < 0.03  # 8 bits


def executed(chip, x):
    """The integer network's states, in which its three executions agree."""
    results = [run(chip, x, STATES).states for run in (sim.run, reference.run, torch_integer.run)]
    for other in results[1:]:
        assert all(np.array_equal(a, b) for name in STATES for a, b in zip(results[0][name], other[name]))
    return results[0]


@st.composite
def any_connection(draw, frame):
    """A convolution of any geometry that fits an image, weights on a grid that the chip holds without rounding."""

    def sizes(low, limits):
        return tuple(draw(st.integers(low, max(low, limit))) for limit in limits)

    pool = tuple(draw(st.sampled_from([k for k in (1, 2, 4) if k <= n])) for n in frame[1:])
    image = [n // k for n, k in zip(frame[1:], pool)]
    kernel = sizes(1, [min(n, 3) for n in image])
    dilation = sizes(1, [min(3, (n - 1) // (k - 1)) if k > 1 else 2 for n, k in zip(image, kernel)])
    groups = draw(st.sampled_from([1, 2]))
    connection = Conv2d(
        frame[0],
        4,
        kernel,
        stride=sizes(1, (2, 3)),
        padding=sizes(0, [d * (k - 1) // 2 for d, k in zip(dilation, kernel)]),
        dilation=dilation,
        groups=groups,
        pool=None if pool == (1, 1) else pool,
    )
    weight = torch.from_numpy(draw(seeds).integers(-100, 127, connection.weight.shape)).float()
    weight[:, 0, :, :] = 127  # every output channel has one of the largest, whatever the padding leaves out
    connection.weight.data = weight / 64
    return connection


seeds = st.integers(0, 10**6).map(np.random.default_rng)


@st.composite
def any_network(draw):
    """Two convolutions and a readout, over images or data of one dimension."""
    frame = draw(st.sampled_from([(2, 1, 16), (2, 16, 1), (4, 7, 9), (2, 8, 8)]))
    blocks, shape = [], frame
    for _ in range(2):
        connection = draw(any_connection(shape))
        shape = connection.output_shape(shape)
        blocks.append(Block(connection, LIF(draw(st.sampled_from([0.0, 0.5, 1.0])), 1.0, "zero")))
    pool = tuple(min(2, n) for n in shape[1:])
    inputs = shape[0] * (shape[1] // pool[0]) * (shape[2] // pool[1])
    readout = Readout(inputs, 3, pool=pool)
    readout.weight.data = torch.from_numpy(draw(seeds).integers(-127, 128, (3, inputs))).float() / 64
    readout.weight.data[0, 0] = 127 / 64
    return Network(blocks, readout, input_shape=frame, time_steps=5), draw(seeds)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=any_network())
def test_random_geometries_are_equal_in_float_sim_and_reference(drawn, tmp_path_factory):
    net, rng = drawn
    x = (rng.random((3, 5, *net.input_shape)) < 0.3).astype(np.uint8)
    chip = quantize(from_torch(net)).chip
    states = executed(chip, x)
    expected = net.run(torch.from_numpy(x), "s").states["s"]
    for fired, spikes in zip(states["s"], expected):
        np.testing.assert_array_equal(fired > 0, spikes.detach().numpy() > 0)
    path = tmp_path_factory.getbasetemp() / "geometry.nir"
    if not any(isinstance(c, Sparse) for c in chip.connections[:-1]):  # NIR brings no flat layer to a convolution
        nir_writer.write(chip, path)
        assert nir_reader.read(path) == chip


@pytest.mark.lava
@pytest.mark.parametrize("geometry", SETTINGS)
def test_lavas_models_have_the_same_states(geometry):
    chip = quantize(from_torch(network(geometry))).chip
    x = (np.random.default_rng(0).random((2, 5, 2, 8, 8)) < 0.4).astype(np.uint8)
    found = BACKENDS["inprocess"].run(chip, x, STATES).states
    assert all(np.array_equal(a, b) for name in STATES for a, b in zip(executed(chip, x)[name], found[name]))


def test_a_description_from_before_a_setting_means_its_first_value():
    net = network({"kernel_size": 3})
    older = describe(net)
    for name in YOUNGER["Conv2d"]:
        del older["blocks"][0]["connection"]["settings"][name]
    assert describe(construct(older)) == describe(net)


@pytest.mark.parametrize("features", ["4C3x1D2-AP2x1-6C1x3S1x2", "64C3D2-AP2x4-4C3x1G2", "8C5x3S2x1-GAP"])
def test_the_fast_engine_has_the_plain_ones_gradients(features):
    net = conv(features, input_shape=(2, 8, 8), num_classes=3).double()
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(3, 6, 2, 8, 8, generator=generator) < 0.1).double(), torch.tensor([0, 1, 2])
    for parameter in net.parameters():
        parameter.data *= 3
    assert not why_not(net, OTTT(update="sequence"), SquaredError())
    plain, chunks, steps = (found(net, x, y, *way) for way in (("plain", None), ("fast", 4), ("fast", 1)))
    assert all(gradient.abs().max() > 0 for gradient in plain)
    for other in (chunks, steps):
        torch.testing.assert_close(other, plain, rtol=1e-10, atol=1e-10)


def found(net, x, y, engine, chunk):
    net.zero_grad()
    rule = OTTT(update="sequence")
    choose(net, rule, SquaredError(), x.shape[1], engine, chunk).backward(net, rule, x, y, SquaredError())
    return [p.grad.clone() for p in net.parameters()]


def test_one_dimension_is_an_image_of_height_one():
    net = conv("4C1x5-AP1x2-8F", input_shape=(3, 1, 20), num_classes=2)
    assert net.blocks[0].shape == (4, 1, 20)
    assert net.blocks[1].connection.in_features == 40


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("8C3-MP2", "'MP2'; max pooling of spikes has no gradient"),
        ("8T3", "'8T3'; transposed convolutions are not trained here"),
        ("8C3x0", "got '8C3x0'"),
        ("8C3x", "got '8C3x'"),
    ],
)
def test_other_layers_are_refused_by_name(features, message):
    with pytest.raises(UsageError, match=message):
        conv(features, input_shape=(1, 8, 8))


def test_bad_sizes():
    with pytest.raises(UsageError, match=r"Conv2d\.stride: expected a number or"):
        Conv2d(1, 1, stride=(1, 2, 3))
    with pytest.raises(UsageError, match=r"Conv2d\.padding: expected an integer ≥ 0"):
        Conv2d(1, 1, padding=(-1, 0))
    with pytest.raises(UsageError, match="a 3×1 kernel does not fit an image of 2×9"):
        Conv2d(1, 1, (3, 1)).output_shape((1, 2, 9))


def test_a_window_larger_than_the_image_is_refused_with_one_that_fits():
    with pytest.raises(UsageError, match=r"larger than the image, height 20 and width 1; use pool=\(2, 1\), AP2x1 in"):
        conv("4C3-AP2-4C3-GAP", input_shape=(3, 20, 1), num_classes=2)
    with pytest.raises(UsageError, match=r"pool=2: expected an image \(channels, height, width\) to pool, got \(9,\)"):
        pooled_shape((9,), 2)
