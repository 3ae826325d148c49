"""sinabs: fires at the threshold, too; decays are exp(−1/τ), with τ in steps.

::

    i = α_syn·(i + x)          v ← α·v + g·i          g = 1 − α with norm_input, else 1; IAF: α = g = 1

``SingleSpike`` and ``MaxSpike(1)`` send one spike a step, ``MaxSpike(K)`` up to K, ``MultiSpike`` as many as thresholds
fit into the membrane; ``MembraneSubtract`` takes the threshold away at once, for each of them. ``MembraneReset(r)``
goes to r. Checked by running version 3.1.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ottt_loihi.converters.frameworks.neurons import (
    Framework,
    Neurons,
    Unmapped,
    attribute,
    calling,
    number,
    one_number,
    several_spikes,
    shown,
)
from torch import nn


def _lif(module: nn.Module) -> Neurons:
    alpha = _decay(module, "mem")
    gain = 1 - alpha if attribute(module, "norm_input") else 1.0
    return _neurons(module, alpha, gain)


def _iaf(module: nn.Module) -> Neurons:
    return _neurons(module, 1.0, 1.0)


def _leak(module: nn.Module) -> Neurons:
    alpha = _decay(module, "mem")
    gain = 1 - alpha if attribute(module, "norm_input") else 1.0
    return Neurons(alpha, gain=gain, fires=False, reset="none")


def _neurons(module: nn.Module, alpha: Any, gain: Any) -> Neurons:
    common = {"threshold": number(module, "spike_threshold"), "gain": gain, "at_threshold": True}
    if getattr(module, "min_v_mem", None) is not None:
        lowest = shown(number(module, "min_v_mem"))
        common["inexact"] = (f"min_v_mem = {lowest} clips membranes, which no neuron of the chip does; set it to None",)
    common |= _reset(module, alpha, gain, common["threshold"])
    common |= _several(module, alpha, common)
    if "recurrent" not in common:
        common |= {"recurrent": _recurrent(module), "late_bias": hasattr(module, "rec_connect")}
    elif hasattr(module, "rec_connect"):
        raise Unmapped("MembraneSubtract of another value than the threshold beside recurrence; the nearest is without")
    if getattr(module, "tau_syn", None) is None and getattr(module, "alpha_syn", None) is None:
        return Neurons(alpha, **common)
    if common.get("group") or common.get("unbounded") or common["reset"] == "none":
        raise Unmapped(
            "tau_syn beside several spikes in a step, or another value subtracted; the nearest is SingleSpike"
        )
    synapse = _decay(module, "syn")
    common["gain"] = gain * synapse
    return Neurons(alpha, synapse, **common)


def _reset(module: nn.Module, alpha: Any, gain: Any, threshold: Any) -> dict[str, Any]:
    """Return the reset, as arguments of :class:`Neurons`.

    MembraneReset(r) adds r at every step, silent ones included, after the spikes. So the membrane before the reset has
    a bias of α·r, and begins at −r, because nothing is added before the first step.
    """
    reset = attribute(module, "reset_fn")
    if type(reset).__name__ == "MembraneReset":
        rest = number(reset, "reset_value") if hasattr(reset, "reset_value") else 0.0
        if np.any(rest) and (getattr(module, "tau_syn", None) is not None or np.ndim(alpha)):
            raise Unmapped("MembraneReset to another value than 0 with tau_syn or unequal decays; the nearest is 0")
        return {"reset": "zero", "bias": alpha * rest, "v_init": -rest} if np.any(rest) else {"reset": "zero"}
    if type(reset).__name__ != "MembraneSubtract":
        raise Unmapped(f"reset_fn={type(reset).__name__}; the nearest is MembraneSubtract()")
    if getattr(reset, "subtract_value", None) is None:
        return {"reset": "subtract"}
    taken = number(reset, "subtract_value")
    if np.array_equal(taken, threshold):
        return {"reset": "subtract"}
    return {"reset": "none", "recurrent": np.atleast_1d(-alpha * taken / gain)}


def _several(module: nn.Module, alpha: Any, common: dict[str, Any]) -> dict[str, Any]:
    """Return how several spikes in a step are sent, as arguments of :class:`Neurons`; empty: one at most."""
    spikes = attribute(module, "spike_fn")
    name = getattr(spikes, "__name__", type(spikes).__name__)
    most = getattr(spikes, "max_num_spikes_per_bin", None)
    unbounded = most is None or (np.ndim(most) == 0 and most == float("inf"))
    if not unbounded:
        most = one_number(spikes, "max_num_spikes_per_bin")
        if most < 1 or most % 1:
            raise Unmapped(f"max_num_spikes_per_bin = {most:g}; expected a whole number of 1 or more")
    if name == "SingleSpike" or most == 1:
        return {}
    if name not in ("MultiSpike", "MaxSpike"):
        raise Unmapped(f"spike_fn={name}; the nearest is MaxSpike(1) or SingleSpike")
    if common["reset"] != "subtract" or np.size(alpha) > 1 or np.size(common["threshold"]) > 1:
        raise Unmapped(
            f"spike_fn={name} sends several spikes in a step, which several neurons of ours do for one that subtracts "
            "its threshold, with one decay and threshold for all; the nearest is SingleSpike"
        )
    if unbounded:
        return {"unbounded": True}
    return {"group": several_spikes(int(most), float(alpha * common["threshold"]))}


def _recurrent(module: nn.Module) -> Any:
    connection = getattr(module, "rec_connect", None)
    while isinstance(connection, nn.Sequential) and len(connection):
        named = [part for part in connection if any(True for _ in part.parameters())]
        connection = named[0] if len(named) == 1 else None
    if hasattr(module, "rec_connect") and not isinstance(connection, (nn.Linear, nn.Conv2d)):
        raise Unmapped("rec_connect: expected one Linear or Conv2d")
    return connection


def _decay(module: nn.Module, kind: str) -> Any:
    """Return the decay of a state: of tau in steps, or where decays are trained, of alpha itself."""
    if getattr(module, "train_alphas", False):
        return np.clip(number(module, f"alpha_{kind}"), 0, 1)
    return np.exp(-1 / number(module, f"tau_{kind}"))


def _batch(net: nn.Module, samples: int) -> None:
    for module in net.modules():  # neurons that take (samples·steps, …), and UnflattenTime
        if type(module).__module__.startswith("sinabs.") and hasattr(module, "batch_size"):
            module.batch_size, module.num_timesteps = samples, -1


def _steps(module: nn.Module) -> str | None:
    return "squeezed" if FRAMEWORK.kind(module).endswith("Squeeze") else "batch first"


FRAMEWORK = Framework(
    name="sinabs",
    packages=("sinabs",),
    versions="sinabs 3.1.3",
    neurons={
        **{name: _lif for name in ("LIF", "LIFSqueeze", "LIFRecurrent", "LIFRecurrentSqueeze")},
        **{name: _iaf for name in ("IAF", "IAFSqueeze", "IAFRecurrent")},
        **{name: _leak for name in ("ExpLeak", "ExpLeakSqueeze")},
    },
    refused={
        **{name: "its threshold adapts; the nearest is LIF" for name in ("ALIF", "ALIFSqueeze", "ALIFRecurrent")},
        "NeuromorphicReLU": "sends whole numbers; the nearest is IAF with SingleSpike",
        "SpikingMaxPooling2dLayer": "it sums up over time; the nearest is SumPool2d",
    },
    reset=calling("reset_states"),
    batch=_batch,
    steps=_steps,
)
