"""MNIST and Fashion-MNIST: golden values of the real files, and every way an IDX file can be wrong."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from corruption import assert_only_our_errors

from ottt_loihi.data.idx import load_fashion_mnist, load_mnist, read_idx
from ottt_loihi.errors import FileError, UnsafeFileError

RNG = np.random.default_rng(0)
NAMES = {
    "train-images-idx3-ubyte": RNG.integers(0, 256, (30, 28, 28), np.uint8),
    "train-labels-idx1-ubyte": np.arange(30, dtype=np.uint8) % 10,
    "t10k-images-idx3-ubyte": RNG.integers(0, 256, (10, 28, 28), np.uint8),
    "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
}


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mnist").mkdir()
    for number, (name, array) in enumerate(NAMES.items()):
        if number % 2:
            (tmp_path / "mnist" / name).write_bytes(idx(array))
        else:
            (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


def test_real_mnist(real_data):
    split = load_mnist(real_data("mnist"))
    assert split.x_train.shape == (60000, 28, 28)
    assert split.x_test.shape == (10000, 28, 28)
    assert split.x_train.dtype == np.float32
    assert split.y_train.dtype == np.int64
    assert split.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(split.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(split.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (split.x_train.min(), split.x_train.max()) == (0, 1)
    assert float(split.x_train.mean(dtype=np.float64)) == pytest.approx(0.1306604762738429, abs=1e-7)
    assert round(split.x_train[0, 5, 12] * 255) == 3  # the first stroke of the first digit
    assert (split.num_classes, split.input_shape, split.num_steps) == (10, (28, 28), None)
    assert split.with_channels().x_test.shape == (10000, 1, 28, 28)


def test_real_fashion_mnist(real_data):
    split = load_fashion_mnist(real_data("fashion-mnist"))
    assert split.y_train[:5].tolist() == [9, 0, 0, 3, 0]
    assert np.bincount(split.y_train).tolist() == [6000] * 10
    assert np.bincount(split.y_test).tolist() == [1000] * 10
    assert split.class_names[9] == "ankle boot"
    assert float(split.x_train.mean(dtype=np.float64)) == pytest.approx(0.2860405969887955, abs=1e-7)


def test_real_labels_in_the_wrong_place(real_data, tmp_path):
    (tmp_path / "mnist").symlink_to(real_data("fashion-mnist") / "fashion-mnist")
    with pytest.raises(FileError, match=r"train-labels.*holds the training labels of fashion-mnist.*wrong place"):
        load_mnist(tmp_path)


def test_generated_files_plain_and_gzip(folder):
    split = load_mnist(folder)
    np.testing.assert_array_equal(split.x_train, NAMES["train-images-idx3-ubyte"] / np.float32(255))
    np.testing.assert_array_equal(split.y_test, np.arange(10))
    np.testing.assert_array_equal(load_mnist(folder / "mnist").x_train, split.x_train)  # its own folder will do


def test_missing_files_are_named(folder, tmp_path, monkeypatch):
    (folder / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileError, match=r"mnist lacks t10k-labels-idx1-ubyte\.gz; put the missing files there"):
        load_mnist(folder)
    with pytest.raises(
        FileError, match=r"fashion-mnist: not found; put train-images-idx3-ubyte\.gz, .* in .*fashion-mn"
    ):
        load_fashion_mnist(folder)
    with pytest.raises(FileError, match="no such folder"):
        load_mnist(tmp_path / "nowhere")
    monkeypatch.delenv("OTTT_DATA_DIR", raising=False)
    with pytest.raises(
        FileError, match=r"set OTTT_DATA_DIR to a folder, and put train-.* in .*mnist \(nothing is downloaded"
    ):
        load_mnist()
    monkeypatch.setenv("OTTT_DATA_DIR", str(folder))
    with pytest.raises(FileError, match="lacks t10k-labels"):
        load_mnist()


def test_files_beside_the_data_sets_are_nobody_s(folder, monkeypatch):
    """MNIST and Fashion-MNIST share names: files right in OTTT_DATA_DIR could be either's."""
    monkeypatch.setenv("OTTT_DATA_DIR", str(folder / "mnist"))
    with pytest.raises(FileError, match="fashion-mnist: not found"):
        load_fashion_mnist()


def test_an_argument_wins_over_the_environment(folder, monkeypatch):
    monkeypatch.setenv("OTTT_DATA_DIR", "/nowhere")
    assert len(load_mnist(folder).x_train) == 30


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("train-labels-idx1-ubyte", np.arange(29, dtype=np.uint8) % 10, r"30 images, but .* 29 labels"),
        ("train-labels-idx1-ubyte", np.full(30, 10, np.uint8), r"expected labels 0 … 9, found 10 at 0"),
        ("train-labels-idx1-ubyte", np.zeros(0, np.uint8), r"found none"),
        ("train-labels-idx1-ubyte", np.zeros((30, 28, 28), np.uint8), r"starts with 00 00 08 03, expected 00 00 08 01"),
        ("t10k-images-idx3-ubyte.gz", np.zeros((10, 27, 28), np.uint8), r"28×28 pixels, found \(27, 28\)"),
        ("t10k-images-idx3-ubyte.gz", np.zeros((9, 28, 28), np.uint8), r"9 images, but .* 10 labels"),
    ],
)
def test_files_that_do_not_fit(folder, name, array, says):
    (folder / "mnist" / name).write_bytes(gzip.compress(idx(array)))
    with pytest.raises(FileError, match=says) as raised:
        load_mnist(folder)
    assert name.split("-")[0] in str(raised.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_damaged_files(tmp_path, pack):
    content = pack(idx(NAMES["t10k-images-idx3-ubyte"][:2]))
    refused = assert_only_our_errors(lambda p: read_idx(p, 3), tmp_path / "images", content, count=150)
    assert refused > 60
    content = pack(idx(NAMES["train-labels-idx1-ubyte"]))
    assert_only_our_errors(lambda p: read_idx(p, 1), tmp_path / "labels", content, seed=1, count=150)


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """1 GiB of zeros in 1 MB, honestly and dishonestly declared."""
    honest = bytes((0, 0, 8, 3)) + struct.pack(">3I", 1 << 22, 16, 16)
    for header, error in ((honest, FileError), (honest[:4] + b"\xff" * 12, UnsafeFileError)):
        (tmp_path / "bomb.gz").write_bytes(gzip.compress(header + bytes(1 << 20), 9))
        tracemalloc.start()
        with pytest.raises(error, match=r"bomb\.gz"):
            read_idx(tmp_path / "bomb.gz", 3)
        assert tracemalloc.get_traced_memory()[1] < 30e6
        tracemalloc.stop()
    (tmp_path / "tail.gz").write_bytes(gzip.compress(idx(np.zeros(3, np.uint8)) + bytes(1 << 26), 9))
    with pytest.raises(FileError, match="continues after the 3 values"):
        read_idx(tmp_path / "tail.gz", 1)


def test_not_a_file(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_idx(tmp_path / "none", 1)
    with pytest.raises(FileError, match="not an ordinary file"):
        read_idx(tmp_path, 1)
