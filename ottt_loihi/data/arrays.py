"""Your own data: arrays (x, y), or an ``.npz`` file of them."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import IO, Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.folder import faults_of, require_file
from ottt_loihi.data.labels import read_labels
from ottt_loihi.data.pixels import PixelArray
from ottt_loihi.data.sparse import SampleArray, some, sparse
from ottt_loihi.data.split import Split, draw_test
from ottt_loihi.errors import FileError, UnsafeFileError, UsageError

MAX_BYTES = 1 << 32
MAX_HEADER = 10_000
MAX_TEXT = 4096  # bytes of a class's name
PAIRS = {"x", "y"}
HALVES = {"x_train", "y_train", "x_test", "y_test"}
SAYS = {"time_axis", "dt", "class_names"}  # members of an .npz that say what its arrays are
GAPS = ("refuse", "skip")
LARGEST = 3e38  # float32 holds no more
TEST_SHARE = 0.2
ROUNDING = 1e-5  # how far above 1 or below 0 a scaled image may be: float32's rounding


def from_arrays(
    x: np.ndarray,
    y: np.ndarray,
    x_test: np.ndarray | None = None,
    y_test: np.ndarray | None = None,
    *,
    num_classes: int = 0,
    time_axis: bool | int | None = None,
    dt: float | None = None,
    class_names: Sequence[str] = (),
    test_share: float = TEST_SHARE,
    seed: int = 0,
    gaps: str = "refuse",
    name: str = "arrays",
) -> Split:
    """Return a :class:`Split` of your own arrays.

    Parameters
    ----------
    x
        Images ``(n, *shape)``, floats in [0, 1], or uint8, which stay bytes and are read as floats divided by 255;
        or features ``(n, F)`` in any unit. With a time axis, frames ``(n, T, *shape)``: uint8, bool and integers of 0
        and 1 become uint8, other numbers float32
    y
        labels ``(n,)``: integers 0 … classes − 1, or names
    x_test, y_test
        the test samples. Without them, the share ``test_share`` of each class is taken from x, drawn with ``seed``
    gaps
        samples with NaN or infinity are refused (``"refuse"``), or left out and counted in ``notes`` (``"skip"``)
    num_classes
        number of classes; 0: the largest label plus 1
    time_axis
        True or False: whether x has a time axis. An integer: the time axis (1: the first after that of the samples).
        None: integers that are all 0 or 1 have one (spikes), and uint8 arrays of five dimensions; other arrays have
        none. ``notes`` say which case it was
    dt
        seconds per time step; implies a time axis
    class_names
        the names of the classes

    Raises
    ------
    UsageError
        for arrays that do not fit together, NaN, images outside [0, 1], labels outside the classes, or a training or
        test set without samples
    """
    where = f"{name}: "
    if (x_test is None) != (y_test is None):
        raise UsageError(f"{where}expected both x_test and y_test, or neither")
    if x_test is not None and (test_share != TEST_SHARE or seed):
        raise UsageError(f"{where}test_share and seed draw test samples, and these data bring theirs; leave them out")
    given = [("", np.asarray(x), y), *([] if x_test is None else [("_test", np.asarray(x_test), y_test)])]
    bits = all(_are_bits(values) or (part and values.dtype.kind == "f") for part, values, _ in given)
    said = True if time_axis is None and dt is not None else time_axis
    axis, notes = _time_axis(given[0][1], bits, said, where)
    halves: list[Any] = []
    for part, values, labels in given:
        labels, class_names, of_labels = read_labels(np.asarray(labels), f"{where}y{part}", class_names, num_classes)
        values, labels, of_gaps = _without_gaps(values, labels, gaps, f"{where}x{part}")
        values, of_values = _samples(values, axis, bits, f"{where}x{part}")
        halves += [values, labels]
        notes = (*notes, *of_gaps, *of_values, *of_labels)
    if x_test is None:
        x, y = halves
        if len(x) != len(y):
            raise UsageError(f"{where}expected one label per sample, got {len(x)} samples and {len(y)} labels")
        chosen = draw_test(y, test_share, seed, where)
        halves = [some(x, ~chosen), y[~chosen], some(x, chosen), y[chosen]]
    else:
        _refuse_two_units(given, halves, where)
    known = num_classes or len(class_names)
    classes = 1 + max((int(labels.max()) for labels in halves[1::2] if len(labels)), default=0)
    used = len(np.union1d(*halves[1::2]))
    if not known and used < classes - 1:  # a class 0 without samples has a sentence of its own
        said_of = f"{where}y: the labels 0 … {classes - 1} make {classes} classes, of which only {used} have samples"
        notes = (*notes, f"{said_of}; renumber them from 0 if there are no others")
    return Split(
        *halves,
        known,
        time_axis=axis > 0,
        name=name,
        class_names=class_names,
        notes=notes,
        dt=None if dt is None else checks.number(dt, f"{where}dt", 0, above=True),
    )


def load_npz(
    path: str | os.PathLike[str],
    *,
    time_axis: bool | int | None = None,
    dt: float | None = None,
    class_names: Sequence[str] = (),
    num_classes: int = 0,
    test_share: float = TEST_SHARE,
    seed: int = 0,
    gaps: str = "refuse",
) -> Split:
    """An ``.npz`` file with x_train, y_train, x_test and y_test, or with x and y; see :func:`from_arrays`.

    Beside them it may say ``time_axis``, ``dt`` and ``class_names``; an argument has to agree. Other arrays are left
    out, and ``notes`` name them. Pickled objects are never loaded, and nothing is unpacked before its declared size
    has been checked.

    Raises
    ------
    FileError
        for a damaged file, other names or arrays that do not fit
    UnsafeFileError
        for pickled objects, and sizes that the file cannot hold
    """
    path, arrays, left = _open_npz(path)
    names = ("x_train", "y_train", "x_test", "y_test") if set(arrays) >= HALVES else ("x", "y")
    if not set(names) <= set(arrays):
        raise FileError(
            f"{path}: expected the arrays x_train, y_train, x_test, y_test, or x and y; "
            f"found {', '.join(sorted({*arrays, *left})[:8]) or 'none'}"
        )
    settings = {"num_classes": num_classes, "test_share": test_share, "seed": seed, "gaps": gaps, "name": path.name}
    with faults_of(path):
        said = _says(
            arrays,
            {
                "time_axis": time_axis,
                "dt": dt,
                "class_names": checks.items(class_names, "class_names", (str, Integral)) or None,
            },
        )
        split = from_arrays(*(arrays[name] for name in names), **settings, **said)
    split = split.with_samples(sparse)
    unused = sorted({*left, *(set(arrays) - set(names) - SAYS)})
    return replace(split, notes=(*split.notes, *((f"left out: {', '.join(unused[:8])}",) if unused else ())))


def load_unlabelled(path: str | os.PathLike[str], time_axis: bool | int | None = None) -> SampleArray:
    """Return the samples of an ``.npz`` file that has x and no labels, as :func:`load_npz` reads them."""
    path, arrays, _ = _open_npz(path)
    if "x" not in arrays:
        raise FileError(f"{path}: expected an array x, found {', '.join(sorted(arrays)[:8]) or 'none'}")
    with faults_of(path):
        x = arrays["x"]
        bits = _are_bits(x)
        axis, _ = _time_axis(x, bits, _says(arrays, {"time_axis": time_axis})["time_axis"], f"{path}: ")
        return _samples(x, axis, bits, "x")[0]


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return every array of an ``.npz`` file, numbers and texts; nothing is unpickled, sizes are checked first."""
    return _open_npz(path, every=True)[1]


def has_labels(path: str | os.PathLike[str]) -> bool:
    """Return whether an ``.npz`` file has labels."""
    _, arrays, _ = _open_npz(path)
    return "y" in arrays or "y_test" in arrays


def _open_npz(path: str | os.PathLike[str], every: bool = False) -> tuple[Path, dict[str, np.ndarray], list[str]]:
    """Return the path, the arrays with known names (``every``: all), and the names of the others."""
    path = Path(path)
    try:
        require_file(path)
        with zipfile.ZipFile(path) as archive:
            return path, *_read_members(archive, path, every)
    except FileError:
        raise
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileError(f"{path}: not a readable .npz file, or damaged ({reason})") from error


def _says(arrays: dict[str, np.ndarray], given: dict[str, Any]) -> dict[str, Any]:
    """Return the file's own statements merged with the caller's; they have to agree."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        of_file = _said(name, arrays[name]) if name in arrays else None
        if name == "time_axis" and of_file and value is True:
            value = None  # the file also says which one
        if value is not None and of_file is not None and value != of_file:
            raise UsageError(f"{name}: the file says {of_file!r}, the option {value!r}; leave the option out")
        found[name] = of_file if value is None else value
        if name == "class_names" and found[name] is None:
            found[name] = ()
    return found


def _said(name: str, value: np.ndarray) -> Any:
    if name == "class_names":
        if value.ndim != 1 or value.dtype.kind not in "US":
            raise UsageError(f"class_names: expected a list of texts, got {value.dtype} {value.shape}")
        return tuple(str(text) for text in (np.char.decode(value) if value.dtype.kind == "S" else value))
    kinds = "biu" if name == "time_axis" else "iuf"
    if value.shape != () or value.dtype.kind not in kinds:
        raise UsageError(f"{name}: expected one number, got {value.dtype} {value.shape}")
    return value.item()


def _read_members(archive: zipfile.ZipFile, path: Path, every: bool) -> tuple[dict[str, np.ndarray], list[str]]:
    infos = archive.infolist()
    known = PAIRS | HALVES | SAYS
    names = [info.filename.removesuffix(".npy") for info in infos]
    if len(set(names)) != len(names):
        raise FileError(f"{path}: holds two arrays of one name; it is damaged")
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise UnsafeFileError(f"{path}: declares more than {MAX_BYTES} bytes; refused")
    read = {}
    for name, info in zip(names, infos):
        if every or name in known:
            with archive.open(info) as member:
                read[name] = read_npy(member, info.file_size, f"{path}: {name}")
    return read, [name for name in names if name not in read]


def read_npy(file: IO[bytes], size: int, where: str, fields: bool = False) -> np.ndarray:
    """Return the array of a ``.npy`` file of ``size`` bytes; its header is read first and must agree with the size.

    Parameters
    ----------
    fields
        whether the array may be structured, with fields of numbers

    Raises
    ------
    FileError, UnsafeFileError
        for a damaged file, one with pickled objects, or one that declares another size than it has
    """
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise FileError(f"{where}: expected version 1.0 or 2.0 of the npy format, found {version}")
        shape, fortran_order, dtype = readers[version](file, max_header_size=MAX_HEADER)
    except FileError:
        raise
    except Exception as error:  # NumPy parses the header as Python, which fails in many ways
        reason = " ".join(str(error).split())[:200]
        raise FileError(f"{where}: not a readable array, or damaged ({reason})") from None
    if dtype.hasobject:
        raise UnsafeFileError(f"{where}: holds pickled objects; refused, save plain arrays of numbers")
    if not (fields and dtype.names) and dtype.kind not in "iufbUS":
        raise FileError(f"{where}: expected numbers or texts, found {dtype}")
    if dtype.itemsize > MAX_TEXT and dtype.kind in "US":
        raise UnsafeFileError(f"{where}: texts of {dtype.itemsize} bytes; refused")
    count = math.prod(shape)
    if count < 0 or file.tell() + count * dtype.itemsize != size:
        raise UnsafeFileError(f"{where}: declares {shape} of {dtype}, but has {size} bytes; not read")
    content = file.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize:
        raise FileError(f"{where}: ends too early; the file is truncated")
    if dtype.itemsize == 0:
        return np.empty(shape, dtype)
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.ascontiguousarray(array).astype(dtype.newbyteorder("="), copy=False).reshape(shape)  # 0-d, too


def _are_bits(x: np.ndarray) -> bool:
    """Return whether x holds integers, all 0 or 1."""
    return x.dtype.kind in "iub" and x.size > 0 and bool(x.min() >= 0 and x.max() <= 1)


def _refuse_two_units(given: list[tuple[str, np.ndarray, Any]], halves: list[Any], where: str) -> None:
    """Refuse training and test samples of which only one half is divided by 255, unless the other is in [0, 1]."""
    (_, x, _), (_, x_test, _) = given
    if isinstance(halves[0], PixelArray) == isinstance(halves[2], PixelArray):
        return
    other = x if isinstance(halves[2], PixelArray) else x_test
    if other.dtype.kind != "f" or not (other.min() >= 0 and other.max() <= 1 + ROUNDING):
        raise UsageError(
            f"{where}x_train is {x.dtype} and x_test {x_test.dtype}; only uint8 is divided by 255, so that the two "
            "would have different units; give both the same dtype"
        )


def _time_axis(x: np.ndarray, bits: bool, said: bool | int | None, where: str) -> tuple[int, tuple[str, ...]]:
    """Return the axis of x that is time, 0 for none, and a note if it was inferred.

    ``bits``: all samples, those of the test too, are integers of 0 and 1.
    """
    if said is None:
        spikes = x.ndim >= 3 and bits
        if spikes or (x.ndim >= 5 and x.dtype.kind in "iub"):
            what = "spikes" if spikes else "counts"
            return 1, (f"integers {'of 0 and 1 ' if spikes else ''}are {what} with {x.shape[1]} time steps",)
        return 0, ()
    if isinstance(said, (bool, np.bool_)):
        axis = int(said)
    else:
        axis = checks.integer(said, f"{where}time_axis", -x.ndim, x.ndim - 1) % x.ndim
        if said and not axis:
            raise UsageError(f"{where}time_axis: axis 0 are the samples; expected 1 … {x.ndim - 1}")
    if axis and x.ndim < 3:
        raise UsageError(f"{where}time_axis: expected samples (n, T, channels), got an array {x.shape}")
    return axis, ()


def _samples(x: np.ndarray, time_axis: int, bits: bool, where: str) -> tuple[SampleArray, tuple[str, ...]]:
    """Return the samples in the dtype of a Split, time first, and sentences about what was changed."""
    if x.dtype.kind not in "iufb" or not x.ndim:
        raise UsageError(f"{where}: expected numbers, got {x.dtype if x.ndim else 'one thing, no array (n, …)'}")
    if time_axis > 1:
        x = np.ascontiguousarray(np.moveaxis(x, time_axis, 1))
    whole = x.dtype.kind in "iub"
    if time_axis and whole and (bits or x.dtype == np.uint8):
        return x.astype(np.uint8, copy=False), ()
    if not time_axis and x.dtype == np.uint8 and not bits:
        return PixelArray(x), ()
    if x.dtype.kind == "f" and (bad := ~np.isfinite(x)).any():
        samples = int(bad.reshape(len(x), -1).any(axis=1).sum())
        raise UsageError(
            f"{where}: expected finite numbers, got NaN or infinity: {int(bad.sum())} values in {samples} of {len(x)} "
            "samples; fill the gaps, or skip these samples with gaps=skip"
        )
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    if max(-low, high) > LARGEST:
        raise UsageError(f"{where}: expected numbers up to {LARGEST:g}, got {low:g} … {high:g}; divide them first")
    x = x.astype(np.float32, copy=False)
    if time_axis or not x.size or (x.ndim == 2 and not (x.min() >= 0 and x.max() <= 1 + ROUNDING)):
        return x, ()
    low, high = float(x.min()), float(x.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise UsageError(
            f"{where}: expected images in [0, 1] (or uint8 0 … 255), got [{low!r}, {high!r}]; scale them first, "
            "or say time_axis when the second axis is time"
        )
    outside = int(((x < 0) | (x > 1)).sum())
    said = f"{where}: {outside} values outside [0, 1] by rounding ({low:.9g} … {high:.9g}) were set to its ends"
    return (np.clip(x, 0, 1), (said,)) if outside else (x, ())


def _without_gaps(
    x: np.ndarray, y: np.ndarray, gaps: str, where: str
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return the samples and labels without those that hold NaN or infinity, where they are skipped, and how many."""
    checks.one_of(gaps, "gaps", GAPS)
    if gaps == "refuse" or x.dtype.kind != "f" or len(x) != len(y):
        return x, y, ()
    with np.errstate(over="ignore"):  # float32 holds less than float64
        whole = np.isfinite(x.astype(np.float32, copy=False)).reshape(len(x), -1).all(axis=1)
    if whole.all():
        return x, y, ()
    if not whole.any():
        raise UsageError(f"{where}: each of its {len(x):,} samples holds NaN or infinity; nothing is left")
    said = f"{where}: {int((~whole).sum()):,} of {len(x):,} samples hold NaN or infinity and were skipped"
    return x[whole], y[whole], (said,)


def repeated(x: np.ndarray) -> np.ndarray:
    """Return which samples ``(n, …)`` equal the previous sample, bool ``(n,)``: the sensor is stuck."""
    same = [bool((x[place] == x[place - 1]).all()) for place in range(1, len(x))]
    return np.array([False, *same])[: len(x)]
