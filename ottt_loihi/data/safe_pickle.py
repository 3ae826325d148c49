"""Reading pickled arrays from untrusted files: CIFAR's python batches and the like.

A pickle is a program. This module is an interpreter of its own for the few instructions that plain containers and
arrays of bytes need; Python's unpickler never sees the file, it builds no class, of NumPy or of others, and
anything beyond the list is refused before it could matter.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ottt_loihi.data.folder import read_bytes
from ottt_loihi.errors import FileError, UnsafeFileError

MAX_BYTES = 1 << 28  # CIFAR-100's training batch has 155 million
MAX_INSTRUCTIONS = 5_000_000  # CIFAR-100's training batch has some 350,000
ALLOWED_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}
_MARK = object()
_BYTES = object()  # stands for the one dtype there may be: unsigned bytes


@dataclass(frozen=True)
class _Global:
    """Stands for an importable name, and is never imported."""

    name: str


@dataclass
class _Array:
    """Stands for an array until its state has been checked."""

    value: np.ndarray | None = None


def load_pickle(path: Path) -> Any:
    """Return the content of a pickle (protocol 2 or later) of dict, list, tuple, numbers, text, bytes, uint8 arrays.

    Texts of Python 2 come as bytes.

    Raises
    ------
    UnsafeFileError
        for a pickle with any other instruction or name in it; none of it was run
    FileError
        for a damaged or truncated one
    """
    content = read_bytes(Path(path), MAX_BYTES)
    try:
        return _finish(_Machine(path).run(content))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise FileError(f"{path}: not a readable pickle, or damaged ({' '.join(str(error).split())[:200]})") from error


class _Machine:
    """The pickle machine: a stack, a memo, and the instructions of ``docs.python.org/3/library/pickletools``."""

    def __init__(self, path: Path) -> None:
        self.path, self.stack, self.memo, self.encoded = path, [], {}, 0

    def run(self, content: bytes) -> Any:
        stream = io.BytesIO(content)
        for _ in range(MAX_INSTRUCTIONS):
            code = stream.read(1)
            if not code:
                raise FileError(f"{self.path}: a pickle without an end; it is truncated")
            opcode = pickletools.code2op.get(code.decode("latin-1"))
            if opcode is None or opcode.name not in STEPS:  # before its argument is looked at
                raise UnsafeFileError(
                    f"{self.path}: the pickle instruction {opcode.name if opcode else code} at byte "
                    f"{stream.tell() - 1} is not allowed; refused, nothing of it was run"
                )
            if opcode.name == "STOP":
                return self._pop(1)[0]
            STEPS[opcode.name](self, opcode.arg.reader(stream) if opcode.arg else None)
        raise UnsafeFileError(f"{self.path}: more than {MAX_INSTRUCTIONS} instructions; refused")

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[len(self.stack) - count :]
        if len(self.stack) < count or any(item is _MARK for item in items):
            raise ValueError("its stack runs empty")
        del self.stack[len(self.stack) - count :]
        return items

    def _pop_to_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _keep(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def _extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"expected a {kind.__name__} to add to, found {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2 or not all(isinstance(key, (bytes, str, int)) for key in items[::2]):
            raise ValueError("expected pairs of a plain key and a value")
        self._top(dict).update(zip(items[::2], items[1::2]))

    def _global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:  # a nested tuple takes for ever to hash or to print
            raise ValueError("a name that is no text")
        if (module, name) not in ALLOWED_GLOBALS:
            raise UnsafeFileError(
                f"{self.path}: the pickle asks for {module[:60]}.{name[:60]}; only arrays, lists, dicts and bytes are "
                "allowed, nothing of it was run"
            )
        self._push(_Global(name))

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, _Array):
            _, shape, dtype, fortran_order, raw = state
            target.value = _array(raw, dtype, shape, bool(fortran_order))
        elif target is not _BYTES:
            raise ValueError(f"a state for {type(target).__name__}")

    def _call(self, function: Any, arguments: Any) -> Any:
        """Return the result of a function that NumPy's own pickles call, without calling it."""
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no function")
        if function.name == "_reconstruct":
            return _Array()
        if function.name == "dtype":
            if arguments[0] not in ("u1", b"u1"):
                raise ValueError("expected an array of unsigned bytes (u1), found another dtype")
            return _BYTES
        if function.name == "_frombuffer":
            raw, dtype, shape, order = arguments
            return _Array(_array(raw, dtype, shape, order == "F"))
        if function.name == "encode" and arguments[1:] in (("latin1",), ("latin-1",)):
            raw = arguments[0].encode("latin-1")
            self.encoded += len(raw)
            if self.encoded > MAX_BYTES:  # one long text, encoded again and again
                raise UnsafeFileError(f"{self.path}: makes more than {MAX_BYTES} bytes; refused")
            return raw
        raise ValueError(f"{function.name} is called in an unknown way")


STEPS: dict[str, Callable[[_Machine, Any], None]] = {  # instruction → what it does with the stack and its argument
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, argument: None),
    "NONE": lambda machine, argument: machine._push(None),
    "NEWTRUE": lambda machine, argument: machine._push(True),
    "NEWFALSE": lambda machine, argument: machine._push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine._push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine._push),
    **dict.fromkeys(
        ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        lambda machine, argument: machine._push(bytes(argument)),
    ),
    **dict.fromkeys(  # of Python 2
        ("BINSTRING", "SHORT_BINSTRING"), lambda machine, argument: machine._push(argument.encode("latin-1"))
    ),
    "EMPTY_LIST": lambda machine, argument: machine._push([]),
    "EMPTY_DICT": lambda machine, argument: machine._push({}),
    "EMPTY_TUPLE": lambda machine, argument: machine._push(()),
    "MARK": lambda machine, argument: machine._push(_MARK),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, argument: machine._push(machine.memo[argument])),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine._keep),
    "MEMOIZE": lambda machine, argument: machine._keep(len(machine.memo)),
    "TUPLE": lambda machine, argument: machine._push(tuple(machine._pop_to_mark())),
    "TUPLE1": lambda machine, argument: machine._push(tuple(machine._pop(1))),
    "TUPLE2": lambda machine, argument: machine._push(tuple(machine._pop(2))),
    "TUPLE3": lambda machine, argument: machine._push(tuple(machine._pop(3))),
    "APPEND": lambda machine, argument: machine._extend(machine._pop(1)),
    "APPENDS": lambda machine, argument: machine._extend(machine._pop_to_mark()),
    "SETITEM": lambda machine, argument: machine._set_items(machine._pop(2)),
    "SETITEMS": lambda machine, argument: machine._set_items(machine._pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine._global(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, argument: machine._global(*machine._pop(2)),
    "REDUCE": lambda machine, argument: machine._push(machine._call(*machine._pop(2))),
    "BUILD": lambda machine, argument: machine._build(*machine._pop(1)),
}


def _array(raw: Any, dtype: Any, shape: Any, fortran_order: bool) -> np.ndarray:
    if not isinstance(raw, bytes) or dtype is not _BYTES or not isinstance(shape, tuple):
        raise ValueError("an array of something else than unsigned bytes")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array with an impossible shape")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran_order else "C")


def _finish(value: Any, depth: int = 0) -> Any:
    """Return the value with arrays in place of stand-ins, also within dicts that are at most two deep."""
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without values")
        return value.value
    if isinstance(value, _Global) or value is _BYTES:
        raise ValueError("a name where a value was expected")
    if isinstance(value, dict) and depth < 2:
        return {key: _finish(item, depth + 1) for key, item in value.items()}
    return value
