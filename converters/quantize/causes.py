"""Why an integer network's spikes differ from the trained network's: one kind of rounding after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ottt_loihi.converters.quantize.float_network import MESSAGES, FloatNetwork
from ottt_loihi.converters.quantize.float_run import run, scores, synapses
from ottt_loihi.converters.quantize.layer import PIXEL_LEVELS
from ottt_loihi.converters.quantize.quantize import Quantized

from ottt_loihi import sim

SAMPLES = 64
MAX_WORK = 1 << 29  # synapses times samples times time steps of one float run: seconds


@dataclass(frozen=True)
class Stage:
    """A float network with some of the chip's values, against the chip.

    Attributes
    ----------
    name
        what it has of the chip that the stage before had not
    spikes
        share of the hidden neurons' time steps where the spikes differ from the chip's
    predictions
        share of the samples with another prediction than the chip's
    """

    name: str
    spikes: float
    predictions: float


@dataclass(frozen=True)
class Causes:
    """The stages, from the trained network to the chip, on the first ``samples`` of those compared."""

    stages: tuple[Stage, ...]
    samples: int


def causes(trained: FloatNetwork, quantized: Quantized, x: np.ndarray, messages: np.ndarray) -> Causes | None:
    """Return what each kind of rounding changes; None where a float run would take too long or nothing was rounded.

    Parameters
    ----------
    x
        float ``(n, T, *input_shape)``, or ``(n, 1, *input_shape)`` of an input that is constant in time; without a
        normalisation, which ``trained`` has in its weights
    messages
        ``(n, T, *input_shape)``, the same samples as the chip gets them
    """
    chip = quantized.chip
    most = MAX_WORK // max(1, sum(synapses(c) for c in trained.connections) * chip.num_steps)
    samples = min(SAMPLES, most, len(x))
    if quantized.rounded is None or samples < 1:
        return None
    x, messages = x[:samples], messages[:samples]
    x = messages / MESSAGES if trained.input == "graded" else x  # of any unit, which the float weights contain
    shown = np.broadcast_to(x, (samples, chip.num_steps, *x.shape[2:]))
    found = sim.run(chip, messages, ("s",))
    stages = []
    for name, net, seen in _networks(trained, quantized.rounded, shown):
        sent = run(net, seen)
        hidden = [i for i, layer in enumerate(net.layers) if layer.reset is not None]
        differing = sum(int(((sent[i] != 0) != found.states["s"][i].reshape(sent[i].shape)).sum()) for i in hidden)
        places = sum(sent[i].size for i in hidden)
        wrong = (scores(net, sent).argmax(axis=1) != found.predictions).mean()
        stages.append(Stage(name, differing / max(places, 1), float(wrong)))
    return Causes(tuple(stages), samples)


def _networks(
    trained: FloatNetwork, rounded: FloatNetwork, x: np.ndarray
) -> list[tuple[str, FloatNetwork, np.ndarray]]:
    """Return (name, network, its input) of every stage; each has one more kind of the chip's values."""
    found = [("as trained", trained, x)]
    if trained.input == "constant":
        x = np.round(np.float64(x) * PIXEL_LEVELS) / PIXEL_LEVELS
        found.append(("the input in 8 bits", trained, x))
    pairs = list(zip(trained.layers, rounded.layers))
    weights = replace(trained, layers=tuple(replace(t, bias=r.bias) for t, r in pairs), connections=rounded.connections)
    found.append(("weights and biases", weights, x))
    thresholds = replace(weights, layers=tuple(replace(t, bias=r.bias, v_threshold=r.v_threshold) for t, r in pairs))
    found.append(("thresholds", thresholds, x))
    if any((t.beta, t.alpha) != (r.beta, r.alpha) for t, r in pairs):
        found.append(("decays", rounded, x))
    return found
