"""Products of 16 bits inside ``torch.autocast``: weights, membranes, traces and sums of gradients stay as they are.

``autocast`` changes the dtype of forward products, not of the gradients that an online rule forms itself; those ask
here. float16 has no exponent to spare for errors, which differ by orders of magnitude between layers and steps: each is
multiplied by a power of two before its product and divided by it afterwards, so that no scale of the loss is needed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ottt_loihi.errors import UsageError


class no_graph(torch.no_grad):
    """``torch.no_grad`` for what runs before the graph of the same weights is made.

    Autocast keeps the 16 bits of a weight until it ends, and would go on with these, which have no graph.
    """

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.clear_autocast_cache()


AUTOCASTS = {"": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def product_dtype(like: Tensor) -> torch.dtype:
    """The dtype of products here and now: autocast's where it is on, otherwise that of ``like``."""
    kind = like.device.type
    if hasattr(torch, "get_autocast_dtype"):  # from torch 2.4 on
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    if kind == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else like.dtype
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else like.dtype


def error_for_product(g: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    """``(g·c as dtype, 1/c)``; c is a power of two that brings max|g| near 1 for float16, and 1 otherwise."""
    if dtype != torch.float16 or g.dtype == dtype:
        return g.to(dtype), 1.0
    largest = float(g.abs().max()) if g.numel() else 0.0
    if not (0 < largest < math.inf):
        return g.to(dtype), 1.0
    c = 2.0 ** -math.frexp(largest)[1]
    return (g * c).to(dtype), 1 / c


def check_autocast(name: str) -> torch.dtype | None:
    """The dtype of a name, None for no autocast; raises :class:`UsageError` for others."""
    if not isinstance(name, str) or name not in AUTOCASTS:
        raise UsageError(f"autocast: expected bfloat16, float16 or nothing, got {name!r}")
    return AUTOCASTS[name]
