"""Validation of ChipNetwork fields. A check returns the normalised value, or raises and names the field."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from ottt_loihi.sim import arithmetic

from ottt_loihi import checks
from ottt_loihi.errors import ChipError, UsageError


def variables(record: Any) -> tuple[str, ...]:
    """Return the names of the states to keep, any of u, v and s."""
    if isinstance(record, str):
        raise UsageError(f"record: expected a tuple of names, e.g. ({record!r},), got the text {record!r}")
    names = checks.items(record, "record", str)
    if unknown := sorted(set(names) - {"u", "v", "s"}):
        raise UsageError(f"record: expected any of 'u', 'v', 's', got {unknown}")
    return names


def shape(value: Any, where: str, length: int | None = None, low: int = 1, high: int = 2**31 - 1) -> tuple[int, ...]:
    """Return a tuple of integers low … high, ``length`` of them; None: at least one."""
    try:
        found = tuple(operator.index(n) for n in value)
    except TypeError:
        raise ChipError(f"{where}: expected a tuple of integers, got {value!r}") from None
    if not found or (length is not None and len(found) != length) or not all(low <= n <= high for n in found):
        many = "" if length is None else f"{length} "
        raise ChipError(f"{where}: expected a tuple of {many}integers {low} … {high}, got {value!r}")
    return found


def integer(value: Any, where: str, low: int, high: int) -> None:
    """Refuse anything but an integer low … high, a bool too."""
    try:
        checks.integer(value, where, low, high)
    except UsageError as error:
        raise ChipError(str(error)) from None


def integers(value: Any, where: str, low: int, high: int) -> np.ndarray:
    """Return integers low … high as int32, a copy."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ChipError(f"{where}: expected integers, got dtype {array.dtype}")
    bad = np.argwhere((array < low) | (array > high))
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        raise ChipError(f"{where}: expected integers in [{low}, {high}], got {array[place]} at {place}")
    return array.astype(np.int32)


def per_neuron(value: Any, where: str, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return integers low … high, one for all or one for each neuron, as int32 ``shape``, read-only."""
    array = integers(value, where, low, high)
    try:
        return read_only(np.broadcast_to(array, shape))
    except ValueError:
        raise ChipError(f"{where}: expected one number, or one for each neuron of {shape}, got {array.shape}") from None


def threshold(value: Any, where: str, shape: tuple[int, ...]) -> np.ndarray | int:
    """Return a number, or an array of different ones, in which 0 is refused: rounding has lost that threshold."""
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        number = value[()] if isinstance(value, np.ndarray) else value
        integer(number, where, 0, arithmetic.VTH_MAX)
        return int(number)
    array = per_neuron(value, where, 1, arithmetic.VTH_MAX, shape)
    first = int(array.flat[0])
    return first if (array == first).all() else array


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a read-only int32 copy."""
    array = np.array(array, np.int32)
    array.setflags(write=False)
    return array
