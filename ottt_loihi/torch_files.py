"""Files of ``torch.save``, read without trust: nothing in them is run, and no more is allocated than their size.

1. A file must be a ZIP file of the expected names, nothing compressed, every checksum right;
2. the pickle in it may use the opcodes that ``torch.save`` uses, and name only tensors' own constructors
   (``pickletools``, before anything is unpickled);
3. ``torch.load(weights_only=True)`` reads it.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ottt_loihi.errors import FileError, UnsafeFileError, first_line
from ottt_loihi.files import refuse_pointer

SIZE_LIMIT = 4 << 30  # bytes

ENTRIES = re.compile(  # torch 2.3 … 2.13
    r"[^/]+/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+)"
)
STORAGES = ("Float", "Double", "BFloat16", "Half", "Long", "Int", "Short", "Char", "Byte", "Bool")
GLOBALS = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict", *(f"torch {kind}Storage" for kind in STORAGES)}
OPCODES = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BINPERSID"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
}


def read_payload(
    path: Path, classes: Set[str] = GLOBALS, opcodes: Set[str] = OPCODES, cure: str = ""
) -> tuple[Any, int]:
    """Return the content of a file of ``torch.save``, read without trust, and its size in bytes.

    Parameters
    ----------
    path
        the file
    classes, opcodes
        what its pickle may name and use
    cure
        what to do about one that names others

    Raises
    ------
    FileError, UnsafeFileError
        for a file that is none, that is damaged, or that could run code
    """
    content = _read(path)
    with _errors_say(path, "damaged or not a model.pt"):  # zipfile raises nearly anything on damaged input
        pickled = _archive(path, content)
    with _errors_say(path, "damaged, its pickle ends too early or is none"):
        _check_pickle(path, pickled, classes, opcodes, cure)
    with _errors_say(path, "damaged, PyTorch cannot read it"):
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), len(content)


@contextmanager
def _errors_say(path: Path, problem: str) -> Iterator[None]:
    """Raise any error of the block that is none of ours as a :class:`FileError`."""
    try:
        yield
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"{path}: {problem} ({first_line(error)})") from None


def require_room(path: Path, weights: Mapping[str, Tensor], size: int) -> None:
    """Refuse weights that take more memory than their file."""
    if sum(weight.numel() * weight.element_size() for weight in weights.values()) > size:
        raise UnsafeFileError(f"{path}: its weights share memory and would take more than the file's size")


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise FileError(f"{path}: not a file")
        if path.stat().st_size > SIZE_LIMIT:
            raise UnsafeFileError(f"{path}: {path.stat().st_size} bytes, more than the {SIZE_LIMIT} a model may have")
        content = path.read_bytes()
        refuse_pointer(path, content)
        return content
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error}); ottt-train makes one") from None


def _archive(path: Path, content: bytes) -> bytes:
    """Return the pickle in a file that passes step 1."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        for entry in entries:
            name = entry.filename
            if not ENTRIES.fullmatch(name):
                raise UnsafeFileError(f"{path}: holds {name!r}, which no model.pt has; nothing of it was run")
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise UnsafeFileError(f"{path}: {name} is compressed, which no model.pt is; nothing of it was unpacked")
        prefixes = {entry.filename.split("/")[0] for entry in entries}
        if len(prefixes) != 1 or len({entry.filename for entry in entries}) != len(entries):
            raise UnsafeFileError(f"{path}: a ZIP file with several entries of one name, or several folders")
        if sum(entry.file_size for entry in entries) > len(content):
            raise UnsafeFileError(f"{path}: its entries overlap or claim more bytes than the file has")
        if (bad := archive.testzip()) is not None:
            raise FileError(f"{path}: damaged, the checksum of {bad} is wrong; copy or train it again")
        return archive.read(f"{prefixes.pop()}/data.pkl")


def _check_pickle(path: Path, pickled: bytes, classes: Set[str], opcodes: Set[str], cure: str) -> None:
    """Check step 2."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL" and str(argument) not in classes:
            called = str(argument).replace(" ", ".")
            raise UnsafeFileError(f"{path}: its pickle calls {called!r}; nothing of it was run{cure}")
        if opcode.name not in opcodes:
            raise UnsafeFileError(
                f"{path}: its pickle uses {opcode.name}, which no model.pt does; nothing was run{cure}"
            )
