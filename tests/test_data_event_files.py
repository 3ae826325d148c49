"""Events of any sensor: forms of (t, x, y, p), files of them, folders of files, and all that is refused."""

import numpy as np
import pytest
from corruption import assert_only_our_errors
from hypothesis import given
from hypothesis import strategies as st

from ottt_loihi.data import as_events, load_data, read_events, to_frames
from ottt_loihi.data.events import EVENT
from ottt_loihi.errors import FileError, UsageError


def some(n=30, seed=0, width=5, height=4):
    rng = np.random.default_rng(seed)
    events = np.empty(n, EVENT)
    events["t"] = np.sort(rng.integers(0, 10_000, n))
    events["x"], events["y"], events["p"] = (rng.integers(0, size, n) for size in (width, height, 2))
    return events


def table(events):
    return np.stack([events[name].astype(np.int64) for name in "txyp"], axis=1)


def as_tonic(events):
    out = np.empty(len(events), [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")])
    for name in "txyp":
        out[name] = events[name]
    return out


FORMS = {
    "ours": lambda e: e,
    "tonic": as_tonic,
    "numbers": table,
    "floats": lambda e: table(e).astype(float),
    "lists": lambda e: table(e).tolist(),
    "columns": lambda e: {name: e[name] for name in "pyxt"},
    "other names": lambda e: {"timestamp": e["t"], "x": e["x"], "y": e["y"], "polarity": e["p"]},
    "signed": lambda e: {**{name: e[name] for name in "txy"}, "p": 2 * e["p"].astype(int) - 1},
    "seconds": lambda e: {**{name: e[name] for name in "xyp"}, "t": e["t"] / 1e6},
}


@pytest.mark.parametrize("form", FORMS)
@given(n=st.integers(0, 40), seed=st.integers(0, 99))
def test_every_form_gives_the_same_events(form, n, seed):
    if n == 0 and form == "lists":
        return  # an empty list has no columns
    events = some(n, seed)
    np.testing.assert_array_equal(as_events(FORMS[form](events)), events)


def test_a_negative_time_is_a_time():
    events = some()
    events["t"] -= 5000
    np.testing.assert_array_equal(
        to_frames(as_events(table(events)), 4, 5, 4).counts, to_frames(some(), 4, 5, 4).counts
    )


def with_column(name, value):
    events = {key: table(some())[:, i].astype(object) for i, key in enumerate("txyp")}
    events[name][3] = value
    return {key: np.array(column.tolist()) for key, column in events.items()}


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (np.zeros((3, 5)), "numbers \\(N, 4\\)"),
        (np.zeros(4), "numbers \\(N, 4\\)"),
        ({"t": [0], "x": [0], "y": [0]}, r"one column for p .*found none in"),
        ({"t": [0], "ts": [0], "x": [0], "y": [0], "p": [0]}, r"one column for t .*found \['t', 'ts'\] in"),
        ({"t": [0, 1], "x": [0], "y": [0], "p": [0]}, "of one length"),
        (with_column("x", -1), "whole pixels"),
        (with_column("y", 1 << 16), "whole pixels"),
        (with_column("x", 0.5), "whole pixels"),
        (with_column("p", 2), "0 and 1, or −1 and 1"),
        (with_column("p", -1), "0 and 1, or −1 and 1"),
        (with_column("t", float("nan")), "t: expected finite numbers, got NaN or infinity in 1 of .* is event 3"),
        (with_column("t", float("inf")), "finite"),
        (with_column("t", 1e19), "times below"),
        ({"t": ["a"], "x": [0], "y": [0], "p": [0]}, "finite numbers"),
    ],
)
def test_what_is_no_event_is_refused(events, said):
    with pytest.raises(UsageError, match=said):
        as_events(events)


CSV = {
    "named": ("t,x,y,p\n", ","),
    "another order": ("x,y,p,t\n", ","),
    "a comment": ("# timestamp; x; y; polarity\n", ";"),
    "no names": ("", ","),
    "spaces": ("", " "),
}


@pytest.mark.parametrize("kind", CSV)
def test_csv_files(kind, tmp_path):
    heading, separator = CSV[kind]
    events = some()
    order = "xypt" if kind == "another order" else "txyp"
    rows = [separator.join(str(int(e[name])) for name in order) for e in events]
    (tmp_path / "e.csv").write_text(heading + "\n".join(rows))
    np.testing.assert_array_equal(read_events(tmp_path / "e.csv"), events)


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("left", "right")):
        (tmp_path / "hands" / name).mkdir(parents=True)
        for i in range(5):
            events = some(seed=10 * label + i, n=0 if (label, i) == (1, 2) else 60)
            path = tmp_path / "hands" / name / f"{i}"
            np.save(path, as_tonic(events)) if i % 2 else np.savetxt(f"{path}.csv", table(events), "%d", ",")
    return tmp_path / "hands"


def test_a_folder_is_a_data_set(folder):
    split = load_data(folder, num_steps=6)
    assert split.input_shape == (2, 4, 5)
    assert (split.num_steps, split.class_names, split.time_axis) == (6, ("left", "right"), True)
    assert len(split.x_train) + len(split.x_test) == 10
    assert "5×4 pixels" in split.notes[0]
    assert "1 recordings have no events" in split.notes[1]
    assert "of the events were lost" in split.notes[2]
    counted = load_data(folder, num_steps=6, ceiling=255, width=8, height=8)
    assert counted.input_shape == (2, 8, 8)
    assert int(counted.x_train.sum()) + int(counted.x_test.sum()) == 9 * 60
    assert len(counted.notes) == 1


def test_parts_of_its_own(folder, tmp_path):
    (tmp_path / "both").mkdir()
    for part in ("train", "test"):
        (tmp_path / "both" / part).symlink_to(folder)
    split = load_data(tmp_path / "both")
    np.testing.assert_array_equal(split.x_train, split.x_test)
    np.testing.assert_array_equal(split.y_train, [0] * 5 + [1] * 5)


def test_what_a_folder_must_not_be(folder):
    with pytest.raises(FileError, match="expected below 3"):
        load_data(folder, width=3)
    with pytest.raises(UsageError, match="width"):
        load_data(folder, width=-1)
    (folder / "none").mkdir()
    with pytest.raises(FileError, match=r"none: no \.csv, \.npy files"):
        load_data(folder)


@pytest.mark.parametrize("suffix", ["csv", "npy"])
def test_damaged_files(folder, suffix, tmp_path):
    content = next(folder.glob(f"*/*.{suffix}")).read_bytes()
    assert_only_our_errors(read_events, tmp_path / f"e.{suffix}", content, count=100)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "e.npy", np.array([[1, 2, 3, print]], object), allow_pickle=True)
    with pytest.raises(FileError, match="pickled objects"):
        read_events(tmp_path / "e.npy")
