"""Learning rates and logit scale of a run that does not choose them, from T, λ, firing rates, fan-in and the loss.

The derivation is in docs/onchip.md, "Rates". In short: what one *sample* may take away of the readout's error is the
same for every network. A sample teaches T times, the squared norm of its trace is measured, and the hidden layers are
measured by what their changes do to the readout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ottt_loihi.onchip.network.feedback.random import random_feedback
from ottt_loihi.onchip.network.trainable import Plan, estimate_logit_scale, trace_energy
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.sim import Simulator, arithmetic
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning import trial
from ottt_loihi.sim.learning.bias import lives_in_u
from ottt_loihi.sim.learning.rule import Rule
from ottt_loihi.sim.learning.subspace import Subspace

from ottt_loihi.errors import UsageError

FRESH = (0.12, 1.0)  # part of its error that a sample takes from the readout, and hidden layers from it: from scratch
LEARNT = 0.1  # the same, of both, in a network that has learnt, times its signal over its errors
RANDOM = 4.0  # fixed random feedback: only the part of it that is aligned helps, so hidden layers learn faster
LEAST_GAIN = 1e-4
FROM_SCRATCH = "softmax"  # a squared error is never done with a sample that is answered right
LOGITS = {"softmax": (8, 4)}  # lead of the right class, from scratch and in a network that has learnt; others: 1
CALIBRATION_SAMPLES = 256


def drawn(samples: int, seed: int) -> np.ndarray:
    """Return the indices of the samples on which rates are measured, ascending: drawn from all, or all if few.

    int64 ``(min(samples, 256),)``
    """
    chosen = np.random.default_rng([seed, samples]).permutation(samples)[:CALIBRATION_SAMPLES]
    return np.sort(chosen)


def fitted(
    plan: Plan,
    settings: Settings,
    x: np.ndarray,
    subspaces: Sequence[Subspace] | None = None,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Plan, Settings, list[float]]:
    """Return the plan with its logit scale, settings without a gap, and η of every plastic connection.

    Parameters
    ----------
    x
        spikes ``(n, T, *plan.chip.input_shape)`` of samples that were drawn, training samples
    subspaces
        HLOP's, or None
    known
        spikes and labels of samples of the world that the network has learnt, or None

    Raises
    ------
    UsageError
        where nothing fires, or the logit scale or the rates cannot be measured
    """
    fresh, old = plan.chip.untrained, x if known is None else known[0]
    if settings.loss is None:
        settings = replace(settings, loss=FROM_SCRATCH if fresh else Rule.loss)
    if settings.learn_when is None:
        when = "always" if fresh or settings.feedback == "local" else "mistaken"  # local layers ask no readout
        settings = replace(settings, learn_when=when)
    if settings.usual_mistakes is None:
        usual = 0.0 if known is None else wrong(plan, *known)
        settings = replace(settings, usual_mistakes=round(usual * trial.UNITY))
    logit_scale = settings.logit_scale
    if logit_scale is None:
        logit_scale = logit_scale_for(settings.loss, _lead(plan, old), fresh)
    plan, settings = replace(plan, logit_scale=logit_scale), replace(settings, logit_scale=logit_scale)
    energy, logits = trace_energy(plan, x, subspaces, settings), _logits(settings.loss, fresh)
    parts = FRESH if fresh else (min(1.0, LEARNT * signal(plan, old, logit_scale * logits)),) * 2
    of_readout, of_hidden = (part * logits / plan.chip.num_steps for part in parts)
    if not of_readout and None in (settings.readout_rate, settings.hidden_rate):
        raise UsageError(
            f"rates: the readout is the same for every one of the {len(old)} samples that rates are measured on; give "
            "more samples, samples that the network knows (known), or readout_rate and hidden_rate"
        )
    if settings.readout_rate is None:
        settings = replace(settings, readout_rate=of_readout)
    if settings.hidden_rate is None:
        of_hidden *= RANDOM if settings.feedback in ("random", "local") else 1.0
        gains = feedback_gains(plan, x, settings.feedback, settings.seed)
        settings = replace(settings, hidden_rate=tuple(of_hidden / max(gain, LEAST_GAIN) for gain in gains))
    rates = settings.rates(len(plan.hidden))
    return plan, settings, [part / e for part, e in zip(rates, energy, strict=True)]


def logit_scale_for(loss: str, lead: int, fresh: bool = False) -> int:
    """Return the logit scale of a readout whose right class leads, or is to lead, by ``lead``."""
    return max(1, lead // _logits(loss, fresh))


def wrong(plan: Plan, x: np.ndarray, labels: np.ndarray) -> float:
    """Return the part of the answers that are wrong, 0 … 1."""
    return float((Simulator(plan.chip).run(x).predictions != labels).mean())


def signal(plan: Plan, x: np.ndarray, lead: int) -> float:
    """Return the readout's variance from sample to sample over the squared error of its single time steps.

    The error of a step is the one that is learnt from, with the network's own answers as labels: even where every
    answer is right it is not 0, and teaches noise.
    """
    v = reference.run(plan.chip, x, record=("v",)).states["v"][-1] / (lead * float(1 << arithmetic.STATE_SHIFT))
    v = v.reshape(len(v), len(x), -1)
    means = v.mean(axis=0)
    error = ((v - np.eye(v.shape[2])[means.argmax(axis=1)]) ** 2).mean(axis=(0, 1)).sum()
    return float(means.var(axis=0).sum() / max(error, 1e-9))


def _logits(loss: str, fresh: bool) -> int:
    """Return by how many logits the right class is to lead: the logit scale is divided by it, and rates multiplied."""
    return LOGITS.get(loss, (1, 1))[not fresh]


def _lead(plan: Plan, x: np.ndarray) -> int:
    """Return the logit scale of a squared error: the one of ``fresh_network``, or the lead that was learnt."""
    scale = plan.chip.logit_scale
    if plan.chip.untrained and scale is not None:
        return round(scale)
    try:
        return estimate_logit_scale(plan.chip, x)
    except UsageError:
        if scale is None:
            raise
        return round(scale)


def feedback_gains(plan: Plan, x: np.ndarray, feedback: str, seed: int) -> list[float]:
    """Return for each hidden layer by how much the readout changes, per change of 1 that its feedback asks for.

    ``(1/C)·Σ_jk f_j·G_kj²`` with f_j the part of the time steps in which neuron j's surrogate is 1, and G the error's
    path: the forward weights from layer to layer, in thresholds and logits; for fixed random feedback its own matrix,
    for local signals one of the same size.
    """
    active = surrogate_rates(plan, x)
    if feedback in ("random", "local"):
        return [float((f[:, None] * b**2).sum() / plan.classes) for f, b in zip(active, random_feedback(plan, seed))]
    gains, path = [0.0] * len(active), np.eye(plan.classes)
    for layer in reversed(range(len(active))):
        path = path @ (plan.dense[layer + 1].matrix() / plan.resolution(layer + 1)) * np.sqrt(active[layer])
        gains[layer] = float((path**2).sum() / plan.classes)
    return gains


def surrogate_rates(plan: Plan, x: np.ndarray) -> list[np.ndarray]:
    """Return the part of the time steps in which each hidden neuron's rectangle is 1, float64 ``(neurons,)``."""
    states = reference.run(plan.chip, x, record=("s", "u", "v")).states
    found = []
    for index, layer in enumerate(plan.hidden):
        subtracts = lives_in_u(layer)
        membrane = states["u" if subtracts else "v"][index]
        inside = (membrane > 0) & (membrane < 2 * (int(layer.vth) << arithmetic.STATE_SHIFT))
        if not subtracts:  # v is 0 again after a spike
            inside |= states["s"][index] > 0
        found.append(inside.reshape(*inside.shape[:2], -1).mean(axis=(0, 1)))
    return found
