"""IDX, the format of MNIST and Fashion-MNIST: http://yann.lecun.com/exdb/mnist/ (plain or gzip).

A file is big-endian: two zero bytes, 0x08 for unsigned bytes, the number of dimensions, each dimension as 4 bytes,
and then the values, the last dimension fastest.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from ottt_loihi.data.folder import Layout, find, read_bytes
from ottt_loihi.data.pixels import PixelArray
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UnsafeFileError

MAX_VALUES = 1 << 30
MAX_COMPRESSION = 1100  # deflate shrinks by 1032 at most
SIDE = 28
NUM_CLASSES = 10

FILES = {
    f"{part}_{kind}": tuple(
        f"{prefix}-{kind}{joint}idx{dims}-ubyte{end}" for end in (".gz", "") for joint in ("-", ".")
    )
    for part, prefix in (("train", "train"), ("test", "t10k"))
    for kind, dims in (("images", 3), ("labels", 1))
}
ALSO = "(also unpacked, and also with .idx in place of -idx)"
MNIST = (Layout("idx", ("mnist", "MNIST/raw"), FILES, ALSO),)
FASHION_MNIST = (Layout("idx", ("fashion-mnist", "FashionMNIST/raw"), FILES, ALSO),)
FASHION_CLASSES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
# CRC-32 of the official labels: files put into the wrong place are noticed, although they all have the same shapes
KNOWN_LABELS = {
    0xBA07E8EF: ("mnist", "training"),
    0xEE8604D9: ("mnist", "test"),
    0x2ED6E46A: ("fashion-mnist", "training"),
    0x242BC73F: ("fashion-mnist", "test"),
}


def load_mnist(folder: str | os.PathLike[str] | None = None) -> Split:
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 images float32 ``(n, 28, 28)`` in [0, 1], kept as bytes.

    Raises
    ------
    FileError
        for missing, truncated, damaged or exchanged files
    """
    return _load("mnist", MNIST, folder)


def load_fashion_mnist(folder: str | os.PathLike[str] | None = None) -> Split:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): as :func:`load_mnist`, with ten sorts of clothes."""
    return _load("fashion-mnist", FASHION_MNIST, folder, FASHION_CLASSES)


def read_idx(path: str | os.PathLike[str], num_dims: int) -> np.ndarray:
    """The array of an IDX file of unsigned bytes, uint8 with ``num_dims`` dimensions.

    Nothing is unpacked before the header has been checked against the file's size, so that a gzip file which swells
    to many gigabytes is refused.

    Raises
    ------
    FileError
        for a file that is no such IDX file, truncated, too long or damaged
    """
    path = Path(path)
    content = read_bytes(path, MAX_VALUES + 1024)
    if not content.startswith(b"\x1f\x8b"):
        return _read(io.BytesIO(content), path, num_dims, len(content))
    try:
        return _read(gzip.GzipFile(fileobj=io.BytesIO(content)), path, num_dims, len(content) * MAX_COMPRESSION)
    except FileError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path}: cannot be read to its end ({error}); fetch the file again") from error


def _read(file: IO[bytes], path: Path, num_dims: int, size: int) -> np.ndarray:
    """Return the array; ``size``: the bytes that the file holds at most."""
    header = file.read(4 + 4 * num_dims)
    magic = bytes((0, 0, 8, num_dims))
    if header[:4] != magic:
        raise FileError(
            f"{path}: starts with {header[:4].hex(' ') or 'nothing'}, expected {magic.hex(' ')} "
            f"(IDX, unsigned bytes, {num_dims} dimensions); is it the right file?"
        )
    if len(header) < 4 + 4 * num_dims:
        raise FileError(f"{path}: ends within its header; fetch the file again")
    shape = struct.unpack(f">{num_dims}I", header[4:])
    count = math.prod(shape)
    if count > min(MAX_VALUES, size):
        raise UnsafeFileError(f"{path}: declares {count} values in {shape}, more than this file can hold; not read")
    values = file.read(count)
    if len(values) < count:
        raise FileError(f"{path}: declares {count} values in {shape} and holds {len(values)}; fetch the file again")
    if file.read(1):
        raise FileError(f"{path}: continues after the {count} values it declares in {shape}; fetch the file again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _load(
    name: str, layouts: tuple[Layout, ...], folder: str | os.PathLike[str] | None, class_names: tuple[str, ...] = ()
) -> Split:
    paths = find(name, layouts, folder).paths
    x_train, y_train = _half(name, "training", paths["train_images"], paths["train_labels"])
    x_test, y_test = _half(name, "test", paths["test_images"], paths["test_labels"])
    return Split(x_train, y_train, x_test, y_test, NUM_CLASSES, name=name, class_names=class_names)


def _half(name: str, part: str, images_path: Path, labels_path: Path) -> tuple[PixelArray, np.ndarray]:
    """Return images, float32 ``(n, 28, 28)`` in [0, 1], and labels, int64 ``(n,)``."""
    labels = read_idx(labels_path, 1)
    if labels.size == 0 or labels.max() >= NUM_CLASSES:
        found = "none" if labels.size == 0 else f"{labels.max()} at {labels.argmax()}"
        raise FileError(f"{labels_path}: expected labels 0 … {NUM_CLASSES - 1}, found {found}")
    belongs = KNOWN_LABELS.get(zlib.crc32(labels), (name, part))
    if belongs != (name, part):
        raise FileError(
            f"{labels_path}: holds the {belongs[1]} labels of {belongs[0]}, expected the {part} labels of {name}; "
            "the files are in the wrong place"
        )
    images = read_idx(images_path, 3)
    if images.shape[1:] != (SIDE, SIDE):
        raise FileError(f"{images_path}: expected images of {SIDE}×{SIDE} pixels, found {images.shape[1:]}")
    if len(images) != len(labels):
        raise FileError(f"{images_path}: holds {len(images)} images, but {labels_path.name} {len(labels)} labels")
    return PixelArray(images), labels.astype(np.int64)
