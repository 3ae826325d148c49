"""CIFAR-10 and CIFAR-100: binary and python batches, and pickles that would like to do something else."""

import io
import os
import pickle
import struct
import time

import numpy as np
import pytest
from corruption import assert_only_our_errors, failure

from ottt_loihi.data import cifar
from ottt_loihi.data.cifar import load_cifar10, load_cifar100, read_binary, read_python, write_binary
from ottt_loihi.data.safe_pickle import load_pickle
from ottt_loihi.errors import FileError, UnsafeFileError, UsageError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (7, 3, 32, 32), np.uint8)
LABELS = [3, 1, 4, 1, 5, 9, 2]


def python_2_batch(pixels, labels, key=b"labels"):
    """A batch as cPickle of Python 2 wrote it, protocol 2: byte strings, NumPy's _reconstruct and a state."""
    raw = pixels.tobytes()
    return b"".join(
        (
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03",
            b"U" + bytes([len(key)]) + key + b"q\x04]q\x05(",
            b"".join(b"K" + bytes([label]) for label in labels),
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\tU\x01b",
            b"\x87q\nRq\x0b(K\x01M" + struct.pack("<H", len(pixels)) + b"M\x00\x0c\x86q\x0c",
            b"cnumpy\ndtype\nq\rU\x02u1K\x00K\x01\x87q\x0eRq\x0f",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(raw)),
            raw + b"tb",
            b"U\tfilenamesq\x10]q\x11(U\x05a.pngU\x05b.pngeu.",
        )
    )


def python_3_batch(protocol, **entries):
    return pickle.dumps({key.encode(): value for key, value in entries.items()}, protocol=protocol)


def write_python_folder(folder, batch):
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(batch)


def test_the_real_subset(cifar10_folder):
    split = load_cifar10(cifar10_folder)
    assert split.x_train.shape == (4000, 3, 32, 32)
    assert split.x_test.shape == (1000, 3, 32, 32)
    assert split.y_train[:8].tolist() == [6, 9, 9, 4, 1, 1, 2, 7]
    assert np.bincount(split.y_test).tolist() == [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
    assert (split.x_train[0, :, 0, 0] * 255).round().tolist() == [59, 62, 63]
    assert (split.x_test[0, :, 0, 0] * 255).round().tolist() == [158, 112, 49]
    np.testing.assert_allclose(split.x_train.mean((0, 2, 3)), [0.4916, 0.4818, 0.4447], atol=2e-3)
    assert split.class_names[6] == "frog"
    assert (split.num_classes, split.input_shape) == (10, (3, 32, 32))


def test_python_and_binary_batches_agree(tmp_path):
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        write_binary(tmp_path / "b" / "cifar-10-batches-bin" / f"{name}.bin", PIXELS, LABELS)
    binary = load_cifar10(tmp_path / "b")
    write_python_folder(tmp_path / "p" / "cifar-10-batches-py", python_2_batch(PIXELS, LABELS))
    python = load_cifar10(tmp_path / "p")
    for one, other in ((binary.x_train, python.x_train), (binary.y_test, python.y_test)):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(binary.x_test, PIXELS / np.float32(255))
    assert binary.y_train.tolist() == LABELS * 5


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_batches_pickled_by_python_3(tmp_path, protocol):
    path = tmp_path / "data_batch_1"
    path.write_bytes(python_3_batch(protocol, data=PIXELS.reshape(7, -1), labels=LABELS, filenames=["a.png"] * 7))
    pixels, labels = read_python(path, 10, "labels")
    np.testing.assert_array_equal(pixels, PIXELS)
    assert labels.tolist() == LABELS
    path.write_bytes(python_3_batch(protocol, data=np.asfortranarray(PIXELS.reshape(7, -1)), labels=LABELS))
    np.testing.assert_array_equal(read_python(path, 10, "labels")[0], PIXELS)


def test_cifar100(tmp_path):
    coarse, fine = np.arange(7) + 13, np.arange(7) + 93
    records = np.concatenate([coarse[:, None], fine[:, None], PIXELS.reshape(7, -1)], 1).astype(np.uint8)
    (tmp_path / "b" / "cifar-100-binary").mkdir(parents=True)
    (tmp_path / "p" / "cifar-100-python").mkdir(parents=True)
    for name in ("train", "test"):
        (tmp_path / "b" / "cifar-100-binary" / f"{name}.bin").write_bytes(records.tobytes())
        (tmp_path / "p" / "cifar-100-python" / name).write_bytes(
            python_3_batch(
                4, data=PIXELS.reshape(7, -1), fine_labels=fine.tolist(), coarse_labels=coarse.tolist(), filenames=[]
            )
        )
    for folder in (tmp_path / "b", tmp_path / "p"):
        split = load_cifar100(folder)
        assert (split.num_classes, split.y_train.tolist()) == (100, fine.tolist())
        np.testing.assert_array_equal(split.x_train, PIXELS / np.float32(255))
        split = load_cifar100(folder, coarse=True)
        assert (split.num_classes, split.y_test.tolist()) == (20, coarse.tolist())


def test_files_that_do_not_fit(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    write_binary(path, PIXELS, LABELS)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(FileError, match=r"data_batch_1\.bin: has 21510 bytes, expected a multiple of 3073"):
        read_binary(path, 10)
    path.write_bytes(b"\x0a" + content[1:])
    with pytest.raises(FileError, match=r"expected labels 0 … 9, found 10 at image 0"):
        read_binary(path, 10)
    with pytest.raises(FileError, match=r"lacks data_batch_2\.bin, data_batch_3\.bin"):
        load_cifar10(tmp_path)
    for entries, says in (
        ({"data": PIXELS.reshape(7, -1)}, "expected a list of labels called labels"),
        ({"data": PIXELS.reshape(7, -1), "labels": LABELS[:6]}, "holds 7 images, but 6 labels"),
        ({"data": PIXELS.reshape(7, -1), "labels": [10] * 7}, "found 10 at image 0"),
        ({"data": PIXELS.reshape(7, -1), "labels": [-1] * 7}, "expected a list of labels"),
        ({"data": PIXELS.reshape(14, -1), "labels": LABELS}, r"shape \(n, 3072\), found \(14, 1536\)"),
        ({"labels": LABELS}, "found NoneType"),
    ):
        path.write_bytes(python_3_batch(4, **entries))
        with pytest.raises(FileError, match=says):
            read_python(path, 10, "labels")
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(FileError, match="expected a dict"):
        read_python(path, 10, "labels")


def test_a_converter_checks_its_arguments(tmp_path):
    for images, labels in ((PIXELS.astype(float), LABELS), (PIXELS, LABELS[:3]), (PIXELS, [10] * 7)):
        with pytest.raises(UsageError, match="write_binary"):
            write_binary(tmp_path / "x.bin", images, np.array(labels))
    assert not list(tmp_path.iterdir())


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, exec, print, np.load, io.open, getattr, pickle.loads])
def test_hostile_pickles_are_refused_and_do_not_run(tmp_path, protocol, function):
    marker = tmp_path / "executed"
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Call(function, f"touch {marker}")}, protocol=protocol))
    with pytest.raises(UnsafeFileError, match=r"data_batch_1: .*nothing of it was run"):
        load_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "value",
    [np.arange(3), np.array([None]), np.zeros(2, "u1,u1"), {1.5}, Call, np.float64(1), np.random.default_rng(0)],
    ids=["int64", "object", "record", "set", "class", "scalar", "generator"],
)
def test_other_contents_are_refused(tmp_path, value):
    (tmp_path / "batch").write_bytes(pickle.dumps({b"data": value}, protocol=4))
    with pytest.raises(FileError, match="batch"):
        load_pickle(tmp_path / "batch")


def nested_tuple(depth):
    """((…), (…)) with 2^depth leaves in 5·depth bytes: hashing or printing it would take for ever."""
    return b"K\x00" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(depth))


@pytest.mark.parametrize(
    "body",
    [
        b"}(" + nested_tuple(60) + b"K\x00u.",  # as a dict's key
        nested_tuple(60) + b"\x8c\x01x\x93.",  # as a module's name
        b"cnumpy\ndtype\n" + nested_tuple(60) + b"\x85R.",  # as a dtype
        b"cnumpy.core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\n\x8c\x02u1\x85R" + nested_tuple(60) + b"K\x00tR.",
        nested_tuple(60) + b".",
        b"r\xff\xff\xff\x7f.",  # memo far away, empty stack
        b"K\x00r\xff\xff\xff\x7f.",  # memo far away
        b"L" + b"9" * 3_000_000 + b"L\n.",  # a decimal number that takes minutes
        b"I" + b"9" * 3_000_000 + b"\n.",
        b"T\xff\xff\xff\x7f.",  # a string longer than the file
        b"\x8e" + b"\xff" * 8 + b".",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R.",  # no state
        b"cnumpy\nndarray\n.",
        b"((((.",
        b"]]]aab.",
        b"00000",
        b"" + b"]" * 100_000,
    ],
)
def test_tricks_end_at_once(tmp_path, body):
    (tmp_path / "batch").write_bytes(b"\x80\x04" + body)
    started = time.process_time()
    assert failure(lambda path: read_python(path, 10, "labels"), tmp_path / "batch") is not None
    assert time.process_time() - started < 2


def test_one_text_encoded_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr("ottt_loihi.data.safe_pickle.MAX_BYTES", 100_000)
    text = b"X" + struct.pack("<I", 50_000) + b"a" * 50_000
    again = b"h\x01h\x00\x8c\x06latin1\x86R"
    (tmp_path / "batch").write_bytes(b"\x80\x04](" + text + b"q\x00c_codecs\nencode\nq\x01" + again * 3 + b"e.")
    with pytest.raises(UnsafeFileError, match="more than 100000 bytes"):
        load_pickle(tmp_path / "batch")


@pytest.mark.parametrize("protocol", [2, 5])
def test_damaged_batches(tmp_path, protocol):
    entries = {"data": PIXELS[:1].reshape(1, -1), "labels": LABELS[:1], "filenames": ["a"]}
    content = python_3_batch(protocol, **entries)
    read = lambda path: read_python(path, 10, "labels")  # noqa: E731
    assert_only_our_errors(read, tmp_path / "batch", content, count=300)
    start = content.index(b"numpy")
    for place in range(start - 30, start + 120):  # not only in the pixels, where most random damage falls
        broken = bytearray(content)
        broken[place] ^= 0x15
        (tmp_path / "batch").write_bytes(bytes(broken))
        failure(read, tmp_path / "batch")
    record = np.concatenate([[3], PIXELS[0].ravel()]).astype(np.uint8).tobytes()
    assert_only_our_errors(lambda path: read_binary(path, 10), tmp_path / "b.bin", record)


def test_layouts_name_every_batch():
    assert [len(layout.files) for layout in cifar.CIFAR10] == [6, 6]
