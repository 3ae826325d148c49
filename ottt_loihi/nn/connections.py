"""Connections: weighted layers whose weight gradient can use the presynaptic trace.

Modules hold parameters only. What changes from step to step is passed in and out as named tuples, so that a step is a
function of its arguments; a state is ``None`` before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.precision import error_for_product, product_dtype
from ottt_loihi.nn.weights import binarize, fake_quantize, standardize

BINARY = ("channel", "layer")
SPIKE_SCALE = 2.74  # 1/√(p·(1 − p)), p = P(N(0, 1) > 1): makes the variance of spikes at Vth = 1 one


class ConnectionState(NamedTuple):
    """``trace``: â[t], of the (pooled) input's shape, None where no rule asked for it; ``bias_trace``: Λ_t.

    ``scratch``: memory for the next step's backward pass, where steps reuse theirs.
    """

    trace: Tensor | None
    bias_trace: float
    scratch: Tensor | None = None


class Weights(NamedTuple):
    """What a step multiplies with.

    ``collect``: the weight's gradient is added straight into ``weight.grad``, and the trace is updated in place; for
    rules whose every step has its backward pass before the next one. ``project``: what the weight's gradient uses in
    place of the trace (or input) it is given.
    """

    weight: Tensor
    bias: Tensor | None
    collect: bool = False
    project: Callable[[Tensor], Tensor] | None = None


class Connection(nn.Module):
    """``I[t] = c·(κ·Ŵ ∗ P(x[t]) + b)``: what :class:`Linear` and :class:`Conv2d` have in common.

    ::

        â[t] = λ·â[t−1] + P(x[t])         Λ_t = λ·Λ_{t−1} + 1                    g = ∂L/∂I[t]
        ∂L/∂Ŵ = c·κ·g ∗ â[t]              ∂L/∂b = c·Σ g·Λ_t                      ∂L/∂x = c·κ·Pᵀ(Ŵᵀ ∗ g)

    λ is the beta of the neurons this connection feeds: that makes ``g·âᵀ`` the derivative of their membrane's whole
    past (OTTT eq. 4). The gradient towards the input belongs to this step's x, not to the trace.

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
    pool            None, int or ``"global"``      P: average pooling of the input over k×k, or over everything; the
                                                   trace is kept at the pooled resolution
    ==============  =============================  =================================================================

    Source: OTTT (arXiv 2210.04195) §4.3 and its released code for standardisation and scale; NF-ResNets (Brock 2021)
    for ``skip_gain``.
    """

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
        pool: int | str | None = None,
        binary: str | None = None,
    ) -> None:
        super().__init__()
        self.binary = checks.one_of(binary, "binary", BINARY, none=True)
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.gain = nn.Parameter(torch.ones(shape[0])) if standardized else None
        self.skip_gain = nn.Parameter(torch.zeros(())) if skip_gain else None
        self.input_scale, self.output_scale = float(input_scale), float(output_scale)
        if pool is not None and pool != "global":
            pool = checks.integer(pool, "pool")
        self.pool = pool
        self.weight_bits: int | None = None
        self.reset_parameters(generator)

    @property
    def fan_in(self) -> int:
        """Inputs of one output."""
        return math.prod(self.weight.shape[1:])

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Weights uniform in ±gain/√fan_in, bias 0."""
        if self.weight.is_meta:  # only the shapes are wanted (checkpoint.load)
            return
        bound = self.INITIAL_GAIN / math.sqrt(self.fan_in)
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            if self.bias is not None:
                self.bias.zero_()

    def effective(self) -> Weights:
        """``(c·κ·Ŵ, c·b)``, differentiable towards the parameters; the parameters themselves where nothing scales."""
        weight, bias = self.weight, self.bias
        if self.gain is not None:
            weight = standardize(weight, self.gain)
        if self.binary is not None:
            weight = binarize(weight, self.binary)
        scale: float | Tensor = self.output_scale
        if self.skip_gain is not None:
            scale = self.skip_gain * scale
        if isinstance(scale, Tensor) or scale * self.input_scale != 1:
            weight = weight * (scale * self.input_scale)
        if bias is not None and (isinstance(scale, Tensor) or scale != 1):
            bias = bias * scale
        if self.weight_bits is not None:
            weight = fake_quantize(weight, self.weight_bits)
        return Weights(weight, bias)

    def forward(
        self,
        x: Tensor,
        state: ConnectionState | None = None,
        *,
        beta: float = 0.0,
        traced: bool = False,
        bias_traced: bool = False,
        weights: Weights | None = None,
    ) -> tuple[Tensor, ConnectionState]:
        """One step: the current, and the state after it.

        x: ``(batch, …)`` of the weight's dtype · beta: λ · traced, bias_traced: whether the gradients of W and b use
        â and Λ · weights: :meth:`effective`, where it was computed before.
        """
        weights = self.effective() if weights is None else weights
        scratch = self._scratch(x, state) if weights.collect else None
        x = self._receive(x, scratch)
        trace = _decayed(x, state, beta, in_place=weights.collect) if traced else None
        bias_trace = 1.0 + beta * state.bias_trace if bias_traced and state is not None else 1.0
        if trace is None and bias_trace == 1.0 and not weights.collect and weights.project is None:
            current = self._product(self._spread(x), weights.weight, weights.bias)
        else:
            pre = x.detach() if trace is None else trace
            pre = pre if weights.project is None else weights.project(pre)
            current = Traced.apply(
                self._spread(x), self._spread(pre), weights.weight, weights.bias, bias_trace, self, weights.collect
            )
        current = current.to(weights.weight.dtype)  # membranes do not take part in autocast
        return self._send(current), ConnectionState(trace, bias_trace, scratch)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of I[t] for an input of this shape, both without the batch; UsageError if it does not fit."""
        raise NotImplementedError

    def _receive(self, x: Tensor, scratch: Tensor | None = None) -> Tensor:
        """P(x)."""
        if self.pool is None:
            return x
        return x.mean((2, 3), keepdim=True) if self.pool == "global" else average_pool(x, self.pool, scratch)

    def _scratch(self, x: Tensor, state: ConnectionState | None) -> Tensor | None:
        """Memory for ∂L/∂x of a pooled input, on the CPU."""
        if not isinstance(self.pool, int) or not x.requires_grad or x.device.type != "cpu":
            return None
        known = None if state is None else state.scratch
        return torch.empty_like(x, memory_format=torch.channels_last) if known is None else known

    def _spread(self, x: Tensor) -> Tensor:
        """What comes after the trace and before the weights."""
        return x

    def _send(self, current: Tensor) -> Tensor:
        """What comes after the weights."""
        return current

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _gradients(
        self, g: Tensor, pre: Tensor, weight: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """∂L/∂x and ∂L/∂W of :meth:`_product`, with ``pre`` in place of x in the second."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        parts = [*self._geometry(), f"bias={self.bias is not None}"]
        parts += ["standardized=True"] * (self.gain is not None) + ["skip_gain=True"] * (self.skip_gain is not None)
        parts += [f"{n}={getattr(self, n):g}" for n in ("input_scale", "output_scale") if getattr(self, n) != 1]
        return ", ".join(parts + ([] if self.pool is None else [f"pool={self.pool!r}"]))

    def _geometry(self) -> list[str]:
        raise NotImplementedError


class Linear(Connection):
    """``I[t] = W·x[t] + b``, fully connected; see :class:`Connection`.

    weight: ``(out_features, in_features)``, bias: ``(out_features,)`` or None. An input of shape ``(batch, …)`` is
    flattened to ``(batch, in_features)``. ``generator``: of the initial weights, default torch's global one.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> None:
        name = type(self).__name__
        checks.integer(in_features, f"{name}.in_features")
        checks.integer(out_features, f"{name}.out_features")
        super().__init__((out_features, in_features), bias, generator, **settings)

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(pooled_shape(input_shape, self.pool)) != self.in_features:
            raise UsageError(
                f"Linear: expected {self.in_features} inputs, got shape {pooled_shape(input_shape, self.pool)}"
            )
        return (self.out_features,)

    def _receive(self, x: Tensor, scratch: Tensor | None = None) -> Tensor:
        return super()._receive(x, scratch).flatten(1)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)

    def _gradients(
        self, g: Tensor, pre: Tensor, weight: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        return g @ weight if wanted[0] else None, g.t() @ pre if wanted[1] else None

    def _geometry(self) -> list[str]:
        return [f"in_features={self.in_features}", f"out_features={self.out_features}"]


class Conv2d(Connection):
    """``I[t] = W ∗ x[t] + b``, torch's cross-correlation; see :class:`Connection`.

    weight: ``(out_channels, in_channels/groups, k, k)``, bias: ``(out_channels,)`` or None; x: ``(batch, in_channels,
    height, width)``. ``upsample``: repeat every pixel of the input that many times in both directions before the
    weights (nearest neighbour); the trace is kept before it. ``pool_after``: (k, stride, padding) of an average
    pooling of the current.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        bias: bool = False,
        generator: torch.Generator | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        upsample: int = 1,
        pool_after: tuple[int, int, int] | None = None,
        **settings: Any,
    ) -> None:
        for where, value in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("kernel_size", kernel_size),
            ("stride", stride),
            ("groups", groups),
            ("upsample", upsample),
        ):
            checks.integer(value, f"Conv2d.{where}")
        checks.integer(padding, "Conv2d.padding", 0)
        if in_channels % groups or out_channels % groups:
            raise UsageError(
                f"Conv2d.groups: expected a divisor of {in_channels} and {out_channels} channels, got {groups}"
            )
        shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        super().__init__(shape, bias, generator, **settings)
        self.stride, self.padding, self.groups = stride, padding, groups
        self.upsample, self.pool_after = upsample, pool_after

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def kernel_size(self) -> int:
        return self.weight.shape[-1]

    def effective(self) -> Weights:
        weights = super().effective()
        if not weights.weight.is_cuda:
            return weights
        # the layout of GPUs' fast convolutions; otherwise each of them would convert the weight for itself
        return weights._replace(weight=weights.weight.contiguous(memory_format=torch.channels_last))

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        shape = pooled_shape(input_shape, self.pool)
        if len(shape) != 3 or shape[0] != self.in_channels:
            raise UsageError(f"Conv2d: expected an image of {self.in_channels} channels, got shape {shape}")
        kernel = self.weight.shape[-1]
        sizes = [(n * self.upsample + 2 * self.padding - kernel) // self.stride + 1 for n in shape[1:]]
        if self.pool_after is not None:
            k, stride, padding = self.pool_after
            sizes = [(n + 2 * padding - k) // stride + 1 for n in sizes]
        if min(sizes) < 1:
            raise UsageError(f"Conv2d: a {kernel}×{kernel} kernel does not fit an image of {shape[1]}×{shape[2]}")
        return (self.out_channels, *sizes)

    def _receive(self, x: Tensor, scratch: Tensor | None = None) -> Tensor:
        return super()._receive(x.contiguous(memory_format=torch.channels_last), scratch)

    def _spread(self, x: Tensor) -> Tensor:
        return x if self.upsample == 1 else functional.interpolate(x, scale_factor=self.upsample, mode="nearest")

    def _send(self, current: Tensor) -> Tensor:
        if self.pool_after is None:
            return current
        kernel, stride, padding = self.pool_after
        return functional.avg_pool2d(current, kernel, stride, padding)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, weight, bias, self.stride, self.padding, 1, self.groups)

    def _gradients(
        self, g: Tensor, pre: Tensor, weight: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        pair = [self.stride] * 2, [self.padding] * 2, [1, 1]
        grad_x, grad_w, _ = torch.ops.aten.convolution_backward(
            g, pre, weight, None, *pair, False, [0, 0], self.groups, (*wanted, False)
        )
        return grad_x, grad_w

    def _geometry(self) -> list[str]:
        kernel = self.weight.shape[-1]
        parts = [f"{self.in_channels}", f"{self.out_channels}", f"kernel_size={kernel}"]
        defaults = {"stride": 1, "padding": 0, "groups": 1, "upsample": 1, "pool_after": None}
        return parts + [f"{n}={getattr(self, n)}" for n, default in defaults.items() if getattr(self, n) != default]


class Readout(Linear):
    """``o[t] = W·s[t] + b``: a :class:`Linear` that feeds no neuron and remembers nothing.

    The network's scores are Σ_t o[t] and its prediction is their argmax.
    """

    INITIAL_GAIN: ClassVar[float] = 1.0


def _decayed(x: Tensor, state: ConnectionState | None, beta: float, in_place: bool = False) -> Tensor:
    """â[t] = λ·â[t−1] + x[t], a constant to autograd; in place of â[t−1] where nobody reads that any more."""
    x = x.detach()
    if state is None or state.trace is None:
        return x.clone() if in_place else x
    return torch.add(x, state.trace, alpha=beta, out=state.trace if in_place else None)


class Traced(torch.autograd.Function):
    """A connection with one product forwards; the trace enters backwards only, in the weight's gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        pre: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        bias_trace: float,
        connection: Connection,
        collect: bool,
    ) -> Tensor:
        ctx.save_for_backward(pre, weight)
        ctx.bias_trace, ctx.connection, ctx.leaf = bias_trace, connection, weight if collect else None
        ctx.kind = product_dtype(weight)
        return connection._product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        pre, weight = ctx.saved_tensors
        wants_x, _, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        grad_bias = ctx.bias_trace * g.sum([0, *range(2, g.ndim)], dtype=weight.dtype) if wants_bias else None
        if ctx.kind != weight.dtype:
            grad_x, grad_weight = lowered_gradients(ctx.connection, g, pre, weight, (wants_x, wants_weight), ctx.kind)
            return grad_x, None, grad_weight, grad_bias, None, None, None
        collects = ctx.leaf is not None and wants_weight and ctx.leaf.grad is not None and g.ndim == 2
        grad_x, grad_weight = ctx.connection._gradients(g, pre, weight, (wants_x, wants_weight and not collects))
        if collects:  # no product of its own that is added afterwards
            ctx.leaf.grad.addmm_(g.t(), pre)
        return grad_x, None, grad_weight, grad_bias, None, None, None


def lowered_gradients(
    connection: Connection, g: Tensor, pre: Tensor, weight: Tensor, wanted: tuple[bool, bool], kind: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """:meth:`Connection._gradients` with products of 16 bits."""
    low, factor = error_for_product(g, kind)
    found = connection._gradients(low, pre.to(kind), weight.to(kind), wanted)
    return tuple(None if part is None else part.to(weight.dtype).mul_(factor) for part in found)  # type: ignore[return-value]


def pooled_shape(shape: tuple[int, ...], pool: int | str | None) -> tuple[int, ...]:
    """What average pooling makes of a shape (without the batch); UsageError if there is no image to pool."""
    if pool is None:
        return shape
    if len(shape) != 3 or (isinstance(pool, int) and min(shape[1:]) < pool):
        raise UsageError(f"pool={pool!r}: expected an image (channels, height, width) to pool, got {shape}")
    return (shape[0], 1, 1) if pool == "global" else (shape[0], *(n // pool for n in shape[1:]))


def average_pool(x: Tensor, k: int, scratch: Tensor | None = None) -> Tensor:
    """torch's ``avg_pool2d(x, k)``, made of slices: three times faster on the CPU.

    scratch: like x, takes its gradient; that is read by nobody else's step.
    """
    if x.shape[2] % k or x.shape[3] % k:
        return functional.avg_pool2d(x, k)
    return _SlicePool.apply(x, k, scratch)


class _SlicePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, scratch: Tensor | None) -> Tensor:
        ctx.k, ctx.scratch = k, scratch
        rows = sum((x[:, :, i::k] for i in range(1, k)), x[:, :, ::k])
        whole = sum((rows[:, :, :, i::k] for i in range(1, k)), rows[:, :, :, ::k])
        return whole * (1 / k**2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        k = ctx.k
        size, g = [n * k for n in g.shape[2:]], g * (1 / k**2)
        if ctx.scratch is None:
            return torch.ops.aten.upsample_nearest2d(g, size), None, None
        return torch.ops.aten.upsample_nearest2d.out(g, size, out=ctx.scratch), None, None
