"""The learning rule: what it computes, and what it refuses."""

import numpy as np
import pytest

from ottt_loihi.errors import UsageError

pytestmark = pytest.mark.lava


@pytest.fixture
def rule():
    pytest.importorskip("lava.magma.core.learning.learning_rule")
    from ottt_loihi.onchip.lava.rule import OTTTLearningRule

    return OTTTLearningRule


@pytest.mark.parametrize("phase", [1, 2, 4])
def test_a_spike_has_the_effective_impulse_left_when_the_epoch_ends(rule, phase):
    fixed = rule(4, phase, 0.5)
    assert fixed.x1_impulse == 63
    per_step = np.exp(-1 / fixed.x1_tau)
    assert per_step**4 == pytest.approx(0.5)
    assert fixed.effective_impulse == pytest.approx(63 * per_step ** (4 - phase))
    assert rule(4, phase, 0.5, "float").x1_impulse * per_step ** (4 - phase) == pytest.approx(1)


def test_a_trace_of_one_epoch_does_not_decay(rule):
    bare = rule(4, 2, 0.0)
    assert bare.effective_impulse == bare.x1_impulse == 127
    assert np.exp(-1 / bare.x1_tau) == 1


def test_y_traces_do_not_decay(rule):
    assert {rule(4, 1, 0.5).y1_tau, rule(4, 1, 0.5).y2_tau, rule(4, 1, 0.5).y3_tau} == {1e18}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(epoch=64, pre_phase=1, decay=0.5), r"epoch: expected an integer 1 … 63, got 64"),
        (dict(epoch=4, pre_phase=5, decay=0.5), r"pre_phase: expected an integer 1 … 4"),
        (dict(epoch=4, pre_phase=1, decay=1.0), r"decay: expected 0 ≤ λ < 1, got 1.0"),
        (dict(epoch=4, pre_phase=1, decay=0.999), r"leaves no room for a trace of 7 bits"),
        (
            dict(epoch=4, pre_phase=1, decay=0.5, impulse=64),
            r"impulse: 64 saturates the trace at 127 for λ = 0.5; at most 63",
        ),
        (
            dict(epoch=4, pre_phase=1, decay=0.5, impulse=1.5),
            r"impulse: expected an integer 1 … 127 \(fractions are biased",
        ),
        (
            dict(epoch=4, pre_phase=1, decay=0.5, impulse=3, arithmetic="float"),
            r"impulse: is computed in floating point",
        ),
        (dict(epoch=4, pre_phase=1, decay=0.5, arithmetic="int"), r"arithmetic: expected one of fixed, float"),
        (dict(epoch=4, pre_phase=1, decay=0.5, seed=-1), r"seed: expected an integer"),
    ],
)
def test_bad_input(rule, arguments, message):
    with pytest.raises(UsageError, match=message):
        rule(**arguments)
