import numpy as np
import pytest
from ottt_loihi.sim import arithmetic

# (u, a, du) → u: computed by hand from the formula in current_step's docstring
CURRENT = [
    (1000, 0, 2047, 500),
    (-1001, 0, 2047, -500),  # tz rounds towards zero, a floor would give −501
    (1000, 3, 4095, 192),
    (1000, -3, -1, 808),
    (2**23, 1, -1, -(2**23) + 64),  # wraps once above 2²³
    (-(2**23) + 1, -1, -1, 2**23 - 63),  # and below −2²³
]


@pytest.mark.parametrize(("u", "a", "du", "expected"), CURRENT)
def test_current_step_golden(u, a, du, expected):
    result = arithmetic.current_step(np.array([u], np.int32), np.array([a], np.int32), du)
    assert result.dtype == np.int32
    assert result.tolist() == [expected]


def test_voltage_clips_at_24_bits():
    v = arithmetic.voltage_step(np.array([2**23 - 1], np.int32), np.array([100], np.int32), 0, np.array([0]))
    assert v.tolist() == [2**23 - 1]


def test_threshold_is_strict():
    assert arithmetic.spikes(np.array([640, 641]), 10).tolist() == [False, True]


def test_sums_wrap_at_32_bits():
    assert arithmetic.synaptic_input(np.array([2**31 + 5]), 0).tolist() == [-(2**31) + 5]
    assert arithmetic.synaptic_input(np.array([-3]), -1).tolist() == [-2]  # floor, not towards zero


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("low", "high"), [(-300, 300), (0, 300), (-300, 0)])
def test_truncate_weight_equals_lava(bits, low, high):
    weightutils = pytest.importorskip("lava.utils.weightutils")
    weight = np.random.default_rng(bits).integers(low, high + 1, (5, 7))
    mode = weightutils.determine_sign_mode(weight)
    expected = weightutils.truncate_weights(weightutils.clip_weights(weight.copy(), mode, num_bits=8), mode, bits)
    np.testing.assert_array_equal(arithmetic.truncate_weight(weight, bits), expected)
