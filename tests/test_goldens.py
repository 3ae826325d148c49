"""Trainings, exports, runs and lessons give the bits that they gave in commit ca2cd2d, or CHANGED says why not."""

import numpy as np
import pytest
from goldens import compare

BASE = {"a|x": np.arange(3.0), "a|n": np.arange(3), "b|refused": np.array("no"), "c|x": np.arange(2)}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_results_are_those_of_the_base():
    if not compare.has_commit():
        pytest.skip(f"{compare.BASE}: not in this clone's history (git fetch --unshallow)")
    found = compare.compare(*compare.both())
    refused = [name for name, (status, _) in found.items() if status == "refused"]
    assert all(name.startswith(("training/", "export")) for name in refused), refused  # there not all fits all
    statuses = [status for status, _ in found.values()]
    assert statuses.count("equal") > 385
    assert not set(statuses) & set(compare.FAILURES), compare.report(found)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "equal"),
        ({"a|x": np.arange(3.0) * (1 + 1e-15)}, "rounding"),
        ({"a|x": np.arange(3.0) * (1 + 1e-9)}, "different"),
        ({"a|n": np.array([0, 1, 3])}, "different"),
        ({"a|n": np.arange(3, dtype=np.int32)}, "different"),
        ({"a|n": np.arange(4)}, "different"),
        ({"a|more": np.arange(4)}, "different"),
        ({"a|failed": np.array("Traceback\nValueError: x")}, "different"),
        ({"a|refused": np.array("no longer")}, "different"),
    ],
)
def test_every_difference_is_found(change, status):
    assert compare.compare(BASE, BASE | change)["a"][0] == status


def test_a_change_on_purpose_is_listed_and_no_longer_than_it_lasts(monkeypatch):
    monkeypatch.setattr(compare, "CHANGED", {"c*": "a reason"})
    assert compare.compare(BASE, BASE | {"c|x": np.arange(2) + 1})["c"] == ("on purpose", "a reason")
    found = compare.compare(BASE, {**BASE, "b|x": np.arange(1)} | {})
    assert found["c"][0] == "stale"
    now = {key: value for key, value in BASE.items() if key != "b|refused"} | {"b|x": np.arange(1)}
    assert compare.compare(BASE, now)["b"][0] == "new"
