"""Finding data sets on disk. Nothing is downloaded; errors name missing files and their folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ottt_loihi.errors import FileError, UnsafeFileError
from ottt_loihi.files import refuse_pointer

ENVIRONMENT = "OTTT_DATA_DIR"


@dataclass(frozen=True)
class Layout:
    """One layout of a data set's files under the data folder.

    Attributes
    ----------
    format
        which reader reads it
    folders
        where it may lie, relative to the data folder, the advised one first
    files
        what must be there, key → names, any of which will do (a folder's name ends in ``/``)
    also
        what else belongs there, in words
    """

    format: str
    folders: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    also: str = ""

    def describe(self, base: str | os.PathLike[str]) -> str:
        """Return the files in words: ``a and b (or b.gz) in /data/mnist``."""
        names = [first + (f" (or {', '.join(rest)})" if rest else "") for first, *rest in self.files.values()]
        return f"{', '.join(names)}{self.also and ' ' + self.also} in {Path(base) / self.folders[0]}"


@dataclass(frozen=True)
class Found:
    """A layout that was found, and its files.

    Attributes
    ----------
    layout
        the one that is there
    folder
        where
    paths
        one path per key of ``layout.files``.
    """

    layout: Layout
    folder: Path
    paths: Mapping[str, Path]


def data_folder(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder of all data sets: the argument if there is one, else ``OTTT_DATA_DIR``, else None."""
    chosen = folder if folder is not None else os.environ.get(ENVIRONMENT) or None
    return None if chosen is None else Path(chosen).expanduser()


def find(name: str, layouts: Sequence[Layout], folder: str | os.PathLike[str] | None = None) -> Found:
    """The data set's files, in the first layout that is there completely.

    ``folder`` is the folder of all data sets or the data set's own; without it, ``OTTT_DATA_DIR`` is.

    Raises
    ------
    FileError
        when there is none; it names the missing files and where they go
    """
    base = data_folder(folder)
    if base is None:
        raise FileError(
            f"{name}: no data folder; set {ENVIRONMENT} to one and put there "
            + "; or ".join(layout.describe(".") for layout in layouts)
            + " (nothing is downloaded)"
        )
    if not base.is_dir():
        raise FileError(f"{base}: no such folder; {name} is looked for there, set {ENVIRONMENT} or make it")
    incomplete: list[str] = []
    for layout in layouts:
        # files of its own folder are accepted only when that folder was named: MNIST and Fashion-MNIST share names
        for relative in (*layout.folders, *(["."] if folder is not None else [])):
            paths = {key: _first(base / relative, names) for key, names in layout.files.items()}
            missing = [layout.files[key][0] for key, path in paths.items() if path is None]
            if not missing:
                return Found(layout, base / relative, {key: path for key, path in paths.items() if path is not None})
            if len(missing) < len(paths):
                incomplete.append(f"{base / relative} lacks {', '.join(missing)}")
    if incomplete:
        raise FileError(f"{name}: {'; '.join(incomplete)}; put the missing files there")
    wanted = "; or ".join(layout.describe(base) for layout in layouts)
    raise FileError(f"{name}: not found; put {wanted} (nothing is downloaded)")


def read_bytes(path: Path, limit: int) -> bytes:
    """A whole file of at most ``limit`` bytes; :class:`FileError` with the path for whatever goes wrong."""
    try:
        if not path.is_file():
            raise FileError(f"{path}: {'not an ordinary file' if path.exists() else 'no such file'}")
        with open(path, "rb") as file:
            content = file.read(limit + 1)
        refuse_pointer(path, content)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > limit:
        raise UnsafeFileError(f"{path}: larger than {limit} bytes, the most such a file may hold; not read")
    return content


def read_text(path: Path, limit: int = 1 << 22) -> str:
    """A whole UTF-8 text file, as :func:`read_bytes`."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected a text file, found other bytes at {error.start}") from None


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these names that is there; a name that ends in ``/`` is a folder's."""
    for name in names:
        path = folder / name
        try:
            if path.is_dir() if name.endswith("/") else path.is_file():
                return path
        except OSError:
            continue
    return None
