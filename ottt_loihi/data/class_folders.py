"""Folders of recordings, a file each: ``<class>/*``, or ``train/<class>/*`` and ``test/<class>/*``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ottt_loihi.data.sparse import SampleArray, some
from ottt_loihi.data.split import Split, draw_test
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
    folders = [folder]
    if (folder / "train").is_dir():
        folders = [folder / "train", *[folder / name for name in ("test", "val") if (folder / name).is_dir()][:1]]
    parts = [classes_of(each, suffixes) for each in folders]
    if sum(len(paths) for paths in chain.from_iterable(part.values() for part in parts)) > MAX_FILES:
        raise FileError(f"{folder}: more than {MAX_FILES:,} recordings")
    require_the_same_classes(folder, parts[0], parts[-1])
    names = tuple(parts[0])
    samples, notes = read([list(chain.from_iterable(part.values())) for part in parts])
    labels = [np.repeat(np.arange(len(names)), [len(paths) for paths in part.values()]) for part in parts]
    arrays = list(chain.from_iterable(zip(samples, labels, strict=True)))
    if len(parts) == 1:
        x, y = arrays
        drawn = draw_test(y, test_share, seed, f"{folder}: ")
        arrays = [some(x, ~drawn), y[~drawn], some(x, drawn), y[drawn]]
    title = folder.resolve().name
    return Split(*arrays, len(names), time_axis=True, name=title, class_names=names, notes=tuple(notes))


def has_recordings(folder: Path, suffixes: Sequence[str]) -> bool:
    """Return whether a folder has files of these kinds, in a folder per class."""
    found = chain(folder.glob("*/*"), folder.glob("train/*/*"))
    return any(path.suffix.lower() in suffixes for path in found)


def classes_of(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Return class → its files of these kinds, both in alphabetical order.

    Raises
    ------
    FileError
        for a folder without classes, or a class without files
    """
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise FileError(f"{folder}: expected one folder per class, found none")
    found = {each.name: sorted(f for f in each.iterdir() if f.suffix.lower() in suffixes) for each in classes}
    for name, paths in found.items():
        if not paths:
            raise FileError(f"{folder / name}: no {', '.join(suffixes)} files")
    return found


def require_the_same_classes(folder: Path, first: Iterable[str], second: Iterable[str]) -> None:
    """Refuse a folder with two parts whose classes differ."""
    if differing := sorted(set(first) ^ set(second)):
        raise FileError(f"{folder}: expected the same classes in both parts; only one has {', '.join(differing[:5])}")
