"""CSV files of a sensor: a row a sample, or a row a time step."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.arrays import GAPS, from_arrays
from ottt_loihi.data.folder import faults_of, read_text
from ottt_loihi.data.lengths import same_length
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UsageError

MAX_BYTES = 1 << 31
DELIMITERS = ",;\t"


def load_csv(
    path: str | os.PathLike[str],
    label: str = "label",
    sample: str = "",
    window: int = 0,
    step: int = 0,
    leave_out: Sequence[str] = (),
    lengths: str = "refuse",
    num_steps: int | None = None,
    dt: float | None = None,
    test_share: float = 0.2,
    seed: int = 0,
    gaps: str = "refuse",
) -> Split:
    """A CSV file with a heading, as float32.

    ====================  ========================================================================================
    asked for             samples
    ====================  ========================================================================================
    nothing more          every row is one, ``(n, columns)``
    ``sample="id"``       rows with the same value in that column are the time steps of one, ``(n, T, columns)``
    ``window=T``          T rows of a long recording are one; a new one begins every ``step`` rows (default T), and
                          windows in which the label changes are left out
    ====================  ========================================================================================

    Parameters
    ----------
    label
        name of the column of classes, texts or integers
    leave_out
        names of columns that are no channels, such as a time stamp
    lengths, num_steps
        of samples with ``sample``: :func:`~ottt_loihi.data.lengths.same_length`
    dt
        seconds between two rows
    test_share, seed
        the test samples are drawn for each class; with ``window`` they are the last of each class in time, and windows
        that share rows with a training window are left out
    gaps
        empty cells are refused (``"refuse"``), or samples that hold one are left out and counted (``"skip"``)

    Raises
    ------
    FileError
        for a file of another form, cells that are empty or no numbers; the message names line and column
    UsageError
        for a column that is not there
    """
    path = Path(path)
    heading, rows, lines = _read(path)
    special = [name for name in (label, sample, *checks.items(leave_out, "leave_out", str)) if name]
    for name in special:
        if heading.count(name) != 1:
            found = "no column" if name not in heading else "more than one column"
            cure = "; data.label=NAME names the column of the classes" if name == label else ""
            raise UsageError(f"{path}: {found} {name!r}; it has {', '.join(heading[:20])}{cure}")
    if sample and window:
        raise UsageError(f"{path}: sample and window exclude each other, got {sample!r} and {window}")
    idle = {
        "step, without window,": step and not window,
        "lengths, without sample,": lengths != "refuse" and not sample,
        "seed, with window,": seed and window,
    }
    for option in (option for option, given in idle.items() if given):
        raise UsageError(f"{path}: {option} has no effect; leave it out")
    channels = [index for index, name in enumerate(heading) if name not in special]
    if not channels:
        raise UsageError(f"{path}: no channels beside {', '.join(special)}")
    checks.one_of(gaps, "gaps", GAPS)
    x = _numbers(path, heading, rows, lines, channels, gaps)
    y = _labels([row[heading.index(label)].strip() for row in rows])
    notes = [f"channels: {', '.join(heading[i] for i in channels[:12])}{'…' if len(channels) > 12 else ''}"]
    if window:
        return _windows(path, x, y, checks.integer(window, "window"), step, dt, test_share, notes, gaps)
    timed = bool(sample)
    if timed:
        x, y, said = _grouped(path, x, y, [row[heading.index(sample)].strip() for row in rows], lengths, num_steps)
        notes += said
    elif dt is not None:
        raise UsageError(f"{path}: dt: every row is a sample of its own, without a time axis; give sample or window")
    return _split(path, notes, x, y, time_axis=timed, dt=dt, test_share=test_share, seed=seed, gaps=gaps)


def _read(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Return heading, rows and each row's line; the delimiter is the most frequent of , ; and tab in the heading."""
    text = read_text(path, MAX_BYTES)
    first = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    try:
        reader = csv.reader(text.splitlines(), delimiter=delimiter)
        numbered = [(row, reader.line_num) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise FileError(f"{path}: not a readable CSV file ({error})") from None
    if len(numbered) < 2:
        raise FileError(f"{path}: expected a heading and rows, found {len(numbered)} lines")
    rows, lines = [row for row, _ in numbered], [line for _, line in numbered]
    heading = [cell.strip() for cell in rows[0]]
    if all(_is_number(cell) for cell in heading):
        raise FileError(f"{path}: its first line holds numbers; expected a heading with a name for each column")
    for row, line in numbered[1:]:
        if len(row) != len(heading):
            raise FileError(f"{path}, row {line}: has {len(row)} cells, the heading {len(heading)}")
    return heading, rows[1:], lines[1:]


def _numbers(
    path: Path, heading: list[str], rows: list[list[str]], lines: list[int], channels: list[int], gaps: str
) -> np.ndarray:
    """Return the channels' numbers; cells that are empty are NaN, where gaps are skipped."""
    found = np.empty((len(rows), len(channels)), np.float64)
    for place, column in enumerate(channels):
        cells = [row[column] for row in rows]
        if gaps == "skip":
            cells = [cell if cell.strip() else "nan" for cell in cells]
        try:
            found[:, place] = cells
        except ValueError:
            bad = next(i for i, cell in enumerate(cells) if not _is_number(cell))
            empty = sum(not cell.strip() for cell in cells)
            what = f"{empty} empty cells, the first" if not cells[bad].strip() else f"{cells[bad][:30]!r}"
            raise FileError(
                f"{path}, row {lines[bad]}, column {heading[column]!r}: expected a number, found {what}; fill the "
                "gaps, skip these samples (gaps=skip), or leave the column out (leave_out)"
            ) from None
    return found


def _labels(cells: list[str]) -> np.ndarray:
    try:
        numbers = np.array([int(cell) for cell in cells], np.int64)
    except (ValueError, OverflowError):
        return np.array(cells)
    same = len(set(cells)) == len(set(numbers.tolist()))
    return numbers if same else np.array(cells)  # "1" and "01" are two classes


def _grouped(
    path: Path, x: np.ndarray, y: np.ndarray, names: list[str], lengths: str, num_steps: int | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return recordings and their labels: the rows of one name, in the file's order."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(name, []).append(index)
    labels = []
    for name, rows in places.items():
        if len(set(y[rows].tolist())) != 1:
            raise FileError(f"{path}: sample {name!r:.40} has several labels: {sorted(set(y[rows].tolist()))[:4]}")
        labels.append(y[rows[0]])
    found, notes = same_length([x[rows] for rows in places.values()], lengths, path.name, num_steps)
    return found, np.array(labels), notes


def _windows(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    window: int,
    step: int,
    dt: float | None,
    test_share: float,
    notes: list[str],
    gaps: str,
) -> Split:
    stride = checks.integer(step or window, "step")
    checks.number(test_share, "test_share", 0, 1, above=True, below=True)
    starts = np.arange(0, len(x) - window + 1, stride)
    if not len(starts):
        raise UsageError(f"{path}: {len(x)} rows are fewer than a window of {window}")
    parts = np.lib.stride_tricks.sliding_window_view(np.arange(len(x)), window)[starts]
    pure = (y[parts] == y[parts[:, :1]]).all(axis=1)
    if not pure.any():
        raise UsageError(f"{path}: the label changes within every window of {window} rows; choose a shorter one")
    if not pure.all():
        notes.append(f"{int((~pure).sum())} of {len(pure)} windows were left out, the label changes within them")
    parts, labels = parts[pure], y[parts[pure, 0]]
    test = np.zeros(len(parts), bool)
    for name in np.unique(labels):
        members = np.flatnonzero(labels == name)
        test[members[max(1, round((1 - test_share) * len(members))) :]] = True
    if not test.any():
        raise UsageError(f"{path}: too few windows to test on, {len(parts)} of {len(np.unique(labels))} classes")
    in_test = np.zeros(len(x), bool)
    in_test[parts[test]] = True
    shared = ~test & in_test[parts].any(axis=1)
    if shared.any():
        notes.append(f"{int(shared.sum())} training windows were left out, they share rows with test windows")
    train = ~test & ~shared
    notes.append("the test windows are the last of each class in time")
    halves = x[parts[train]], labels[train], x[parts[test]], labels[test]
    return _split(path, notes, *halves, time_axis=True, dt=dt, gaps=gaps)


def _split(path: Path, notes: list[str], *arrays: np.ndarray, **settings: Any) -> Split:
    """Return the arrays of the file as a Split; arrays that do not fit are the file's mistake, a FileError."""
    with faults_of(path):
        split = from_arrays(*arrays, **settings, name=path.name)
    return replace(split, notes=(*split.notes, *notes))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
