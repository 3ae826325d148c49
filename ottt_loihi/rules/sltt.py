"""Spatial learning through time (Meng et al., ICCV 2023, arXiv 2302.14311)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.paths import GradientPaths
from ottt_loihi.rules.base import OnlineRule
from ottt_loihi.rules.hlop import HLOP


class SLTT(OnlineRule):
    """``∇W = Σ_t g[t]·x[t]ᵀ``: OTTT without the trace; no gradient runs back through time at all.

    ``k``: SLTT-K, only that many of the T steps, drawn anew for every batch (from torch's global generator), have a
    backward pass; None: all of them. ``update`` and ``hlop`` as in OTTT.
    """

    name: ClassVar[str] = "sltt"
    trains_modules: ClassVar[bool] = True
    settings = ("update", "k")

    def __init__(
        self,
        update: str = "sequence",
        k: int | None = None,
        hlop: HLOP | Mapping[str, Any] | None = None,
    ) -> None:
        if k is not None:
            checks.integer(k, "k")
        super().__init__(GradientPaths(membrane=False), update, hlop)
        self.k = k

    def steps_with_gradient(self, num_steps: int) -> set[int]:
        if self.k is None:
            return super().steps_with_gradient(num_steps)
        if self.k > num_steps:
            raise UsageError(f"k: expected at most the {num_steps} time steps, got {self.k}")
        return set(torch.randperm(num_steps)[: self.k].tolist())

    def why_not_captured(self) -> str:
        return super().why_not_captured() if self.k is None else "SLTT-K draws its steps anew for every batch"
