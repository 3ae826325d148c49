"""An untrained ChipNetwork: where learning on the chip from scratch starts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Dense, Diagonal, Sparse

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

RESOLUTION = 256  # weight steps per threshold: weights reach ±1 Vth, and one step is 0.4 % of it
READOUT_STEPS_PER_INPUT = 16  # steps per logit of 1, times fan-in: the more inputs, the smaller each one's weight
READOUT_RANGE = (256, 8192)  # and its limits: below, weights are too coarse; above, 16 logits leave the 24 bits
HIDDEN_GAIN = 2.0  # of the first layer, times torch's ±1/√fan_in: at 1 hardly a neuron fires on rate-coded images
FIRING = 0.1  # part of the steps in which neurons of a layer are to fire, so that the next one gets enough
FLUCTUATIONS = 1.2  # thresholds per standard deviation of the membrane that such spikes cause
UNTIL_RESET = 3  # steps that a membrane keeps what it gets, before a spike takes it
READOUT_GAIN = 0.3  # a small start: the readout's noise would be the hidden layer's error
MAX_INHIBITION = 255


def fresh_network(
    input_shape: tuple[int, ...] = (8, 8),
    hidden: tuple[int, ...] = (128,),
    classes: int = 10,
    num_steps: int = 6,
    decay: float = 0.5,
    reset: str = "subtract",
    resolution: int = RESOLUTION,
    seed: int = 0,
    density: float | Sequence[float] = 1.0,
    current_decay: float = 0.0,
    gain: float | Sequence[float] | None = None,
) -> ChipNetwork:
    """Return an untrained network: plastic weights uniform in ±gain/√fan_in of the threshold, or of a logit of 1.

    Parameters
    ----------
    input_shape, hidden, classes, num_steps
        the layers' sizes and T
    decay
        λ, 0 < λ < 1; rounded to 1/4096
    reset
        ``"subtract"`` (OTTT's) or ``"zero"`` (Loihi's stock neuron)
    resolution
        weight steps per threshold, 16 … 510: more is finer, fewer lets weights grow larger (up to 255 steps)
    seed
        of the weights, and of which synapses there are
    density
        part of the synapses that exist, 0 < density ≤ 1, of all connections or of each, the readout's last; below 1 a
        connection is sparse: each of its neurons has as many randomly chosen inputs, at least one
    current_decay
        0 ≤ α < 1, rounded to 1/4096: of the synaptic current of current-based neurons, which reset to zero; 0: none
    gain
        > 0, of all hidden layers or of each. None: 2 for the first one, whose input is the data, and behind it the gain
        at which a layer that fires in a tenth of the steps keeps the next one firing (:func:`deeper_gain`)

    Raises
    ------
    UsageError
        for an argument out of range
    """
    checks.number(current_decay, "current_decay", 0, 1, below=True)
    input_shape, hidden = checks.sizes(input_shape, "input_shape"), checks.sizes(hidden, "hidden", 0)
    checks.integer(classes, "classes", 2)
    checks.integer(num_steps, "num_steps")
    checks.integer(seed, "seed", 0)
    decay = checks.number(decay, "decay", 0, 1, above=True, below=True)
    checks.integer(resolution, "resolution", 16, 510)
    checks.one_of(reset, "reset", ("subtract", "zero"))
    if current_decay and reset != "zero":
        raise UsageError(f"current_decay: current-based neurons reset to zero on the chip; got reset {reset!r}")
    densities = checks.each(density, "density", len(hidden) + 1, "connections")
    densities = [checks.number(part, "density", 0, 1, above=True) for part in densities]
    if gain is None:
        gain = [HIDDEN_GAIN, *[deeper_gain(decay, num_steps, current_decay)] * len(hidden)][: len(hidden)]
    gains = checks.each(gain, "gain", len(hidden), "hidden layers")
    gains = [checks.number(value, "gain", 0, 1000, above=True) for value in gains]
    kept = round(arithmetic.DECAY_UNITY * decay)
    inhibition = min(MAX_INHIBITION, round(resolution * kept / arithmetic.DECAY_UNITY))
    if not 0 < kept < arithmetic.DECAY_UNITY or (reset == "subtract" and not inhibition):
        raise UsageError(
            f"decay: {decay} rounds to {kept}/4096 and to a reset of {inhibition} weight steps, which must not be 0 "
            "or 4096; use a decay nearer to 0.5, or a finer resolution"
        )
    vth = round(inhibition * arithmetic.DECAY_UNITY / kept) if reset == "subtract" else resolution
    rng = np.random.default_rng(seed)
    layers: list[LIF] = []
    connections: list[Connection] = []
    fan_in = int(np.prod(input_shape))
    for index, size in enumerate(hidden):
        name = f"hidden {index + 1}"
        own = gains[index] * (1 - current_decay)  # a current adds up what arrives
        connections.append(_random(rng, index, size, fan_in, densities[index], own * vth))
        if reset == "subtract":
            layers.append(LIF((size,), 4095 - kept, 4096, vth, name=name))
            connections.append(Diagonal(index, index, np.full(size, -inhibition)))
        else:
            du = arithmetic.DECAY_UNITY - 1 - round(arithmetic.DECAY_UNITY * current_decay)
            layers.append(LIF((size,), du, arithmetic.DECAY_UNITY - kept, vth, name=name))
        fan_in = size
    low, high = READOUT_RANGE
    logit_scale = min(high, max(low, READOUT_STEPS_PER_INPUT * _fan_in(fan_in, densities[-1])))
    layers.append(LIF((classes,), 4095, 4096, arithmetic.VTH_MAX, name="readout"))
    connections.append(_random(rng, len(hidden), classes, fan_in, densities[-1], READOUT_GAIN * logit_scale))
    provenance = {"scales": [vth] * len(hidden) + [logit_scale], "origin": "fresh_network", "seed": seed}
    use = {"logit_scale": logit_scale, "untrained": True}
    return ChipNetwork(input_shape, tuple(layers), tuple(connections), num_steps, "sum_v", provenance, **use)


def deeper_gain(decay: float, num_steps: int, current_decay: float = 0.0) -> float:
    """Return the gain of a layer behind another one, at which spikes neither die out nor grow from layer to layer.

    Membranes behind independent weights vary by σ² = gain²/3·ν·ε, in thresholds. ν is how often the layer before fires,
    ε the energy of one spike's effect on a membrane, its mean over the T steps. Where σ is 1/ξ thresholds, some neurons
    of every layer fire: gain = √(3/(ν·ε))/ξ, with ν = 0.1 and ξ = 1.2 about 4 for λ = ½. The membrane's part of the
    effect counts for three steps, because a spike takes the rest: without that, the sixth layer is silent for λ = 0.97.

    Source: fluctuation-driven initialisation (Rossbroich, Gygax and Zenke 2022), with a sum for their integral.
    """
    current = (1 - current_decay) * current_decay ** np.arange(num_steps)
    membrane = decay ** np.arange(min(num_steps, UNTIL_RESET))
    effect = np.convolve(current, membrane)[:num_steps]
    energy = np.cumsum(effect**2).mean()
    return float(np.sqrt(3 / (FIRING * energy)) / FLUCTUATIONS)


def _fan_in(fan_in: int, density: float) -> int:
    """Return the number of inputs of each neuron."""
    return max(1, round(density * fan_in))


def _random(
    rng: np.random.Generator, index: int, size: int, fan_in: int, density: float, steps: float
) -> Dense | Sparse:
    pre, count = index - 1 if index else INPUT, _fan_in(fan_in, density)
    weight = np.round(rng.uniform(-1, 1, (size, count)) * steps / np.sqrt(count)).astype(np.int32)
    weight = np.clip(weight, -256, 255)
    if density == 1:
        return Dense(pre, index, weight, weight_format="learning9")
    columns = np.sort(rng.permuted(np.tile(np.arange(fan_in), (size, 1)), axis=1)[:, :count], axis=1)
    rows = np.repeat(np.arange(size), count)
    return Sparse(pre, index, (size, fan_in), rows, columns.ravel(), weight.ravel(), weight_format="learning9")
