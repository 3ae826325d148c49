"""SpikingJelly: fires at the threshold, too, and resets at once.

::

    h = v − (v − r)/τ + g·x         g = 1/τ with decay_input, else 1         IF: h = v + x
    s = [h ≥ θ]                     v = r where s (r = v_reset), or h − θ·s (v_reset None)          v[0] = r

The OTTT authors' neurons are the same but for v[0] = 0. Checked by running versions 0.0.0.0.14 and 2.0.0, and the
authors' code c15d5da.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from ottt_loihi.converters.frameworks.neurons import Framework, Neurons, Unmapped, attribute, calling, number, shown
from torch import nn


def _if(module: nn.Module) -> Neurons:
    return Neurons(1.0, **_common(module, 1.0))


def _lif(module: nn.Module) -> Neurons:
    tau = number(module, "tau")
    if np.min(tau) < 1:
        raise Unmapped(f"τ = {shown(tau)} is below 1, and the membrane would change its sign")
    return _leaky(module, 1 / tau)


def _plif(module: nn.Module) -> Neurons:
    return _leaky(module, 1 / (1 + np.exp(-number(module, "w"))))


def _leaky(module: nn.Module, leak: float) -> Neurons:
    if not (np.min(leak) > 0 and np.max(leak) <= 1):
        raise Unmapped(f"1/τ = {shown(leak)} is outside 0 … 1")
    gain = leak if attribute(module, "decay_input") else 1.0
    return Neurons(1 - leak, gain=gain, **_common(module, 1 - leak))


def _cuba(module: nn.Module) -> Neurons:
    alpha, beta = (number(module, name) for name in ("c_decay", "v_decay"))
    if attribute(module, "v_reset") is not None and np.any(number(module, "v_reset")):
        raise Unmapped("a CUBALIFNode with v_reset other than 0 or None; the nearest is v_reset = 0.0")
    return Neurons(beta, alpha, **_common(module, beta))


def _common(module: nn.Module, beta: float) -> dict[str, Any]:
    v_reset = attribute(module, "v_reset")
    if attribute(module, "v_threshold") == math.inf:  # a readout, whose v is read
        rest = 0.0 if v_reset is None else number(module, "v_reset")
        return {"fires": False, "reset": "none", "v_init": rest, "bias": (1 - beta) * rest}
    common = {"threshold": number(module, "v_threshold"), "at_threshold": True}
    if v_reset is None:  # a call for each step leaves its membrane in v
        return {**common, "reset": "subtract", "shows": "after" if getattr(module, "step_mode", "") == "s" else ""}
    v_reset = number(module, "v_reset")
    return {**common, "v_reset": v_reset, "v_init": v_reset, "bias": (1 - beta) * v_reset}


def _authors(read: Any) -> Any:
    def neurons(module: nn.Module) -> Neurons:
        return replace(read(module), v_init=0.0)

    return neurons


def _begin(module: nn.Module) -> None:
    """Do at the first step, without a shape, as the authors' ``init=True`` does."""
    if hasattr(module, "v"):
        module.v = 0.0


def _steps(module: nn.Module) -> str | None:
    return "time first" if getattr(module, "step_mode", "s") == "m" else None


NO_SPIKES = "it computes no leaky integrate-and-fire neuron; the nearest is LIFNode"
FRAMEWORK = Framework(
    name="spikingjelly",
    packages=("spikingjelly",),
    versions="SpikingJelly 0.0.0.0.14 to 2.0.0",
    neurons={
        "IFNode": _if,
        "LIFNode": _lif,
        "ParametricLIFNode": _plif,
        "OTTTLIFNode": _lif,
        "SLTTLIFNode": _lif,
        "CUBALIFNode": _cuba,
    },
    refused={
        name: NO_SPIKES
        for name in (
            *("KLIFNode", "PSN", "MaskedPSN", "SlidingPSN", "GatedLIFNode", "EIFNode", "QIFNode", "IzhikevichNode"),
            *("ILIFNode", "TernaryNode", "LIAFNode", "DSRIFNode", "DSRLIFNode", "SynapseFilter"),
        )
    },
    reset=calling("reset"),
    steps=_steps,
)
AUTHORS = Framework(
    name="ottt",
    packages=("modules", "neuron_spikingjelly"),
    versions="SpikingJelly 0.0.0.0.14 to 2.0.0",
    neurons={"OnlineLIFNode": _authors(_lif), "OnlineIFNode": _authors(_if)},
    reset=_begin,
)
