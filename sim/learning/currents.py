"""Current-based neurons: OTTT's trace is a difference of two, one decays as the current and one as the membrane.

::

    a[t] = α·a[t−1] + x[t]      e[t] = β·e[t−1] + a[t]  =  Σ_n (β^{n+1} − α^{n+1})/(β − α)·x[t−n]

The engine has two presynaptic traces, so e is x2 − x1 with the impulses β/(β − α) and α/(β − α); the slower one is x2:
``u0*x2*y1-u0*x1*y1``. Neurons reset to zero, the whole term detached (``ottt_loihi/nn/cuba.py``). Impulses are
integers: of all pairs whose trace stays within seven bits, the one whose quotient is nearest to the exact one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ottt_loihi.sim.learning.integers import TRACE_MAX, impulse_left

from ottt_loihi.errors import UsageError

GRID = tuple(n / 20 for n in range(1, 20))  # decays that a message names
LEAST = 2  # units of e that a spike leaves: fewer are no trace


class Slow(NamedTuple):
    """The slower of two traces: its decay λ per learning epoch, and its impulse 1 … 127."""

    decay: float
    impulse: int


def impulses(fast: float, slow: float, epoch: int, pre_phase: int) -> tuple[int, int]:
    """Return the impulses of the faster and of the slower trace, integers.

    Raises :class:`UsageError` for decays so near to each other, or to 1, that seven bits hold no difference.
    """
    found = _best(fast, slow, epoch, pre_phase)
    if found is None:
        near = min(
            ((f, s) for f in GRID for s in GRID if f < s and _best(f, s, epoch, pre_phase)),
            key=lambda pair: abs(pair[0] - fast) + abs(pair[1] - slow),
        )
        raise UsageError(
            f"current and membrane decay by {fast:.3f} and {slow:.3f}: the difference of two traces of seven bits is "
            f"too coarse; use {near[0]} and {near[1]}, the nearest that work, or neurons without a current"
        )
    return found


def _best(fast: float, slow: float, epoch: int, pre_phase: int) -> tuple[int, int] | None:
    """The impulses whose quotient is nearest to the exact one, None where seven bits hold no difference."""
    left = [impulse_left(decay, epoch, pre_phase) for decay in (fast, slow)]
    wanted, limit = fast / slow * left[1] / left[0], int(TRACE_MAX * (1 - slow))
    pairs = [(round(wanted * large), large) for large in range(limit // 2 + 1, limit + 1)]
    pairs = [pair for pair in pairs if pair[0] >= 1 and pair[1] * left[1] - pair[0] * left[0] >= LEAST]
    return min(pairs, key=lambda pair: (abs(pair[0] / pair[1] - wanted), -pair[1]), default=None)


def float_impulses(fast: float, slow: float, epoch: int, pre_phase: int) -> tuple[float, float]:
    """Return the impulses that make x2 − x1 the trace itself."""
    return tuple(d / (slow - fast) / impulse_left(d, epoch, pre_phase) for d in (fast, slow))  # type: ignore[return-value]


def effective(fast: tuple[float, int], slow: Slow, epoch: int, pre_phase: int) -> float:
    """Return the part of a spike that is left in x2 − x1 when its epoch ends; fast: (λ, impulse)."""
    (decay, impulse) = fast
    return slow.impulse * impulse_left(slow.decay, epoch, pre_phase) - impulse * impulse_left(decay, epoch, pre_phase)


def difference(dw: str) -> str:
    """Return the rule with x2 in place of x1, and less the same with x1: ``u0*x2*y1-u0*x1*y1``."""
    terms = re.findall(r"([+-]?)((?:\^-|[^+-])+)", dw)  # "2^-7": an exponent's sign begins no term
    return dw.replace("x1", "x2") + "".join(("+" if sign == "-" else "-") + term for sign, term in terms)
