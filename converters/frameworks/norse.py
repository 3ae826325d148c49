"""Norse: fires above the threshold, then goes to v_reset; a = dt·tau_mem_inv, b = dt·tau_syn_inv.

::

    LIFBoxCell       v ← v + a·(x + v_leak − v)
    LIFCell, LIF     j = i + x          v ← v + a·(v_leak − v + j)          i = (1 − b)·j
    IAFCell          v ← v + x
    LI, LICell       as LIF, without spikes: the output is v

Its parameters are in no state_dict: they are read from the module. Checked by running version 1.1.0.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from ottt_loihi.converters.frameworks.neurons import Framework, Neurons, Unmapped, attribute, number, shown
from torch import nn


def _box(module: nn.Module) -> Neurons:
    a = _rate(module, "tau_mem_inv")
    method = getattr(attribute(module, "p"), "reset_method", None)
    if getattr(method, "__name__", "reset_value") == "reset_subtract":
        return Neurons(1 - a, gain=a, reset="subtract", **_potentials(module, a))
    return Neurons(1 - a, gain=a, **_potentials(module, a))


def _lif(module: nn.Module) -> Neurons:
    a, b = (_rate(module, name) for name in ("tau_mem_inv", "tau_syn_inv"))
    potentials = _potentials(module, a)
    if np.any(potentials.pop("bias")):
        raise Unmapped("v_leak other than 0 beside a synaptic current; the nearest is LIFBoxCell, or v_leak = 0")
    return Neurons(1 - a, 1 - b, gain=a, **potentials)


def _recurrent(module: nn.Module) -> Neurons:
    weights = [attribute(module, name).detach() for name in ("input_weights", "recurrent_weights")]
    return replace(_lif(module), entrance=_linear(weights[0]), recurrent=_linear(weights[1]))


def _linear(weight: Any) -> nn.Linear:
    """Return a Linear without bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone())
    return layer


def _iaf(module: nn.Module) -> Neurons:
    return Neurons(1.0, **_potentials(module, 0.0))


def _li(module: nn.Module) -> Neurons:
    a, b = (_rate(module, name) for name in ("tau_mem_inv", "tau_syn_inv"))
    leak = number(attribute(module, "p"), "v_leak")
    if np.any(leak):
        raise Unmapped("v_leak other than 0 beside a synaptic current; the nearest is LIBoxCell, or v_leak = 0")
    return Neurons(1 - a, 1 - b, gain=a, fires=False, reset="none")


def _li_linear(module: nn.Module) -> Neurons:
    return replace(_li(module), entrance=_linear(attribute(module, "input_weights").detach()))


def _li_box(module: nn.Module) -> Neurons:
    a = _rate(module, "tau_mem_inv")
    leak = number(attribute(module, "p"), "v_leak")
    return Neurons(1 - a, gain=a, fires=False, reset="none", v_init=leak, bias=a * leak)


def _rate(module: nn.Module, name: str) -> Any:
    # as Norse multiplies: in the dtype of its constants, float32 in a network of float64, too
    product = attribute(module, "dt") * attribute(attribute(module, "p"), name)
    rate = number(SimpleNamespace(rate=product), "rate")
    if not (np.min(rate) > 0 and np.max(rate) <= 1):
        raise Unmapped(f"dt·{name} = {shown(rate)} is outside 0 … 1")
    return rate


def _potentials(module: nn.Module, a: float) -> dict[str, Any]:
    p = attribute(module, "p")
    leak = number(p, "v_leak") if hasattr(p, "v_leak") else 0.0
    reset = number(p, "v_reset")
    return {"threshold": number(p, "v_th"), "v_reset": reset, "v_init": leak, "bias": a * leak}


def _steps(module: nn.Module) -> str | None:
    return (
        "time first"
        if FRAMEWORK.kind(module) in ("LIF", "LIFBox", "IAF", "LI", "LIBox", "LIFRecurrent", "LILinear")
        else None
    )


FRAMEWORK = Framework(
    name="norse",
    packages=("norse",),
    versions="Norse 1.1.0",
    neurons={
        **{name: _box for name in ("LIFBoxCell", "LIFBox")},
        **{name: _lif for name in ("LIFCell", "LIF")},
        **{name: _recurrent for name in ("LIFRecurrentCell", "LIFRecurrent")},
        **{name: _iaf for name in ("IAFCell", "IAF")},
        **{name: _li for name in ("LICell", "LI")},
        **{name: _li_linear for name in ("LILinearCell", "LILinear")},
        **{name: _li_box for name in ("LIBoxCell", "LIBox")},
    },
    refused={
        **{
            name: "it computes no leaky integrate-and-fire neuron; the nearest is LIFCell"
            for name in (
                *("LIFAdExCell", "LIFAdEx", "LIFRefracCell", "LIFRefracRecurrentCell", "CobaLIFCell", "LSNNCell"),
                *("LSNN", "LSNNRecurrent", "LSNNRecurrentCell", "LIFAdExRecurrentCell", "IzhikevichCell", "LIFExCell"),
            )
        },
    },
    steps=_steps,
)
