"""Folders of recordings, a file each: ``<class>/*``, or ``train/<class>/*`` and ``test/<class>/*``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ottt_loihi.data.arrays import draw_test
from ottt_loihi.data.sparse import SampleArray, some
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError

MAX_FILES = 1 << 20
Reader: TypeAlias = Callable[[list[list[Path]]], tuple[Sequence[SampleArray], Sequence[str]]]


def load_class_folder(
    folder: Path, suffixes: Sequence[str], read: Reader, test_share: float = 0.2, seed: int = 0
) -> Split:
    """Return the recordings of a folder as samples with a time axis; classes in the alphabetical order of their names.

    Parameters
    ----------
    folder
        with a folder per class, or with ``train`` and ``test`` (or ``val``) that have one
    suffixes
        of the files that are recordings, lower case
    read
        makes samples ``(n, T, *shape)`` and notes of the paths of one or two parts
    test_share, seed
        of each class, where the folder has no parts of its own

    Raises
    ------
    FileError
        for a folder without classes, a class without recordings, and parts of different classes
    """
    train = _classes(folder / "train", suffixes) if (folder / "train").is_dir() else None
    test = next((_classes(folder / n, suffixes) for n in ("test", "val") if (folder / n).is_dir()), None)
    if train is None:
        train, test = _classes(folder, suffixes), None
    names = tuple(sorted(train))
    if test is not None and set(test) != set(train):
        differing = ", ".join(sorted(set(test) ^ set(train))[:5])
        raise FileError(f"{folder}: expected the same classes in both parts; only one has {differing}")
    parts = [train] if test is None else [train, test]
    samples, notes = read([list(chain.from_iterable(part[name] for name in names)) for part in parts])
    labels = [np.repeat(np.arange(len(names)), [len(part[name]) for name in names]) for part in parts]
    arrays = list(chain.from_iterable(zip(samples, labels, strict=True)))
    if test is None:
        x, y = arrays
        drawn = draw_test(y, test_share, seed, f"{folder}: ")
        arrays = [some(x, ~drawn), y[~drawn], some(x, drawn), y[drawn]]
    title = folder.resolve().name
    return Split(*arrays, len(names), time_axis=True, name=title, class_names=names, notes=tuple(notes))


def has_recordings(folder: Path, suffixes: Sequence[str]) -> bool:
    """Return whether a folder has files of these kinds, in a folder per class."""
    found = chain(folder.glob("*/*"), folder.glob("train/*/*"))
    return any(path.suffix.lower() in suffixes for path in found)


def _classes(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Class → its recordings, both in alphabetical order."""
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder")
    found = {
        p.name: sorted(f for f in p.iterdir() if f.suffix.lower() in suffixes) for p in folder.iterdir() if p.is_dir()
    }
    if not found:
        raise FileError(f"{folder}: expected one folder per class, found none")
    for name, paths in found.items():
        if not paths:
            raise FileError(f"{folder / name}: no {', '.join(suffixes)} files")
    if sum(len(paths) for paths in found.values()) > MAX_FILES:
        raise FileError(f"{folder}: more than {MAX_FILES:,} recordings")
    return found
