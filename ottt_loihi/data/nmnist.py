"""N-MNIST (Orchard et al. 2015): MNIST's digits before a moving sensor of 34×34 pixels, three saccades in 0.3 s.

Either as published (``Train/0/00002.bin`` …), or as SLAYER's small set has it: ``1.bs2`` … with lists of samples and
classes, in a folder or in a tar archive, which is read without being unpacked.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ottt_loihi.data.events import MAX_BYTES, as_frames, decode_bin, lost_note
from ottt_loihi.data.folder import Found, Layout, find, read_bytes, read_text
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UnsafeFileError, UsageError
from ottt_loihi.files import refuse_pointer

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
        if value is not None and value < 1:
            raise UsageError(f"{name}: expected at least 1 or None, got {value}")
    found = find("n-mnist", NMNIST, folder)
    lists, read = _open(found)
    halves, lost, total = [], 0, 0
    for part, limit in (("train", num_train), ("test", num_test)):
        samples = lists[part][:limit]
        recordings = (decode_bin(read(name), SIDE, SIDE, f"{found.folder / name}") for name, _ in samples)
        made = as_frames(recordings, num_steps, SIDE, SIDE, by, ceiling)
        lost, total = lost + made.lost, total + made.total
        halves += [made.frames, np.array([label for _, label in samples], np.int64)]
    return Split(*halves, NUM_CLASSES, time_axis=True, name="n-mnist", notes=lost_note(lost, total, ceiling))


def _open(found: Found) -> tuple[dict[str, Samples], Reader]:
    """Per half its samples, and a function from a sample's name to its bytes."""
    if found.layout.format == "folders":
        return {part: _in_folders(path) for part, path in found.paths.items()}, lambda name: _read(Path(name))
    if found.layout.format == "lists":
        lists = {part: _parse_list(read_text(path), str(path)) for part, path in found.paths.items()}
        return lists, lambda name: _read(found.folder / name)
    path = found.paths["archive"]
    members = read_archive(path)
    missing = [name for name in LISTS.values() if name not in members]
    if missing:
        raise FileError(f"{path}: lacks {', '.join(missing)}")
    lists = {part: _parse_list(members[name].decode("latin-1"), f"{path}:{name}") for part, name in LISTS.items()}

    def read(name: str) -> bytes:
        if name not in members:
            raise FileError(f"{path}: lacks {name}, which its list names")
        return members[name]

    return lists, read


def _read(path: Path) -> bytes:
    return read_bytes(path, MAX_BYTES)


def _in_folders(folder: Path) -> Samples:
    """``0/…bin`` to ``9/…bin``, sorted by file name, which is MNIST's order and not that of the classes."""
    samples = []
    for label in range(NUM_CLASSES):
        names = sorted((folder / str(label)).glob("*.bin"))
        if not names:
            raise FileError(f"{folder / str(label)}: no .bin files; expected one folder per class, 0 … 9")
        samples += [(str(path), label) for path in names]
    return sorted(samples, key=lambda sample: Path(sample[0]).name)


def _parse_list(text: str, where: str) -> Samples:
    """Lines of sample number and class; ``#`` starts a comment."""
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


def read_archive(path: Path, limit: int = MAX_BYTES) -> dict[str, bytes]:
    """All ordinary files of a tar archive, name → bytes; links and everything else in it are left out.

    Raises
    ------
    UnsafeFileError
        when they sum up to more than ``limit`` bytes
    FileError
        for a damaged archive
    """
    members: dict[str, bytes] = {}
    total = 0
    try:
        refuse_pointer(path)
        with tarfile.open(path, "r|*") as archive:  # as a stream: a member's size is known before it is unpacked
            for member in archive:
                total += member.size + 512
                if member.size < 0 or total > limit:
                    raise UnsafeFileError(f"{path}: unpacks to more than {limit} bytes; refused")
                if member.isreg():
                    content = archive.extractfile(member)
                    members[member.name.removeprefix("./")] = content.read() if content else b""
    except FileError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise FileError(f"{path}: cannot be read to its end ({error}); fetch the file again") from error
    return members
