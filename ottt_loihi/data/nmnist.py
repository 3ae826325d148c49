"""N-MNIST (Orchard et al. 2015): MNIST's digits before a moving sensor of 34×34 pixels, three saccades in 0.3 s.

Either as published (``Train/0/00002.bin`` …), or as SLAYER's small set has it: ``1.bs2`` … with lists of samples and
classes, in a folder or in a tar archive, which is read without being unpacked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.events import as_frames, decode_bin
from ottt_loihi.data.folder import Found, Layout, decoded, find, read_archive, read_bytes
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError

SIDE = 34
NUM_CLASSES = 10
LISTS = {"train": "train1K.txt", "test": "test100.txt"}
NMNIST = (
    Layout("folders", ("n-mnist", "NMNIST", "N-MNIST"), {"train": ("Train/",), "test": ("Test/",)}, "with 0 … 9"),
    Layout("lists", ("nmnist-small",), {part: (name,) for part, name in LISTS.items()}, "with .bs2 files"),
    Layout("archive", ("nmnist-small",), {"archive": ("nmnist_small.tar.xz",)}),
)

Samples = Sequence[tuple[str, int]]  # name and label
Reader = Callable[[str], bytes]


def load_nmnist(
    folder: str | os.PathLike[str] | None = None,
    num_steps: int = 10,
    by: str = "time",
    ceiling: int = 1,
    num_train: int | None = None,
    num_test: int | None = None,
) -> Split:
    """N-MNIST as frames, uint8 ``(n, num_steps, 2, 34, 34)``, in MNIST's order.

    Parameters
    ----------
    folder
        of all data sets, or N-MNIST's own; default ``OTTT_DATA_DIR``
    num_steps, by, ceiling
        of :func:`~ottt_loihi.data.events.to_frames`; the default ceiling of 1 makes binary spikes, as the chip takes
        them, and ``notes`` say how many events that lost
    num_train, num_test
        only the first so many samples; None: all

    Raises
    ------
    FileError
        for missing, truncated or damaged files
    UsageError
        for settings out of range
    """
    for name, value in (("num_train", num_train), ("num_test", num_test)):
        if value is not None:
            checks.integer(value, name)
    found = find("n-mnist", NMNIST, folder)
    lists, read = _open(found)
    parts = [lists["train"][:num_train], lists["test"][:num_test]]
    recordings = ((decode_bin(read(name), SIDE, SIDE, f"{found.folder / name}") for name, _ in part) for part in parts)
    (x, x_test), notes = as_frames(recordings, num_steps, SIDE, SIDE, by, ceiling)
    y, y_test = (np.array([label for _, label in part], np.int64) for part in parts)
    return Split(x, y, x_test, y_test, NUM_CLASSES, time_axis=True, name="n-mnist", notes=notes)


def _open(found: Found) -> tuple[dict[str, Samples], Reader]:
    """Return the samples of each half, and a function that returns a sample's bytes by its name."""
    if found.layout.format == "folders":
        return {part: _in_folders(path) for part, path in found.paths.items()}, lambda name: read_bytes(Path(name))
    path = found.paths.get("archive", found.folder)
    members = read_archive(path) if found.layout.format == "archive" else None

    def read(name: str) -> bytes:
        if members is None:
            return read_bytes(path / name)
        if name not in members:
            raise FileError(f"{path}: lacks {name}{'' if name in LISTS.values() else ', which its list names'}")
        return members[name]

    return {part: _parse_list(decoded(read(name), name), f"{path / name}") for part, name in LISTS.items()}, read


def _in_folders(folder: Path) -> Samples:
    """Return the files ``0/…bin`` to ``9/…bin``, sorted by file name: in MNIST's order, not that of the classes."""
    samples = []
    for label in range(NUM_CLASSES):
        names = sorted((folder / str(label)).glob("*.bin"))
        if not names:
            raise FileError(f"{folder / str(label)}: no .bin files; expected one folder per class, 0 … 9")
        samples += [(str(path), label) for path in names]
    return sorted(samples, key=lambda sample: Path(sample[0]).name)


def _parse_list(text: str, where: str) -> Samples:
    """Return the samples of a list with lines of a sample's number and its class; ``#`` starts a comment."""
    samples = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not all(word.isascii() and word.isdigit() for word in words):
            raise FileError(f"{where}, line {number}: expected a sample's number and its class, found {line[:60]!r}")
        if int(words[1]) >= NUM_CLASSES:
            raise FileError(f"{where}, line {number}: expected a class 0 … {NUM_CLASSES - 1}, found {words[1][:20]}")
        samples.append((f"{words[0]}.bs2", int(words[1])))
    if not samples:
        raise FileError(f"{where}: names no samples")
    return samples
