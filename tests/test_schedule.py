import pytest
from ottt_loihi.onchip.network.schedule import Schedule

from ottt_loihi.errors import UsageError


@pytest.mark.parametrize(
    ("hidden", "feedback", "epoch"),
    [
        (0, "direct", 2),
        (1, "direct", 4),
        (1, "layerwise", 4),
        (2, "direct", 5),
        (2, "layerwise", 6),
        (4, "layerwise", 10),
    ],
)
def test_the_epoch_is_as_long_as_spikes_and_errors_travel(hidden, feedback, epoch):
    assert Schedule(hidden, feedback).epoch == epoch


@pytest.mark.parametrize("feedback", ["direct", "layerwise"])
@pytest.mark.parametrize("hidden", range(1, 6))
def test_everything_happens_after_what_it_needs_one_step_apart(hidden, feedback):
    schedule = Schedule(hidden, feedback)
    assert schedule.pre_phase(0) == 1
    assert [schedule.update_phase(layer) for layer in range(hidden + 1)] == list(range(2, hidden + 3))
    sent = schedule.update_phase(hidden)
    for layer in reversed(range(hidden)):
        assert schedule.feedback_phase(layer) == (schedule.epoch if feedback == "direct" else sent + 1)
        sent = schedule.feedback_phase(layer)
    assert sent == schedule.epoch


def test_bad_input():
    with pytest.raises(UsageError, match="feedback: expected one of direct, layerwise, local, got 'up'"):
        Schedule(1, "up")
    with pytest.raises(UsageError, match="hidden_layers: expected an integer"):
        Schedule(-1)
    with pytest.raises(UsageError, match="64 steps, the chip has 6 bits"):
        Schedule(61)
    with pytest.raises(UsageError, match="layer: expected 0 … 1, got 2"):
        Schedule(2).feedback_phase(2)
