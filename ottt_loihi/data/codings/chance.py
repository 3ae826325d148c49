"""Random numbers that depend on a seed and a sample's index alone, for many samples at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

WORD, WIDE = (1 << 32) - 1, (1 << 128) - 1
POOL = 4  # words of a SeedSequence
INIT_A, MULT_A, INIT_B, MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
MIX_LEFT, MIX_RIGHT, SHIFT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715), np.uint32(16)
PCG_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645


def uniform(seed: int, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return ``default_rng([seed, index]).random(shape, float32)`` of every index, float32 ``(n, *shape)`` in [0, 1).

    The numbers are NumPy's, bit for bit. A generator for each sample costs more than what it draws, so all seeds are
    computed in one go (NumPy's SeedSequence, O'Neill 2015), and one PCG64 takes them in turn.

    Parameters
    ----------
    seed
        ≥ 0
    indices
        int ``(n,)``, ≥ 0
    """
    found = np.empty((len(indices), *shape), np.float32)
    bits = np.random.PCG64(0)
    generator = np.random.Generator(bits)
    for of_one, (state, increment) in zip(found, _states(seed, np.asarray(indices))):
        bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": increment},
            "has_uint32": 0,
            "uinteger": 0,
        }
        generator.random(dtype=np.float32, out=of_one)
    return found


def _states(seed: int, indices: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield state and increment of ``PCG64(SeedSequence([seed, index]))`` for every index."""
    words = [np.uint32(word) for word in _words(seed)]
    index = indices.astype(np.uint64)
    low, high = (index & np.uint64(WORD)).astype(np.uint32), (index >> np.uint64(32)).astype(np.uint32)
    found = _pool([*words, low])
    if high.any():  # an index of two words is other entropy than one of one
        wide = _pool([*words, low, high])
        found = [np.where(high > 0, two, one) for one, two in zip(found, wide)]
    constant, drawn = INIT_B, []
    for turn in range(2 * POOL):
        value = found[turn % POOL] ^ np.uint32(constant)
        constant = constant * MULT_B & WORD
        value = value * np.uint32(constant)
        drawn.append((value ^ (value >> SHIFT)).astype(np.uint64))
    halves = [(drawn[k] | (drawn[k + 1] << np.uint64(32))).tolist() for k in range(0, 2 * POOL, 2)]
    for first, second, third, fourth in zip(*halves):
        increment = (((third << 64) | fourth) << 1 | 1) & WIDE
        yield ((increment + ((first << 64) | second)) * PCG_MULTIPLIER + increment) & WIDE, increment


def _pool(entropy: list[np.ndarray]) -> list[np.ndarray]:
    """Return the mixed words of a SeedSequence, each uint32 ``(n,)``; ``entropy``: 32-bit words, one ``(n,)``."""
    constant = INIT_A

    def hashed(value: np.ndarray) -> np.ndarray:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * MULT_A & WORD
        value = value * np.uint32(constant)
        return value ^ (value >> SHIFT)

    def mixed(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        found = MIX_LEFT * left - MIX_RIGHT * right
        return found ^ (found >> SHIFT)

    entropy = np.broadcast_arrays(*entropy)
    zero = np.zeros_like(entropy[0])
    pool = [hashed(entropy[k] if k < len(entropy) else zero) for k in range(POOL)]
    for source in range(POOL):
        for target in range(POOL):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for word in entropy[POOL:]:
        pool = [mixed(value, hashed(word)) for value in pool]
    return pool


def _words(number: int) -> list[int]:
    """Return the words of 32 bits of a number ≥ 0, lowest first, one at least."""
    found = [number & WORD]
    while number := number >> 32:
        found.append(number & WORD)
    return found
