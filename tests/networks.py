"""Random ChipNetworks for property tests, and small builders that several test files share."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Dense, Diagonal


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
            connections.append(Diagonal(index, index, np.full(post, -layers[-1].vth // 2)))
        elif draw(st.booleans()):
            connections.append(_dense(draw, rng, index, index, (post, post), delay=draw(st.integers(0, 2))))
    return ChipNetwork(
        (sizes[0],),
        tuple(layers),
        tuple(connections),
        num_steps=draw(st.integers(1, 6)),
        readout=draw(st.sampled_from(["sum_v", "last_v", "spike_count"])),
        provenance={"seed": int(rng.integers(1000))},
    )


def _lif(draw: st.DrawFn, rng: np.random.Generator, size: int, reset: str, index: int) -> LIF:
    bias = rng.integers(-4096, 4096, size) if draw(st.booleans()) else np.zeros(size, np.int64)
    exponent = draw(st.integers(0, 7))
    common = {"bias_mant": bias, "bias_exp": exponent, "name": f"layer {index}"}
    if reset == "zero":
        return LIF((size,), 4095, draw(st.integers(0, 4096)), draw(st.integers(0, 2000)), **common)
    if reset == "subtract":
        u_init = -arithmetic.effective_bias(bias, exponent)
        return LIF((size,), 2047, 4096, 2 * draw(st.integers(1, 255)), u_init=u_init, **common)
    du, dv = draw(st.integers(-1, 4095)), draw(st.integers(0, 4096))
    u_init = rng.integers(-(2**23) + 1, 2**23, size)
    return LIF((size,), du, dv, draw(st.integers(0, arithmetic.VTH_MAX)), u_init=u_init, **common)


def _dense(
    draw: st.DrawFn, rng: np.random.Generator, pre: int, post: int, shape: tuple[int, int], delay: int = 0
) -> Dense:
    bits = draw(st.integers(1, 8))
    low, high = draw(st.sampled_from([(-256, 256), (0, 256), (-255, 1)]))
    weight = arithmetic.truncate_weight(rng.integers(low, high, shape), bits)
    weight = arithmetic.truncate_weight(weight, bits)  # truncation may have made it single-signed
    return Dense(pre, post, weight, draw(st.integers(-8, 7)), bits, delay=delay)


def random_messages(chip: ChipNetwork, batch: int, seed: int = 0, density: float = 0.4) -> np.ndarray:
    """Binary input spikes, uint8 ``(batch, num_steps, *input_shape)``."""
    rng = np.random.default_rng(seed)
    return (rng.random((batch, chip.num_steps, *chip.input_shape)) < density).astype(np.uint8)
