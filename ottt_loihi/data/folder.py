"""Find and read the files of data sets. Nothing is downloaded; errors name missing files and their folder."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

from ottt_loihi.errors import FileError, UnsafeFileError, UsageError
from ottt_loihi.files import refuse_pointer

ENVIRONMENT = "OTTT_DATA_DIR"
MAX_BYTES = 1 << 30  # of a file, and of all files of an archive


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
        what else belongs there, or which other names will do, in words
    """

    format: str
    folders: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    also: str = ""

    def describe(self, base: str | os.PathLike[str]) -> str:
        """Return the files in words, each with its first name: ``a, b (also unpacked) in /data/mnist``."""
        names = ", ".join(first for first, *_ in self.files.values())
        return f"{names}{self.also and ' ' + self.also} in {Path(base) / self.folders[0]}"


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
    """Return the folder of all data sets: the argument if given, else ``OTTT_DATA_DIR``, else None."""
    chosen = folder if folder is not None else os.environ.get(ENVIRONMENT) or None
    return None if chosen is None else Path(chosen).expanduser()


def find(name: str, layouts: Sequence[Layout], folder: str | os.PathLike[str] | None = None) -> Found:
    """Return the data set's files, in the first layout that is complete.

    ``folder`` is the folder of all data sets or the data set's own; without it, ``OTTT_DATA_DIR`` is.

    Raises
    ------
    FileError
        when there is none; it names the missing files and where they go
    """
    base = data_folder(folder)
    if base is None:
        raise FileError(
            f"{name}: no data folder; set {ENVIRONMENT} to a folder, and put "
            + "; or ".join(layout.describe(f"${ENVIRONMENT}") for layout in layouts)
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


def require_file(path: Path) -> None:
    """Raise :class:`FileError` where there is no ordinary file, or a pointer of Git LFS in its place."""
    if not path.is_file():
        raise FileError(f"{path}: {'not an ordinary file' if path.exists() else 'no such file'}")
    refuse_pointer(path)


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return a whole file of at most ``limit`` bytes; :class:`FileError` with the path for whatever goes wrong."""
    try:
        require_file(path)
        if path.stat().st_size > limit:
            raise UnsafeFileError(f"{path}: larger than {limit} bytes, the most such a file may hold; not read")
        return path.read_bytes()
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_text(path: Path, limit: int = 1 << 22) -> str:
    """Return a whole UTF-8 text file, as :func:`read_bytes`."""
    return decoded(read_bytes(path, limit), str(path))


def decoded(content: bytes, where: str) -> str:
    """Return a text in UTF-8; :class:`FileError` for other bytes."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{where}: expected a text file, found other bytes at {error.start}") from None


def contents(found: Found, *patterns: str) -> dict[str, bytes]:
    """Return the files of a data set, in its archive or its folder, that match a pattern such as ``"signals/*.i16"``.

    A file's name is as much of the end of its path as the pattern has.
    """
    files: dict[Path, bytes] | None = None
    if found.layout.format == "archive":
        files = {Path(name): content for name, content in read_archive(found.paths["archive"]).items()}
    named = {}
    for pattern in patterns:
        length = len(PurePath(pattern).parts)
        paths = sorted(found.folder.glob(pattern)) if files is None else [p for p in files if p.match(pattern)]
        named |= {"/".join(p.parts[-length:]): read_bytes(p) if files is None else files[p] for p in paths}
    return named


def read_archive(path: Path, limit: int = MAX_BYTES) -> dict[str, bytes]:
    """Return all ordinary files of a tar archive, name → bytes; links and everything else in it are left out.

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


@contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """Raise a :class:`UsageError` about the values of a file as a :class:`FileError` that names the file."""
    try:
        yield
    except UsageError as error:
        raise FileError(f"{path}: {str(error).removeprefix(f'{path.name}: ').removeprefix(f'{path}: ')}") from error


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the path of the first name that exists; a name that ends in ``/`` is a folder's."""
    for name in names:
        path = folder / name
        try:
            if path.is_dir() if name.endswith("/") else path.is_file():
                return path
        except OSError:
            continue
    return None
