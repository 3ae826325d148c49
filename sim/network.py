"""``ChipNetwork``: the integer network, the single source of truth for what runs on the chip.

Plain frozen dataclasses over NumPy integer arrays; each docstring is the specification of its part, and
``sim/connections.py`` has the connections. Everything else is a view on them: the simulators execute them,
``converters`` writes them to Lava, ``.net`` and reports, ``onchip`` makes some connections plastic. Construction
validates and names the offending place.

Time. All layers of a network share one *logical* time t = 1 … ``num_steps``: at step t layer l sees the spikes layer
l − 1 sends in the same step. On the chip (and in Lava) every connection takes one more step, so layer l works on
logical step t at wall-clock step ``t + level(l)`` with ``level(input) = 0`` and ``level(l) = l + 1``. A connection's
logical delay is therefore ``delay + 1 + level(pre) − level(post)``: 0 from one layer to the next, 1 from a layer to
itself, and it must not be negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from ottt_loihi.sim import arithmetic, checks, usage
from ottt_loihi.sim.connections import INPUT, Connection, Conv, Dense, Diagonal, Part, Sparse

from ottt_loihi import checks as value_checks
from ottt_loihi.data.description import DataDescription, Step
from ottt_loihi.errors import ChipError, UsageError

__all__ = ["INPUT", "LIF", "ChipNetwork", "Connection", "Conv", "Dense", "Diagonal", "Sparse"]

READOUTS = ("sum_v", "last_v", "max_v", "spike_count")


@dataclass(frozen=True, eq=False)
class LIF(Part):
    """A layer of leaky integrate-and-fire neurons: Lava's ``LIF`` process in ``fixed_pt``.

    ::

        u[t] = wrap24( tz(u[t−1]·(4096 − (du + 1))) + (a[t] << 6) )
        v[t] = clip( tz(v[t−1]·(4096 − dv)) + u[t] + beff, ±(2²³ − 1) )       beff = bias_mant · 2^bias_exp
        s[t] = v[t] > (vth << 6);   v[t] = 0 where s[t]

    ============  ==================  ============================================================================
    symbol        dtype, range        meaning
    ============  ==================  ============================================================================
    shape         tuple of int        neurons, e.g. ``(128,)``
    du            int, −1 … 4095      decay of u in 1/4096: u keeps (4095 − du)/4096 of itself; 4095: no memory
    dv            int, 0 … 4096       decay of v in 1/4096: v keeps (4096 − dv)/4096 of itself; 4096: no memory
    vth           int, 0 … 131071;    threshold mantissa: one of the layer, or one per neuron (``(C, 1, 1)`` is spread
                  int32 ``shape``,    over a channel's places); equal ones become the number that they are
                  1 … 131071
    bias_mant     int32 ``shape``,    bias mantissa per neuron
                  −4096 … 4095
    bias_exp      int, 0 … 7          bias exponent
    u_init        int32 ``shape``     u before the layer's first logical step
    name          str                 used in reports and messages
    ============  ==================  ============================================================================

    ``reset="zero"`` networks keep the membrane in v (du = 4095). ``reset="subtract"`` keeps it in u: dv = 4096 and a
    :class:`Diagonal` connection of weight −λ·vth from the layer to itself subtracts one step later, when the decay
    has made Vth·s into λ·Vth·s. There a bias b sits as b/(1−λ) on v, and ``u_init = −b/(1−λ)``.

    A threshold per neuron is what the scale of a channel's weights folds into (``converters/quantize/quantize.py``).
    Lava's process documents one number and its CPU models compare with an array (``tests/test_lava_traps.py``); a chip
    may want neurons grouped by threshold (docs/hardware.md).
    """

    shape: tuple[int, ...]
    du: int
    dv: int
    vth: np.ndarray | int
    bias_mant: np.ndarray | int = 0
    bias_exp: int = 0
    u_init: np.ndarray | int = 0
    name: str = "layer"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", checks.shape(self.shape, f"{self.name}.shape"))
        checks.integer(self.du, f"{self.name}.du", -1, 4095)
        checks.integer(self.dv, f"{self.name}.dv", 0, 4096)
        object.__setattr__(self, "vth", checks.threshold(self.vth, f"{self.name}.vth", self.shape))
        checks.integer(self.bias_exp, f"{self.name}.bias_exp", 0, 7)
        limit = arithmetic.STATE_LIMIT - 1
        for attribute, low, high in (("bias_mant", -4096, 4095), ("u_init", -limit, limit)):
            value = checks.per_neuron(getattr(self, attribute), f"{self.name}.{attribute}", low, high, self.shape)
            object.__setattr__(self, attribute, value)

    @cached_property
    def size(self) -> int:
        """Return the number of neurons."""
        return math.prod(self.shape)

    @property
    def thresholds(self) -> np.ndarray:
        """The threshold mantissa of every neuron, int32 ``(size,)``."""
        return np.array(np.broadcast_to(self.vth, self.shape), np.int32).reshape(-1)

    @property
    def effective_bias(self) -> np.ndarray:
        """Return the effective bias of every neuron, int32 ``(size,)``."""
        return arithmetic.effective_bias(self.bias_mant.reshape(-1), self.bias_exp)


@dataclass(frozen=True, eq=False)
class ChipNetwork(Part):
    """Layers, the connections between them, and how the answer is read.

    ===============  ======================  ===========================================================================
    field            type                    meaning
    ===============  ======================  ===========================================================================
    input_shape      tuple of int            shape of the input of one step
    layers           tuple of :class:`LIF`   in order: the level of layer l is l + 1
    connections      tuple                   any order; each layer needs at least one input
    num_steps        int ≥ 1                 time steps of one sample, T
    readout          str                     score of class k over the last layer: ``sum_v`` Σ_t v_k[t], ``last_v``
                                             v_k[T], ``max_v`` max_t v_k[t], ``spike_count`` Σ_t s_k[t]; the
                                             prediction is the argmax
    provenance       mapping of JSON values  library versions, source checkpoint's hash, quantisation settings; a record
                                             that no command reads
    host             ChipNetwork or None     one layer that the host computes, and sends v / 64 of; every ``run`` takes
                                             the host's input then, and applies it
    input_form       ``"spikes"``            0 and 1, or whatever integers the data are
                     ``"graded"``            values 0 … 1 as messages 0 … 255, the same at every step
                     ``"inject"``            the same at the first step alone
                     ``"bias"``              the same, for the host's layer
    input_transform  (float, float), None     weight w and bias b of a first layer that gets messages ``w·x + b``
    logit_scale      float > 0, None         the readout's v / 64 that stands for a logit of 1; None: not known
    loss             str, None               name of the loss it was trained with
    data             DataDescription, None   what a sample is, its classes and their names, and how it becomes input
    data_set         Step, None              name and options of the data set that it was trained on
    untrained        bool                    whether its weights are drawn and nothing has been learnt yet
    ===============  ======================  ===========================================================================
    """

    input_shape: tuple[int, ...]
    layers: tuple[LIF, ...]
    connections: tuple[Connection, ...]
    num_steps: int
    readout: str = "sum_v"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    host: ChipNetwork | None = None
    input_form: str = "spikes"
    input_transform: tuple[float, float] | None = None
    logit_scale: float | None = None
    loss: str | None = None
    data: DataDescription | None = None
    data_set: Step | None = None
    untrained: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_shape", checks.shape(self.input_shape, "input_shape"))
        object.__setattr__(self, "layers", value_checks.items(self.layers, "layers", LIF))
        object.__setattr__(
            self, "connections", value_checks.items(self.connections, "connections", (Dense, Diagonal, Sparse, Conv))
        )
        checks.integer(self.num_steps, "num_steps", 1, 2**31 - 1)
        if not isinstance(self.readout, str) or self.readout not in READOUTS:
            raise ChipError(f"readout: expected one of {', '.join(READOUTS)}, got {self.readout!r}")
        if not self.layers:
            raise ChipError("layers: a network needs at least one layer")
        self._check_host()
        usage.check(self)
        for connection in self.connections:
            self._check_fit(connection)
        for index in range(len(self.layers)):
            if not any(c.post == index for c in self.connections):
                raise ChipError(f"layer[{index}] ({self.layers[index].name}) has no input: connect it or remove it")

    @cached_property
    def input_size(self) -> int:
        """Return the number of input channels."""
        return math.prod(self.input_shape)

    @cached_property
    def message_bits(self) -> int:
        """Return the number of bits of the input's messages; 0 for spikes, which are 0 or 1."""
        return max((c.num_message_bits for c in self.connections if c.pre == INPUT), default=0)

    def size(self, index: int) -> int:
        """Return the number of neurons of a layer, or of input channels for ``INPUT``."""
        return self.input_size if index == INPUT else self.layers[index].size

    def place(self, layer: Any, where: str) -> int:
        """Return the index of a layer that its index or its name stands for; raises UsageError if there is none."""
        names = [each.name for each in self.layers]
        index = names.index(layer) if isinstance(layer, str) and names.count(layer) == 1 else layer
        if not value_checks.is_integer(index) or not 0 <= index < len(names):
            raise UsageError(f"{where}: no layer {layer!r}; layers are 0 to {len(names) - 1}, names {', '.join(names)}")
        return int(index)

    def logical_delay(self, connection: Connection) -> int:
        """Steps of logical time between a spike and its arrival (module docstring)."""
        return connection.delay + 1 + connection.pre - connection.post

    def inputs_of(self, index: int) -> tuple[Connection, ...]:
        """The connections that end at a layer."""
        return tuple(c for c in self.connections if c.post == index)

    def _check_host(self) -> None:
        host = self.host
        if host is None:
            return
        if not isinstance(host, ChipNetwork) or host.host is not None or len(host.layers) != 1 or host.num_steps != 1:
            raise ChipError("host: expected a ChipNetwork of one layer and one step")
        if host.layers[0].size != self.input_size:
            raise ChipError(f"host: sends {host.layers[0].size} messages, the network takes {self.input_size}")

    def _check_fit(self, c: Connection) -> None:
        last = len(self.layers) - 1
        if not (INPUT <= c.pre <= last and 0 <= c.post <= last):
            raise ChipError(f"{c.label}: layers go from 0 to {last} and the input is {INPUT}")
        expected = (self.size(c.post), self.size(c.pre))
        if c.shape != expected:
            raise ChipError(f"{c.label}.weight: expected shape (post, pre) = {expected}, got {c.shape}")
        if isinstance(c, Conv):
            self._check_images(c)
        if self.logical_delay(c) < 0:
            raise ChipError(
                f"{c.label}: skips ahead of the layers between, which take one step each; "
                f"give it delay={c.post - c.pre - 1}"
            )

    def _check_images(self, c: Conv) -> None:
        """A layer that has a three-dimensional shape must have the convolution's."""
        pre = self.input_shape if c.pre == INPUT else self.layers[c.pre].shape
        for name, shape, expected in (
            ("input_shape", pre, c.input_shape),
            ("output_shape", self.layers[c.post].shape, c.output_shape),
        ):
            if len(shape) == 3 and shape != expected:
                raise ChipError(f"{c.label}.{name}: {expected} does not fit the shape {shape}")
