"""Validation of single values: each check returns the value in its plain Python type, or raises a UsageError.

``where`` names the place in the user's words ("Conv2d.stride"). A bool is never a number, and NumPy's scalars are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ottt_loihi.errors import UsageError

Kind = type | tuple[type, ...]
LARGEST_SEED = 2**63 - 1  # of torch's generators


def one_of(value: Any, where: str, allowed: Sequence[str], *, none: bool = False) -> Any:
    """Return ``value`` if it is one of the allowed names, or None where ``none`` allows that."""
    if (none and value is None) or (isinstance(value, str) and value in allowed):
        return value
    raise UsageError(f"{where}: expected one of {', '.join(allowed)}{', or nothing' if none else ''}, got {value!r}")


def flag(value: Any, where: str) -> bool:
    """Return ``value`` if it is true or false."""
    if not isinstance(value, bool):
        raise UsageError(f"{where}: expected true or false, got {value!r}")
    return value


def integer(value: Any, where: str, low: int | None = 1, high: int | None = None) -> int:
    """Return ``value`` as an int in ``low … high``; None: no bound on that side."""
    if not is_integer(value) or (low is not None and value < low) or (high is not None and value > high):
        raise UsageError(f"{where}: expected {_integers(low, high)}, got {value!r}")
    return int(value)


def number(
    value: Any, where: str, low: float = -math.inf, high: float = math.inf, *, above: bool = False, below: bool = False
) -> float:
    """Return ``value`` as a finite float in [low, high]; ``above``, ``below``: low, high themselves are refused."""
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high or (above and value == low) or (below and value == high):
        raise UsageError(f"{where}: expected a number {_interval(low, high, above, below)}, got {value!r}")
    return float(value)


def sizes(value: Any, where: str, at_least: int = 1) -> tuple[int, ...]:
    """Return ``value`` as a tuple of ``at_least`` or more positive integers."""
    found = tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else ()
    if len(found) < at_least or any(not is_integer(n) or n < 1 for n in found):
        raise UsageError(f"{where}: expected {at_least} or more positive integers, got {value!r}")
    return tuple(int(n) for n in found)


def each(value: Any, where: str, count: int, of: str) -> list[Any]:
    """Return ``count`` values: those of an iterable of so many, or a single one for each of them."""
    found = list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else [value] * count
    if len(found) != count:
        raise UsageError(f"{where}: expected one number, or one for each of {count} {of}, got {value!r}")
    return found


def pair(value: Any, where: str, low: int = 1) -> int | tuple[int, int]:
    """Return a number, or (vertical, horizontal) where the two differ; a pair of equal numbers is one number."""
    if not isinstance(value, (tuple, list)):
        return integer(value, where, low)
    if len(value) != 2:
        raise UsageError(f"{where}: expected a number or (vertical, horizontal), got {value!r:.80}")
    vertical, horizontal = (integer(n, where, low) for n in value)
    return vertical if vertical == horizontal else (vertical, horizontal)


def both(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return (vertical, horizontal) of a value of :func:`pair`."""
    return value if isinstance(value, tuple) else (value, value)


def instance(value: Any, where: str, kind: Kind, *, none: bool = False) -> Any:
    """Return ``value`` if it is an object of the class ``kind``, or None where ``none`` allows that."""
    if isinstance(value, kind) or (none and value is None):
        return value
    raise UsageError(f"{where}: expected {_article(kind)}{', or nothing' if none else ''}, got {_found(value)}")


def items(value: Any, where: str, kind: Kind) -> tuple[Any, ...]:
    """Return ``value``, a list or another iterable of objects of the class ``kind``, as a tuple."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise UsageError(f"{where}: expected a list, each item {_article(kind)}, got {_found(value)}")
    return tuple(instance(item, where, kind) for item in value)


def path(value: Any, where: str) -> Path:
    """Return ``value``, a text or an ``os.PathLike`` of texts, as a Path."""
    if isinstance(value, (str, os.PathLike)) and isinstance(os.fspath(value), str) and os.fspath(value):
        return Path(value)
    raise UsageError(f"{where}: expected the path of a file or folder, got {_found(value)}")


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an integer of Python or NumPy, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _found(value: Any) -> str:
    """Return a value in few words, for a message of one line."""
    if isinstance(value, type):
        return f"the class {value.__name__}, not an object of it"
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"an object of {type(value).__name__}"


def _article(kind: Kind) -> str:
    names = [
        {str: "text", Integral: "integer"}.get(k, k.__name__) for k in (kind if isinstance(kind, tuple) else (kind,))
    ]
    return " or ".join(f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}" for name in names)


def _integers(low: int | None, high: int | None) -> str:
    if high is not None:
        return f"an integer {'…' if low is None else f'{low} …'} {high}"
    return {None: "an integer", 1: "a positive integer"}.get(low, f"an integer ≥ {low}")


def _interval(low: float, high: float, above: bool, below: bool) -> str:
    if high == math.inf:
        return "that is finite" if low == -math.inf else f"{'>' if above else '≥'} {low:g}"
    return f"in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
