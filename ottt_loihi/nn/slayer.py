"""Networks of lava-dl's SLAYER blocks: their synapses and neurons as the parts of a :class:`Network`.

SLAYER runs all T steps of a block before the next block and backpropagates through time. Here the same synapses and
neurons, with their own quantised weights, integer decays and thresholds, run step by step, so that OTTT learns at every
step in memory that does not grow with T. The blocks are trained in place; ``export_hdf5`` and everything else of theirs
stays as it is::

    model = from_blocks(net.blocks, time_steps=10)          # of ottt_loihi.nn.slayer_blocks
    OTTT().train_batch(model, x, labels, SquaredError(), optimizer)     # in place of forward, loss and backward

::

    u[t] = λu·u[t−1] + W·x[t]      v[t] = λv·v[t−1]·(1 − s[t−1]) + u[t]      ∇W[t] = (∂L[t]/∂s[t]·ρ(v[t]))·e[t]ᵀ

with λ = 1 − decay/4096, SLAYER's integer decay, and its surrogate ρ. The trace e is that of
:class:`~ottt_loihi.nn.cuba.CubaLIF`; a current decay of 1 makes it the paper's. The gradient of the last block's
weights is the one that SLAYER's own backpropagation has for the loss Σ_t L[t], but with the reset held constant. Decays
that learn, SLAYER's ``requires_grad``, have CubaLIF's derivatives q and r, times −1/4096 for SLAYER's integers;
SLAYER's own gradient of a decay is −4096 times its derivative. lava-dl is needed to make such a network, in memory or
from a file.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.connections import convolved
from ottt_loihi.nn.cuba import CurrentBased, Memory
from ottt_loihi.nn.neurons import LongStep
from ottt_loihi.nn.part import Part
from ottt_loihi.nn.paths import BPTT, GradientPaths
from ottt_loihi.nn.trace import gradient_only

UNITY = 1 << 12  # of a decay
MAX_KERNEL = 127
SCALE = 1 << 6  # integer weights per 1.0
KINDS = ("Dense", "Conv", "Pool", "Input")
GEOMETRY = ("kernel_size", "stride", "padding", "dilation")
TRACES = ("exact", "mean")
ANY_NEURON = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 1.0}  # where its constants do not matter


class _Holder(nn.Module):
    """A module around a part of SLAYER's, ``own``."""

    def _hold(self, own: nn.Module | None, learns: bool) -> None:
        """Keep the part; constants that do not learn are in the settings, not among the weights."""
        if learns:
            self.own = own
        else:
            object.__setattr__(self, "own", own)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        moved = super()._apply(fn, recurse)
        if "own" not in self._modules and self.own is not None:
            self.own._apply(fn)
        return moved


class SlayerSynapse(_Holder, Part):
    """``I[t] = Q(W)·x[t]``: the synapse of one of SLAYER's blocks, Q its rounding to 8 bits.

    Sizes of Conv and Pool are numbers or (vertical, horizontal), as in :class:`~ottt_loihi.nn.connections.Conv2d`.

    ===========  ================================================================================
    argument     meaning
    ===========  ================================================================================
    kind         one of :data:`KINDS`: ``"Input"`` has no weights and only rounds; ``"Pool"`` learns nothing
    inputs       int, neurons of Dense, channels of the others; ``outputs``: of Dense and Conv
    weight_norm  bool, torch's weight normalisation, as SLAYER offers it
    scale        int, integer weights per 1.0
    value        float, each weight of Pool
    own          a synapse of SLAYER's, used in place of a new one
    ===========  ================================================================================
    """

    constants = ("kind", "inputs", "outputs", *GEOMETRY, "groups", "weight_norm", "scale", "value")

    def __init__(
        self,
        kind: str,
        inputs: int,
        outputs: int = 1,
        *,
        kernel_size: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        weight_norm: bool = False,
        scale: int = SCALE,
        value: float = 1.0,
        own: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.value = checks.number(value, "slayer.value", -1e6, 1e6)
        self.kind = checks.one_of(kind, "slayer.kind", KINDS)
        self.inputs, self.outputs = checks.integer(inputs, "slayer.inputs"), checks.integer(outputs, "slayer.outputs")
        for name, size in zip(GEOMETRY, (kernel_size, stride, padding, dilation)):
            setattr(self, name, checks.pair(size, f"slayer.{name}", 0 if name == "padding" else 1))
        if max(checks.both(self.kernel_size)) > MAX_KERNEL:
            raise UsageError(
                f"slayer.kernel_size: at most {MAX_KERNEL}, which Lava's Conv holds, got {self.kernel_size}"
            )
        self.groups, self.scale = checks.integer(groups, "slayer.groups"), checks.integer(scale, "slayer.scale")
        self.weight_norm = checks.flag(weight_norm, "slayer.weight_norm")
        if own is None and kind != "Input":
            own = self._new()
            own.pre_hook_fx = _rounding(self.scale)
        self._hold(own, learns=kind in ("Dense", "Conv"))

    def _new(self) -> nn.Module:
        synapse, sizes = lava_dl().synapse.layer, {name: checks.both(getattr(self, name)) for name in GEOMETRY}
        if self.kind == "Dense":
            return synapse.Dense(self.inputs, self.outputs, weight_norm=self.weight_norm)
        if self.kind == "Pool":
            return _constant(lambda: synapse.Pool(weight_scale=self.value, **sizes))
        return synapse.Conv(self.inputs, self.outputs, groups=self.groups, weight_norm=self.weight_norm, **sizes)

    def settings(self) -> dict[str, Any]:
        if self.own is not None and getattr(self.own.pre_hook_fx, "__name__", "") != "quantize_8bit":
            raise UsageError("slayer: a pre_hook_fx of your own is in no file; save with SLAYER's own rounding")
        return super().settings()

    @property
    def weight(self) -> Tensor:
        """Return the weight before rounding, in the shape of SLAYER: (out, in, height, width, 1)."""
        return torch.ones(1, 1) if self.own is None else self.own.weight

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.kind == "Input":
            return input_shape
        if self.kind == "Dense":
            if math.prod(input_shape) != self.inputs:
                raise UsageError(f"slayer: a Dense block of {self.inputs} inputs, got {math.prod(input_shape)}")
            return (self.outputs,)
        if len(input_shape) != 3 or (self.kind == "Conv" and input_shape[0] != self.inputs):
            raise UsageError(
                f"slayer: a {self.kind} block expects an image of {self.inputs} channels, got {input_shape}"
            )
        image = convolved(input_shape[1:], f"slayer, {self.kind}", *(getattr(self, name) for name in GEOMETRY))
        return (self.outputs if self.kind == "Conv" else input_shape[0], *image)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) if self.kind == "Dense" else x
        if self.own is None:
            return _rounding(self.scale)(x)
        z = self.own(x.unsqueeze(-1))[..., 0]
        return z.flatten(1) if self.kind == "Dense" else z


class SlayerNeuron(_Holder, CurrentBased):
    """A layer of SLAYER's current-based neurons, one time step at once, in their own fixed-point arithmetic.

    ============================  ============================================================================
    argument                      meaning
    ============================  ============================================================================
    threshold                     fires at it, and above
    current_decay, voltage_decay  0 … 1, what a step loses; ``{"shape": [n]}`` where the weights hold n decays
    tau_grad, scale_grad          of SLAYER's surrogate
    scale                         of the integer state
    learn                         the decays are parameters, SLAYER's ``requires_grad``
    trace                         of unequal decays, ``"exact"`` or ``"mean"`` as for CubaLIF
    own                           a neuron of SLAYER's, used in place of a new one
    ============================  ============================================================================
    """

    constants = ("threshold", "current_decay", "voltage_decay", "tau_grad", "scale_grad", "scale")
    amplitude = 1.0
    reset = "zero"
    approximate = "trace='mean'"

    def __init__(
        self,
        threshold: float = 1.0,
        current_decay: float | Mapping[str, Any] = 1.0,
        voltage_decay: float | Mapping[str, Any] = 0.5,
        tau_grad: float = 1.0,
        scale_grad: float = 1.0,
        scale: int = SCALE,
        own: nn.Module | None = None,
        *,
        learn: bool = False,
        trace: str = "exact",
    ) -> None:
        super().__init__()
        self.scale = checks.integer(scale, "slayer.scale")
        self.threshold = checks.number(threshold, "slayer.threshold", 0, 1e6, above=True)
        self.current_decay = _decay(current_decay, "slayer.current_decay")
        self.voltage_decay = _decay(voltage_decay, "slayer.voltage_decay")
        self.tau_grad = checks.number(tau_grad, "slayer.tau_grad", 0, 1e6, above=True)
        self.scale_grad = checks.number(scale_grad, "slayer.scale_grad", 0, 1e6, above=True)
        self.learn = ["alpha", "beta"] if checks.flag(learn, "slayer.learn") else []
        self.trace = checks.one_of(trace, "slayer.trace", TRACES)
        if own is None:
            own = _constant(self._new)
        self._hold(own, learns=isinstance(self.current_decay, Mapping))

    def _new(self) -> nn.Module:
        values = {name: getattr(self, name) for name in self.constants}
        if not isinstance(self.current_decay, Mapping):
            return lava_dl().neuron.cuba.Neuron(**values)
        values |= {"current_decay": 0.5, "voltage_decay": 0.5, "requires_grad": bool(self.learn)}
        own, (number,) = lava_dl().neuron.cuba.Neuron(**values), self.current_decay["shape"]
        if number > 1:  # one for each neuron, as its first batch would make them
            own.shared_param, own.shape, own.num_neurons = False, torch.Size([number]), number
            for decay in (own.current_decay, own.voltage_decay):
                decay.data = decay.data.repeat(number)
        return own

    def settings(self) -> dict[str, Any]:
        more = {"learn": True} if self.learn else {}
        return super().settings() | more | ({"trace": self.trace} if self.trace != "exact" else {})

    @property
    def v_threshold(self) -> float:
        """The threshold as the neuron has it, rounded to its integer scale."""
        return float(self.own.threshold)

    def decays(self) -> tuple[float | Tensor, float | Tensor]:
        """Return the shares of current and voltage that are left after a step, ``1 − decay/4096``."""
        own = self.own.current_decay, self.own.voltage_decay
        if isinstance(self.current_decay, Mapping):
            self.own.clamp()
            return tuple(1 - lava_dl().utils.quantize(d) / UNITY for d in own)
        return tuple(1 - round(float(d)) / UNITY for d in own)

    @property
    def beta(self) -> float | Tensor:
        return self.decays()[1]

    def forward(
        self, current: Tensor, v: Tensor | None = None, paths: GradientPaths = BPTT, memory: Memory | None = None
    ) -> LongStep:
        """Run one step of SLAYER's own neuron from a given state, and leave the neuron as it was."""
        if paths.membrane and torch.is_grad_enabled() and current.requires_grad:
            raise UsageError("slayer: BPTT through these blocks is SLAYER's own; use its backward(), or OTTT or SLTT")
        own, zero = self.own, torch.zeros_like(current.detach())
        v, past = zero if v is None else v, memory or Memory(zero, zero)
        held = own.current_state, own.voltage_state, own.persistent_state
        own.current_state, own.voltage_state, own.persistent_state = past.c, v, False
        try:
            c, voltage = own.dynamics(current.unsqueeze(-1))
            u = voltage[..., 0]
            if torch.is_grad_enabled() and self.learn:
                past = self.sensitivities(past, v)
                for kept, of_u in zip(self.decays(), (past.q, past.r), strict=True):
                    u = u + gradient_only(kept) * of_u  # adds 0 to the value
            spikes = own.spike(u.unsqueeze(-1))[..., 0]
        finally:
            own.current_state, own.voltage_state, own.persistent_state = held
        after = u.detach() * (spikes.detach() == 0)
        return LongStep(spikes, u, after, past._replace(c=c[..., 0].detach().clone(), s=spikes.detach()))


class SpikeCount(Part):
    """A readout without weights: o[t] is the output of the last block, or the mean of each group of its neurons."""

    constants = ("out_features",)

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = checks.integer(out_features, "out_features")
        self.register_buffer("weight", torch.zeros(1, 0, device="cpu"), persistent=False)  # dtype and device

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(input_shape) % self.out_features:
            raise UsageError(f"slayer: {math.prod(input_shape)} neurons make no {self.out_features} equal groups")
        return (self.out_features,)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return x if x.shape[1] == self.out_features else x.view(len(x), self.out_features, -1).mean(2)


class SlayerReadout(SlayerSynapse):
    """An ``Affine`` block: its current is read."""

    out_features = property(lambda self: self.outputs)


def lava_dl() -> Any:
    """lava-dl, whose import prints what it misses."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from lava.lib.dl import slayer
    except ImportError:
        raise UsageError("slayer: lava-dl is not installed; `make setup` installs it (docs/lava.md)") from None
    return slayer


def _constant(make: Any) -> nn.Module:
    """A part without learnt weights, real also where a network is only sketched (checkpoint.load)."""
    with torch.device("cpu"):
        return make()


def _decay(value: Any, name: str) -> float | dict[str, list[int]]:
    if isinstance(value, Mapping):
        return {"shape": list(checks.sizes(value.get("shape"), f"{name}.shape", 1))}
    return checks.number(value, name, 0, 1)


def _rounding(scale: int) -> Any:
    """SLAYER's rounding of weights to 8 bits."""
    return _constant(lambda: lava_dl().neuron.cuba.Neuron(**ANY_NEURON, scale=scale)).quantize_8bit
