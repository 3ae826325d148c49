"""Write files whole or not at all, and recognise pointers of Git LFS."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ottt_loihi import checks
from ottt_loihi.errors import FileError

POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path, start: bytes | None = None) -> None:
    """Raise :class:`FileError` where Git has left a few lines of text in the place of a large file.

    Parameters
    ----------
    path
        an ordinary file
    start
        its first bytes, where they have been read already
    """
    if start is None:
        with open(path, "rb") as file:
            start = file.read(len(POINTER))
    if start.startswith(POINTER):
        raise FileError(f"{path}: a pointer of Git LFS, not the file itself; `git lfs pull` fetches it")


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; when the block ends well it becomes ``path``, otherwise it vanishes.

    Missing parent folders are made. A read-only folder or a full disk is a :class:`FileError`.
    """
    path = checks.path(path, "file to write")
    name = temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.parent / f".{path.name[:200]}.{secrets.token_hex(8)}.part"
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))  # the kernel subtracts the umask
        temporary = name
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except FileError:
        raise
    except OSError as error:
        if error.filename is not None and Path(error.filename) not in (path, name, *path.parents):
            raise  # of another file, which the block reads
        reason = error.strerror or str(error)
        raise FileError(
            f"{path}: cannot be written ({reason}); a file that was there is unchanged. Choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8, whole or not at all (:func:`atomic_write`)."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_writable(folder: Path) -> None:
    """Raise :class:`FileError` if nothing can be written into a folder: before a long computation, not after it."""
    with atomic_write(folder / ".ottt-probe"):
        pass
    (folder / ".ottt-probe").unlink()
