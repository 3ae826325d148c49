"""Nested state of optimisers, schedules and callbacks as JSON values and tensors, and back without trust."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ottt_loihi.errors import UsageError


def pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return ``value`` as JSON values; its tensors are added to ``tensors`` under names that begin with ``place``.

    Raises
    ------
    UsageError
        for anything but numbers, texts, None, lists, dicts with keys of text or integers, arrays and tensors
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        tensors[place] = value
        return {"tensor": place}
    if isinstance(value, tuple):
        return {"tuple": [pack(part, f"{place}/{index}", tensors) for index, part in enumerate(value)]}
    if isinstance(value, (list, deque)):
        return [pack(part, f"{place}/{index}", tensors) for index, part in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
        return {"dict": [[key, pack(part, f"{place}/{key}", tensors)] for key, part in value.items()]}
    raise UsageError(f"{place}: a state holds numbers, texts, lists, dicts and tensors, got {type(value).__name__}")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what :func:`pack` was given; ValueError, KeyError or TypeError for what it did not write."""
    if isinstance(value, list):
        return [unpack(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "tuple":
        return tuple(unpack(part, tensors) for part in content)
    if kind == "dict":
        return {key: unpack(part, tensors) for key, part in content}
    raise ValueError(f"{kind!r:.40} is no kind of state")


def like(found: Any, expected: Any, place: str) -> Any:
    """Return ``found`` in the types of ``expected``; ValueError where it is of another kind.

    expected: the state of a new object of the same class, whose None says nothing.
    """
    if callable(expected) and found is None:
        return expected
    if expected is None or found is None or (_is_number(found) and _is_number(expected)):
        return found
    if isinstance(expected, Counter):
        return Counter(like(found, dict(expected), place))
    if isinstance(expected, Mapping):
        if isinstance(found, Mapping) and found.keys() == expected.keys():
            return {key: like(part, expected[key], f"{place}/{key}") for key, part in found.items()}
    elif type(found) is type(expected):
        if not isinstance(expected, (list, tuple)):
            return found
        if len(found) == len(expected):
            return type(expected)(like(a, b, place) for a, b in zip(found, expected))
    raise ValueError(f"{place} does not fit")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
