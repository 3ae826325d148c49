"""Connections: what multiplies spikes by weights.

A connection is a module called as ``connection(x)``. It holds parameters and nothing that changes from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.part import Part
from ottt_loihi.nn.weights import binarize, fake_quantize, standardize

BINARY = ("channel", "layer")
SPIKE_SCALE = 2.74  # 1/√(p·(1 − p)), p = P(N(0, 1) > 1): makes the variance of spikes at Vth = 1 one


def pooled_shape(shape: tuple[int, ...], pool: int | tuple[int, int] | str | None) -> tuple[int, ...]:
    """Return the shape after average pooling, without the batch; UsageError if there is no image to pool."""
    if pool is None:
        return shape
    if len(shape) != 3:
        raise UsageError(f"pool={pool!r}: expected an image (channels, height, width) to pool, got {shape}")
    window = shape[1:] if pool == "global" else checks.both(pool)
    fits = tuple(min(n, k) for n, k in zip(shape[1:], window))
    if fits != window:
        raise UsageError(
            f"pool={pool!r}: the window is larger than the image, height {shape[1]} and width {shape[2]}; use "
            f"pool={fits}, AP{fits[0]}x{fits[1]} in features"
        )
    return (shape[0], *(n // k for n, k in zip(shape[1:], window)))


def convolved(image: Sequence[int], where: str, *geometry: int | tuple[int, int]) -> list[int]:
    """Return (height, width) after a convolution; geometry: kernel, stride, padding, dilation. UsageError for none."""
    pairs = [checks.both(size) for size in geometry]
    found = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(image, *pairs)]
    if min(found) < 1:
        kernel, image = ("×".join(map(str, size)) for size in (pairs[0], image))
        raise UsageError(f"{where}: a {kernel} kernel does not fit an image of {image}")
    return found


class Weights(NamedTuple):
    """The weight and bias that multiply the spikes, after scales, standardisation and rounding."""

    weight: Tensor
    bias: Tensor | None


class Connection(Part):
    """``I[t] = c·(κ·Ŵ ∗ P(x[t]) + b)``: what :class:`Linear` and :class:`Conv2d` have in common.

    With g = ∂L/∂I[t] the gradients are ∂L/∂Ŵ = c·κ·g ∗ P(x[t]), ∂L/∂b = c·Σ g and ∂L/∂x = c·κ·Pᵀ(Ŵᵀ ∗ g). An online
    rule puts the traces â and Λ in place of x and 1 (:func:`~ottt_loihi.nn.trace.with_trace`).

    ==============  =============================  =================================================================
    name            kind                           meaning
    ==============  =============================  =================================================================
    weight, bias    parameters, bias may be None   W, b
    gain            parameter ``(out,)`` or None   with it Ŵ = gain·(W − mean)/√(var·n + 1e-4) per output, n inputs of
                                                   an output, var unbiased: scaled weight standardisation; else Ŵ = W
    skip_gain       scalar parameter or None       a learnable factor of c that begins at 0 (residual branches)
    input_scale     number                         κ: what a presynaptic spike counts
    output_scale    number                         c without ``skip_gain``
    binary          None, ``"channel"``,           Ŵ = a·sign(Ŵ), a: mean size in an output, or of all
                    ``"layer"``                    (:func:`~ottt_loihi.nn.weights.binarize`)
    weight_bits     None or 2 … 8                  W as the chip will have it in the product, while the parameter stays
                                                   real: quantisation-aware fine-tuning
                                                   (:func:`~ottt_loihi.nn.weights.fake_quantize`)
    pool            None, int, (int, int) or       P: average pooling of the input over k×k, over (height, width), or
                    ``"global"``                   over everything
    ==============  =============================  =================================================================

    Source: OTTT (arXiv 2210.04195) §4.3 and its released code for standardisation and scale; NF-ResNets (Brock 2021)
    for ``skip_gain``.
    """

    constants = ("input_scale", "output_scale", "pool", "binary", "weight_bits")
    INITIAL_GAIN: ClassVar[float] = math.sqrt(6)  # Kaiming's; with less, hardly a neuron fires at the start

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        shape: Sequence[int],
        bias: bool,
        generator: torch.Generator | None,
        *,
        standardized: bool = False,
        skip_gain: bool = False,
        input_scale: float = 1.0,
        output_scale: float = 1.0,
        pool: int | tuple[int, int] | str | None = None,
        binary: str | None = None,
        weight_bits: int | None = None,
    ) -> None:
        super().__init__()
        self.binary = checks.one_of(binary, "binary", BINARY, none=True)
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if checks.flag(bias, "bias") else None
        self.gain = nn.Parameter(torch.ones(shape[0])) if checks.flag(standardized, "standardized") else None
        self.skip_gain = nn.Parameter(torch.zeros(())) if checks.flag(skip_gain, "skip_gain") else None
        self.input_scale = checks.number(input_scale, "input_scale")
        self.output_scale = checks.number(output_scale, "output_scale")
        if pool is not None and pool != "global":
            pool = checks.pair(pool, "pool")
        self.pool = pool
        self.weight_bits = None if weight_bits is None else checks.integer(weight_bits, "weight_bits", 2, 8)
        self.reset_parameters(checks.instance(generator, "generator", torch.Generator, none=True))

    @property
    def fan_in(self) -> int:
        """Return the number of inputs of one output."""
        return math.prod(self.weight.shape[1:])

    def settings(self) -> dict[str, Any]:
        parameters = {"bias": self.bias, "standardized": self.gain, "skip_gain": self.skip_gain}
        return {**super().settings(), **{name: value is not None for name, value in parameters.items()}}

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights uniformly from ±gain/√fan_in, and set the bias to 0."""
        if self.weight.is_meta:  # only the shapes are wanted (checkpoint.load)
            return
        bound = self.INITIAL_GAIN / math.sqrt(self.fan_in)
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            if self.bias is not None:
                self.bias.zero_()

    def effective(self) -> Weights:
        """Return ``(c·κ·Ŵ, c·b)``, differentiable; the parameters themselves if no option scales them."""
        weight, bias = self.weight, self.bias
        if self.gain is not None:
            weight = standardize(weight, self.gain)
        if self.binary is not None:
            weight = binarize(weight, self.binary)
        scale = self.output_scale if self.skip_gain is None else self.skip_gain * self.output_scale
        if isinstance(scale, Tensor) or scale * self.input_scale != 1:
            weight = weight * (scale * self.input_scale)
        if bias is not None and (isinstance(scale, Tensor) or scale != 1):
            bias = bias * scale
        if self.weight_bits is not None:
            weight = fake_quantize(weight, self.weight_bits)
        return Weights(weight, bias)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the output's shape without the batch, for an input of this shape; UsageError if it does not fit."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return I[t] of x ``(batch, …)``."""
        return self.current(x, self.effective())

    def current(self, x: Tensor, weights: Weights) -> Tensor:
        """Return I[t] with these weights: pooling and rearranging, the product, what comes after it."""
        return self.after(self.product(self.before(x), *weights))

    def before(self, x: Tensor) -> Tensor:
        """Return the input of the weights for x."""
        return self.pooled(x)

    def pooled(self, x: Tensor) -> Tensor:
        """Return P(x)."""
        if self.pool is None:
            return x
        return x.mean((2, 3), keepdim=True) if self.pool == "global" else functional.avg_pool2d(x, self.pool)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``weight ∗ x + bias``."""
        raise NotImplementedError

    def after(self, current: Tensor) -> Tensor:
        """Return the current that the neurons get of the product."""
        return current


class Linear(Connection):
    """``I[t] = W·x[t] + b``, fully connected; see :class:`Connection`.

    weight: ``(out_features, in_features)``, bias: ``(out_features,)`` or None. An input of shape ``(batch, …)`` is
    flattened to ``(batch, in_features)``. ``generator``: of the initial weights, default torch's global one.
    """

    constants = ("in_features", "out_features", *Connection.constants)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> None:
        checks.integer(in_features, f"{type(self).__name__}.in_features")
        checks.integer(out_features, f"{type(self).__name__}.out_features")
        super().__init__((out_features, in_features), bias, generator, **settings)
        self.out_features, self.in_features = self.weight.shape

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        shape = pooled_shape(input_shape, self.pool)
        if math.prod(shape) != self.in_features:
            raise UsageError(f"Linear: expected {self.in_features} inputs, got shape {shape}")
        return (self.out_features,)

    def before(self, x: Tensor) -> Tensor:
        return self.pooled(x).flatten(1)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)


class Conv2d(Connection):
    """``I[t] = W ∗ x[t] + b``, torch's cross-correlation; see :class:`Connection`.

    weight: ``(out_channels, in_channels/groups, *kernel_size)``, bias: ``(out_channels,)`` or None; x: ``(batch,
    in_channels, height, width)``; data of one dimension are images of height 1. ``kernel_size``, ``stride``,
    ``padding``, ``dilation``: a number, or (vertical, horizontal). ``upsample``: repeat every pixel of the input that
    many times in both directions before the weights (nearest neighbour). ``pool_after``: (k, stride, padding) of an
    average pooling of the current.
    """

    constants = (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
        *("upsample", "pool_after", *Connection.constants),
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        bias: bool = False,
        generator: torch.Generator | None = None,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        upsample: int = 1,
        pool_after: tuple[int, int, int] | None = None,
        **settings: Any,
    ) -> None:
        counts = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups, "upsample": upsample}
        counts = {name: checks.integer(value, f"Conv2d.{name}") for name, value in counts.items()}
        kernel_size = checks.pair(kernel_size, "Conv2d.kernel_size")
        if in_channels % groups or out_channels % groups:
            raise UsageError(
                f"Conv2d.groups: expected a divisor of {in_channels} and {out_channels} channels, got {groups}"
            )
        shape = (out_channels, in_channels // groups, *checks.both(kernel_size))
        super().__init__(shape, bias, generator, **settings)
        for name, value in counts.items():
            setattr(self, name, value)
        self.kernel_size, self.padding = kernel_size, checks.pair(padding, "Conv2d.padding", 0)
        self.stride, self.dilation = checks.pair(stride, "Conv2d.stride"), checks.pair(dilation, "Conv2d.dilation")
        self.pool_after = None if pool_after is None else _window(pool_after)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        shape = pooled_shape(input_shape, self.pool)
        if len(shape) != 3 or shape[0] != self.in_channels:
            raise UsageError(f"Conv2d: expected an image of {self.in_channels} channels, got shape {shape}")
        sizes = self.convolved(shape[1:])
        return (self.out_channels, *(convolved(sizes, "Conv2d", *self.pool_after, 1) if self.pool_after else sizes))

    def convolved(self, image: Sequence[int]) -> list[int]:
        """Return height and width of the product for an image (height, width) after ``pool``."""
        sizes = [n * self.upsample for n in image]
        return convolved(sizes, "Conv2d", self.kernel_size, self.stride, self.padding, self.dilation)

    def before(self, x: Tensor) -> Tensor:
        x = self.pooled(x)
        return x if self.upsample == 1 else functional.interpolate(x, scale_factor=self.upsample, mode="nearest")

    def after(self, current: Tensor) -> Tensor:
        if self.pool_after is None:
            return current
        kernel, stride, padding = self.pool_after
        return functional.avg_pool2d(current, kernel, stride, padding)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def _window(value: Any) -> tuple[int, int, int]:
    """(kernel, stride, padding) of a pooling."""
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        raise UsageError(f"Conv2d.pool_after: expected (kernel, stride, padding), got {value!r:.80}")
    names = (("kernel", 1), ("stride", 1), ("padding", 0))
    return tuple(checks.integer(v, f"Conv2d.pool_after, {n}", low) for v, (n, low) in zip(value, names))


class Elementwise(Connection):
    """``I[t] = w ⊙ x[t]``: one weight for each neuron, for recurrence of a neuron with itself alone.

    weight: of ``shape``, which broadcasts to the neurons': ``(n,)``, ``(channels, height, width)``, or ``(channels, 1,
    1)`` for one in a channel. ``generator``: of the initial weights, uniform in ±1; default torch's global one.
    """

    INITIAL_GAIN: ClassVar[float] = 1.0

    def __init__(
        self, shape: int | Sequence[int], generator: torch.Generator | None = None, *, weight_bits: int | None = None
    ) -> None:
        sizes = checks.sizes((shape,) if checks.is_integer(shape) else shape, "Elementwise.shape", 1)
        super().__init__(sizes, False, generator, weight_bits=weight_bits)

    def settings(self) -> dict[str, Any]:
        return {"shape": tuple(self.weight.shape), "weight_bits": self.weight_bits}

    @property
    def fan_in(self) -> int:
        return 1

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        sizes = tuple(self.weight.shape)
        if len(sizes) != len(input_shape) or any(n not in (1, m) for n, m in zip(sizes, input_shape)):
            raise UsageError(f"Elementwise: weights of shape {sizes} do not fit neurons of shape {tuple(input_shape)}")
        return tuple(input_shape)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return weight * x


class Readout(Linear):
    """``o[t] = W·s[t] + b``: a :class:`Linear` that feeds no neuron and remembers nothing.

    The network's scores are Σ_t o[t] and its prediction is their argmax.
    """

    INITIAL_GAIN: ClassVar[float] = 1.0
