"""snnTorch: fires above the threshold; resets are one step late, and are decided by the membrane of the step before.

::

    Leaky, RLeaky      mem ← β·mem + x (+ recurrent(s[t−1])) − θ·R          R = [mem[t−1] > θ]
    reset "zero"       mem ← β·mem + x − R·(β·mem)
    reset "none"       R = 0

Checked by running versions 0.9.4 and 1.0.0.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from ottt_loihi.converters.frameworks.neurons import (
    Framework,
    Group,
    Neurons,
    Unmapped,
    Value,
    attribute,
    calling,
    number,
    one_number,
)
from torch import nn

RESETS = {0: "subtract", 1: "zero", 2: "none"}


def _neurons(module: nn.Module, beta: Value, alpha: Value = 0.0, loses: bool = True, **more: Any) -> Neurons:
    """Return neurons with a module's reset; ``loses``: a late reset to zero takes the input of its step, too."""
    reset, late = _reset(module)
    found = Neurons(beta, alpha, reset="delayed" if reset == "subtract" else reset, **more, **_common(module))
    return replace(found, loses=True, shows="") if loses and (reset, late) == ("zero", True) else found


def _leaky(module: nn.Module) -> Neurons:
    recurrent = _connection(module) if FRAMEWORK.kind(module) == "RLeaky" else None
    if _reset(module) == ("subtract", False):
        return _at_once(_beta(module), {**_common(module), "recurrent": recurrent})
    return _neurons(module, _beta(module), loses=recurrent is not None, recurrent=recurrent)


def _at_once(beta: Value, common: dict[str, Any]) -> Neurons:
    """Return two neurons for a reset by subtraction in the firing step.

    snnTorch's neuron fires at 2θ instead of θ after a spike that has left more than θ. The first neuron fires at θ and
    the second at 2θ. A spike of the first subtracts β·θ from both. A spike of the second subtracts θ from the first,
    which then fires at 2θ, and adds θ to itself; one step later both changes are undone, decayed by β.
    """
    if np.ndim(beta) or np.ndim(common["threshold"]):
        raise Unmapped(
            "reset_delay=False with unequal decays or thresholds fires at twice the threshold while a membrane above "
            "it is left; the nearest is reset_delay=True, or reset_mechanism='zero'"
        )
    taken, more = beta * common["threshold"], common["threshold"]
    feedback = {1: np.array([[-taken, -more], [-taken, more]]), 2: np.array([[0.0, taken], [0.0, -taken]])}
    return Neurons(beta, reset="none", group=Group((1.0, 2.0), feedback, (1.0, 0.0)), **common)


def _synaptic(module: nn.Module) -> Neurons:
    if _reset(module) == ("subtract", False):
        raise Unmapped("Synaptic with reset_delay=False fires at twice the threshold; the nearest is reset_delay=True")
    recurrent = _connection(module) if FRAMEWORK.kind(module) == "RSynaptic" else None
    return _neurons(module, _beta(module), np.clip(number(module, "alpha"), 0, 1), recurrent=recurrent)


def _connection(module: nn.Module) -> Any:
    """Return the recurrent connection of a neuron to its layer."""
    recurrent = attribute(module, "recurrent")
    if isinstance(recurrent, (nn.Linear, nn.Conv2d)):
        return recurrent
    return np.atleast_1d(np.asarray(number(recurrent, "V")))


def _lapicque(module: nn.Module) -> Neurons:
    beta = _beta(module)
    if np.min(beta) < 1 / math.e:
        raise Unmapped("Lapicque with beta below 1/e has a negative decay, 1 + ln(beta); the nearest is Leaky")
    if _reset(module) == ("subtract", False):
        raise Unmapped("Lapicque with reset_delay=False fires at twice the threshold; the nearest is reset_delay=True")
    return _neurons(module, 1 + np.log(beta), gain=np.log(1 / beta))


def _reset(module: nn.Module) -> tuple[str, bool]:
    code = one_number(module, "reset_mechanism_val")
    if code not in RESETS:
        raise Unmapped(f"reset_mechanism_val = {code:g}; expected 0 (subtract), 1 (zero) or 2 (none)")
    return RESETS[int(code)], bool(getattr(module, "reset_delay", True))


def _beta(module: nn.Module) -> Value:
    return np.clip(number(module, "beta"), 0, 1)


def _common(module: nn.Module) -> dict[str, object]:
    for name in ("inhibition", "state_quant"):
        if getattr(module, name, False):
            raise Unmapped(f"{name} has no counterpart; make the layer without it")
    reset, late = _reset(module)
    return {
        "threshold": number(module, "threshold"),
        "amplitude": one_number(module, "graded_spikes_factor"),
        "shows": "before" if late or reset == "none" else "after" if reset == "subtract" else "",
    }


FRAMEWORK = Framework(
    name="snntorch",
    packages=("snntorch",),
    versions="snnTorch 0.9.4 to 1.0.0",
    neurons={
        "Leaky": _leaky,
        "RLeaky": _leaky,
        "Lapicque": _lapicque,
        "Synaptic": _synaptic,
        "RSynaptic": _synaptic,
    },
    refused={
        "Alpha": "its reset clears two currents; the nearest is Leaky",
        "SLSTM": "an LSTM has no spiking counterpart; the nearest is RLeaky",
        "SConv2dLSTM": "an LSTM has no spiking counterpart; the nearest is RLeaky",
        "DeltaLeaky": "its output is a difference; the nearest is Leaky",
        "StateLeaky": "it never resets and runs all steps at once; the nearest is Leaky(reset_mechanism='none')",
        "LinearLeaky": "it never resets and runs all steps at once; the nearest is Leaky(reset_mechanism='none')",
    },
    reset=calling("reset_mem"),
)
