"""Random numbers of ``sim.learning.integers``, one at a time, compiled."""

from __future__ import annotations

import numpy as np
from ottt_loihi.sim.inference.kernels import called


@called
def mix(x):
    """``learning_integers.mix32`` of one number."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@called
def next_random(n, rng):
    """``learning_integers.xorshift32`` of neuron n."""
    r = rng[n]
    r = np.uint32(r ^ np.uint32(r << np.uint32(13)))
    r = np.uint32(r ^ np.uint32(r >> np.uint32(17)))
    rng[n] = np.uint32(r ^ np.uint32(r << np.uint32(5)))


@called
def scaled(n, x, mantissa, shift, rng):
    """``learning_integers.scale_stochastically`` with neuron n's next random number."""
    next_random(n, rng)
    return (x * mantissa + (np.int64(rng[n]) >> (32 - shift))) >> shift
