"""The data sets of DVS128 cameras in OTTT's paper: DVS-Gesture (Amir et al. 2017) and CIFAR10-DVS (Li et al. 2017)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.aedat import SIDE, read_aedat
from ottt_loihi.data.augment import resize
from ottt_loihi.data.cifar import CIFAR10_CLASSES
from ottt_loihi.data.events import as_frames
from ottt_loihi.data.folder import Layout, find, read_text
from ottt_loihi.data.sparse import SampleArray
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UnsafeFileError

NUM_GESTURES = 11
GESTURES = (
    *("hand clapping", "right hand wave", "left hand wave", "right arm clockwise", "right arm counter clockwise"),
    *("left arm clockwise", "left arm counter clockwise", "arm roll", "air drums", "air guitar", "other gestures"),
)
TRAIN_SHARE = 0.9  # of each class of CIFAR10-DVS, as OTTT's authors split it
DVS_GESTURE = (
    Layout(
        "trials",
        ("dvs-gesture", "DvsGesture", "dvs-gesture/DvsGesture"),
        {"train": ("trials_to_train.txt",), "test": ("trials_to_test.txt",)},
        "with the recordings (.aedat) they name and their _labels.csv",
    ),
)
CIFAR10_DVS = (
    Layout(
        "classes", ("cifar10-dvs", "CIFAR10DVS"), {name: (f"{name}/",) for name in CIFAR10_CLASSES}, "with .aedat files"
    ),
)


def load_dvs_gesture(
    folder: str | os.PathLike[str] | None = None, num_steps: int = 20, by: str = "count", ceiling: int = 1
) -> Split:
    """DVS-Gesture as frames, uint8 ``(n, num_steps, 2, 128, 128)``: 1,176 training and 288 test gestures, 11 classes.

    The recordings are AEDAT 3.1; each has a table ``…_labels.csv`` of gesture (1 … 11), first and last µs. The paper
    has 20 steps by count with the counts as they are (``ceiling=255``); the default of 1 makes binary spikes.

    Raises
    ------
    FileError
        for missing, truncated or damaged recordings, and tables with other classes
    """
    found = find("dvs-gesture", DVS_GESTURE, folder)
    parts = [[(r, _labels(r)) for r in _trials(found.paths[part])] for part in ("train", "test")]
    (x, x_test), notes = as_frames(map(_gestures, parts), num_steps, SIDE, SIDE, by, ceiling)
    y, y_test = (np.concatenate([table[:, 0] for _, table in part]) - 1 for part in parts)
    names = {"name": "dvs-gesture", "class_names": GESTURES, "notes": notes}
    return Split(x, y, x_test, y_test, NUM_GESTURES, time_axis=True, **names)


def load_cifar10_dvs(
    folder: str | os.PathLike[str] | None = None,
    num_steps: int = 10,
    by: str = "count",
    ceiling: int = 1,
    side: int | None = 48,
) -> Split:
    """CIFAR10-DVS as frames ``(n, num_steps, 2, side, side)``: float32, or uint8 with ``side=None`` (128, as recorded).

    Recordings ``<class>/cifar10_<class>_<number>.aedat`` in AEDAT 2.0; the first 900 of each class (by number) are for
    training. Frames are resized as :func:`~ottt_loihi.data.augment.resize` does, so they are no binary spikes then.
    """
    if side is not None:
        checks.integer(side, "side")
    found = find("cifar10-dvs", CIFAR10_DVS, folder)
    parts: tuple[list[tuple[Path, int]], ...] = ([], [])
    for label, name in enumerate(CIFAR10_CLASSES):
        paths = _numbered(found.paths[name], f"cifar10_{name}_")
        first_test = min(max(int(len(paths) * TRAIN_SHARE), 1), len(paths) - 1)
        for part, chosen in zip(parts, (paths[:first_test], paths[first_test:])):
            part += [(path, label) for path in chosen]
    recordings = ((read_aedat(path) for path, _ in part) for part in parts)
    frames, notes = as_frames(recordings, num_steps, SIDE, SIDE, by, ceiling)
    if side is not None:
        frames = [_resized(x, side) for x in frames]
    y, y_test = (np.array([label for _, label in part], np.int64) for part in parts)
    names = {"name": "cifar10-dvs", "class_names": CIFAR10_CLASSES, "notes": notes}
    return Split(frames[0], y, frames[1], y_test, 10, time_axis=True, **names)


def _resized(frames: SampleArray, side: int) -> np.ndarray:
    """Return frames float32 ``(n, T, 2, side, side)``, one sample after the other, so that sparse ones stay sparse."""
    resized = np.empty((*frames.shape[:3], side, side), np.float32)
    for index in range(len(frames)):
        resized[index] = resize(frames[index], (side, side))
    return resized


def _gestures(part: list[tuple[Path, np.ndarray]]) -> Iterator[np.ndarray]:
    """Yield the events of each gesture in the recordings of a part; each with its table, see :func:`_labels`."""
    for recording, table in part:
        events = read_aedat(recording)
        for _, start, end in table:
            yield events[(events["t"] >= start) & (events["t"] < end)]


def _trials(path: Path) -> list[Path]:
    """Return the recordings whose file names are in a list; they lie beside it."""
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise FileError(f"{path}: names no recordings")
    for name in names:
        if Path(name).name != name:
            raise UnsafeFileError(f"{path}: expected names of files beside it, found {name[:80]!r}; refused")
    return [path.parent / name for name in names]


def _labels(recording: Path) -> np.ndarray:
    """Return the gestures of a recording, int64 ``(n, 3)``: gesture 1 … 11, first µs, µs after the last."""
    path = recording.with_name(f"{recording.stem}_labels.csv")
    lines = [line for line in read_text(path).splitlines()[1:] if line.strip()]
    try:
        table = np.array([[int(word) for word in line.split(",")] for line in lines], np.int64)
    except (ValueError, OverflowError):
        table = np.empty(0)
    if table.ndim != 2 or table.shape[1] != 3 or len(table) == 0:
        raise FileError(f"{path}: expected lines of class, startTime_usec and endTime_usec below a heading")
    if table[:, 0].min() < 1 or table[:, 0].max() > NUM_GESTURES or (table[:, 1] >= table[:, 2]).any():
        raise FileError(f"{path}: expected classes 1 … {NUM_GESTURES}, each with a start before its end")
    return table


def _numbered(folder: Path, prefix: str) -> list[Path]:
    """Return the files ``prefix0.aedat``, ``prefix1.aedat`` … in the order of their numbers."""
    paths = [path for path in folder.glob(f"{prefix}*.aedat") if path.stem.removeprefix(prefix).isdecimal()]
    if len(paths) < 2:
        raise FileError(f"{folder}: expected at least two recordings {prefix}<number>.aedat, found {len(paths)}")
    return sorted(paths, key=lambda path: int(path.stem.removeprefix(prefix)))
