"""Online training through time (Xiao et al., NeurIPS 2022, arXiv 2210.04195)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.paths import CONVENTIONS, ottt_paths
from ottt_loihi.rules.base import OnlineRule
from ottt_loihi.rules.hlop import HLOP


class OTTT(OnlineRule):
    """``∇W[t] = (∂L[t]/∂s[t] · f(u[t])) · â_pre[t]ᵀ`` with ``â[t] = λ·â[t−1] + s[t]`` (eq. 4, 5, 7).

    ==============================  ======================================================================
    here                            in the paper
    ==============================  ======================================================================
    ``OTTT(update="step")``         OTTT_O: the optimiser steps at every time step
    ``OTTT(update="sequence")``     OTTT_A: gradients accumulate, one optimiser step for the T time steps
    ``convention="paper"``          eq. 4 for every weight and bias that feeds a neuron; the readout has no
                                    membrane, so its trace is the spikes themselves
    ``convention="authors"``        the released code: no trace for the first layer, the biases and the gains
                                    of residual branches, a trace for the readout; neurons fire at u = Vth too
    ==============================  ======================================================================

    The network must have been made with the same convention. The reset is a constant to the gradient. With
    ``reset="subtract"`` that is BPTT's detached reset; with ``"zero"`` the whole term u·s is detached, not s alone: the
    membrane's past keeps its weight λ^{t−τ} across the neuron's own spikes, as a presynaptic trace has to assume.
    ``hlop``: settings of :class:`~ottt_loihi.rules.hlop.HLOP`, which protects earlier tasks.
    """

    name: ClassVar[str] = "ottt"
    trains_modules: ClassVar[bool] = True
    settings = ("update", "convention")

    def __init__(
        self,
        update: str = "step",
        convention: str = "paper",
        hlop: HLOP | Mapping[str, Any] | None = None,
    ) -> None:
        self.convention = checks.one_of(convention, "convention", CONVENTIONS)
        super().__init__(ottt_paths(convention), update, hlop)

    def check(self, net: Network) -> None:
        if net.convention != self.convention:
            raise UsageError(
                f"OTTT: the rule has convention={self.convention!r}, the network {net.convention!r}; make both the same"
            )
