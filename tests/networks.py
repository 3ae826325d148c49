"""Random ChipNetworks for property tests, and small builders that several test files share."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal, Sparse


@st.composite
def chip_networks(draw: st.DrawFn, max_layers: int = 3, max_size: int = 6) -> ChipNetwork:
    """Feed-forward networks of dense layers, with everything that is exact on Lava switched on at random."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(1, max_size), min_size=2, max_size=max_layers + 1))
    layers, connections = [], []
    for index, (pre, post) in enumerate(pairwise(sizes)):
        reset = draw(st.sampled_from(["zero", "subtract", "any"]))
        layers.append(_lif(draw, rng, post, reset, index))
        connections.append(_dense(draw, rng, index - 1 if index else INPUT, index, (post, pre)))
        if reset == "subtract":
            connections.append(Diagonal(index, index, -layers[-1].thresholds // 2))
            if draw(st.booleans()):  # what 8 bits of an inhibition do not hold
                connections.append(Diagonal(index, index, rng.integers(-255, 1, post), draw(st.integers(-8, 3))))
        elif draw(st.booleans()):
            connections.append(_dense(draw, rng, index, index, (post, post), delay=draw(st.integers(0, 2))))
    return ChipNetwork(
        (sizes[0],),
        tuple(layers),
        tuple(connections),
        num_steps=draw(st.integers(1, 6)),
        readout=draw(st.sampled_from(["sum_v", "last_v", "max_v", "spike_count"])),
        provenance={"seed": int(rng.integers(1000))},
    )


@st.composite
def conv_networks(draw: st.DrawFn) -> ChipNetwork:
    """A convolution with random stride, padding, dilation and groups, then a dense, sparse or recurrent layer."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    padding, stride, dilation = ([draw(st.integers(low, 2)) for _ in range(2)] for low in (0, 1, 1))
    frame = [d * (k - 1) + 1 + draw(st.integers(0, 3)) for d, k in zip(dilation, kernel)]
    low, high = draw(st.sampled_from([(-256, 256), (0, 256), (-255, 1)]))
    weight = arithmetic.truncate_weight(
        rng.integers(low, high, (groups * draw(st.integers(1, 3)), draw(st.integers(1, 2)), *kernel))
    )
    weight = arithmetic.truncate_weight(weight)
    bits = draw(st.sampled_from([0, 0, 8]))
    input_shape = (weight.shape[1] * groups, *frame)
    conv = Conv(INPUT, 0, weight, input_shape, stride, padding, dilation, groups, num_message_bits=bits)
    size = conv.shape[0]
    layers = [_lif(draw, rng, conv.output_shape, draw(st.sampled_from(["zero", "any"])), 0)]
    layers.append(_lif(draw, rng, (3,), "zero", 1))
    connections = [conv, draw(st.sampled_from([_dense, _sparse]))(draw, rng, 0, 1, (3, size))]
    if draw(st.booleans()):
        connections.append(_sparse(draw, rng, 1, 0, (size, 3), delay=draw(st.integers(0, 2))))
    return ChipNetwork(input_shape, tuple(layers), tuple(connections), num_steps=draw(st.integers(1, 5)))


@st.composite
def mixed_networks(draw: st.DrawFn) -> ChipNetwork:
    """Two image layers and a readout; every kind of connection, several into one layer, from everywhere it may come."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = [2 * draw(st.integers(1, 3)) for _ in range(3)]
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    shapes = [(n, height, width) for n in channels]
    sizes = [n * height * width for n in channels]
    resets = st.sampled_from(["zero", "any"])
    flat = draw(st.booleans())  # then convolutions may see one layer as images of different shapes
    layers = [_lif(draw, rng, n if flat else s, draw(resets), i) for i, (n, s) in enumerate(zip(sizes[1:], shapes[1:]))]
    layers.append(_lif(draw, rng, (3,), "zero", 2))
    bits = draw(st.sampled_from([0, 0, 8]))
    connections = []
    for post in (0, 1):
        for number in range(draw(st.integers(1, 4))):
            pre = post - 1 if number == 0 else draw(st.sampled_from([INPUT, 0, 1]))
            delay = draw(st.integers(max(post - pre - 1, 0), 2))
            shape, graded = (sizes[post + 1], sizes[pre + 1]), {"num_message_bits": bits} if pre == INPUT else {}
            kind = draw(st.sampled_from(["conv", "conv", "dense", "sparse", "diagonal"]))
            if kind == "conv" and pre >= post - 1:
                connections.append(
                    _same_conv(
                        draw, rng, (pre, post), shapes[pre + 1], channels[post + 1], flat and pre != INPUT, graded
                    )
                )
            elif kind == "diagonal" and shape[0] == shape[1]:
                weight = 2 * rng.integers(-127, 128, shape[0])
                connections.append(Diagonal(pre, post, weight, draw(st.integers(-8, 3)), delay=delay, **graded))
            elif kind == "sparse":
                connections.append(_sparse(draw, rng, pre, post, shape, delay, **graded))
            else:
                connections.append(_dense(draw, rng, pre, post, shape, delay, **graded))
    connections.append(_dense(draw, rng, 1, 2, (3, sizes[2])))
    if draw(st.booleans()):
        connections.append(_sparse(draw, rng, 0, 2, (3, sizes[1]), draw(st.integers(1, 2))))
    return ChipNetwork(shapes[0], tuple(layers), tuple(connections), num_steps=draw(st.integers(1, 5)))


def _same_conv(draw, rng, ends, input_shape, out, flat, graded) -> Conv:
    """A convolution that keeps height and width, with any kernel, dilation and groups that do."""
    if flat and draw(st.booleans()):
        input_shape, out = (input_shape[0] * input_shape[1], 1, input_shape[2]), out * input_shape[1]
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 4, 6) if input_shape[0] % g == 0 and out % g == 0]))
    kernel = [draw(st.sampled_from([1, 3])) for _ in range(2)]
    dilation = [draw(st.integers(1, 2)) for _ in range(2)]
    padding = [d * (k // 2) for d, k in zip(dilation, kernel)]
    weight = 2 * rng.integers(-127, 128, (out, input_shape[0] // groups, *kernel))
    return Conv(*ends, weight, input_shape, (1, 1), padding, dilation, groups, **graded)


def _sparse(
    draw: st.DrawFn,
    rng: np.random.Generator,
    pre: int,
    post: int,
    shape: tuple[int, int],
    delay: int = 0,
    num_message_bits: int = 0,
) -> Sparse:
    places = rng.choice(shape[0] * shape[1], rng.integers(1, shape[0] * shape[1] + 1), replace=False)
    weight = arithmetic.truncate_weight(rng.integers(-256, 256, places.size))
    weight = arithmetic.truncate_weight(weight)
    return Sparse(
        pre,
        post,
        shape,
        *np.divmod(places, shape[1]),
        weight,
        draw(st.integers(-8, 7)),
        delay=delay,
        num_message_bits=num_message_bits,
    )


def _lif(draw: st.DrawFn, rng: np.random.Generator, shape: int | tuple[int, ...], reset: str, index: int) -> LIF:
    shape = (shape,) if isinstance(shape, int) else shape
    bias = rng.integers(-4096, 4096, shape) if draw(st.booleans()) else np.zeros(shape, np.int64)
    exponent = draw(st.integers(0, 7))
    common = {"bias_mant": bias, "bias_exp": exponent, "name": f"layer {index}"}
    if reset == "zero":
        return LIF(shape, 4095, draw(st.integers(0, 4096)), _vth(draw, rng, shape, 2000), **common)
    if reset == "subtract":
        u_init = -arithmetic.effective_bias(bias, exponent)
        return LIF(shape, 2047, 4096, 2 * _vth(draw, rng, shape, 255), u_init=u_init, **common)
    du, dv = draw(st.integers(-1, 4095)), draw(st.integers(0, 4096))
    u_init = rng.integers(-(2**23) + 1, 2**23, shape)
    return LIF(shape, du, dv, _vth(draw, rng, shape, arithmetic.VTH_MAX), u_init=u_init, **common)


def _vth(draw: st.DrawFn, rng: np.random.Generator, shape: tuple[int, ...], highest: int) -> np.ndarray | int:
    """One threshold, one for each channel, or one for each neuron."""
    spread = draw(st.sampled_from([None, shape, (*shape[:1], *(1 for _ in shape[1:]))]))
    return draw(st.integers(1, highest)) if spread is None else rng.integers(1, highest + 1, spread)


def _dense(
    draw: st.DrawFn,
    rng: np.random.Generator,
    pre: int,
    post: int,
    shape: tuple[int, int],
    delay: int = 0,
    num_message_bits: int = 0,
) -> Dense:
    bits = draw(st.integers(1, 8))
    low, high = draw(st.sampled_from([(-256, 256), (0, 256), (-255, 1)]))
    weight = arithmetic.truncate_weight(rng.integers(low, high, shape), bits)
    weight = arithmetic.truncate_weight(weight, bits)  # truncation may have made it single-signed
    return Dense(pre, post, weight, draw(st.integers(-8, 7)), bits, delay=delay, num_message_bits=num_message_bits)


def random_messages(chip: ChipNetwork, batch: int, seed: int = 0, density: float = 0.4) -> np.ndarray:
    """Input ``(batch, num_steps, *input_shape)``: binary spikes, uint8, or signed graded messages, int16."""
    rng = np.random.default_rng(seed)
    spikes = rng.random((batch, chip.num_steps, *chip.input_shape)) < density
    if not any(c.num_message_bits for c in chip.connections if c.pre == INPUT):
        return spikes.astype(np.uint8)
    return (spikes * rng.integers(-200, 200, spikes.shape)).astype(np.int16)
