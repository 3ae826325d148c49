"""The autograd function of a synapse whose weight gradient uses the presynaptic trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ottt_loihi.nn.precision import error_for_product, product_dtype

if TYPE_CHECKING:
    from ottt_loihi.nn.connections import Synapse


class Traced(torch.autograd.Function):
    """A synapse with one product forwards; the trace enters backwards only, in the weight's gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        pre: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        bias_trace: float,
        synapse: Synapse,
        collect: bool,
    ) -> Tensor:
        ctx.save_for_backward(pre, weight)
        ctx.bias_trace, ctx.synapse, ctx.leaf = bias_trace, synapse, weight if collect else None
        ctx.kind = product_dtype(weight)
        return synapse._product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        pre, weight = ctx.saved_tensors
        wants_x, _, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        grad_bias = ctx.bias_trace * g.sum([0, *range(2, g.ndim)], dtype=weight.dtype) if wants_bias else None
        if ctx.kind != weight.dtype:
            grad_x, grad_weight = lowered_gradients(ctx.synapse, g, pre, weight, (wants_x, wants_weight), ctx.kind)
            return grad_x, None, grad_weight, grad_bias, None, None, None
        collects = ctx.leaf is not None and wants_weight and ctx.leaf.grad is not None and g.ndim == 2
        grad_x, grad_weight = ctx.synapse._gradients(g, pre, weight, (wants_x, wants_weight and not collects))
        if collects:  # no product of its own that is added afterwards
            ctx.leaf.grad.addmm_(g.t(), pre)
        return grad_x, None, grad_weight, grad_bias, None, None, None


def lowered_gradients(
    synapse: Synapse, g: Tensor, pre: Tensor, weight: Tensor, wanted: tuple[bool, bool], kind: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """:meth:`Synapse._gradients` with products of 16 bits."""
    low, factor = error_for_product(g, kind)
    found = synapse._gradients(low, pre.to(kind), weight.to(kind), wanted)
    return tuple(None if part is None else part.to(weight.dtype).mul_(factor) for part in found)  # type: ignore[return-value]
