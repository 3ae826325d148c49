"""A user's own arrays and .npz files, and what a Split promises."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from corruption import assert_only_our_errors

from ottt_loihi.data import Split, from_arrays, load_data, load_npz
from ottt_loihi.errors import FileError, UnsafeFileError, UsageError

RNG = np.random.default_rng(0)
X = RNG.random((40, 5, 6)).astype(np.float32)
Y = np.arange(40) % 4


def test_two_halves_as_they_are():
    split = from_arrays(X[:30], Y[:30], X[30:], Y[30:], num_classes=7)
    np.testing.assert_array_equal(split.x_train, X[:30])
    assert split.y_test.dtype == np.int64
    assert (split.num_classes, split.input_shape, split.time_axis) == (7, (5, 6), False)


def test_a_test_set_is_held_out_of_each_class():
    split = from_arrays(X, Y, test_share=0.2, seed=3)
    assert np.bincount(split.y_test).tolist() == [2, 2, 2, 2]
    together = np.concatenate([split.x_train, split.x_test]).reshape(40, -1)
    assert {row.tobytes() for row in together} == {row.tobytes() for row in X.reshape(40, -1)}
    again, other = from_arrays(X, Y, test_share=0.2, seed=3), from_arrays(X, Y, test_share=0.2, seed=4)
    np.testing.assert_array_equal(again.x_test, split.x_test)
    assert not np.array_equal(other.x_test, split.x_test)
    few = from_arrays(X[:5], np.array([0, 0, 0, 0, 1]), test_share=0.9)
    assert sorted(few.y_train.tolist()) == [0, 1]  # never the last of a class


def test_dtypes():
    images = (X * 255).astype(np.uint8)
    np.testing.assert_array_equal(from_arrays(images, Y, images, Y).x_train, images / np.float32(255))
    assert from_arrays(X.astype(np.float64), Y, X, Y).x_train.dtype == np.float32
    spikes = from_arrays(X > 0.5, Y, X > 0.5, Y, time_axis=True)
    assert (spikes.x_train.dtype, spikes.num_steps, spikes.input_shape) == (np.uint8, 5, (6,))
    counts = from_arrays(images, Y, images, Y, time_axis=True)
    np.testing.assert_array_equal(counts.x_train, images)
    currents = from_arrays(X * 9 - 4, Y, X, Y, time_axis=True)
    assert currents.x_train.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((X * 2, Y), r"x: expected images in \[0, 1\]"),
        ((np.where(X > 0.99, np.nan, X), Y), "NaN"),
        ((X.astype(object), Y), "expected numbers, got object"),
        ((X, Y[:39]), "expected one label per sample, got 40 samples and 39 labels"),
        ((X, Y + 0.5), "y: expected integers or names, got float64 such as 0.5"),
        ((X, Y - 1), r"expected labels 0 … classes − 1, got -1 … 2"),
        ((X, Y + 10**9), "expected labels 0"),
        ((X, np.eye(4, dtype=int)[Y]), r"one label per sample, shape \(n,\), got \(40, 4\)"),
        ((X, np.arange(40)), "at least two samples of a class"),
        ((X, Y, X), "both x_test and y_test, or neither"),
        ((X, Y, X[:, :4], Y), r"x_test: expected samples \(5, 6\) like x_train's, got \(4, 6\)"),
        ((X, Y, X[:0], Y[:0]), "x_test: expected a filled array"),
        ((X, Y, X, Y[:3]), "y_test: expected 40 integers"),
        ((X[:, 0, 0], Y), "x_train: expected a filled array"),
    ],
)
def test_arrays_that_do_not_fit(arguments, says):
    with pytest.raises(UsageError, match=says) as raised:
        from_arrays(*arguments)
    assert str(raised.value).startswith("arrays: ")


def test_both_halves_are_read_in_one_unit():
    images = (X * 255).astype(np.uint8).reshape(40, -1)
    dark = images % 2
    split = from_arrays(images, Y, dark, Y)
    np.testing.assert_array_equal(split.x_test, dark / np.float32(255))
    np.testing.assert_array_equal(from_arrays(dark, Y, images, Y).x_train, dark / np.float32(255))
    assert not from_arrays(dark.reshape(X.shape), Y, images.reshape(X.shape), Y).time_axis  # no spikes in the test
    np.testing.assert_array_equal(from_arrays(images / 255, Y, images, Y).x_test, images / np.float32(255))
    for other in (images.astype(np.int64), images.astype(np.float32), -(images / 255)):
        for halves in ((images, other), (other, images)):
            with pytest.raises(UsageError, match=r"only uint8 is divided by 255.* give both the same dtype"):
                from_arrays(halves[0], Y, halves[1], Y)


def test_classes_without_samples_are_named():
    with_gaps = from_arrays(X, Y * 50)
    assert with_gaps.num_classes == 151
    assert any("0 … 150 make 151 classes, of which only 4 have samples" in note for note in with_gaps.notes)
    assert not from_arrays(X, Y * 50, num_classes=151).notes
    assert not from_arrays(X, Y).notes


def test_settings_out_of_range():
    for settings, says in (
        ({"test_share": 0}, "test_share: "),
        ({"test_share": 1}, "test_share: "),
        ({"seed": -1}, "seed: "),
    ):
        with pytest.raises(UsageError, match=says):
            from_arrays(X, Y, **settings)
    with pytest.raises(UsageError, match="test_share and seed draw test samples, and these data bring theirs"):
        from_arrays(X, Y, X, Y, seed=3)
    with pytest.raises(UsageError, match=r"x: expected numbers up to 3e\+38, got -2e\+300 … 1e\+300"):
        from_arrays(np.array([[1.0, -2.0], [0.0, 1.0]]) * 1e300, [0, 0])
    with pytest.raises(UsageError, match=r"y: expected 0 … 2, got 0 … 3"):
        from_arrays(X, Y, num_classes=3)


def test_a_split_knows_and_checks_itself():
    split = Split(X[:30], Y[:30], X[30:], Y[30:])
    assert split.num_classes == 4
    assert split.with_channels().input_shape == (1, 5, 6)
    assert split.with_channels().with_channels().input_shape == (1, 5, 6)
    small = split.first(3, 2)
    assert (len(small.x_train), len(small.y_test), small.num_classes) == (3, 2, 4)
    with pytest.raises(UsageError, match="at least 1 sample"):
        split.first(0, 1)
    with pytest.raises(UsageError, match="class_names: expected 4 names, got 1"):
        Split(X, Y, X, Y, class_names=("one",))
    frames = Split(X[:, :, :, None], Y, X[:, :, :, None], Y, time_axis=True)
    assert frames.with_channels().input_shape == (1, 6, 1)
    assert frames.with_channels().num_steps == 5


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    path = tmp_path / "mine.npz"
    save(path, x_train=X[:30], y_train=Y[:30], x_test=np.asfortranarray(X[30:]), y_test=Y[30:].astype(">i2"))
    split = load_npz(path)
    np.testing.assert_array_equal(split.x_test, X[30:])
    np.testing.assert_array_equal(split.y_test, Y[30:])
    assert split.name == "mine.npz"
    save(path, x=X > 0.5, y=Y)
    split = load_data(path, time_axis=True, test_share=0.5, num_classes=9)
    assert (split.num_classes, split.num_steps, len(split.y_test)) == (9, 5, 20)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": X, "y": np.array([None] * 40)}, "y: holds pickled objects; refused"),
        ({"x": X.astype("S3"), "y": Y}, "x: expected numbers"),
        ({"x": X, "labels": Y}, "expected the arrays x_train, .*found labels, x"),
        ({"x": X * 3, "y": Y}, r"mine\.npz: x: expected images in"),
        ({"x_train": X, "y_train": Y}, "found x_train, y_train"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, arrays, says):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(FileError, match=says) as raised:
        load_npz(tmp_path / "mine.npz")
    assert str(raised.value).startswith(str(tmp_path / "mine.npz"))
    assert len(str(raised.value)) < 500


def npy(array, shape=None):
    stream = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + array.tobytes()


def test_npz_that_lies_about_its_size(tmp_path):
    path = tmp_path / "mine.npz"
    for content in (npy(X, (1 << 40, 5, 6)), npy(X, (39, 5, 6)), npy(X, (41, 5, 6)), npy(X, (-40, 5, 6))):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
            archive.writestr("y.npy", npy(Y))
        with pytest.raises(UnsafeFileError, match=r"mine\.npz: x: declares "):
            load_npz(path)


def test_npz_bombs_and_pickles(tmp_path, monkeypatch):
    path = tmp_path / "mine.npz"
    monkeypatch.setattr("ottt_loihi.data.arrays.MAX_BYTES", 1 << 20)
    np.savez_compressed(path, x=np.zeros((1 << 15, 64), np.uint8), y=np.zeros(1 << 15, np.uint8))
    with pytest.raises(UnsafeFileError, match="declares more than 1048576 bytes"):
        load_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", pickle.dumps(X))
        archive.writestr("y.npy", pickle.dumps(Y))
    with pytest.raises(FileError, match="not a readable"):
        load_npz(path)


def test_damaged_npz(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=X[:6], y=Y[:6] // 2)
    content = (tmp_path / "a.npz").read_bytes()
    assert assert_only_our_errors(load_npz, tmp_path / "a.npz", content, count=300) > 100
    np.savez(tmp_path / "a.npz", x=(X[:6] > 0.5), y=Y[:6] // 2)
    assert_only_our_errors(load_npz, tmp_path / "a.npz", (tmp_path / "a.npz").read_bytes(), count=300)


def test_no_file(tmp_path):
    with pytest.raises(FileError, match=r"none\.npz: no such file"):
        load_npz(tmp_path / "none.npz")
    with pytest.raises(FileError, match="not an ordinary file"):
        load_npz(tmp_path)
