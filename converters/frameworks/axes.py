"""Which axes of a tensor a torch function acts on: those of steps and samples, or a sample's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from torch import Tensor


def from_the_end(
    args: tuple[Any, ...], swapped: Any, named: dict[str, Any], own: int
) -> tuple[tuple[Any, ...], Any, dict[str, Any], bool]:
    """Return a reduction's arguments with axes from the end, and whether all are of a sample's ``own`` axes."""
    found = named.get("dim", named.get("axis", args[1] if len(args) > 1 else None))
    axes = [found] if isinstance(found, int) else list(found) if isinstance(found, (tuple, list)) else []
    if not axes or not all(isinstance(axis, int) for axis in axes):
        return args, swapped, named, False
    axes = [axis if axis < 0 else axis - args[0].ndim for axis in axes]
    named = {key: value for key, value in named.items() if key not in ("dim", "axis")} | {"dim": axes}
    if len(swapped) > 2:
        named["keepdim"] = swapped[2]
    return args, swapped[:1], named, all(axis >= -own for axis in axes)


def first_index(index: Any) -> int | None:
    """Return the step that an index takes, ``[t]``, ``[t, :, :]`` or ``[t, ...]``; None: another one."""
    first, *others = index if isinstance(index, tuple) else (index,)
    whole = all(part is Ellipsis or part == slice(None) for part in others)
    return first if whole and isinstance(first, int) and not isinstance(first, bool) else None


def in_place(name: str) -> bool:
    """Return whether a torch function writes into its argument."""
    return name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


def numbers_of(whole: Tensor, part: Tensor, axis: int) -> list[int]:
    """Return the numbers along an axis of a tensor that a view of it has elements of, in order."""

    def seen(buffer: np.ndarray, tensor: Tensor) -> np.ndarray:
        strides = [buffer.itemsize * stride for stride in tensor.stride()]
        return as_strided(buffer[tensor.storage_offset() :], tuple(tensor.shape), strides)

    numbers = np.zeros(whole.untyped_storage().nbytes() // whole.element_size(), np.int64)
    np.moveaxis(seen(numbers, whole), axis, -1)[...] = np.arange(whole.shape[axis])
    return np.unique(seen(numbers, part)).tolist()


def reordered(name: str, args: tuple[Any, ...], kwargs: Any, result: Tensor, own: int) -> bool:
    """Return whether a function takes steps or samples in another order, or some of them, into a new tensor.

    own: axes of one sample
    """
    outer = args[0].ndim - own
    if name == "__getitem__":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        copies = result.untyped_storage().data_ptr() != args[0].untyped_storage().data_ptr()
        return copies and any(not isinstance(part, slice) and part is not Ellipsis for part in index[:outer])
    if name not in ("flip", "roll", "index_select"):
        return False
    place = 2 if name == "roll" else 1
    found = next((kwargs[key] for key in ("dims", "dim") if key in kwargs), None)
    axes = args[place] if found is None and len(args) > place else found
    axes = [axes] if isinstance(axes, int) else [] if axes is None else list(axes)
    return not axes or any(axis % args[0].ndim < outer for axis in axes)
