"""Effective weights, used in place of the parameter: standardised, of one bit, or as the chip will hold them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def standardize(weight: Tensor, gain: Tensor) -> Tensor:
    """``gain·(w − mean)/√(var·n + 1e-4)`` per output, n = inputs of an output, var unbiased (the released code's).

    ::

        c = w − mean    r = 1/√(var·n + 1e-4)    ŵ = gain·r·c    h = gain·∂L/∂ŵ
        ∂L/∂w = r·(h − mean h) − r³·n/(n − 1)·(Σ h·c)·c          ∂L/∂gain = r·Σ c·∂L/∂ŵ
    """
    return _Standardized.apply(weight, gain)


class _Standardized(torch.autograd.Function):
    """In a few passes over the weights; autograd's own way through ``var_mean`` took most of a small network's time."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gain: Tensor) -> Tensor:
        flat = weight.flatten(1)
        n = flat.shape[1]
        centred = flat - flat.mean(1, keepdim=True)
        variance = torch.linalg.vector_norm(centred, dim=1, keepdim=True).square() / (n - 1)
        r = torch.rsqrt(variance * n + 1e-4)
        ctx.save_for_backward(centred, r, gain)
        return (centred * (gain[:, None] * r)).view_as(weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        centred, r, gain = ctx.saved_tensors
        n, shape, g = centred.shape[1], g.shape, g.flatten(1)
        along = (g * centred).sum(1, keepdim=True)
        scale = gain[:, None] * r
        back = g * scale - g.mean(1, keepdim=True) * scale
        back.addcmul_(centred, along * scale * r.square(), value=-n / (n - 1))
        return back.view(shape), (along * r).flatten()


def binarize(weight: Tensor, scale: str = "channel") -> Tensor:
    """``a·sign(w)``, sign(0) = 1, a = ``mean |w|`` of each output (``"channel"``), or of all weights (``"layer"``).

    a is the least-squares scale of the signs. The gradient is ``∂L/∂w = a·∂L/∂ŵ`` where ``|w| ≤ 1`` and 0 elsewhere, as
    if a were a constant.

    Source: SEI-BWSNN (2025) in our reconstruction, after XNOR-Net's scale and the straight-through estimator; one scale
    a layer is ours. On the chip the weights are ±1 and a is in the thresholds, θ/a
    (``converters/quantize/channel_scale.py``).
    """
    return _Binary.apply(weight, scale)


class _Binary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: str) -> Tensor:
        size = weight.abs()
        a = size.mean() if scale == "layer" else size.mean(list(range(1, weight.ndim)), keepdim=True)
        ctx.save_for_backward(weight, a)
        return torch.where(weight < 0, -a, a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        weight, a = ctx.saved_tensors
        return g * a * (weight.abs() <= 1), None


def fake_quantize(weight: Tensor, bits: int) -> Tensor:
    """The weight on the grid of ``converters/quantize/quantize.py``, its gradient passed through as if nothing had been
    rounded.

    ::

        clip(step·round(S·w / step), −256, 256 − step) / S        step = 2^(9 − bits)        S = 254 / max|w|
    """
    with torch.no_grad():
        scale = 254 / weight.abs().max().clamp(min=torch.finfo(weight.dtype).tiny)
        step = 2 ** (9 - bits)
        change = (step * torch.round(weight * scale / step)).clamp_(-256, 256 - step).div_(scale).sub_(weight)
    return weight + change
