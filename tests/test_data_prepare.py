"""From a data set to what a network is trained on: time axes, ranges, codings, labels, other data in the same form."""

import numpy as np
import pytest

from ottt_loihi.data import Step, from_arrays, load_npz, prepare, prepare_like
from ottt_loihi.data.prepare import load_like, spikes_per_sample
from ottt_loihi.data.split import held_out
from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.nn.models import mlp
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.config import make_config
from ottt_loihi.training.run import run
from ottt_loihi.training.samples import Arrays

RNG = np.random.default_rng(0)
Y = np.arange(40) % 4
SERIES = RNG.normal(size=(40, 12, 5))  # analog, outside [0, 1]
SPIKES = (RNG.random((40, 7, 6)) < 0.3).astype(np.int64)


def test_zeros_and_ones_of_any_integer_are_spikes_with_a_time_axis():
    for dtype in (np.uint8, np.int64, np.int16, bool):
        split = from_arrays(SPIKES.astype(dtype), Y)
        assert (split.num_steps, split.x_train.dtype) == (7, np.uint8)
        assert any("spikes with 7 time steps" in note for note in split.notes)
    assert from_arrays(SPIKES.astype(np.uint8), Y, time_axis=False).x_train.max() == 1.0  # never divided by 255
    counts = np.full((40, 5, 2, 3, 3), 3, np.uint8)
    assert from_arrays(counts, Y).num_steps == 5  # five dimensions cannot be images


def test_the_time_axis_may_be_another_one(tmp_path):
    split = from_arrays(np.moveaxis(SERIES, 1, 2), Y, time_axis=2)
    np.testing.assert_array_equal(split.x_train, from_arrays(SERIES, Y, time_axis=True).x_train)
    np.savez(tmp_path / "a.npz", x=np.moveaxis(SERIES, 1, 2), y=Y, time_axis=2, dt=0.02)
    again = load_npz(tmp_path / "a.npz", time_axis=True)
    np.testing.assert_array_equal(again.x_train, split.x_train)
    assert again.dt == 0.02
    with pytest.raises(FileError, match="time_axis: the file says 2, the option False"):
        load_npz(tmp_path / "a.npz", time_axis=False)


def test_an_npz_names_its_classes_and_says_what_is_left_out(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=SERIES, y=Y, time_axis=True, class_names=np.array(list("abcd")), low=0.0)
    split = load_npz(path)
    assert split.class_names == ("a", "b", "c", "d")
    assert "left out: low" in split.notes
    np.savez(path, x=SERIES, y=np.array(list("bdca"))[Y], time_axis=True)
    named = load_npz(path)
    assert named.class_names == ("a", "b", "c", "d")
    np.savez(path, x=SERIES, y=Y, class_names=np.array([None, 1]))
    with pytest.raises(FileError, match="pickled objects; refused"):
        load_npz(path)


@pytest.mark.parametrize(
    ("y", "settings", "says"),
    [
        (Y + 1, {"num_classes": 4}, "labels are 1 … 4, expected 0 … 3; they begin at 1, subtract 1"),
        (Y, {"num_classes": 3}, "expected 0 … 2, got 0 … 3"),
        (np.where(Y == 2, np.nan, Y), {}, "10 labels are missing"),
        (np.where(Y == 2, "", "a"), {}, "10 labels are empty"),
        (np.array(list("abce"))[Y], {"class_names": list("abcd")}, "'e' is none of the classes a, b, c, d"),
        (Y, {"time_axis": 0.5}, "time_axis: expected an integer"),
        (Y, {"dt": -1}, "dt: expected a number > 0"),
    ],
)
def test_labels_and_settings_that_cannot_be(y, settings, says):
    with pytest.raises(UsageError, match=says):
        from_arrays(SERIES, y, **{"time_axis": True, **settings})


def test_labels_from_one_are_said():
    assert any("begin at 1" in note for note in from_arrays(SERIES, Y + 1, time_axis=True).notes)
    whole = from_arrays(SERIES, Y.astype(float), time_axis=True)
    assert any("read as integers" in note for note in whole.notes)


def test_gaps_are_counted():
    gaps = SERIES.copy()
    gaps[3, 2:4, 1] = np.nan
    with pytest.raises(UsageError, match="2 values in 1 of 40 samples; fill the gaps"):
        from_arrays(gaps, Y, time_axis=True)


def test_the_scale_is_fitted_on_training_samples_alone():
    split = from_arrays(SERIES[:30], Y[:30], 3 * SERIES[30:], Y[30:], time_axis=True)
    found = prepare(split, "regular")
    (step,) = found.record.preprocessing
    np.testing.assert_array_equal(step.options["low"], split.x_train.min(axis=(0, 1)))
    assert found.split.x_train.min() == 0
    assert found.split.x_train.max() == 1
    low, high = np.array(step.options["low"]), np.array(step.options["high"])
    outside = int(((split.x_test < low) | (split.x_test > high)).sum())
    assert any(f"{outside:,} of {split.x_test.size:,} values of x_test" in note for note in found.notes)
    assert found.record.time_steps == 12
    assert found.input_shape == (5,)


@pytest.mark.parametrize("encoding", ["regular", "frames"])
def test_no_range_is_fitted_on_samples_that_are_held_out(encoding):
    config = make_config({"data": {"encoding": encoding}, "training": {"validation": 0.25, "seed": 3}})
    split = from_arrays(np.abs(SERIES), Y, time_axis=True)
    held = held_out(split.y_train, 0.25, 3)
    split.x_train[np.flatnonzero(held)[0], 3, 2] = 1000.0
    found = config.prepare(split)
    (step,) = found.record.preprocessing
    axes = (0, 1) if encoding == "regular" else None
    np.testing.assert_allclose(step.options["high"], split.x_train[~held].max(axis=axes))
    assert any("values of x_train are outside the range that was fitted" in note for note in found.notes)
    net = mlp((5, 3, 4), time_steps=12)
    _, validated = Arrays(net, found.split.x_train, split.y_train, "data", None).split(0.25, 3)
    np.testing.assert_array_equal(np.sort(validated.chosen), np.flatnonzero(held))


def test_codings_that_the_data_choose():
    def chosen(x, encoding=None, **settings):
        return prepare(from_arrays(x, Y, **settings), encoding).record.coding

    assert chosen(SPIKES) == Step("frames")
    assert chosen(SERIES, time_axis=True) == Step("graded")
    assert chosen(RNG.random((40, 6))) == Step("rate")
    counts = RNG.integers(0, 9, (40, 7, 6)).astype(np.uint8)
    assert chosen(counts, time_axis=True) == Step("graded", {"unit": 1.0})
    assert chosen(4 * RNG.random((40, 7, 6)), "frames", time_axis=True).name == "graded"
    with pytest.raises(
        UsageError, match="messages cannot be negative here; choose --encoding graded, regular or delta"
    ):
        chosen(SERIES, "frames", time_axis=True)
    with pytest.raises(UsageError, match="regular needs values in"):
        prepare(from_arrays(SERIES, Y, time_axis=True), "regular", scale="none")
    spikes, other = SPIKES.copy(), SPIKES.copy()
    other[0, 0, 0] = 3
    with pytest.raises(UsageError, match="x_test: expected spikes, got counts"):
        prepare(from_arrays(spikes, Y, other.astype(np.uint8), Y, time_axis=True), "frames")


def test_a_channel_that_never_changes_is_said():
    still = SERIES.copy()
    still[:, :, 3] = 1.5
    found = prepare(from_arrays(still, Y, time_axis=True))
    assert any("1 of 5 channels never change" in note and note.endswith("3") for note in found.notes)
    assert (found.split.x_train[:, :, 3] == 0).all()


def test_other_data_come_into_the_same_form():
    known = prepare(from_arrays(SERIES, Y, time_axis=True, class_names=list("abcd"), dt=0.1), "regular")
    other, notes = prepare_like(from_arrays(2 * SERIES, Y, time_axis=True), known.record)
    assert other.x_train.max() == 1.0
    assert any("were clipped" in note for note in notes)
    few = from_arrays(SERIES[:20], np.array(list("db"))[Y[:20] % 2], time_axis=True)
    mapped, _ = prepare_like(few, known.record)
    assert set(mapped.y_train.tolist()) == {1, 3}
    for x, y, settings, says in (
        (SERIES[:, :11], Y, {}, "expected samples of 12 time steps, got 11"),
        (SERIES[:, :, :4], Y, {}, r"expected samples of shape \(5,\), got \(4,\)"),
        (SERIES, Y + 1, {}, "expected labels 0 … 3, got 1 … 4; they begin at 1, subtract 1"),
        (SERIES, Y, {"dt": 0.2}, "expected time steps of 0.1 s, got 0.2 s"),
        (SERIES, np.array(list("abce"))[Y], {}, "the network knows no class 'e'"),
    ):
        with pytest.raises(UsageError, match=says):
            prepare_like(from_arrays(x, y, **{"time_axis": True, **settings}), known.record)
    with pytest.raises(UsageError, match="its samples have no time axis"):
        prepare_like(from_arrays(RNG.random((40, 12, 5)), Y), known.record)


def test_what_a_coding_costs():
    data = prepare(from_arrays(SPIKES, Y))
    chosen = np.random.default_rng(0).permutation(len(data.split.x_train))[:200]
    assert spikes_per_sample(data, 7) == data.split.x_train[chosen].sum() / len(chosen)


def test_a_run_keeps_the_record_and_finds_the_data_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", x=SERIES, y=np.array(list("abcd"))[Y], time_axis=True, dt=0.01)
    tables = {"data": {"name": "mine.npz", "encoding": "delta:threshold=0.2"}, "network": {"hidden": [8]}}
    result = run(make_config({**tables, "training": {"epochs": 1}}), tmp_path / "r")
    net = load(tmp_path / "r" / "model.pt")
    assert (net.time_steps, net.input_shape) == (12, (2, 5))
    assert net.data.coding == Step("delta", {"threshold": 0.2})
    assert net.data.class_names == ("a", "b", "c", "d")
    assert net.provenance["data"] == str(tmp_path / "mine.npz")
    assert any("scaled to [0, 1]" in note for note in result["notes"])
    monkeypatch.chdir("/")
    split, _ = load_like(net.provenance["data"], net.data, net.provenance.get("data_options"))
    assert split.x_test.max() <= 1
    tables["data"]["name"] = str(tmp_path / "mine.npz")
    with pytest.raises(UsageError, match="the samples have 12 time steps, got 6; leave it out"):
        run(make_config({**tables, "network": {"time_steps": 6}}), tmp_path / "s")
    again = run(make_config({"training": {"epochs": 1, "init": str(tmp_path / "r" / "model.pt")}}), tmp_path / "i")
    assert again["time_steps"] == 12
    assert load(tmp_path / "i" / "model.pt").data == net.data


def test_classes_with_names_on_one_side_only():
    names, labels = ["1", "10", "2"], np.array([0, 1, 2] * 5)  # in alphabetical order, as folders are
    x = RNG.random((15, 4)).astype(np.float32)
    numbers = np.array([1, 10, 2])[labels]
    record = prepare(from_arrays(x, numbers, x, numbers)).record
    found, _ = prepare_like(from_arrays(x, labels, x, labels, class_names=names), record)
    np.testing.assert_array_equal(found.y_test, numbers)
    record = prepare(from_arrays(x, labels, x, labels, class_names=names)).record
    found, _ = prepare_like(from_arrays(x, numbers, x, numbers), record)
    np.testing.assert_array_equal(found.y_test, labels)
    with pytest.raises(UsageError, match="the network knows no class '0'; it has 1, 10, 2"):
        prepare_like(from_arrays(x, labels, x, labels), record)
    record = prepare(from_arrays(x, labels, x, labels)).record
    found, notes = prepare_like(from_arrays(x, labels, x, labels, class_names=["a", "b", "c"]), record)
    np.testing.assert_array_equal(found.y_test, labels)
    assert any("matched by their order: 0 is a, 1 is b, 2 is c" in note for note in notes)
