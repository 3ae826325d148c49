"""Reading pickled arrays from untrusted files: CIFAR's python batches and the like.

A pickle is a program. This module is an interpreter of its own for the few instructions that plain containers and
arrays of bytes need; Python's unpickler never sees the file, it builds no class, of NumPy or of others, and
anything beyond the list is refused before it could matter.
"""

from __future__ import annotations

import io
import pickletools
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
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_PYTHON_2_STRINGS = {"BINSTRING", "SHORT_BINSTRING"}
_TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUSH = {"EMPTY_LIST", "EMPTY_DICT", "MARK", "BINGET", "LONG_BINGET", "GLOBAL", "PROTO", "FRAME"}.union(
    _CONSTANTS, _NUMBERS, _BYTES, _PYTHON_2_STRINGS, _TEXTS
)
_COMBINE = {
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("STACK_GLOBAL", "REDUCE", "BUILD", "STOP", *_TUPLES),
}
ALLOWED = _PUSH | _COMBINE


@dataclass(frozen=True)
class _Global:
    """Stands for an importable name, and is never imported."""

    name: str


@dataclass
class _Dtype:
    """Stands for the one dtype there may be: unsigned bytes."""


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
            if opcode is None or opcode.name not in ALLOWED:  # before its argument is looked at
                raise UnsafeFileError(
                    f"{self.path}: the pickle instruction {opcode.name if opcode else code} at byte "
                    f"{stream.tell() - 1} is not allowed; refused, nothing of it was run"
                )
            if opcode.name == "STOP":
                (result,) = self._pop(1)
                return result
            argument = opcode.arg.reader(stream) if opcode.arg else None
            if opcode.name in _PUSH:
                self._push(opcode.name, argument)
            else:
                self._combine(opcode.name, argument)
        raise UnsafeFileError(f"{self.path}: more than {MAX_INSTRUCTIONS} instructions; refused")

    def _push(self, name: str, argument: Any) -> None:
        """Instructions that put one thing on the stack, or (PROTO, FRAME) say nothing of interest."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _NUMBERS or name in _TEXTS or name in _BYTES:
            self.stack.append(bytes(argument) if name in _BYTES else argument)
        elif name in _PYTHON_2_STRINGS:
            self.stack.append(argument.encode("latin-1"))
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            self.stack.append([] if name == "EMPTY_LIST" else {})
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self._global(*argument.split(" ", 1))

    def _combine(self, name: str, argument: Any) -> None:
        """Instructions that work on what is on the stack."""
        if name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[name])))
        elif name == "TUPLE":
            self.stack.append(tuple(self._pop_to_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._pop_to_mark()
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
            self._set_items(items)
        elif name == "STACK_GLOBAL":
            self._global(*self._pop(2))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            self.stack.append(self._call(function, arguments))
        elif name == "BUILD":
            (state,) = self._pop(1)
            _set_state(self.stack[-1], state)

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
        self.stack.append(_Global(name))

    def _call(self, function: Any, arguments: Any) -> Any:
        """Imitate the functions that NumPy's own pickles call."""
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no function")
        if function.name == "_reconstruct":
            return _Array()
        if function.name == "dtype":
            if arguments[0] not in ("u1", b"u1"):
                raise ValueError("expected an array of unsigned bytes (u1), found another dtype")
            return _Dtype()
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


def _set_state(target: Any, state: Any) -> None:
    if isinstance(target, _Array):
        _, shape, dtype, fortran_order, raw = state
        target.value = _array(raw, dtype, shape, bool(fortran_order))
    elif not isinstance(target, _Dtype):
        raise ValueError(f"a state for {type(target).__name__}")


def _array(raw: Any, dtype: Any, shape: Any, fortran_order: bool) -> np.ndarray:
    if not isinstance(raw, bytes) or not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise ValueError("an array of something else than unsigned bytes")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array with an impossible shape")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran_order else "C")


def _finish(value: Any, depth: int = 0) -> Any:
    """Stand-ins out, arrays in, for the containers CIFAR has: at most two deep."""
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without values")
        return value.value
    if isinstance(value, (_Global, _Dtype)):
        raise ValueError("a name where a value was expected")
    if isinstance(value, dict) and depth < 2:
        return {key: _finish(item, depth + 1) for key, item in value.items()}
    return value
