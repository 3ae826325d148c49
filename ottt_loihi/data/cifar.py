"""CIFAR-10 and CIFAR-100, binary and python batches: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009).

A record of the binary version is one label byte (CIFAR-100: a coarse and a fine one) and 3,072 pixels: red, green and
blue planes of 32×32, row by row. The python version is a pickled dict; it is read without Python's unpickler.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ottt_loihi.data.folder import Found, Layout, find, read_bytes
from ottt_loihi.data.pixels import PixelArray
from ottt_loihi.data.safe_pickle import load_pickle
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.files import atomic_write

SHAPE = (3, 32, 32)
NUM_PIXELS = 3072
MAX_BYTES = 1 << 28
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_TEN = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def _layouts(name: str, binary: str, python: str, files: Sequence[str]) -> tuple[Layout, ...]:
    """Return both versions of a data set; ``binary``, ``python``: the folders in their archives."""
    return (
        Layout("binary", (f"{name}/{binary}", binary, name), {file: (f"{file}.bin",) for file in files}),
        Layout("python", (f"{name}/{python}", python, name), {file: (file,) for file in files}),
    )


CIFAR10 = _layouts("cifar10", "cifar-10-batches-bin", "cifar-10-batches-py", _TEN)
CIFAR100 = _layouts("cifar100", "cifar-100-binary", "cifar-100-python", ("train", "test"))


def load_cifar10(folder: str | os.PathLike[str] | None = None) -> Split:
    """Return CIFAR-10: 50,000 and 10,000 images float32 ``(n, 3, 32, 32)`` in [0, 1], kept as bytes.

    Raises
    ------
    FileError
        for missing, truncated or damaged files, labels outside the classes
    UnsafeFileError
        for a python batch that is anything but arrays, lists, dicts and bytes
    """
    *batches, (x_test, y_test) = _read(find("cifar10", CIFAR10, folder), 10, "labels")
    x, y = (np.concatenate(parts) for parts in zip(*batches))
    return Split(PixelArray(x), y, PixelArray(x_test), y_test, 10, name="cifar10", class_names=CIFAR10_CLASSES)


def load_cifar100(folder: str | os.PathLike[str] | None = None, coarse: bool = False) -> Split:
    """Return CIFAR-100: as :func:`load_cifar10`, with 100 classes, or with ``coarse`` their 20 superclasses."""
    num_classes, key, column = (20, "coarse_labels", 0) if coarse else (100, "fine_labels", 1)
    (x, y), (x_test, y_test) = _read(find("cifar100", CIFAR100, folder), num_classes, key, column, 2)
    return Split(PixelArray(x), y, PixelArray(x_test), y_test, num_classes, name="cifar100")


def read_binary(path: Path, num_classes: int, column: int = 0, num_labels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return a binary batch: pixels uint8 ``(n, 3, 32, 32)``, labels int64 ``(n,)`` of the given byte of each record.

    Raises
    ------
    FileError
        when the file's size is no whole number of records, or a label is outside the classes
    """
    content = read_bytes(path, MAX_BYTES)
    record = num_labels + NUM_PIXELS
    if not content or len(content) % record:
        raise FileError(
            f"{path}: has {len(content)} bytes, expected a multiple of {record} ({num_labels} label byte(s) and "
            f"{NUM_PIXELS} pixels per image); it is truncated or of another data set"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = records[:, column].astype(np.int64)
    _check_labels(path, labels, num_classes)
    return np.ascontiguousarray(records[:, num_labels:]).reshape(-1, *SHAPE), labels


def write_binary(path: str | os.PathLike[str], images: np.ndarray, labels: np.ndarray) -> None:
    """Write a CIFAR-10 binary batch, for subsets and conversions: uint8 ``(n, 3, 32, 32)`` and labels ``(n,)``."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.shape[1:] != SHAPE or labels.shape != (len(images),):
        raise UsageError(
            f"write_binary: expected uint8 (n, 3, 32, 32) and n labels, got {images.dtype} {images.shape} and "
            f"{labels.shape}"
        )
    if labels.size and not (labels.min() >= 0 and labels.max() < 10):
        raise UsageError(f"write_binary: expected labels 0 … 9, got {labels.min()} … {labels.max()}")
    records = np.concatenate([labels.astype(np.uint8)[:, None], images.reshape(len(images), -1)], axis=1)
    with atomic_write(path) as temporary:
        temporary.write_bytes(records.tobytes())


def read_python(path: Path, num_classes: int, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a python batch, as :func:`read_binary`; ``key``: the name of its labels."""
    batch = load_pickle(path)
    if not isinstance(batch, dict):
        raise FileError(f"{path}: expected a dict of data and labels, found {type(batch).__name__}")
    entries = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    pixels = entries.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != NUM_PIXELS or len(pixels) == 0:
        shape = getattr(pixels, "shape", type(pixels).__name__)
        raise FileError(f"{path}: expected data of shape (n, {NUM_PIXELS}), found {shape}")
    found = entries.get(key)
    if not isinstance(found, list) or not all(type(label) is int and 0 <= label < 256 for label in found):
        raise FileError(f"{path}: expected a list of labels called {key}")
    labels = np.array(found, np.int64)
    if len(labels) != len(pixels):
        raise FileError(f"{path}: holds {len(pixels)} images, but {len(labels)} labels")
    _check_labels(path, labels, num_classes)
    return np.ascontiguousarray(pixels.reshape(-1, *SHAPE)), labels


def _check_labels(path: Path, labels: np.ndarray, num_classes: int) -> None:
    if labels.max() >= num_classes:
        raise FileError(
            f"{path}: expected labels 0 … {num_classes - 1}, found {labels.max()} at image {labels.argmax()}; "
            "it is damaged or of another data set"
        )


def _read(
    found: Found, num_classes: int, key: str, column: int = 0, num_labels: int = 1
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pixels and labels of each file, the test file's last; arguments as of the two readers."""
    if found.layout.format == "python":
        return [read_python(path, num_classes, key) for path in found.paths.values()]
    return [read_binary(path, num_classes, column, num_labels) for path in found.paths.values()]
