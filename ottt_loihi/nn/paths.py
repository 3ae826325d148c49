"""The paths of a gradient through time: the whole difference between BPTT, SLTT and OTTT in one place.

A layer's membrane carries its past, ``u[t] = λ·v[t−1] + W·x[t] + b``. BPTT lets the gradient run back through
``λ·v[t−1]``. The online rules cut that path; OTTT puts it back, exactly for one layer, by giving the weight gradient
the presynaptic trace ``â[t] = Σ_{τ≤t} λ^{t−τ}·x[τ]`` in place of ``x[t]`` (OTTT eq. 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CONVENTIONS = ("paper", "authors")


@dataclass(frozen=True)
class GradientPaths:
    """The default is plain BPTT with a detached reset.

    ==============  ==========================================================================================
    field           the gradient …
    ==============  ==========================================================================================
    membrane        runs back through ``λ·v[t−1]``
    reset           runs back through the spike in the reset (needs ``membrane``)
    trace           of a hidden layer's weight uses the trace â of its input in place of the input
    input_trace     of the first layer's weight does
    bias_trace      of a bias uses Λ_t = Σ_{τ≤t} λ^{t−τ} in place of 1: the trace of a constant input 1
    readout_trace   of the readout's weight uses the trace, with the last hidden layer's λ
    gain_trace      of a ``skip_gain`` uses the trace
    project         of a weight uses ``project(connection, x)`` in place of x, the trace or input; None: x itself
    ==============  ==========================================================================================
    """

    membrane: bool = True
    reset: bool = False
    trace: bool = False
    input_trace: bool = False
    bias_trace: bool = False
    readout_trace: bool = False
    gain_trace: bool = True
    project: Callable[[Any, Any], Any] | None = None


BPTT = GradientPaths()


def ottt_paths(convention: str) -> GradientPaths:
    """Return the paths of OTTT as in the paper, or as in the authors' code (:class:`~ottt_loihi.rules.ottt.OTTT`)."""
    if convention == "paper":
        return GradientPaths(membrane=False, trace=True, input_trace=True, bias_trace=True)
    return GradientPaths(membrane=False, trace=True, readout_trace=True, gain_trace=False)
