"""A stream that is cut into several calls of ``learn`` is learnt as in one call."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip.network.hlop import watch
from ottt_loihi.onchip.stream import UNLABELLED, balanced

from ottt_loihi.errors import UsageError

STEPS, CLASSES = 4, 3
RATES = {"readout_rate": 0.1, "hidden_rate": 2.0}


def data(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (count, STEPS, 12), np.uint8), rng.integers(0, CLASSES, count)


def part(begin, end):
    x, y = data(30)
    return x[begin:end], y[begin:end]


def start():
    return replace(fresh_network((12,), (20,), CLASSES, STEPS, resolution=128, seed=1), untrained=False)


def in_pieces(cuts, backend="sim", **chosen):
    settings = Settings(**{"shuffle": False, "halve_every": 11} | RATES | chosen)
    result = learn(start(), part(0, cuts[0]), settings=settings, known=data(50, 3), backend=backend)
    for begin, end in pairwise(cuts):
        result = learn(result.chip, part(begin, end), after=result, backend=backend)
        assert result.samples == end - begin
    return result


RULES = [
    {},
    {"learn_when": "always", "feedback": "opzo"},
    {"rounding": "lava", "learn_bias": True},
    {"balanced": True, "learn_when": "always"},
]


@pytest.mark.parametrize("rule", RULES)
def test_a_stream_in_pieces_is_a_stream(rule):
    whole, single = in_pieces([30], **rule), in_pieces(range(1, 31), **rule)
    for other in (in_pieces([11, 30], **rule), single):
        assert other.chip == whole.chip
        assert other.rates == whole.rates
        expected, found = whole.learner.variables(), other.learner.variables()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, name)
    assert start().connections != whole.chip.connections


def test_balanced_classes():
    """Labels of frequent classes are left out by chance, by what has come until then, however the stream is cut."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(4000) < 0.95, 0, 2)
    labels[rng.random(4000) < 0.3] = UNLABELLED
    none = np.zeros(3, np.int64)
    found = balanced(labels, none, (0, 0))
    assert set(np.unique(found)) == {UNLABELLED, 0, 2}
    left, kept = found != labels, [int((found == c).sum()) for c in (0, 2)]
    assert (labels[left] == 0).all()  # of the rare class all are kept
    assert kept[1] == (labels == 2).sum()
    assert 0.8 < kept[0] / kept[1] < 1.5
    first = balanced(labels[:1234], none, (0, 0))
    came = np.bincount(labels[:1234][labels[:1234] != UNLABELLED], minlength=3)
    np.testing.assert_array_equal(np.concatenate([first, balanced(labels[1234:], came, (0, 0))]), found)
    alike = np.arange(300) % 3
    assert (balanced(alike, none, (0, 0)) != UNLABELLED).mean() > 0.9


def test_the_earlier_result_stays_as_it_was():
    first = in_pieces([20])
    ends = [learn(first.chip, part(20, 30), after=first).chip for _ in range(2)]
    assert ends[0] == ends[1] != first.chip


def test_subspaces_go_on():
    chip, x = start(), data(40, 5)[0]
    settings = Settings(shuffle=False)
    known = data(50, 3)
    lateral = watch(chip, x, [3, 5])
    whole = learn(chip, part(0, 30), settings=settings, subspaces=lateral, known=known)
    first = learn(chip, part(0, 12), settings=settings, subspaces=lateral, known=known)
    assert learn(first.chip, part(12, 30), after=first).chip == whole.chip


@pytest.mark.lava
def test_in_lava_it_is_the_same():
    pytest.importorskip("lava.magma.core.process.process")
    whole = in_pieces([12])
    first = in_pieces([7])
    again = learn(first.chip, part(7, 12), after=first, backend="inprocess")
    assert again.chip == whole.chip
    assert again.learner.samples == whole.learner.samples == 24


def test_what_does_not_go_together_is_refused(tmp_path):
    first = in_pieces([5])
    for more in ({"settings": Settings()}, {"known": data(5)}, {"checkpoint": tmp_path / "x"}):
        with pytest.raises(UsageError, match=f"after: the earlier call's settings .* leave out {next(iter(more))}"):
            learn(first.chip, part(5, 9), after=first, **more)
    with pytest.raises(UsageError, match="after: the network is another one"):
        learn(start(), part(5, 9), after=first)
