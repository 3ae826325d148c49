"""Time series: ``.ts`` files of the UEA archive, and two of its problems by name."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.arrays import GAPS
from ottt_loihi.data.folder import Layout, contents, decoded, find, read_bytes
from ottt_loihi.data.labels import read_labels
from ottt_loihi.data.lengths import same_length
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UsageError

PROBLEMS = {"JapaneseVowels": None, "BasicMotions": 0.1}  # name → seconds per step, where they are known
UEA = (
    Layout("archive", ("uea-timeseries",), {"archive": ("uea_timeseries.tar.xz",)}),
    Layout(
        "folder",
        ("uea-timeseries/uea", "uea-timeseries", "uea"),
        {f"{name}_{part}": (f"{name}_{part}.ts",) for name in PROBLEMS for part in ("TRAIN", "TEST")},
    ),
)


def load_uea(
    folder: str | os.PathLike[str] | None = None,
    problem: str = "JapaneseVowels",
    lengths: str = "stretch",
    num_steps: int | None = None,
) -> Split:
    """JapaneseVowels or BasicMotions of the UEA archive, float32 ``(n, T, channels)``, with its published split.

    Parameters
    ----------
    problem
        ``"JapaneseVowels"``: 9 speakers, 12 channels, 270 + 370; ``"BasicMotions"``: 4 activities, 6 channels, 40 + 40
    lengths, num_steps
        of :func:`~ottt_loihi.data.lengths.same_length`; JapaneseVowels has 7 … 29 steps
    """
    checks.one_of(problem, "problem", tuple(PROBLEMS))
    found = find("uea-timeseries", UEA, folder)
    files, halves = contents(found, f"{problem}_*.ts"), []
    for name in (f"{problem}_TRAIN.ts", f"{problem}_TEST.ts"):
        if name not in files:
            raise FileError(f"{found.folder}: lacks {name}")
        halves.append(parse_ts(files[name], f"{found.folder}: {name}"))
    return _joined(halves, "uea-timeseries", lengths, num_steps, PROBLEMS[problem])


def load_ts(
    path: str | os.PathLike[str], lengths: str = "refuse", num_steps: int | None = None, gaps: str = "refuse"
) -> Split:
    """A ``NAME_TRAIN.ts`` with its ``NAME_TEST.ts`` beside it (give either), float32 ``(n, T, channels)``.

    Parameters
    ----------
    lengths, num_steps
        of :func:`~ottt_loihi.data.lengths.same_length`
    gaps
        missing values (``?``) are refused (``"refuse"``), or recordings that hold one are left out and counted
        (``"skip"``)

    Raises
    ------
    FileError
        for a missing half, or a file of another form
    """
    path = Path(path)
    checks.one_of(gaps, "gaps", GAPS)
    if (named := re.fullmatch(r"(.*)_(TRAIN|TEST)\.ts", path.name)) is None:
        raise FileError(f"{path}: expected NAME_TRAIN.ts or NAME_TEST.ts, a .ts file holds one half of a data set")
    halves, notes = [], []
    for part in ("TRAIN", "TEST"):
        file = path.with_name(f"{named[1]}_{part}.ts")
        recordings, labels, classes = parse_ts(read_bytes(file), str(file), gaps)
        recordings, labels, said = _without_gaps(recordings, labels, str(file))
        halves.append((recordings, labels, classes))
        notes += said
    split = _joined(halves, named[1], lengths, num_steps, None)
    return replace(split, notes=(*notes, *split.notes))


def parse_ts(content: bytes, where: str, gaps: str = "refuse") -> tuple[list[np.ndarray], np.ndarray, tuple[str, ...]]:
    """Return recordings ``(T_i, channels)``, labels as texts, and the classes that the heading names.

    A missing value is refused, or with ``gaps="skip"`` NaN.

    Lines of ``#`` are comments, ``@name value`` the heading; behind ``@data`` one recording a line, dimensions
    separated by ``:``, values by ``,``, the class last.
    """
    lines = decoded(content, where).splitlines()
    classes: tuple[str, ...] = ()
    recordings, labels, in_data = [], [], False
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not in_data:
            words = line.split()
            if words[0].lower() == "@classlabel":
                classes = tuple(words[2:])
            elif words[0].lower() == "@timestamps" and words[-1].lower() == "true":
                raise FileError(f"{where}: has time stamps, expected values at equal distances")
            in_data = words[0].lower() == "@data"
            continue
        *dimensions, label = line.split(":")
        recordings.append(_values(dimensions, f"{where}, line {number}", gaps))
        labels.append(label.strip())
    if not recordings:
        raise FileError(f"{where}: no recordings behind @data")
    return recordings, np.array(labels), classes


def _without_gaps(
    recordings: list[np.ndarray], labels: np.ndarray, where: str
) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Return the recordings and labels without those that hold missing values, and how many these are."""
    whole = np.array([bool(np.isfinite(recording).all()) for recording in recordings])
    if whole.all():
        return recordings, labels, []
    if not whole.any():
        raise FileError(f"{where}: values are missing in each of its {len(whole):,} samples; nothing is left")
    said = f"{where}: values are missing in {int((~whole).sum()):,} of {len(whole):,} samples, which were skipped"
    return [recording for recording, kept in zip(recordings, whole) if kept], labels[whole], [said]


def _values(dimensions: list[str], where: str, gaps: str) -> np.ndarray:
    try:
        found = [np.array([float(v) if v.strip() != "?" else np.nan for v in d.split(",")]) for d in dimensions]
    except ValueError:
        raise FileError(f"{where}: expected numbers separated by commas, dimensions by colons") from None
    if not found or len({len(d) for d in found}) != 1:
        raise FileError(f"{where}: expected as many values in every dimension, got {[len(d) for d in found][:12]}")
    values = np.stack(found, axis=1)
    if gaps == "refuse" and not np.isfinite(values).all():
        missing = int((~np.isfinite(values)).sum())
        raise FileError(f"{where}: {missing} values are missing; fill the gaps, or skip these samples with gaps=skip")
    return values


def _joined(
    halves: list[tuple[list[np.ndarray], np.ndarray, tuple[str, ...]]],
    name: str,
    lengths: str,
    num_steps: int | None,
    dt: float | None,
) -> Split:
    classes = halves[0][2] or tuple(np.unique(halves[0][1]))
    longest = num_steps or max(len(r) for recordings, _, _ in halves for r in recordings)
    if lengths == "stretch" and dt is not None and num_steps is not None:
        dt = None  # a step of a stretched recording lasts as long as the recording says
    arrays, notes = [], []
    for part, (recordings, labels, _) in zip(("training", "test"), halves):
        x, said = same_length(recordings, lengths, f"{name}, {part}", longest)
        y, _, _ = read_labels(labels, f"{name}, {part}", classes)
        arrays += [x, y]
        notes += said
    if len({half[0][0].shape[1] for half in halves}) != 1:
        raise UsageError(f"{name}: the halves have other numbers of channels")
    return Split(*arrays, len(classes), time_axis=True, name=name, class_names=classes, notes=tuple(notes), dt=dt)
