"""Labels in all usual forms: names, numbers from 0 or from 1, integers that a spreadsheet stored as floats."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

LARGEST = 1_000_000


def read_labels(
    y: np.ndarray, where: str, class_names: Sequence[str] = (), num_classes: int = 0
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Return labels int64 ``(n,)``, the names of the classes, and sentences about what was found.

    Parameters
    ----------
    y
        ``(n,)``: integers, floats that are integers, or texts. Texts are classes in the order of ``class_names``, or in
        alphabetical order
    where
        what the message calls them
    class_names, num_classes
        as far as they are known; ``()`` and 0: as many as the labels show

    Raises
    ------
    UsageError
        for labels that are missing, no integers, or outside the classes
    """
    y = np.asarray(y)
    if y.ndim != 1:
        raise UsageError(f"{where}: expected one label per sample, shape (n,), got {y.shape}")
    names = tuple(str(name) for name in checks.items(class_names, "class_names", (str, Integral)))
    if len(set(names)) < len(names):
        raise UsageError(f"class_names: {max(names, key=names.count)!r} is there more than once")
    num_classes = checks.integer(num_classes, "num_classes", 0)
    if y.dtype.kind in "US":
        return _of_texts(y, where, names)
    if y.dtype.kind == "f":
        missing = int((~np.isfinite(y)).sum())
        if missing:
            raise UsageError(f"{where}: {missing} labels are missing (NaN); remove their samples")
        if y.size and not (y == np.rint(y)).all():
            raise UsageError(f"{where}: expected integers or names, got {y.dtype} such as {y[y != np.rint(y)][0]:g}")
    elif y.dtype.kind not in "iu":
        raise UsageError(f"{where}: expected integers or names, got {y.dtype}")
    notes = [] if y.dtype.kind != "f" else [f"{where}: labels are whole numbers in {y.dtype}, read as integers"]
    known = num_classes or len(names)
    low, high = (int(y.min()), int(y.max())) if y.size else (0, 0)
    if known and low >= 1 and high == known:
        raise UsageError(f"{where}: labels are {low} … {high}, expected 0 … {known - 1}; they begin at 1, subtract 1")
    if low < 0 or high > LARGEST or (known and high >= known):
        expected = f"0 … {known - 1}" if known else "labels 0 … classes − 1"
        raise UsageError(f"{where}: expected {expected}, got {low} … {high}")
    if not known and low == 1:
        notes.append(f"{where}: labels begin at 1, so class 0 has no sample; subtract 1 if there is no class 0")
    return y.astype(np.int64), names, tuple(notes)


def _of_texts(y: np.ndarray, where: str, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    texts = np.char.decode(y, "utf-8", "replace") if y.dtype.kind == "S" else y
    texts = np.char.strip(texts)
    if missing := int((texts == "").sum()):
        raise UsageError(f"{where}: {missing} labels are empty; remove their samples")
    found = [str(text) for text in np.unique(texts)]
    names = names or tuple(found)
    place = {name: index for index, name in enumerate(names)}
    if unknown := [text for text in found if text not in place]:
        raise UsageError(f"{where}: {unknown[0][:40]!r} is none of the classes {', '.join(names[:8])}")
    return np.array([place[str(text)] for text in texts], np.int64), names, ()
