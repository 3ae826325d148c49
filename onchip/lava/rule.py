"""OTTT as a Lava learning rule: Δw = x1·y1 at the end of each learning epoch.

``x1`` is the presynaptic trace â, ``y1`` is what the post neuron sends: −η·f(u)·δ in the units of the engine, or one of
its other encodings (``sim/learning/encodings.py``).
"""

from __future__ import annotations

import math

from lava.magma.core.learning.learning_rule import Loihi3FLearningRule
from ottt_loihi.onchip.network.schedule import MAX_EPOCH
from ottt_loihi.sim.learning import currents
from ottt_loihi.sim.learning.eligibility import with_second_product
from ottt_loihi.sim.learning.encodings import ENCODINGS, FIXED_RULES, FLOAT_RULES, SPIKE_RULES
from ottt_loihi.sim.learning.integers import (
    FOREVER,
    TRACE_MAX,
    default_impulse,
    impulse_left,
    trace_time_constant,
)

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

MOST_TAG_BITS = 4  # of 1 − 2^-n: a larger λ outlasts the samples


class OTTTLearningRule(Loihi3FLearningRule):
    """``Δw_ij = x1_i · y1_j`` once per epoch of K Lava steps, with ``x1[t] = λ·x1[t−1] + I_eff·s_i[t]`` at its end.

    Parameters
    ----------
    epoch
        K, 1 … 63
    pre_phase
        the phase, 1 … K, in which the presynaptic spikes arrive
    decay
        λ per epoch, 0 < λ < 1; or 0: the trace is the epoch's spike alone (the connection has to reset x1 every epoch)
    arithmetic
        ``"fixed"``: integer impulse, ``dw = 2^-7*u0*x1*y1``; ``"float"``: ``dw = u0*x1*y1`` and I_eff = 1 exactly
    impulse
        fixed only, an integer 1 … 127; default: the largest whose trace cannot saturate, ``⌊127·(1 − λ)⌋``
    seed
        of the stochastic rounding of trace decay (weights: Lava always uses 2)
    encoding
        of y: factored, signed or split; it says what ``dw`` is
    stock
        for Lava's own connection, which never resets x1: with ``decay = 0`` the rule reads the spike itself, x0
    slow
        of current-based neurons, decay and impulse of x2: the trace is x2 − x1 (``sim/learning/currents.py``), or None
    after
        S-TLLR's second product, x0·y2: its sign and its shift k (``sim/learning/eligibility.py``), or None
    tagged
        OTPE, float and factored only: R lives in the synapse's tag, ``dt = x1·y1 − (1 − λ)·t``. ``dw`` sees the tag of
        the epoch before, hence ``dw = λ·t·y3 + x1·y1·y3``. 1 − λ is a power of two, as the engine's numbers are

    Attributes
    ----------
    effective_impulse
        I_eff = impulse · d^(K − pre_phase), d = λ^(1/K): what a spike has left in x1 when the epoch ends
    encoding
        whose rule it is

    Raises
    ------
    UsageError
        for a parameter out of range, or an impulse whose trace would saturate at 127

    Source: LAVA.md §4; ``lava/magma/core/learning``. nengo-loihi's published model of the chip drops two bits where
    Lava drops three: on hardware the learning rate may be twice this.
    """

    def __init__(
        self,
        epoch: int,
        pre_phase: int,
        decay: float,
        arithmetic: str = "fixed",
        impulse: int | None = None,
        seed: int = 1,
        encoding: str = "signed",
        stock: bool = False,
        after: tuple[int, int] | None = None,
        slow: tuple[float, float] | None = None,
        tagged: bool = False,
    ) -> None:
        checks.one_of(encoding, "encoding", ENCODINGS)
        checks.one_of(arithmetic, "arithmetic", ("fixed", "float"))
        checks.integer(epoch, "epoch", 1, MAX_EPOCH)
        checks.integer(pre_phase, "pre_phase", 1, epoch)
        if not 0 <= decay < 1:
            raise UsageError(f"decay: expected 0 ≤ λ < 1, got {decay}")
        checks.integer(seed, "seed", 0, 2**31 - 4)
        left = impulse_left(decay, epoch, pre_phase)
        if arithmetic == "float":
            if impulse is not None:
                raise UsageError("impulse: is computed in floating point, leave it out")
            self.effective_impulse, start = 1.0, 1.0 / left
        else:
            start = default_impulse(decay, stock) if impulse is None else impulse
            _check_impulse(start, decay)
            self.effective_impulse = start * left
        if slow is not None and arithmetic == "float":
            start, second = currents.float_impulses(decay, slow[0], epoch, pre_phase)
            slow = slow[0], second
        elif slow is not None:
            self.effective_impulse = currents.effective((decay, start), currents.Slow(*slow), epoch, pre_phase)
        self.decay, self.encoding = decay, encoding
        rules = FIXED_RULES if arithmetic == "fixed" else FLOAT_RULES
        if reads_spike := stock and not decay:
            rules = SPIKE_RULES
        dw = rules[encoding] if slow is None else currents.difference(rules[encoding])
        if after is not None:
            dw = with_second_product(dw, encoding, after[0], after[1] if arithmetic == "fixed" else None)
        dt = None
        if tagged:
            bits = tag_bits(decay)
            dw, dt = f"{2**bits - 1}*2^-{bits}*u0*t*y3+u0*x1*y1*y3", f"u0*x1*y1-2^-{bits}*u0*t"
        super().__init__(
            dw=dw,
            dt=dt,
            x1_impulse=0 if reads_spike else start,
            x1_tau=trace_time_constant(decay, epoch),
            x2_impulse=0 if slow is None else slow[1],
            x2_tau=FOREVER if slow is None else trace_time_constant(slow[0], epoch),
            t_epoch=epoch,
            rng_seed=seed,
        )
        self.y1_tau = self.y2_tau = self.y3_tau = FOREVER  # both engines decay y between the neuron's messages


def _check_impulse(impulse: int, decay: float) -> None:
    if not checks.is_integer(impulse) or not 1 <= impulse <= TRACE_MAX:
        raise UsageError(
            f"impulse: expected an integer 1 … {TRACE_MAX} (fractions are biased in Lava), got {impulse!r}"
        )
    if impulse > TRACE_MAX * (1 - decay) + 1e-9:
        raise UsageError(
            f"impulse: {impulse} saturates the trace at {TRACE_MAX} for λ = {decay}; at most {default_impulse(decay)}"
        )


def tag_bits(decay: float) -> int:
    """Return n of λ = 1 − 2^−n; UsageError for another λ, by which no tag can decay."""
    bits = round(-math.log2(1 - decay))
    if not 1 <= bits <= MOST_TAG_BITS or 1 - 2.0**-bits != decay:
        allowed = ", ".join(f"{1 - 2.0**-n:g}" for n in range(1, MOST_TAG_BITS + 1))
        raise UsageError(f"decay: a synapse's tag decays by {allowed}, got {decay}")
    return bits
