"""The process graph that learns: built from a :class:`~ottt_loihi.onchip.network.trainable.Plan`, not yet running.

::

    source ──s──▶ plastic[0] ──a──▶ neuron[0] ──s──▶ plastic[1] ──a──▶ … ──▶ readout ◀──label── source
                      ▲                │ y1              ▲                      │ y1, error
                      └────────────────┘                 └──────────────────────┤
                                       ▲                                        │
                                       └──────────────── feedback[0] ◀──────────┘

Feedback is one of

- ``random``: Lava's Dense with fixed weights
- ``symmetric``: no process, the plastic connection gives its own transposed weights
- ``kolen-pollack``: a twin of the plastic connection, which starts elsewhere and learns from the same spikes and y1,
  and whose transposed weights carry the error
- ``opzo``: MomentumFeedback, which learns from the neurons' noise
- ``local``: Lava's Dense with fixed signs there, ClassNeurons, and the same signs back, of each hidden layer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters.lava.runtime import require_lava
from ottt_loihi.onchip.lava import stock
from ottt_loihi.onchip.lava.front_graph import build_front, build_source
from ottt_loihi.onchip.network import scales
from ottt_loihi.onchip.network.schedule import Schedule
from ottt_loihi.onchip.network.trainable import Plan, plan_subspaces
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import eligibility, integers
from ottt_loihi.sim.learning.encodings import PORTS
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.options import DEFAULT, Options
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import Dense, Sparse

if TYPE_CHECKING:
    from ottt_loihi.converters.lava.backends import LavaBackend

LABEL_BITS = 16  # of a label on its way to the readout
NEVER = 1 << 62  # Lava steps until a trace is reset


@dataclass(frozen=True)
class LearningGraph:
    """The Lava processes of a network that learns.

    Attributes
    ----------
    feedback
        one per hidden layer, none for symmetric feedback
    epoch
        Lava steps per learning epoch
    period
        Lava steps per sample
    front
        frozen neurons
    local
        class neurons, one process per hidden layer of TESS
    """

    source: Any
    plastic: tuple[Any, ...]
    neurons: tuple[Any, ...]
    readout: Any
    feedback: tuple[Any, ...]
    epoch: int
    period: int
    front: tuple[Any, ...] = ()
    local: tuple[Any, ...] = ()

    def variables(self) -> dict[str, Any]:
        """Every Var that learning depends on or counts in, by a readable name."""
        named = {}
        for kind, processes, names in (
            ("plastic", self.plastic, ("weights", "x1", "y1", "y2", "y3", "a_buff")),
            (
                "neuron",
                self.neurons,
                ("u", "v", "s", "y1", "rng", "h", "bias", "u_init", "y1_saturated", "error_saturated"),
            ),
            (
                "readout",
                (self.readout,),
                ("v", "y1", "rng", "bias", "scores", "correct", "y1_saturated", "error_saturated"),
            ),
        ):
            for index, process in enumerate(processes):
                named.update({f"{kind}[{index}].{name}": getattr(process, name) for name in names})
                if hasattr(process, "rows"):
                    named[f"{kind}[{index}].rows"] = process.rows
        for index, process in enumerate(self.front):
            named.update({f"front[{index}].{name}": getattr(process, name) for name in "uvs"})
        for index, process in enumerate(self.feedback):
            names = [name for name in ("weights", "x1", "noise", "saturated") if hasattr(process, name)]
            named.update({f"feedback[{index}].{name}": getattr(process, name) for name in names})
        return named


def build_graph(
    plan: Plan,
    packed: np.ndarray,
    labels: np.ndarray,
    rates: list[float],
    feedback: str = "random",
    seed: int = 0,
    learn: np.ndarray | bool = True,
    halve_every: int = 0,
    rounding: str = "lava",
    subspaces: Sequence[Subspace] | None = None,
    options: Options = DEFAULT,
    backend: LavaBackend | None = None,
) -> LearningGraph:
    """Build the fixed-point graph.

    Parameters
    ----------
    plan
        the network
    packed, labels, learn
        as in :class:`~ottt_loihi.onchip.lava.processes.source.SampleSource`, the whole network's input; graded:
        :class:`~ottt_loihi.onchip.lava.processes.messages.MessageSource`
    rates
        η per plastic connection: ``Δw = −η·â·f(u)·δ`` in units of the threshold (of a logit of 1 at the readout)
    feedback
        one of ``plan.FEEDBACKS``
    seed
        of the feedback matrices, of stochastic rounding and of trace decay
    halve_every
        samples after which all rates are halved, again and again; 0: never
    rounding
        of updated weights, ``"lava"`` or ``"per-synapse"`` (:class:`~ottt_loihi.onchip.lava.processes.dense.OTTTDense`)
    subspaces
        HLOP's, one per plastic connection (:class:`~ottt_loihi.onchip.lava.processes.projected.ProjectedDense`)
    options
        of the rule
    backend
        where it will run, with adapters between host and network if need be; default: Lava's CPU models

    Raises
    ------
    UsageError
        a rate too small or too large for the integers (``sim/learning/integers.py``)
    """
    require_lava()
    rule = Settings(feedback=feedback, seed=seed, halve_every=halve_every, rounding=rounding, **options.chosen())
    schedule, steps = _schedule(plan, rule), plan.chip.num_steps
    lateral = plan_subspaces(plan, subspaces)
    source = build_source(plan, packed, labels, schedule, learn)
    front = build_front(plan, source, schedule)
    plastic = [_plastic(plan, rule, layer, lateral[layer]) for layer in range(len(plan.dense))]
    *hidden, last = scales.layer_scales(plan, rates, feedback, seed, options)
    neurons = [_neuron(plan, rule, layer, of_layer) for layer, of_layer in enumerate(hidden)]
    readout = _readout(plan, rule, last, len(labels))
    back = [_back(plan, rule, layer, of_layer, lateral[layer + 1]) for layer, of_layer in enumerate(hidden)]
    own = [b for b in back if b is not None]
    ports = PORTS[options.encoding]
    sent = [eligibility.ports(ports, options.alpha_post != 0)] * len(neurons) + [ports]
    local = class_neurons(plan.classes, own, schedule, steps, options.kappa) if feedback == "local" else []
    return connect(source, plastic, neurons, readout, own, schedule, steps, sent, front, backend, local)


def host_models() -> dict[type, type]:
    """The ProcessModel of each source of samples: with a chip they stay on the host."""
    from ottt_loihi.onchip.lava.processes import messages, source

    return {
        source.SampleSource: source.SampleSourceModelFixed,
        messages.MessageSource: messages.MessageSourceModelFixed,
    }


def _schedule(plan: Plan, rule: Settings) -> Schedule:
    return plan.schedule(rule.feedback, rule.schedule, rule.silent_epochs, rule.input_lag)


def _lavas_rule(plan: Plan, rule: Settings, layer: int, is_stock: bool) -> Any:
    from ottt_loihi.onchip.lava.rule import OTTTLearningRule

    schedule, after = _schedule(plan, rule), None
    if layer < len(plan.hidden):
        after = scales.layer_after(plan, layer, rule.feedback, rule, 1.0)
    return OTTTLearningRule(
        schedule.epoch,
        schedule.pre_phase(layer),
        plan.trace_decay(layer, rule),
        impulse=integers.default_impulse(plan.trace_decay(layer, rule), rule.silent_epochs > 0),
        seed=scales.trace_seed(rule.seed, layer),
        encoding=rule.encoding,
        stock=is_stock,
        after=None if after is None else (after.sign, after.shift),
    )


def _plastic(plan: Plan, rule: Settings, layer: int, subspace: Subspace | None) -> Any:
    weight, own_seed, name = plan.dense[layer].matrix(), scales.weight_seed(rule.seed, layer), f"plastic[{layer}]"
    if stock.is_chosen(rule) and isinstance(plan.dense[layer], Dense):
        return stock.connection(weight, _lavas_rule(plan, rule, layer, True), plan.dense[layer].weight_exp, name)
    return _learning_connection(plan, rule, layer, weight, name, own_seed, subspace)


def _learning_connection(
    plan: Plan, rule: Settings, layer: int, weight: np.ndarray, name: str, seed: int, subspace: Subspace | None
) -> Any:
    from ottt_loihi.onchip.lava.processes.dense import OTTTDense
    from ottt_loihi.onchip.lava.processes.projected import ProjectedDense
    from ottt_loihi.onchip.lava.processes.sparse import OTTTSparse

    schedule = _schedule(plan, rule)
    period = schedule.period(plan.chip.num_steps)
    carried = NEVER if rule.silent_epochs else period
    interval = carried if plan.trace_decay(layer, rule) else schedule.epoch
    of_lava = _lavas_rule(plan, rule, layer, is_stock=False)
    settings = of_lava, interval, plan.dense[layer].weight_exp, name, rule.rounding, seed
    decay = rule.decay_every * (period // schedule.epoch), rule.decay_shift
    if isinstance(plan.dense[layer], Sparse):
        return OTTTSparse(_stored(plan.dense[layer], weight), *settings, *decay)
    if subspace is not None:
        return ProjectedDense(weight, *settings, subspace, *decay)
    return OTTTDense(weight, *settings, *decay)


def _stored(c: Sparse, weight: np.ndarray) -> Any:
    """The weights of a sparse connection, or of its twin, in Lava's form; those that are 0 are stored too."""
    from scipy.sparse import csr_matrix

    return csr_matrix((weight[c.rows, c.columns].astype(np.int32), (c.rows, c.columns)), c.size)


def _back(plan: Plan, rule: Settings, layer: int, of_layer: scales.Scales, above: Subspace | None) -> Any | None:
    """The process that brings the error to a hidden layer, if it needs one of its own."""
    from lava.proc.dense import process as dense
    from ottt_loihi.onchip.lava.processes.feedback import MomentumFeedback

    matrix, name, own_seed = of_layer.feedback, f"feedback[{layer}]", scales.feedback_seed(plan, rule.seed, layer)
    if rule.feedback in ("random", "local"):
        return dense.Dense(weights=matrix, num_message_bits=8, name=name)
    if rule.feedback == "kolen-pollack":
        return _learning_connection(plan, rule, layer + 1, matrix, name, own_seed, above)
    if rule.feedback == "opzo":
        epoch = _schedule(plan, rule).epoch
        return MomentumFeedback(matrix, of_layer.gain, scales.AVERAGING, epoch, own_seed, name)
    return None


def _neuron(plan: Plan, rule: Settings, layer: int, of_layer: scales.Scales) -> Any:
    from ottt_loihi.onchip.lava.processes.neuron import OTTTNeuron

    lif, inhibition, schedule = plan.hidden[layer], plan.inhibition[layer], _schedule(plan, rule)
    return OTTTNeuron(
        shape=(lif.size,),
        du=lif.du,
        dv=lif.dv,
        vth=lif.vth,
        half_width=lif.vth,
        y1_scale=of_layer.y1,
        error_scale=of_layer.error,
        halve_every=rule.halve_every * plan.chip.num_steps,
        epoch=schedule.epoch,
        frames=plan.chip.num_steps,
        period=schedule.period(plan.chip.num_steps),
        update_phase=schedule.update_phase(layer),
        feedback_phase=schedule.feedback_phase(layer),
        bias=arithmetic.effective_bias(lif.bias_mant.reshape(-1), lif.bias_exp),
        u_init=lif.u_init.reshape(-1),
        self_weight=0 if inhibition is None else inhibition.weight,
        self_weight_exp=0 if inhibition is None else inhibition.weight_exp,
        noise=of_layer.noise,
        encoding=rule.encoding,
        bias_learning=scales.layer_bias(plan, layer, rule.feedback, rule) if rule.learn_bias else None,
        after=scales.layer_after(plan, layer, rule.feedback, rule, of_layer.y1),
        seed=scales.neuron_seed(plan, rule.seed, layer),
        name=f"neuron[{layer}]",
    )


def _readout(plan: Plan, rule: Settings, of_layer: scales.Scales, samples: int) -> Any:
    from ottt_loihi.onchip.lava.processes.readout import OTTTReadout

    lif, schedule, layer = plan.chip.layers[-1], _schedule(plan, rule), len(plan.hidden)
    return OTTTReadout(
        shape=(lif.size,),
        unit=plan.unit,
        vth=lif.vth,
        y1_scale=of_layer.y1,
        error_scale=of_layer.error,
        samples=samples,
        halve_every=rule.halve_every * plan.chip.num_steps,
        epoch=schedule.epoch,
        frames=plan.chip.num_steps,
        period=schedule.period(plan.chip.num_steps),
        update_phase=schedule.update_phase(layer),
        bias=arithmetic.effective_bias(lif.bias_mant.reshape(-1), lif.bias_exp),
        seed=scales.neuron_seed(plan, rule.seed, layer),
        loss=rule.loss,
        learn_when=rule.learn_when,
        encoding=rule.encoding,
        bias_learning=scales.layer_bias(plan, layer, rule.feedback, rule) if rule.learn_bias else None,
    )


def connect(
    source: Any,
    plastic: list[Any],
    neurons: list[Any],
    readout: Any,
    feedback: list[Any],
    schedule: Schedule,
    frames: int,
    sent: Sequence[tuple[str, ...]],
    front: tuple[Any, ...] = (),
    backend: LavaBackend | None = None,
    local: Sequence[tuple[Any, Any]] = (),
) -> LearningGraph:
    """Wire the processes; ``feedback``: one process per hidden layer, or none for the transposed weights.

    Parameters
    ----------
    sent
        the messages of each layer, the readout last, by port
    front
        wired already; its last layer takes the source's place before the plastic connections
    backend
        whose adapters stand between the source and the network.
    local
        of each hidden layer, the connection to its class neurons, and these
    """
    spikes, label = (front[-1] if front else source).s_out, source.label_out
    if backend is not None:
        spikes, label = backend.to_network(spikes, 0), backend.to_network(label, LABEL_BITS)
    label.connect(readout.label_in)
    layers = [*neurons, readout]
    for connection, pre, post, ports in zip(plastic, [spikes, *(neuron.s_out for neuron in neurons)], layers, sent):
        pre.connect(connection.s_in)
        connection.a_out.connect(post.a_in)
        _connect_messages(post, connection, ports)
    own = [classes for _, classes in local]
    senders = own or [readout] * len(neurons)
    for neuron, back, above, sender, ports in zip(neurons, feedback or plastic[1:], layers[1:], senders, sent[1:]):
        _connect_back(neuron, back, above, sender, ports)
    for neuron, (forward, classes) in zip(neurons, local):
        neuron.s_out.connect(forward.s_in)
        forward.a_out.connect(classes.a_in)
        label.connect(classes.label_in)
    processes = tuple(plastic), tuple(neurons), readout, tuple(feedback)
    return LearningGraph(source, *processes, schedule.epoch, schedule.period(frames), front, tuple(own))


def class_neurons(
    classes: int, back: Sequence[Any], schedule: Schedule, frames: int, kappa: float | None
) -> list[tuple[Any, Any]]:
    """Return for each hidden layer the connection to its class neurons, and these; back: their Dense, signs."""
    from lava.proc.dense.process import Dense
    from ottt_loihi.onchip.lava.processes.class_neurons import ClassNeurons

    found = []
    for layer, process in enumerate(back):
        weights, name = np.asarray(process.weights.init).T, f"class_neurons[{layer}]"
        times = schedule.epoch, frames, schedule.period(frames), schedule.class_phase(layer)
        neurons = ClassNeurons(classes, weights.shape[1], kappa, *times, name)
        found.append((Dense(weights=weights, name=f"local[{layer}]"), neurons))
    return found


def _connect_messages(post: Any, connection: Any, ports: tuple[str, ...]) -> None:
    for port in ports:
        getattr(post, f"s_out_{port}").connect(getattr(connection, f"s_in_{port}"))


def _connect_back(neuron: Any, back: Any, above: Any, sender: Any, ports: tuple[str, ...]) -> None:
    """Bring the error to ``neuron``: ``back`` is fixed, learns from noise, or gives its weights transposed."""
    if hasattr(back, "noise_in"):
        neuron.noise_out.connect(back.noise_in)
    if hasattr(back, "error_out"):  # OTTTDense, OTTTSparse: the plastic connection itself, or its twin
        above.error_out.connect(back.error_in)
        back.error_out.connect(neuron.a_third_factor_in)
        if not back.s_in.get_src_ports():  # the twin listens to what the plastic connection listens to
            neuron.s_out.connect(back.s_in)
            _connect_messages(above, back, ports)
        return
    sender.error_out.connect(back.error_in if hasattr(back, "error_in") else back.s_in)
    back.a_out.connect(neuron.a_third_factor_in)


def begin_at(graph: LearningGraph, learner: Learner) -> None:
    """Let a graph that does not run yet begin where ``learner`` stands: with its variables, at its Lava step."""
    known = learner.variables()
    stock.require_start(graph.plastic, learner.samples)
    for name, var in graph.variables().items():
        if name in known:
            var.init = _with(var.init, known[name]) if hasattr(var.init, "tocsr") else known[name]
    for process in (
        graph.source,
        *graph.plastic,
        *graph.neurons,
        graph.readout,
        *graph.feedback,
        *graph.front,
        *graph.local,
    ):
        process.proc_params["start"] = learner.samples * graph.period


def _with(weights: Any, matrix: np.ndarray) -> Any:
    """The same synapses with the weights that they have in ``matrix``."""
    from ottt_loihi.onchip.lava.processes.sparse import places, with_data

    return with_data(weights, matrix[places(weights)])
