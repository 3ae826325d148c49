"""From a :class:`ChipNetwork` to numbers for the learning processes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ottt_loihi.onchip.network.backbone import cut, first_plastic_layer, plastic
from ottt_loihi.sim import Simulator, arithmetic
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning.bias import with_bias
from ottt_loihi.sim.learning.rule import DEFAULT, Rule
from ottt_loihi.sim.learning.subspace import ONE, Subspace, check_subspaces
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Dense, Diagonal, Sparse

from ottt_loihi import checks
from ottt_loihi.errors import ChipError, UsageError

PENDING = 1  # a logit scale, until it is measured


@dataclass(frozen=True)
class Plan:
    """A network whose every forward connection learns, behind a backbone of frozen layers or without one."""

    chip: ChipNetwork  # the part that learns; its input are the backbone's spikes
    dense: tuple[Dense | Sparse, ...]  # the plastic connections, input side first
    inhibition: tuple[Diagonal | None, ...]  # the self-connection of each hidden layer
    decay: tuple[float, ...]  # λ of each hidden layer
    logit_scale: int  # the readout's sum of weights for a logit of 1
    backbone: ChipNetwork | None  # the frozen layers
    whole: ChipNetwork  # both
    slow: tuple[float | None, ...] = ()  # of current-based neurons the larger decay, ``decay`` is the smaller one

    @property
    def graded(self) -> bool:
        """Whether the input are graded messages, which only a frozen connection can take."""
        return self.whole.message_bits > 0

    @property
    def hidden(self) -> tuple[LIF, ...]:
        return self.chip.layers[:-1]

    @property
    def classes(self) -> int:
        return self.chip.layers[-1].size

    def resolution(self, layer: int) -> float:
        """Return the number of weight units in a threshold, or at the readout in a logit of 1."""
        full = self.logit_scale if layer == len(self.hidden) else self.hidden[layer].vth
        return full / 2.0 ** self.dense[layer].weight_exp

    def slow_decay(self, layer: int) -> float | None:
        """The decay of the slower of two presynaptic traces, which layers of current-based neurons have."""
        return self.slow[layer] if layer < len(self.slow) else None

    def trace_decay(self, layer: int, rule: Rule = DEFAULT) -> float:
        """Return λ of the presynaptic trace: that of the postsynaptic neuron, or S-TLLR's λ_pre; 0 for the readout."""
        own = rule.lambda_pre
        return 0.0 if layer == len(self.hidden) else self.decay[layer] if own is None else own


def make_plan(chip: ChipNetwork, logit_scale: int | None = None) -> Plan:
    """Return the plan of a network, after checking that it can learn here.

    Raises
    ------
    ChipError
        naming the layer or connection that does not fit: from the first plastic connection on the network has to be a
        chain of plastic dense or sparse connections with binary spikes, hidden layers with one leak (reset to zero, or
        by subtraction through a self-connection), and a memoryless readout; before it, anything without delays
        (``onchip/network/backbone.py``)
    UsageError
        when no ``logit_scale`` is given and the network has none
    """
    last, first = len(chip.layers) - 1, first_plastic_layer(chip)
    inhibition: list[Diagonal | None] = []
    for index in range(first, last + 1):
        inputs = chip.inputs_of(index)
        forward = [c for c in inputs if isinstance(c, (Dense, Sparse))]
        recurrent = [c for c in inputs if isinstance(c, Diagonal)]
        pre = index - 1 if index else INPUT
        if len(forward) > 1 and {c.pre for c in forward} == {pre} and any(c.delay for c in forward):
            raise ChipError(
                f"layer[{index}] ({chip.layers[index].name}): {len(forward)} connections with delays hold the "
                "current of neurons that reset by subtraction, which cannot learn; export neurons that reset to zero"
            )
        if len(forward) != 1 or forward[0].pre != pre or forward[0].delay or forward[0].num_message_bits:
            raise ChipError(
                f"layer[{index}]: learning needs exactly one dense or sparse connection, from the layer before it"
            )
        if len(recurrent) > (index < last) or any(c.pre != index or c.delay for c in recurrent):
            raise ChipError(f"layer[{index}]: the only second connection that can learn here is the reset's, to itself")
        if forward[0].weight_format != "learning9":
            raise ChipError(
                f"{forward[0].label}: holds inference weights; weight_formats.make_plastic makes them learn"
                + (", and only the first layers can stay frozen" if first else "")
            )
        if isinstance(chip.layers[index].vth, np.ndarray):
            raise ChipError(
                f"layer[{index}] ({chip.layers[index].name}): learning needs one threshold a layer, as wide as its "
                "surrogate is; export with --thresholds layer"
            )
        inhibition.append(recurrent[0] if recurrent else None)
    readout = chip.layers[-1]
    if readout.du != 4095 or readout.dv != arithmetic.DECAY_UNITY or chip.readout != "sum_v":
        raise ChipError(
            f"layer[{last}] ({readout.name}): learning needs a memoryless readout, du = 4095, dv = 4096, "
            f"readout='sum_v'; got du = {readout.du}, dv = {readout.dv}, readout={chip.readout!r}; "
            "export it with ottt-export, without --fit-registers"
        )
    decay = [_decay(index, chip.layers[index], inhibition[index - first]) for index in range(first, last)]
    backbone, tail = cut(chip)
    return Plan(
        chip=tail,
        dense=plastic(tail),
        inhibition=tuple(inhibition[:-1]),
        decay=tuple(one for one, _ in decay),
        slow=tuple(slow for _, slow in decay),
        logit_scale=_logit_scale(chip) if logit_scale is None else checks.integer(logit_scale, "logit_scale"),
        backbone=backbone,
        whole=chip,
    )


def estimate_logit_scale(chip: ChipNetwork, x: np.ndarray, labels: np.ndarray | None = None) -> int:
    """Return the logit scale of a trained readout: the mean lead of the right class over the mean of the others.

    Whatever the loss was: a squared error leaves the readout of a step far below its target where a step says little.
    A thousand samples drawn over the training data are enough.

    Parameters
    ----------
    x
        spikes or messages ``(n, T, *input_shape)``
    labels
        int64 ``(n,)``; None: the network's own predictions, for data of a world that may have changed

    Raises
    ------
    UsageError
        where the right class does not lead: the network has not learnt this data
    """
    v = Simulator(replace(chip, readout="sum_v")).run(x).scores / chip.num_steps
    right = v[np.arange(len(x)), v.argmax(axis=1) if labels is None else labels]
    others = (v.sum(axis=1) - right) / max(1, v.shape[1] - 1)
    lead = float((right - others).mean()) / 2**arithmetic.STATE_SHIFT
    if lead < 1:
        raise UsageError(
            "the logit scale cannot be measured on this data: the right class does not lead; train the network "
            "longer before it learns on the chip, or give logit_scale= in Python"
        )
    return round(lead)


def trace_energy(
    plan: Plan, x: np.ndarray, subspaces: Sequence[Subspace] | None = None, rule: Rule = DEFAULT
) -> list[float]:
    """Return the mean over samples and steps of ‖â‖², the squared norm of each plastic connection's traces.

    For a sparse connection the mean over its neurons, each with the traces of its own inputs. An update of rate η
    changes the post neuron's input for the same pattern by η·‖â‖²·δ, so learning rates are relative to this. With
    HLOP's subspaces only the rest that they leave of â counts, but at least a tenth of all: a rate for less would let
    the rest of the trace, and its rounding, learn far too fast.

    Parameters
    ----------
    x
        input of the layers that learn, ``(batch, T, *plan.chip.input_shape)``

    Raises
    ------
    UsageError
        where nothing fires: a connection without pre spikes cannot learn
    """
    spikes = [reference.check_input(plan.chip, x).astype(float)]
    record = reference.run(plan.chip, x, record=("s",)).states["s"]
    spikes += [s.reshape(*s.shape[:2], -1).swapaxes(0, 1).astype(float) for s in record[:-1]]
    shares = [c.mask().mean(axis=0) if isinstance(c, Sparse) else 1.0 for c in plan.dense]  # of neurons per input
    energies = []
    for layer, (s, lateral) in enumerate(zip(spikes, plan_subspaces(plan, subspaces), strict=True)):
        fast, trace, total, left = np.zeros((len(s), s.shape[2])), np.zeros((len(s), s.shape[2])), 0.0, 0.0
        slow = plan.slow_decay(layer)
        for t in range(s.shape[1]):
            fast = plan.trace_decay(layer, rule) * fast + s[:, t]
            trace = fast if slow is None else slow * trace + fast
            total += float((trace**2 * shares[layer]).sum(axis=1).mean())
            if lateral is not None:
                h = lateral.rows[: lateral.fixed] / ONE
                left += float(((trace - trace @ h.T @ h) ** 2).sum(axis=1).mean())
        energies.append((total if lateral is None else max(left, total / 10)) / s.shape[1])
        if not total:
            who = "the input" if layer == 0 else f"layer[{layer - 1}] ({plan.hidden[layer - 1].name})"
            raise UsageError(f"{who} does not fire on this data: nothing can be learnt; lower the thresholds")
    return energies


def plan_subspaces(plan: Plan, subspaces: Sequence[Subspace] | None) -> tuple[Subspace | None, ...]:
    """Return HLOP's subspaces, one per plastic connection, or None for each.

    Raises
    ------
    UsageError
        where they do not fit, or a connection is sparse: each of its neurons has inputs of its own, so that the rest
        of a trace would differ between neurons
    """
    for index, c in enumerate(plan.dense):
        if subspaces is not None and isinstance(c, Sparse):
            raise UsageError(
                f"subspaces: plastic connection {index} ({c.label}) is sparse, and HLOP needs dense ones; learn without"
            )
    return check_subspaces(subspaces, [c.shape[1] for c in plan.dense])


def with_weights(plan: Plan, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray] | None = None) -> ChipNetwork:
    """Return the plan's network, its backbone included, with other plastic weights, and with learnt biases."""
    first = len(plan.whole.layers) - len(plan.chip.layers)
    connections = (
        _with_matrix(c, np.asarray(weights[c.post - first], np.int32)) if c.weight_format == "learning9" else c
        for c in plan.whole.connections
    )
    layers = plan.whole.layers
    if biases is not None:
        learnt = (with_bias(layer, np.asarray(bias, np.int32)) for layer, bias in zip(layers[first:], biases))
        layers = (*layers[:first], *learnt)
    return replace(plan.whole, layers=layers, connections=tuple(connections))


def _with_matrix(c: Connection, matrix: np.ndarray) -> Connection:
    return c.with_matrix(matrix) if isinstance(c, Sparse) else replace(c, weight=matrix)


def _decay(index: int, layer: LIF, loop: Diagonal | None) -> tuple[float, float | None]:
    """λ, from whichever of u and v holds the membrane, and None; of a current and a membrane both, ascending."""
    unity = arithmetic.DECAY_UNITY
    if unity - 1 != layer.du and layer.dv != unity:
        both = sorted((unity - 1 - layer.du, unity - layer.dv))
        if not 0 < both[0] < both[1] < unity:
            raise ChipError(
                f"layer[{index}] ({layer.name}): decays of {both[0]}/4096 and {both[1]}/4096; learning needs two that "
                "are different and below 1: with equal ones the engine's two traces are one; change one by 0.1"
            )
        if loop is not None:
            raise ChipError(
                f"layer[{index}] ({layer.name}): current-based neurons reset by subtraction cannot learn: "
                "the reset's self-connection would pass through the current; use neurons that reset to zero"
            )
        return both[0] / unity, both[1] / unity
    kept = unity - layer.dv if layer.du == unity - 1 else unity - 1 - layer.du
    if not 0 <= kept < arithmetic.DECAY_UNITY:
        raise ChipError(f"layer[{index}] ({layer.name}): λ = {kept}/4096, learning needs 0 ≤ λ < 1")
    return kept / arithmetic.DECAY_UNITY, None


def has_logit_scale(chip: ChipNetwork) -> bool:
    """Whether the network has a logit scale that is a target: the squared error of learning aims at a logit of 1.

    Cross-entropy, the other loss of ``ottt-train``, leaves logits of any size; learning on with a scale that
    is too small would unlearn everything first.
    """
    return chip.logit_scale is not None and chip.loss != "cross-entropy"


def _logit_scale(chip: ChipNetwork) -> int:
    if not has_logit_scale(chip):
        raise UsageError(
            "the network does not say what a logit of 1 is at the readout (logit_scale), or it was trained with "
            "cross-entropy, which has no such target; give logit_scale=, for example that of "
            "onchip.network.trainable.estimate_logit_scale"
        )
    return checks.integer(round(chip.logit_scale), "logit_scale")  # type: ignore[arg-type]
