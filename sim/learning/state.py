"""A ``LearningNetwork`` as the flat arrays of :mod:`ottt_loihi.sim.learning.kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import integers, kernels, losses, trial
from ottt_loihi.sim.learning.rule import LOSSES, SHARES
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import Sparse

if TYPE_CHECKING:
    from ottt_loihi.sim.learning.network import LearningLayer, LearningNetwork


def pack(network: LearningNetwork) -> tuple[kernels.Constants, kernels.State]:
    """Return the flat arrays of :mod:`ottt_loihi.sim.learning.kernels`."""
    layers = np.zeros(len(network.layers), kernels.LAYER)
    source = neuron = weight = 0
    weights: list[np.ndarray] = []
    masks: list[np.ndarray] = [np.zeros(0, np.int16)]
    for at, part in zip(layers, network.layers):
        size, inputs = part.connection.shape
        width = -(-size // kernels.BLOCK) * kernels.BLOCK
        at["source"], at["inputs"], at["neuron"], at["size"], at["width"] = source, inputs, neuron, size, width
        at["weight"], at["twin"], at["mask"] = weight, kernels.NONE, kernels.NONE
        _pack_numbers(at, part, network.epoch)
        weights.append(_rows(part.connection.matrix().T, width))
        if isinstance(part.connection, Sparse):
            at["mask"] = sum(map(len, masks))
            masks.append(_rows(-part.connection.mask().T.astype(np.int16), width))
        source, neuron, weight = source + inputs, neuron + width, weight + inputs * width
    rows: list[np.ndarray] = [np.zeros(0, np.int16)]
    for at, part in zip(layers, network.layers):
        if part.subspace is not None:
            at["subspace"] = sum(map(len, rows))
            rows.append(_pack_subspace(at, part.subspace))
    for at, above, part in zip(layers[:-1], layers[1:], network.layers):
        at["feedback"] = weight if part.feedback is not None else above["weight"]
        if part.feedback is not None:
            weights.append(_pack_feedback(at, above, layers[-1], part))
            weight += len(weights[-1])
    nothing = np.zeros(network.num_steps, np.int64)
    constants = kernels.Constants(
        layers=layers,
        rule=_rule(network),
        loop=_per_neuron(layers, [_loop(part) for part in network.layers]),
        masks=np.concatenate(masks),
        exp_table=losses.EXP_TABLE,
        bias_gain=np.stack([part.bias.scale[0] if part.bias else nothing for part in network.layers]),
    )
    lifs = [part.layer for part in network.layers]
    u_init = _per_neuron(layers, [lif.u_init.reshape(-1) for lif in lifs])
    seeds = [integers.xorshift32_seeds(part.seed, part.layer.size) for part in network.layers]
    zeros = {name: np.zeros(neuron, np.int32) for name in ("v", "membrane", "y1", "error", "reward", "h", "y2")}
    saturated = {f"{name}_saturated": np.zeros(len(layers), np.int64) for name in ("y1", "error", "feedback")}
    state = kernels.State(
        weights=np.concatenate(weights),
        spikes=np.zeros(source, np.uint8),
        trace=np.zeros(source, np.int32),
        slow=np.zeros(source, np.int32),
        u=u_init.copy(),
        bias=_per_neuron(layers, [lif.effective_bias for lif in lifs]),
        u_init=u_init,
        noise=np.zeros(neuron, np.int8),
        rng=_per_neuron(layers, seeds, np.uint32),
        scores=np.zeros(network.classes, np.int64),
        correct=np.zeros(1, np.int64),
        trial=trial.fresh_trial(network.rule.usual_mistakes)[: 2 * (network.rule.learn_when == "mistaken")],
        subspaces=np.concatenate(rows),
        **zeros,
        **saturated,
    )
    return constants, state


def _rule(network: LearningNetwork) -> np.ndarray:
    """Return ``kernels.RULE`` ``(1,)``."""
    rule, packed = network.rule, np.zeros(1, kernels.RULE)
    target = network.logit_scale << arithmetic.STATE_SHIFT
    mantissa, shift = losses.logit_steps(target)
    packed["epoch"], packed["epochs"], packed["target"] = network.epoch, network.epochs_per_sample, target
    packed["halve_every"], packed["share"] = rule.halve_every, SHARES[rule.rounding]
    packed["loss"], packed["logit_mantissa"], packed["logit_shift"] = LOSSES.index(rule.loss), mantissa, shift
    packed["only_mistaken"], packed["usual"] = rule.learn_when == "mistaken", rule.usual_mistakes
    packed["factored"] = rule.encoding == "factored"
    return packed


def _key(seed: int) -> np.uint32:
    """Return the seed of a connection's random numbers."""
    return integers.mix32(np.array([seed], np.uint32))[0]


def _pack_numbers(at: np.void, part: LearningLayer, epoch: int) -> None:
    """Write the scalars of one layer."""
    unity = arithmetic.DECAY_UNITY
    at["exponent"] = part.connection.weight_exp
    at["impulse"], at["pre_phase"], at["keeps_trace"] = part.impulse, part.pre_phase, part.decay > 0
    at["vth"], at["half_width"] = part.layer.vth << arithmetic.STATE_SHIFT, part.half_width << arithmetic.STATE_SHIFT
    at["y1_mantissa"], at["y1_shift"] = part.y1
    at["error_mantissa"], at["error_shift"] = part.error or (0, 0)
    at["trace_decay"] = integers.kept_per_step(part.decay, epoch)
    at["keep_u"], at["keep_v"] = (unity - 1 - part.layer.du) / unity, (unity - part.layer.dv) / unity
    at["key"] = _key(part.weight_seed)
    if part.bias is not None:
        at["bias_shift"], at["bias_exponent"], at["bias_in_u"] = part.bias.scale[1], part.bias.exponent, part.bias.in_u
    if part.slow is not None:
        at["slow_decay"], at["slow_impulse"] = integers.kept_per_step(part.slow.decay, epoch), part.slow.impulse
    if (after := part.after) is not None:
        at["h_impulse"], at["h_keep"] = after.impulse << arithmetic.STATE_SHIFT, after.keep
        at["y2_sign"], at["y2_left"], (at["y2_mantissa"], at["y2_shift"]) = after.sign, after.shift, after.y2


def _pack_feedback(at: np.void, above: np.void, readout: np.void, part: LearningLayer) -> np.ndarray:
    """Write the numbers of a hidden layer's own feedback; return its weights."""
    feedback = part.feedback
    assert feedback is not None
    at["direct"], at["feedback_key"] = not feedback.layerwise, _key(feedback.seed)
    at["noise"], at["averaging"] = feedback.noise << arithmetic.STATE_SHIFT, feedback.averaging
    at["gain_mantissa"], at["gain_shift"] = feedback.gain
    if feedback.twin:
        above["twin"], above["twin_key"] = at["feedback"], _key(feedback.seed)
    return _rows(feedback.rows, int((readout if at["direct"] else above)["width"]))


def _pack_subspace(at: np.void, subspace: Subspace) -> np.ndarray:
    """Write the numbers of a layer's lateral neurons; return their rows."""
    at["rows"], at["fixed"], at["row_shift"] = len(subspace.rows), subspace.fixed, subspace.shift
    at["row_key"] = _key(subspace.seed)
    return subspace.rows.ravel()


def _loop(part: LearningLayer) -> np.ndarray:
    if part.inhibition is None:
        return np.zeros(part.layer.size, np.int32)
    return arithmetic.synaptic_input(part.inhibition.weight, part.inhibition.weight_exp)


def _rows(matrix: np.ndarray, width: int) -> np.ndarray:
    """Return a matrix as flat int16, each row padded with zeros."""
    padded = np.zeros((len(matrix), width), np.int16)
    padded[:, : matrix.shape[1]] = matrix
    return padded.ravel()


def _per_neuron(layers: np.ndarray, values: Sequence[np.ndarray], dtype: type = np.int32) -> np.ndarray:
    flat = np.zeros(int(layers["width"].sum()), dtype)
    for at, value in zip(layers, values):
        flat[at["neuron"] : at["neuron"] + at["size"]] = value
    return flat
