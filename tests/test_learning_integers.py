import numpy as np
import pytest
from ottt_loihi.sim.learning.integers import (
    mantissa_and_shift,
    saturate,
    scale_stochastically,
    xorshift32,
    xorshift32_seeds,
)

from ottt_loihi.errors import UsageError


def test_xorshift32_is_marsaglias():
    """The first numbers after the seed of the paper, 2463534242."""
    state = np.array([2463534242], np.uint32)
    numbers = []
    for _ in range(3):
        state = xorshift32(state)
        numbers.append(int(state[0]))
    assert numbers == [723471715, 2497366906, 2064144800]


def test_seeds_are_never_zero_and_differ():
    seeds = xorshift32_seeds(0, 1000)
    assert seeds.dtype == np.uint32
    assert (seeds > 0).all()
    assert len(set(seeds.tolist())) == 1000
    assert not np.array_equal(seeds, xorshift32_seeds(1, 1000))


@pytest.mark.parametrize("scale", [1e-8, 0.001, 0.3, 1.0, 7.77, 4000.0])
def test_mantissa_and_shift_are_close(scale):
    mantissa, shift = mantissa_and_shift(scale, "here")
    assert 0 < mantissa <= 4096
    assert 0 <= shift <= 31
    tolerance = 2**-12 if scale > 1e-6 else 0.03
    assert mantissa / 2**shift == pytest.approx(scale, rel=tolerance)


@pytest.mark.parametrize(("scale", "size"), [(1e-10, "small"), (1e5, "large")])
def test_a_scale_that_vanishes_or_overflows_is_told(scale, size):
    with pytest.raises(UsageError, match=rf"rate: a scale of .* is too {size}"):
        mantissa_and_shift(scale, "rate")
    with pytest.raises(UsageError, match="rate: expected a scale > 0, got nan"):
        mantissa_and_shift(float("nan"), "rate")


@pytest.mark.parametrize("x", [-1000, -3, 0, 1, 77])
def test_rounding_is_right_on_average_and_never_off_by_one(x):
    mantissa, shift = mantissa_and_shift(0.0371, "here")
    state, values = xorshift32_seeds(3, 20000), np.full(20000, x)
    rounded = scale_stochastically(values, mantissa, shift, xorshift32(state))
    exact = x * mantissa / 2**shift
    assert np.abs(rounded - exact).max() < 1
    assert rounded.mean() == pytest.approx(exact, abs=0.015)


def test_no_shift_is_plain_multiplication():
    assert scale_stochastically(np.array([5, -5]), 3, 0, np.array([2**32 - 1] * 2, np.uint32)).tolist() == [15, -15]


def test_saturation_is_counted():
    clipped, outside = saturate(np.array([-300, -127, 5, 128]), 127)
    assert clipped.tolist() == [-127, -127, 5, 127]
    assert outside == 2
