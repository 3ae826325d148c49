"""The arguments of torch's functions by name, however they were called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ottt_loihi.converters.frameworks.trace import Node


def linear(input: Any, weight: Any, bias: Any = None) -> None: ...


def conv(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> None: ...


def batch_norm(
    input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> None: ...  # fmt: skip


def avg_pool(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: Any = None,
) -> None: ...  # fmt: skip


def lp_pool(input: Any, norm_type: Any, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> None: ...


def arguments(like: Callable[..., None], node: Node) -> Mapping[str, Any]:
    """Return the arguments of a call by the names that ``like`` gives them."""
    bound = inspect.signature(like).bind(*node.call[1], **node.call[2])
    bound.apply_defaults()
    return bound.arguments
