"""A network that learns, in integers: made of a ChipNetwork and learning rates by ``onchip/network/scales.py``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from ottt_loihi.sim.learning.bias import BiasLearning
from ottt_loihi.sim.learning.currents import Slow
from ottt_loihi.sim.learning.eligibility import After
from ottt_loihi.sim.learning.program import Op, latency
from ottt_loihi.sim.learning.rule import DEFAULT, Rule
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import LIF, Dense, Diagonal, Sparse

DIGESTED = {"per-synapse-1": "per-synapse", "per-synapse": "per-synapse-2"}  # the first one's name was "per-synapse"


@dataclass(frozen=True)
class Feedback:
    """Separate weights that send the error to a hidden layer. ``onchip/network/feedback`` has a class for each kind.

    A class has its name, ``kind``; and says where the error comes from: ``travels`` is ``"direct"``, from the readout;
    ``"layerwise"``, from the layer above; or ``"local"``, from class neurons of the layer's own.
    """

    matrix: np.ndarray  # int32: (neurons, classes), or layerwise (neurons above, neurons)
    seed: int = 0  # of its rounding
    noise: int = 0  # OPZO: amplitude of the neurons' noise in units of vth; 0: none
    gain: tuple[int, int] = (0, 0)  # (mantissa, shift): OPZO's per product of noise and error, TESS's slope
    averaging: int = 0  # OPZO: momentum 1 − 2^−averaging (``integers.momentum_step``)

    kind: ClassVar[str]
    travels: ClassVar[str] = "direct"
    twin: ClassVar[bool] = False  # layerwise: it learns as the connection to the layer above, from its spikes and y1
    operations: ClassVar[tuple[Op, ...]] = ()  # after the error has arrived

    @property
    def layerwise(self) -> bool:
        """Whether the error comes from the layer above."""
        return self.travels == "layerwise"

    @property
    def rows(self) -> np.ndarray:
        """The matrix with a row per hidden neuron."""
        return self.matrix.T if self.layerwise else self.matrix


@dataclass(frozen=True)
class LearningLayer:
    """A plastic connection and the neurons behind it; ``feedback`` and ``half_width`` mean nothing for the readout."""

    connection: Dense | Sparse  # weights −256 … 255 (post, pre); where no synapse is they stay 0, in its twin as well
    layer: LIF
    inhibition: Diagonal | None  # the reset's self-connection
    decay: float  # λ of the presynaptic trace, 0 ≤ λ < 1; 0: the step's spike alone
    pre_phase: int  # 1 … K, Lava step of the epoch in which the presynaptic spikes arrive
    impulse: int  # of the trace, 1 … 127
    y1: tuple[int, int]  # (mantissa, shift) of y1: scale and stochastic rounding
    error: tuple[int, int] | None  # the same of the error that is sent on; None: none is
    feedback: Feedback | None  # what brings the error; None: the transposed weights of the layer above
    half_width: int  # of the rectangle, in units of vth
    trace_seed: int  # of the trace's decay, as the next two ≥ 0
    weight_seed: int  # of ``per-synapse`` rounding
    seed: int  # of the neurons' rounding
    plastic: bool = True  # False: frozen
    bias: BiasLearning | None = None  # how its biases learn; None: they do not
    subspace: Subspace | None = None  # HLOP: what its learning keeps out of
    after: After | None = None  # S-TLLR: the second term of its eligibility
    slow: Slow | None = None  # current-based neurons: the slower trace; decay and impulse above are the faster one's


@dataclass(frozen=True)
class LearningNetwork:
    """A network that learns: its layers, schedule, scales and rule."""

    layers: tuple[LearningLayer, ...]  # the readout last
    epoch: int  # K, or 1 where time steps overlap
    num_steps: int  # T of a sample
    logit_scale: int  # the readout's sum for a logit of 1
    rule: Rule = DEFAULT  # its feedback and seed have gone into the layers

    @property
    def inputs(self) -> int:
        return int(self.layers[0].connection.shape[1])

    @property
    def classes(self) -> int:
        return self.layers[-1].layer.size

    @property
    def travels(self) -> str:
        """Where hidden layers receive the error from, as :class:`Feedback` says it."""
        feedback = self.layers[0].feedback
        return "layerwise" if feedback is None else feedback.travels

    @property
    def latency(self) -> int:
        """Return the number of Lava steps from input spikes to last message, without a frozen backbone."""
        return latency(len(self.layers) - 1, self.travels == "layerwise")

    @property
    def epochs_per_sample(self) -> int:
        """Learning epochs of one sample."""
        late = self.latency - 1 if self.rule.schedule == "pipelined" else 0
        return self.num_steps + self.rule.silent_epochs + late

    def meanings(self) -> Iterator[LearningNetwork]:
        """Yield this network, and those with the defaults of version 0.1: ``per-synapse-1`` and ``signed``."""
        for rounding in (self.rule.rounding, *(("per-synapse-1",) if self.rule.rounding == "per-synapse" else ())):
            for encoding in (self.rule.encoding, *(("signed",) if self.rule.encoding == "factored" else ())):
                yield replace(self, rule=replace(self.rule, rounding=rounding, encoding=encoding))

    def digest(self) -> str:
        """Return the SHA-256 of everything here but the weights of plastic connections, which learning changes."""
        rounding = DIGESTED.get(self.rule.rounding, self.rule.rounding)
        scales = self.epoch, self.num_steps, self.logit_scale, self.rule.halve_every, rounding
        sha = hashlib.sha256(repr(scales).encode())
        if chosen := self.rule.since_first():  # only then: states of versions without options stay readable
            sha.update(repr(chosen).encode())
        for layer in self.layers:
            for part in (layer, layer.layer, layer.connection, layer.inhibition, layer.feedback, layer.subspace):
                for name, value in _named(part):
                    if name in ("bias", "after", "slow") and value is None:
                        continue  # as in states written before there were any
                    if name == "weight" and part is layer.connection and layer.plastic:
                        value = value.shape
                    if name in ("bias_mant", "u_init") and layer.bias is not None:
                        value = value.shape
                    if name == "subspace":
                        continue  # as a part of its own, and nothing where there is none: states of before are read
                    if name == "rows" and part is layer.subspace:
                        sha.update(repr(value.shape).encode())
                        value = value[: part.fixed]
                    if isinstance(value, np.ndarray):
                        sha.update(repr((name, value.shape)).encode() + value.astype(np.int64).tobytes())
                    elif not isinstance(value, (LIF, Dense, Sparse, Diagonal, Feedback)):
                        sha.update(repr((name, value)).encode())
        return sha.hexdigest()


def _named(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a part of a layer by name, none of one that is not there."""
    if isinstance(part, Feedback):
        yield "kind", part.kind
    for f in fields(part) if part is not None else ():
        yield f.name, getattr(part, f.name)
