"""Events of any sensor: arrays and files of (t, x, y, p), and folders of such files."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.arrays import read_npy
from ottt_loihi.data.class_folders import load_class_folder
from ottt_loihi.data.events import EVENT, as_frames
from ottt_loihi.data.folder import decoded, faults_of, read_bytes
from ottt_loihi.data.sparse import SampleArray
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UsageError

SUFFIXES = (".csv", ".npy")
LARGEST = (1 << 16) - 1  # of x and y
NAMES = {  # what other libraries call the four; tonic, Prophesee and the first line of CSV files
    "t": ("t", "ts", "time", "timestamp", "timestamps"),
    "x": ("x", "x_pos", "col"),
    "y": ("y", "y_pos", "row"),
    "p": ("p", "pol", "polarity", "polarities", "on"),
}


def as_events(events: Any, where: str = "events") -> np.ndarray:
    """Return events of any form with dtype ``EVENT``, ``(N,)``, in their order.

    Parameters
    ----------
    events
        a structured array, or a mapping of name → ``(N,)``, with t, x, y, p under one of ``NAMES``; or numbers
        ``(N, 4)``, whose columns are t, x, y, p. t: integers as they are, in any unit; real numbers are seconds and
        become whole microseconds. p: 0 and 1, or −1 and 1; False and True
    where
        for error messages

    Raises
    ------
    UsageError
        for another form, values that are not finite, a pixel below 0 or above 65,535, another polarity
    """
    columns = {name: np.asarray(column) for name, column in _columns(events, where).items()}
    sizes = {name: column.shape for name, column in columns.items()}
    if len(set(sizes.values())) != 1 or columns["t"].ndim != 1:
        raise UsageError(f"{where}: expected t, x, y, p of one length (N,), got {sizes}")
    for name, column in columns.items():
        if column.dtype.kind not in "buif":
            raise UsageError(f"{where}: {name}: expected finite numbers, got {column.dtype}")
        if (missing := ~np.isfinite(column)).any():
            raise UsageError(
                f"{where}: {name}: expected finite numbers, got NaN or infinity in {int(missing.sum())} of "
                f"{len(column)} events, the first is event {int(missing.argmax())}; remove these events"
            )
    t, p = columns["t"], columns["p"]
    if t.dtype.kind == "f" and (t != np.rint(t)).any():
        t = np.rint(t * 1e6)
    if len(t) and (np.abs(t.astype(np.float64)) >= 1 << 62).any():
        raise UsageError(f"{where}: t: expected times below 2⁶², got {t.max()}")
    for name in ("x", "y"):
        c = columns[name]
        if len(c) and (c.min() < 0 or c.max() > LARGEST or (c != np.rint(c)).any()):
            raise UsageError(f"{where}: {name}: expected whole pixels 0 … {LARGEST}, got {c.min()} … {c.max()}")
    if not set(np.unique(p)) <= {0, 1} and not set(np.unique(p)) <= {-1, 1}:
        raise UsageError(f"{where}: p: expected 0 and 1, or −1 and 1, got {np.unique(p)[:5].tolist()}")
    out = np.empty(len(t), EVENT)
    out["t"], out["x"], out["y"], out["p"] = t, columns["x"], columns["y"], p > 0
    return out


def read_events(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the events of a ``.csv`` or ``.npy`` file, dtype ``EVENT``, ``(N,)``.

    A CSV file has four columns, named in its first line or in the order t, x, y, p; a ``.npy`` file is an array that
    :func:`as_events` takes, and is read without unpickling.

    Raises
    ------
    FileError
        for a file that is damaged, or that holds no events
    """
    path = Path(path)
    content = read_bytes(path)
    if path.suffix.lower() == ".csv":
        events = _read_csv(content, str(path))
    else:
        events = read_npy(io.BytesIO(content), len(content), str(path), fields=True)
    with faults_of(path):
        return as_events(events, str(path))


def load_event_folder(
    folder: str | os.PathLike[str],
    num_steps: int = 10,
    by: str = "time",
    ceiling: int = 1,
    width: int = 0,
    height: int = 0,
    test_share: float = 0.2,
    seed: int = 0,
) -> Split:
    """Return the recordings ``<class>/*.csv`` or ``*.npy``, also below ``train`` and ``test``, as frames of events.

    Parameters
    ----------
    num_steps, by, ceiling
        of :func:`~ottt_loihi.data.events.to_frames`
    width, height
        of the sensor, in pixels; 0: as many as the events show, which ``notes`` say
    test_share, seed
        of each class, where the folder has no parts of its own

    Returns
    -------
    uint8 ``(n, num_steps, 2, height, width)``

    Raises
    ------
    FileError
        for files without events that can be read, or a pixel outside ``width × height``
    """
    folder = Path(folder)
    checks.integer(width, "width", 0, LARGEST + 1)
    checks.integer(height, "height", 0, LARGEST + 1)

    def read(parts: list[list[Path]]) -> tuple[list[SampleArray], list[str]]:
        recordings = [[read_events(path) for path in part] for part in parts]
        notes: list[str] = []
        size = {"x": width, "y": height}
        for axis in size:
            largest = 1 + max((int(e[axis].max()) for part in recordings for e in part if len(e)), default=0)
            if size[axis] and largest > size[axis]:
                raise FileError(f"{folder}: an event has {axis} = {largest - 1}, expected below {size[axis]}")
            size[axis] = size[axis] or largest
        if not (width and height):
            notes.append(f"the sensor has {size['x']}×{size['y']} pixels, the largest that its events name")
        samples, lost = as_frames(recordings, num_steps, size["x"], size["y"], by, ceiling)
        silent = sum(len(events) == 0 for part in recordings for events in part)
        if silent:
            notes.append(f"{silent} recordings have no events")
        return samples, [*notes, *lost]

    return load_class_folder(folder, SUFFIXES, read, test_share, seed)


def _columns(events: Any, where: str) -> Mapping[str, Any]:
    names = events.dtype.names if isinstance(events, np.ndarray) else events if isinstance(events, Mapping) else None
    if names is not None:
        known = {name.lower().strip(): name for name in names if isinstance(name, str)}
        found = {key: [known[a] for a in aliases if a in known] for key, aliases in NAMES.items()}
        for key, those in found.items():
            if len(those) != 1:
                allowed = ", ".join(NAMES[key])
                raise UsageError(
                    f"{where}: expected one column for {key} ({allowed}), found {those or 'none'} in {[*names]}"
                )
        return {key: events[those[0]] for key, those in found.items()}
    array = np.asarray(events)
    if array.ndim != 2 or array.shape[1] != 4:
        raise UsageError(f"{where}: expected events with fields t, x, y, p, or numbers (N, 4); got shape {array.shape}")
    return dict(zip("txyp", array.T, strict=True))


def _read_csv(content: bytes, where: str) -> Any:
    text = decoded(content, where).strip()
    first, _, rest = text.partition("\n")
    separator = next((s for s in (",", ";", "\t") if s in first), None)
    heading = [name.strip().strip('"') for name in first.lstrip("#").split(separator)]
    named = any(name[:1].isalpha() for name in heading)
    body = rest if named else text
    if not body.strip():
        rows = np.empty((0, len(heading) if named else 4))
    else:
        try:
            rows = np.loadtxt(io.StringIO(body), delimiter=separator, ndmin=2)
        except ValueError as error:
            raise FileError(f"{where}: no table of numbers ({' '.join(str(error).split())[:150]})") from None
    if not named:
        return rows
    if len(heading) != rows.shape[1]:
        raise FileError(f"{where}: names {len(heading)} columns and has {rows.shape[1]}")
    return dict(zip(heading, rows.T, strict=True))
