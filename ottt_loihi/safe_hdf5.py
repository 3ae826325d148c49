"""HDF5 without surprises.

Reading untrusted files: no link leaves the file, nothing is allocated before its size is checked. Writing: in
memory first, because libhdf5 crashes the interpreter when the disk is full.
"""

from __future__ import annotations

import io
import os
import signal
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, BinaryIO

import h5py
import numpy as np

from ottt_loihi import checks
from ottt_loihi.errors import FileError, UnsafeFileError
from ottt_loihi.files import atomic_write, refuse_pointer

MAX_ELEMENTS = 1 << 28  # of one dataset: 2 GiB as int64, thirty times VGG's largest layer
MAX_ATTRIBUTE_BYTES = 1 << 20
MAX_TEXT_BYTES = 1 << 16  # of a name, or of provenance as JSON
MAX_TEXTS = 1 << 16
MAX_HEAP_BYTES = 1 << 20
MAX_HEAPS_BYTES = 1 << 26  # of all texts of a dataset
MAX_COMPRESSION = 1100  # deflate shrinks by 1032 at most
MAX_BYTES = 1 << 31  # of all datasets that are read from one file
_read: ContextVar[int] = ContextVar("bytes read from the open file", default=0)


@contextmanager
def late_interrupt() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block.

    HDF5 calls Python code while it writes. h5py drops an exception that a signal raises in such a call, so the program
    would ignore Ctrl-C.
    """
    before, came = signal.getsignal(signal.SIGINT), []
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, lambda *arguments: came.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(*came[0])


@contextmanager
def new_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open a new file to fill; it appears at ``path`` when the block has ended well, whole or not at all."""
    with late_interrupt():
        image = io.BytesIO()
        with h5py.File(image, "w") as file:
            yield file
        with atomic_write(path) as temporary:
            temporary.write_bytes(image.getbuffer())


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open for reading; an error of HDF5 inside the block becomes a :class:`FileError` with the path."""
    path = checks.path(path, "file to read")
    if not path.exists():
        raise FileError(f"{path}: no such file")
    if path.is_dir():
        raise FileError(f"{path}: expected a file, found a folder")
    try:
        if path.is_file():
            refuse_pointer(path)
        with late_interrupt(), h5py.File(path, "r") as file:
            _read.set(0)
            yield file
    except FileError as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from None
    except MemoryError as error:
        raise FileError(f"{path}: takes more memory than there is ({_one_line(error)})") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: not a readable HDF5 file of ours, or damaged ({_one_line(error)})") from error


def version(file: h5py.File, kind: str, newest: int, otherwise: str) -> int:
    """Return the version of a file of ours; ``otherwise``: the message for one whose ``format`` is not ``kind``."""
    if "format" not in file.attrs or attribute(file, "format", str) != kind:
        raise FileError(otherwise)
    found = attribute(file, "version", int)
    if not 1 <= found <= newest:
        raise FileError(f"format version {found}, this program reads up to {newest}; update ottt-loihi")
    return found


def group(parent: h5py.Group, name: str) -> h5py.Group:
    """Return the subgroup ``name``, which must be an ordinary member of this file."""
    member = _member(parent, name)
    if not isinstance(member, h5py.Group):
        raise FileError(f"{parent.name}/{name}: expected a group")
    return member


def integers(parent: h5py.Group, name: str) -> np.ndarray:
    """Return the dataset ``name`` as an integer array."""
    array = numbers(parent, name)
    if array.dtype.kind not in "iu":
        raise FileError(f"{parent.name}/{name}: expected integers, found {array.dtype}")
    return array


def numbers(parent: h5py.Group, name: str) -> np.ndarray:
    """Return the dataset ``name`` as a numeric array, read only after its size, storage and dtype have been checked."""
    member = _member(parent, name)
    where = f"{parent.name}/{name}"
    if not isinstance(member, h5py.Dataset):
        raise FileError(f"{where}: expected a dataset")
    if member.external or member.is_virtual:
        raise UnsafeFileError(f"{where}: its data lies in another file; refused")
    if member.dtype.kind not in "iufb":
        raise FileError(f"{where}: expected numbers, found {member.dtype}")
    if member.shape is None or member.size > MAX_ELEMENTS:
        raise UnsafeFileError(f"{where}: declares {member.size} elements, at most {MAX_ELEMENTS} are allowed")
    stored = parent.file.id.get_filesize() * MAX_COMPRESSION
    if member.nbytes > stored:
        raise UnsafeFileError(f"{where}: declares {member.nbytes} bytes, more than this file can hold ({stored})")
    _read.set(_read.get() + member.nbytes)
    if _read.get() > MAX_BYTES:
        raise UnsafeFileError(f"{where}: the file's datasets declare more than {MAX_BYTES:,} bytes together")
    return member[()] if member.shape else np.asarray(member[()])


def text(parent: h5py.Group, name: str) -> str:
    """Return the dataset ``name``, one text of fixed or variable length."""
    found = texts(parent, name)
    if len(found) != 1:
        raise FileError(f"{parent.name}/{name}: expected one text")
    return found[0]


def texts(parent: h5py.Group, name: str) -> list[str]:
    """Return the dataset ``name``, texts of fixed or variable length, in C order.

    A text of variable length lies in a heap of the file, which a damaged file can make libhdf5 walk round in circles
    for ever; so the heap is read here, with every length checked.
    """
    member = _member(parent, name)
    where = f"{parent.name}/{name}"
    if not isinstance(member, h5py.Dataset) or member.external or member.is_virtual or member.shape is None:
        raise FileError(f"{where}: expected texts")
    if (kind := h5py.check_string_dtype(member.dtype)) is None:
        raise FileError(f"{where}: expected a text, found {member.dtype}")
    if (kind.length or 0) > MAX_TEXT_BYTES or member.size > MAX_TEXTS:
        raise UnsafeFileError(f"{where}: {member.size} texts of {kind.length} bytes")
    if kind.length is not None:
        raw = [bytes(value) for value in np.asarray(member[()]).reshape(-1)]
    else:
        raw = _from_heap(parent.file.filename, member.id.get_offset(), member.size, where)
    try:
        return [value.rstrip(b"\0").decode("utf-8") for value in raw]
    except UnicodeDecodeError:
        raise FileError(f"{where}: expected UTF-8") from None


def _from_heap(path: str, offset: int | None, count: int, where: str) -> list[bytes]:
    """Return the objects that references (length, address of the collection, index) point to: HDF5's format, III.E."""
    if offset is None:
        raise FileError(f"{where}: texts that are not stored in one piece")
    heaps: dict[int, bytes] = {}
    with open(path, "rb") as file:
        references = list(struct.iter_unpack("<IQI", _exactly(file, offset, 16 * count, where)))
        total = 0
        for address in {address for _, address, _ in references}:
            signature, size = struct.unpack("<4s4xQ", _exactly(file, address, 16, where))
            total += size
            if signature != b"GCOL" or not 16 <= size <= MAX_HEAP_BYTES or total > MAX_HEAPS_BYTES:
                raise FileError(f"{where}: its heap is damaged")
            heaps[address] = _exactly(file, address, size, where)
    return [_heap_object(heaps[address], index, length, where) for length, address, index in references]


def _heap_object(heap: bytes, index: int, length: int, where: str) -> bytes:
    if length > MAX_TEXT_BYTES:
        raise FileError(f"{where}: its heap is damaged")
    place = 16
    while place + 16 <= len(heap):
        found, nbytes = struct.unpack_from("<H6xQ", heap, place)
        if found == index and length <= nbytes <= len(heap) - place - 16:
            return heap[place + 16 : place + 16 + length]
        if found == 0:
            break
        place += 16 + -(-nbytes // 8) * 8
    raise FileError(f"{where}: its heap holds no such text")


def _exactly(file: BinaryIO, offset: int, count: int, where: str) -> bytes:
    try:
        file.seek(offset)
    except (OSError, OverflowError):
        raise FileError(f"{where}: points outside the file") from None
    try:
        found = file.read(count)
    except OverflowError:
        found = b""
    if len(found) != count:
        raise FileError(f"{where}: points outside the file")
    return found


def attribute(parent: h5py.Group, name: str, kind: type) -> Any:
    """Return the attribute ``name`` as ``int``, ``str`` or ``tuple`` (of int)."""
    where = f"{parent.name}@{name}"
    if name not in parent.attrs:
        raise FileError(f"{where}: missing")
    if parent.attrs.get_id(name).get_storage_size() > MAX_ATTRIBUTE_BYTES:
        raise UnsafeFileError(f"{where}: larger than {MAX_ATTRIBUTE_BYTES} bytes")
    # a text of variable length lives in a heap, where a damaged file can send libhdf5 round in circles for ever
    if (text := h5py.check_string_dtype(parent.attrs.get_id(name).dtype)) is not None and text.length is None:
        raise UnsafeFileError(f"{where}: a text of variable length; refused")
    value = parent.attrs[name]
    if kind is str and isinstance(value, bytes):
        return value.decode()
    if kind is int and isinstance(value, np.integer):
        return int(value)
    if kind is tuple and isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return tuple(int(n) for n in value)
    raise FileError(f"{where}: expected {kind.__name__}, found {type(value).__name__}")


def _member(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    link = parent.get(name, getlink=True)
    if link is None:
        raise FileError(f"{parent.name}/{name}: missing")
    if not isinstance(link, h5py.HardLink):
        raise UnsafeFileError(f"{parent.name}/{name}: a link, not a member of this file; refused")
    return parent[name]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
