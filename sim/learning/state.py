"""A ``LearningNetwork`` as the flat arrays of :mod:`ottt_loihi.sim.learning.kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.arithmetic import synaptic_input
from ottt_loihi.sim.learning import integers, kernels, losses, trial
from ottt_loihi.sim.learning.rule import LOSSES, SHARES
from ottt_loihi.sim.network import Sparse

if TYPE_CHECKING:
    from ottt_loihi.sim.learning.network import LearningLayer, LearningNetwork

EVERYWHERE = 1 << 40  # no membrane is so far from a threshold


def pack(network: LearningNetwork) -> tuple[kernels.Constants, kernels.State]:
    """Return the flat arrays of :mod:`ottt_loihi.sim.learning.kernels`."""
    layers = np.zeros(len(network.layers), kernels.LAYER)
    source = neuron = weight = 0
    weights: list[np.ndarray] = []
    masks, rows = [np.zeros(0, np.int16)], [np.zeros(0, np.int16)]
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
        if (lateral := part.subspace) is not None:
            at["subspace"], at["rows"], at["fixed"] = sum(map(len, rows)), len(lateral.rows), lateral.fixed
            at["row_shift"], at["row_key"] = lateral.shift, _key(lateral.seed)
            rows.append(lateral.rows.ravel())
    for at, above, part in zip(layers[:-1], layers[1:], network.layers):
        at["feedback"] = weight if part.feedback is not None else above["weight"]
        if part.feedback is not None:
            weights.append(_pack_feedback(at, above, layers[-1], part))
            weight += len(weights[-1])
    layers[-1]["half_width"] = EVERYWHERE
    nothing, resets = np.zeros(network.num_steps, np.int64), [part.inhibition for part in network.layers]
    constants = kernels.Constants(
        layers=layers,
        rule=_rule(network),
        loop=_per_neuron(layers, [0 if c is None else synaptic_input(c.weight, c.weight_exp) for c in resets]),
        masks=np.concatenate(masks),
        exp_table=losses.EXP_TABLE,
        bias_gain=np.stack([part.bias.scale[0] if part.bias else nothing for part in network.layers]),
    )
    lifs = [part.layer for part in network.layers]
    u_init = _per_neuron(layers, [lif.u_init.reshape(-1) for lif in lifs])
    seeds = [integers.xorshift32_seeds(part.seed, part.layer.size) for part in network.layers]
    zeros = {name: np.zeros(neuron, np.int32) for name in ("v", "membrane", "y1", "error", "reward")}
    after, slow = (any(getattr(part, name) for part in network.layers) for name in ("after", "slow"))
    zeros |= {name: np.zeros(neuron * after, np.int32) for name in ("h", "y2")}
    saturated = {f"{name}_saturated": np.zeros(len(layers), np.int64) for name in ("y1", "error", "feedback")}
    state = kernels.State(
        weights=np.concatenate(weights),
        spikes=np.zeros(source, np.uint8),
        trace=np.zeros(source, np.int32),
        slow=np.zeros(source * slow, np.int32),
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


def places(network: LearningNetwork, layers: np.ndarray, state: kernels.State) -> dict[str, np.ndarray]:
    """Return views of the variables in the state, named as in ``Learner.variables``: a value written there is used."""
    found: dict[str, np.ndarray] = {}

    def matrix(start: int, rows: int, width: int, columns: int) -> np.ndarray:
        """Return a view of one matrix in ``state.weights``. Its rows are ``width`` long there, with padding."""
        return state.weights[start : start + rows * width].reshape(rows, width)[:, :columns]

    for index, (at, part) in enumerate(zip(layers, network.layers)):
        hidden, neurons = index < len(layers) - 1, slice(at["neuron"], at["neuron"] + at["size"])
        sources = slice(at["source"], at["source"] + at["inputs"])
        weights = matrix(at["weight"], at["inputs"], at["width"], at["size"])
        synapses = {"weights": weights.T, "x1": state.trace[sources]}
        synapses |= {"x2": state.slow[sources]} if part.slow else {}
        if part.subspace:
            rows = state.subspaces[at["subspace"] : at["subspace"] + at["rows"] * at["inputs"]]
            synapses["rows"] = rows.reshape(at["rows"], at["inputs"])
        names = ["v", "y1", "rng", *(["bias"] if network.rule.learn_bias else [])]
        if hidden:
            names += ["u", *(["u_init"] if network.rule.learn_bias else []), *(["h"] if part.after else [])]
        mine = {name: getattr(state, name)[neurons] for name in names}
        mine |= {name: getattr(state, name)[index : index + 1] for name in ("y1_saturated", "error_saturated")}
        if hidden:
            mine["s"] = state.spikes[layers[index + 1]["source"] :][: at["size"]]
        else:
            mine |= {"scores": state.scores, "correct": state.correct}
            mine |= {"trial": state.trial} if len(state.trial) else {}
        fed: dict[str, np.ndarray] = {}
        if (feedback := part.feedback) is not None:
            width = layers[-1 if at["direct"] else index + 1]["width"]
            rows = matrix(at["feedback"], at["size"], width, feedback.rows.shape[1])
            fed["weights"] = rows.T if feedback.layerwise else rows
        if feedback is not None and feedback.noise:
            fed |= {"noise": state.noise[neurons], "saturated": state.feedback_saturated[index : index + 1]}
        process = f"neuron[{index}]" if hidden else "readout[0]"
        for name, variables in ((f"plastic[{index}]", synapses), (process, mine), (f"feedback[{index}]", fed)):
            found |= {f"{name}.{variable}": place for variable, place in variables.items()}
    return found


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


def _rows(matrix: np.ndarray, width: int) -> np.ndarray:
    """Return a matrix as flat int16, each row padded with zeros."""
    padded = np.zeros((len(matrix), width), np.int16)
    padded[:, : matrix.shape[1]] = matrix
    return padded.ravel()


def _per_neuron(layers: np.ndarray, values: Sequence[np.ndarray | int], dtype: type = np.int32) -> np.ndarray:
    flat = np.zeros(int(layers["width"].sum()), dtype)
    for at, value in zip(layers, values):
        flat[at["neuron"] : at["neuron"] + at["size"]] = value
    return flat
