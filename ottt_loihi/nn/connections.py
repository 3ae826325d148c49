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

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.pooling import average_pool, pooled_shape
from ottt_loihi.nn.traced import Traced
from ottt_loihi.nn.weights import as_on_chip, binarize, standardize

BINARY = ("channel", "layer")
SPIKE_SCALE = 2.74  # 1/√(p·(1 − p)), p = P(N(0, 1) > 1): makes the variance of spikes at Vth = 1 one


class SynapseState(NamedTuple):
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


class Synapse(nn.Module):
    """``I[t] = c·(κ·Ŵ ∗ P(x[t]) + b)``: what :class:`Linear` and :class:`Conv2d` have in common.

    ::

        â[t] = λ·â[t−1] + P(x[t])         Λ_t = λ·Λ_{t−1} + 1                    g = ∂L/∂I[t]
        ∂L/∂Ŵ = c·κ·g ∗ â[t]              ∂L/∂b = c·Σ g·Λ_t                      ∂L/∂x = c·κ·Pᵀ(Ŵᵀ ∗ g)

    λ is the decay of the neurons this connection feeds: that makes ``g·âᵀ`` the derivative of their membrane's whole
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
                                                   (:func:`~ottt_loihi.nn.weights.as_on_chip`)
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
        self.binary = binary_or_none(binary)
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.gain = nn.Parameter(torch.ones(shape[0])) if standardized else None
        self.skip_gain = nn.Parameter(torch.zeros(())) if skip_gain else None
        self.input_scale, self.output_scale = float(input_scale), float(output_scale)
        if pool is not None and pool != "global":
            pool = positive(pool, "pool")
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
            weight = as_on_chip(weight, self.weight_bits)
        return Weights(weight, bias)

    def forward(
        self,
        x: Tensor,
        state: SynapseState | None = None,
        *,
        decay: float = 0.0,
        traced: bool = False,
        bias_traced: bool = False,
        weights: Weights | None = None,
    ) -> tuple[Tensor, SynapseState]:
        """One step: the current, and the state after it.

        x: ``(batch, …)`` of the weight's dtype · decay: λ · traced, bias_traced: whether the gradients of W and b use
        â and Λ · weights: :meth:`effective`, where it was computed before.
        """
        weights = self.effective() if weights is None else weights
        scratch = self._scratch(x, state) if weights.collect else None
        x = self._receive(x, scratch)
        trace = _decayed(x, state, decay, in_place=weights.collect) if traced else None
        bias_trace = 1.0 + decay * state.bias_trace if bias_traced and state is not None else 1.0
        if trace is None and bias_trace == 1.0 and not weights.collect and weights.project is None:
            current = self._product(self._spread(x), weights.weight, weights.bias)
        else:
            pre = x.detach() if trace is None else trace
            pre = pre if weights.project is None else weights.project(pre)
            current = Traced.apply(
                self._spread(x), self._spread(pre), weights.weight, weights.bias, bias_trace, self, weights.collect
            )
        current = current.to(weights.weight.dtype)  # membranes do not take part in autocast
        return self._send(current), SynapseState(trace, bias_trace, scratch)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of I[t] for an input of this shape, both without the batch; UsageError if it does not fit."""
        raise NotImplementedError

    def _receive(self, x: Tensor, scratch: Tensor | None = None) -> Tensor:
        """P(x)."""
        if self.pool is None:
            return x
        return x.mean((2, 3), keepdim=True) if self.pool == "global" else average_pool(x, self.pool, scratch)

    def _scratch(self, x: Tensor, state: SynapseState | None) -> Tensor | None:
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


class Linear(Synapse):
    """``I[t] = W·x[t] + b``, fully connected; see :class:`Synapse`.

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
        positive(in_features, f"{name}.in_features")
        positive(out_features, f"{name}.out_features")
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


class Conv2d(Synapse):
    """``I[t] = W ∗ x[t] + b``, torch's cross-correlation; see :class:`Synapse`.

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
            positive(value, f"Conv2d.{where}")
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise UsageError(f"Conv2d.padding: expected an integer ≥ 0, got {padding!r}")
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


def binary_or_none(value: Any) -> str | None:
    """``value``, if it names a scale of one-bit weights or is None; otherwise a UsageError."""
    if value is not None and (not isinstance(value, str) or value not in BINARY):
        raise UsageError(f"binary: expected one of {', '.join(BINARY)}, or nothing, got {value!r}")
    return value


def flag(value: Any, where: str) -> bool:
    """``value``, if it is true or false; otherwise a UsageError."""
    if not isinstance(value, bool):
        raise UsageError(f"{where}: expected true or false, got {value!r}")
    return value


def positive(value: Any, where: str) -> int:
    """``value``, if it is an integer above 0; otherwise a UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{where}: expected a positive integer, got {value!r}")
    return value


def _decayed(x: Tensor, state: SynapseState | None, decay: float, in_place: bool = False) -> Tensor:
    """â[t] = λ·â[t−1] + x[t], a constant to autograd; in place of â[t−1] where nobody reads that any more."""
    x = x.detach()
    if state is None or state.trace is None:
        return x.clone() if in_place else x
    return torch.add(x, state.trace, alpha=decay, out=state.trace if in_place else None)
