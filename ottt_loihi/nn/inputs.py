"""The input of a network over time, and the one place that checks samples and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.errors import UsageError


@dataclass(frozen=True, eq=False)
class ConstantInput:
    """An input that is the same in every time step (direct coding), in place of a ``(batch, T, *input_shape)`` tensor.

    Attributes
    ----------
    frame
        the values of every time step, ``(batch, *input_shape)``
    num_steps
        number of time steps, T ≥ 1
    """

    frame: Tensor
    num_steps: int

    def __post_init__(self) -> None:
        checks.integer(self.num_steps, "ConstantInput.num_steps")

    @property
    def shape(self) -> torch.Size:
        """Return the shape of the tensor that it stands for: ``(batch, T, *input_shape)``."""
        return torch.Size((len(self.frame), self.num_steps, *self.frame.shape[1:]))

    def __len__(self) -> int:
        return len(self.frame)

    def to(self, *arguments: Any, **settings: Any) -> ConstantInput:
        """Return the input on another device or in another dtype, as ``Tensor.to``."""
        return ConstantInput(self.frame.to(*arguments, **settings), self.num_steps)

    def dense(self) -> Tensor:
        """Return the input as a tensor ``(batch, T, *input_shape)`` that shares the frame's memory."""
        return self.frame.unsqueeze(1).expand(self.shape)


Input = Tensor | ConstantInput


def frames(x: Input) -> Iterator[Tensor]:
    """Return the T frames ``(batch, *input_shape)`` of an input, in order."""
    return iter([x.frame] * x.num_steps if isinstance(x, ConstantInput) else x.unbind(1))


def check_input(x: Any, input_shape: tuple[int, ...], like: Tensor) -> Input:
    """Return ``x`` in the dtype and on the device of ``like``.

    Parameters
    ----------
    x
        ``(batch, T, *input_shape)``: a tensor, an array or a :class:`ConstantInput`, of finite real numbers
    input_shape
        of one frame
    like
        a weight of the network

    Raises
    ------
    UsageError
        for another shape or type, NaN, infinity or complex numbers
    """
    constant = isinstance(x, ConstantInput)
    values = _as_tensor(x.frame if constant else x, "input")
    shape = x.shape if constant else values.shape
    if len(shape) != 2 + len(input_shape) or tuple(shape[2:]) != input_shape or 0 in shape:
        expected = ", ".join(("batch", "time steps", *map(str, input_shape)))
        raise UsageError(f"input: expected shape ({expected}), got {tuple(shape)}")
    # NaN passes through both extremes; ``isfinite`` would take memory of x's size
    if values.is_floating_point() or like.dtype == torch.float16:
        extremes = torch.stack(torch.aminmax(values.detach()))
        if not bool(torch.isfinite(extremes).all()):
            raise UsageError("input: expected finite real numbers, got NaN, infinity or complex ones")
        if not bool(torch.isfinite(extremes.to(like.dtype)).all()):
            low, high = extremes.tolist()
            raise UsageError(f"input: {low:g} … {high:g} is more than the network's {like.dtype} holds; scale it")
    values = values.to(like.device, like.dtype)
    return ConstantInput(values, x.num_steps) if constant else values


def check_labels(labels: Any, samples: int, num_classes: int, device: torch.device | str = "cpu") -> Tensor:
    """Return ``labels`` as int64 ``(samples,)`` on ``device``.

    UsageError for another shape, numbers that are no integers, or classes outside 0 … num_classes − 1.
    """
    labels = _as_tensor(labels, "labels")
    if tuple(labels.shape) != (samples,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(f"labels: expected {samples} integers, got {labels.dtype} of shape {tuple(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise UsageError(f"labels: expected 0 … {num_classes - 1}, got {low if low < 0 else high}")
    return labels.to(device, torch.int64)


def _as_tensor(values: Any, where: str) -> Tensor:
    """Any array of real numbers as a tensor; NumPy's byte orders and unsigned integers that torch lacks, too."""
    if not isinstance(values, Tensor):
        try:
            known = isinstance(values, (list, tuple)) or hasattr(values, "__array__")
            array = np.asarray(values) if known else np.empty(0, object)
        except (TypeError, ValueError, RuntimeError):
            array = np.empty(0, object)
        if array.dtype.kind not in "biufc":
            kind = f" of {values.dtype}" if isinstance(values, np.ndarray) else ""
            raise UsageError(f"{where}: expected an array of numbers, got {type(values).__name__}{kind}")
        if array.dtype.kind == "u":
            if array.size and int(array.max()) > np.iinfo(np.int64).max:
                raise UsageError(f"{where}: expected numbers below 2^63, got {int(array.max())}")
            array = array.astype(np.int64)
        values = torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    if values.is_complex():
        raise UsageError(f"{where}: expected real numbers, got complex ones")
    if values.layout != torch.strided or values.is_quantized:
        raise UsageError(
            f"{where}: expected a dense tensor, got a {'quantised' if values.is_quantized else 'sparse'} one"
        )
    return values
