"""Your own data: arrays (x, y), or an ``.npz`` file of them."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UnsafeFileError, UsageError
from ottt_loihi.files import refuse_pointer

MAX_BYTES = 1 << 32
MAX_HEADER = 10_000
PAIRS = {"x", "y"}
HALVES = {"x_train", "y_train", "x_test", "y_test"}


def from_arrays(
    x: np.ndarray,
    y: np.ndarray,
    x_test: np.ndarray | None = None,
    y_test: np.ndarray | None = None,
    *,
    num_classes: int = 0,
    time_axis: bool = False,
    test_share: float = 0.2,
    seed: int = 0,
    name: str = "arrays",
) -> Split:
    """A :class:`Split` of your own arrays.

    Parameters
    ----------
    x
        images ``(n, *shape)``: floats in [0, 1], or uint8, which become floats by division by 255. With ``time_axis``
        frames ``(n, T, *shape)``: uint8 and bool stay what they are (bool becomes uint8), other numbers become float32
    y
        integers ``(n,)``, 0 … classes − 1
    x_test, y_test
        the test samples; without them ``test_share`` of each class is taken from x, drawn with ``seed``
    num_classes
        0: as many as the labels show

    Raises
    ------
    UsageError
        for arrays that do not fit together, NaN, images outside [0, 1], labels that are no integers, empty halves
    """
    where = f"{name}: "
    x, y = _samples(np.asarray(x), time_axis, f"{where}x"), _labels(np.asarray(y), f"{where}y")
    if (x_test is None) != (y_test is None):
        raise UsageError(f"{where}expected both x_test and y_test, or neither")
    if x_test is not None:
        x_test = _samples(np.asarray(x_test), time_axis, f"{where}x_test")
        y_test = _labels(np.asarray(y_test), f"{where}y_test")
    else:
        if len(x) != len(y):
            raise UsageError(f"{where}expected one label per sample, got {len(x)} samples and {len(y)} labels")
        chosen = _draw(y, test_share, seed, where)
        x, y, x_test, y_test = x[~chosen], y[~chosen], x[chosen], y[chosen]
    return Split(x, y, x_test, y_test, num_classes, time_axis=time_axis, name=name)


def load_npz(
    path: str | os.PathLike[str],
    *,
    time_axis: bool = False,
    num_classes: int = 0,
    test_share: float = 0.2,
    seed: int = 0,
) -> Split:
    """An ``.npz`` file with x_train, y_train, x_test and y_test, or with x and y; see :func:`from_arrays`.

    Pickled objects are never loaded, and nothing is unpacked before its declared size has been checked.

    Raises
    ------
    FileError
        for a damaged file, other names or arrays that do not fit
    UnsafeFileError
        for pickled objects, and sizes that the file cannot hold
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: {'not an ordinary file' if path.exists() else 'no such file'}")
    try:
        refuse_pointer(path)
        with zipfile.ZipFile(path) as archive:
            arrays = _read_members(archive, path)
    except FileError:
        raise
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileError(f"{path}: not a readable .npz file, or damaged ({reason})") from error
    names = ("x_train", "y_train", "x_test", "y_test") if set(arrays) == HALVES else ("x", "y")
    try:
        return from_arrays(
            *(arrays[name] for name in names),
            num_classes=num_classes,
            time_axis=time_axis,
            test_share=test_share,
            seed=seed,
            name=path.name,
        )
    except UsageError as error:
        raise FileError(f"{path}: {str(error).removeprefix(path.name + ': ')}") from error


def _read_members(archive: zipfile.ZipFile, path: Path) -> dict[str, np.ndarray]:
    infos = archive.infolist()
    names = {info.filename.removesuffix(".npy") for info in infos}
    if names not in (PAIRS, HALVES) or len(infos) != len(names):
        raise FileError(
            f"{path}: expected the arrays x_train, y_train, x_test, y_test, or x and y; "
            f"found {', '.join(sorted(names)[:8]) or 'none'}"
        )
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise UnsafeFileError(f"{path}: declares more than {MAX_BYTES} bytes; refused")
    return {info.filename.removesuffix(".npy"): _read_member(archive, info, path) for info in infos}


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    """One array; its header is read first and must agree with the member's size."""
    where = f"{path}: {info.filename.removesuffix('.npy')}"
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise FileError(f"{where}: expected version 1.0 or 2.0 of the npy format, found {version}")
        shape, fortran_order, dtype = readers[version](member, max_header_size=MAX_HEADER)
        if dtype.hasobject:
            raise UnsafeFileError(f"{where}: holds pickled objects; refused, save plain arrays of numbers")
        if dtype.kind not in "iufb":
            raise FileError(f"{where}: expected numbers, found {dtype}")
        count = 1
        for size in shape:
            count *= size
        if count < 0 or member.tell() + count * dtype.itemsize != info.file_size:
            raise UnsafeFileError(f"{where}: declares {shape} of {dtype}, but has {info.file_size} bytes; not read")
        content = member.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize:
        raise FileError(f"{where}: ends too early; the file is truncated")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.ascontiguousarray(array).astype(dtype.newbyteorder("="), copy=False)


def _samples(x: np.ndarray, time_axis: bool, where: str) -> np.ndarray:
    if x.dtype.kind not in "iufb":
        raise UsageError(f"{where}: expected numbers, got {x.dtype}")
    if time_axis and x.dtype in (np.dtype(np.uint8), np.dtype(bool)):
        return x.astype(np.uint8, copy=False)
    if not time_axis and x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(255)
    x = x.astype(np.float32, copy=False)
    if not np.isfinite(x).all():
        raise UsageError(f"{where}: expected finite numbers, got NaN or infinity")
    if not time_axis and x.size and not (x.min() >= 0 and x.max() <= 1):
        raise UsageError(
            f"{where}: expected images in [0, 1] (or uint8 0 … 255), got [{x.min():g}, {x.max():g}]; scale them first, "
            "or say time_axis when the second axis is time"
        )
    return x


def _labels(y: np.ndarray, where: str) -> np.ndarray:
    if y.dtype.kind not in "iu":
        raise UsageError(f"{where}: expected integers, got {y.dtype}")
    if y.ndim != 1:
        raise UsageError(f"{where}: expected one label per sample, shape (n,), got {y.shape}")
    if y.size and (y.min() < 0 or int(y.max()) > 1_000_000):
        raise UsageError(f"{where}: expected labels 0 … classes − 1, got {y.min()} … {y.max()}")
    return y.astype(np.int64)


def _draw(y: np.ndarray, test_share: float, seed: int, where: str) -> np.ndarray:
    """bool ``(n,)``: for each class, ``⌈share · its samples⌉`` drawn at random, but never all."""
    if not 0 < test_share < 1 or seed < 0:
        raise UsageError(f"{where}expected 0 < test_share < 1 and seed ≥ 0, got {test_share} and {seed}")
    rng, chosen = np.random.default_rng(seed), np.zeros(len(y), bool)
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        chosen[members[: min(int(np.ceil(test_share * len(members))), len(members) - 1)]] = True
    if not chosen.any():
        raise UsageError(f"{where}expected at least two samples of a class to hold one out for testing, got {len(y)}")
    return chosen
