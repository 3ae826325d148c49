"""S-TLLR's second term: what an input does *after* the neuron was near its threshold, as pair STDP has it.

::

    e_ij[t] = f(u_i[t])·tr_j[t] + α_post·h_i[t−1]·x_j[t]          h_i[t] = λ_post·h_i[t−1] + f(u_i[t])

The first term is OTTT's, with a trace of its own decay λ_pre. The second needs a variable h in the neuron and a message
more, y2, which meets the spike x0 itself and no trace (arXiv 2306.15220; ``convention="authors"``, α_pre = 1: the
learning rate holds it)::

    signed      2^-7*u0*x1*y1+2^-4*x0*y2                  y2 = −η·α_post·h[t−1]·δ, rounded at random, in 1/16 LSB
    factored    2*2^-7*u0*x1*y1*y3±2^(k−7)*x0*y2*y3       y2 = h[t−1] ≥ 0; only y3 = −η·δ has a sign

In integers h counts ``P << 6`` for each f, and decays by a mantissa of 12 bits; y2 is h >> 6, at most 127. P·2^k is
what a spike's trace has left at the end of an epoch, times the size of α_post, so that both terms have one unit.
Lava's engine drops three bits of ``x0*y2*y3``, none of ``x0*y2``, and clips its sum of 15 bits after each product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import integers

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

MOST_SHIFT = 7  # the coefficient is 2^0 then, the largest of Lava's language
ACCUMULATOR = -(1 << 15) - 1, (1 << 15) - 1
MOST_DECAY = 1 - 1 / integers.TRACE_MAX
SPIKE_SHIFT = 3  # 2^-4·x0·y2 in units of 2^-7 LSB


@dataclass(frozen=True)
class After:
    """The integers of one layer's second term."""

    impulse: int  # P, 1 … 127: units of h for each f
    keep: int  # λ_post in 1/4096
    shift: int  # k, 0 … 7
    sign: int  # of α_post: −1 or 1
    y2: tuple[int, int]  # mantissa and shift of the rounded message of ``signed``, without the sign


def after(alpha_post: float, lambda_post: float, effective_impulse: float, y1_scale: float) -> After:
    """Return the integers of a second term.

    Raises :class:`UsageError` for an α_post that the engine's seven bits and exponents do not hold.

    Parameters
    ----------
    effective_impulse
        the part of a spike's trace that is left at the end of an epoch
    y1_scale
        y1 per unit of the third factor
    """
    wanted, limit = effective_impulse * abs(alpha_post), int(integers.TRACE_MAX * (1 - lambda_post))
    shift = max(0, math.ceil(math.log2(wanted / limit))) if limit else MOST_SHIFT + 1
    impulse = round(wanted / 2.0**shift)
    if shift > MOST_SHIFT or impulse < 1:
        allowed = 0.5 / effective_impulse, limit * 2.0**MOST_SHIFT / effective_impulse
        raise UsageError(
            f"alpha_post: {alpha_post} with lambda_post = {lambda_post} does not fit in seven bits; "
            f"expected 0, or {allowed[0]:.3f} … {allowed[1]:.0f} of either sign"
        )
    y2 = integers.mantissa_and_shift(y1_scale * 2.0**shift / integers.SPIKE_IMPULSE, "y2_scale")
    return After(impulse, round(lambda_post * arithmetic.DECAY_UNITY), shift, int(math.copysign(1, alpha_post)), y2)


def moved(h: np.ndarray, active: np.ndarray, keep: int, impulse: int) -> np.ndarray:
    """Return h[t] of h[t−1], int32; active: f(u[t]), 0 or 1."""
    step = impulse << arithmetic.STATE_SHIFT
    return ((h.astype(np.int64) * keep >> 12) + step * active).astype(np.int32)


def message(h: np.ndarray) -> np.ndarray:
    """Return y2 of ``factored``, 0 … 127, which ``signed`` multiplies with its error."""
    return h >> arithmetic.STATE_SHIFT


def second_product(encoding: str, y2: np.ndarray, y3: np.ndarray, part: After) -> np.ndarray:
    """Return the second product, which the engine adds to ``w << 7`` where a spike is, int64 ``(post,)``."""
    if encoding == "factored":
        return (part.sign * y2.astype(np.int64) * y3 >> integers.ENGINE_SHIFT) << part.shift
    return y2.astype(np.int64) << SPIKE_SHIFT


def accumulated(w: np.ndarray, first: np.ndarray, second: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """Return ``w << 7`` after both products, as Lava's engine clips it, int64 ``(post, pre)``."""
    total = np.clip((w << integers.FRACTION_BITS) + first, *ACCUMULATOR)
    return np.clip(total + np.clip(second, *ACCUMULATOR)[:, np.newaxis] * spikes, *ACCUMULATOR)


def ports(first: tuple[str, ...], has_after: bool) -> tuple[str, ...]:
    """Return the ports of the messages, with y2 where there is a second term."""
    return tuple(sorted({*first, "y2"})) if has_after else first


def with_second_product(dw: str, encoding: str, sign: int, shift: int | None) -> str:
    """Return the rule with the second product; shift None: in floating point."""
    if encoding == "factored":
        scale = "" if shift is None else f"2^{shift - MOST_SHIFT}*"
        return f"{dw}{'+' if sign > 0 else '-'}{scale}x0*y2*y3"
    return f"{dw}+{'' if shift is None else '2^-4*'}x0*y2"


def check(rule: Any) -> None:
    """Refuse an eligibility that the engine cannot compute; the message names the nearest one that it can."""
    for name in ("lambda_pre", "lambda_post"):
        decay = getattr(rule, name)
        if decay is not None and checks.number(decay, name, 0, 1) > MOST_DECAY:
            raise UsageError(
                f"{name}: {decay} saturates a trace of seven bits; use at most {MOST_DECAY:.4f}, which is 1 − 1/127"
            )
    checks.number(rule.alpha_post, "alpha_post")
    if rule.alpha_post and rule.schedule == "pipelined":
        raise UsageError(
            "alpha_post: in a pipelined schedule the spikes it learns from would belong to a later time step; use "
            "schedule phased, or alpha_post 0"
        )
    if rule.alpha_post and rule.encoding == "split":
        raise UsageError(
            "alpha_post: encoding split would need four unsigned messages, and a connection takes three; use encoding "
            "factored or signed, or alpha_post 0"
        )
