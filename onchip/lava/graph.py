"""The process graph that learns: built from a :class:`~ottt_loihi.onchip.network.trainable.Plan`, not yet running.

::

    source ──s──▶ plastic[0] ──a──▶ neuron[0] ──s──▶ plastic[1] ──a──▶ … ──▶ readout ◀──label── source
                      ▲                │ y1              ▲                      │ y1, error
                      └────────────────┘                 └──────────────────────┤
                                       ▲                                        │
                                       └──────────────── feedback[0] ◀──────────┘

``feedback`` carries the error, with a class for each kind (``onchip/network/feedback``): a Dense, a twin of the plastic
connection, MomentumFeedback; or nothing, where the plastic connection gives its own transposed weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters.lava import graph as lava
from ottt_loihi.converters.lava.runtime import require_lava
from ottt_loihi.onchip.lava import stock
from ottt_loihi.onchip.network.scales import learning_network, schedule_of
from ottt_loihi.onchip.network.schedule import SOURCE_PHASE, Schedule, Turn
from ottt_loihi.onchip.network.trainable import Plan
from ottt_loihi.sim.learning import eligibility
from ottt_loihi.sim.learning.encodings import PORTS
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.network import LearningNetwork
from ottt_loihi.sim.learning.rule import DEFAULT, Rule
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import INPUT, Dense, Sparse

if TYPE_CHECKING:
    from ottt_loihi.converters.lava.backends import LavaBackend

LABEL_BITS = 16  # of the message that brings a label to the readout
NEVER = 1 << 62  # Lava steps until a trace is reset


@dataclass(frozen=True)
class LearningGraph:
    """The Lava processes of a network that learns."""

    source: Any
    plastic: tuple[Any, ...]
    neurons: tuple[Any, ...]
    readout: Any
    feedback: tuple[Any, ...]  # one per hidden layer, none for symmetric feedback
    epoch: int  # Lava steps per learning epoch
    period: int  # Lava steps per sample
    backbone: tuple[Any, ...] = ()  # frozen neurons
    local: tuple[Any, ...] = ()  # class neurons, one process per hidden layer of TESS

    def variables(self) -> dict[str, Any]:
        """Return every Var that learning depends on or counts in, by a readable name."""
        state = "u v s y1 rng h bias u_init scores correct trial y1_saturated error_saturated"
        kinds = {
            "plastic": (self.plastic, "weights x1 x2 y1 y2 y3 a_buff rows"),
            "neuron": (self.neurons, state),
            "readout": ((self.readout,), state),
            "backbone": (self.backbone, "u v s"),
            "feedback": (self.feedback, "weights x1 noise saturated"),
        }
        return {
            f"{kind}[{index}].{name}": getattr(process, name)
            for kind, (processes, names) in kinds.items()
            for index, process in enumerate(processes)
            for name in names.split()
            if hasattr(process, name)
        }


def build_graph(
    plan: Plan,
    packed: np.ndarray,
    labels: np.ndarray,
    rates: Sequence[float],
    rule: Rule = DEFAULT,
    learn: np.ndarray | bool = True,
    subspaces: Sequence[Subspace] | None = None,
    backend: LavaBackend | None = None,
) -> LearningGraph:
    """Build the fixed-point graph.

    Parameters
    ----------
    plan, rates, rule, subspaces
        as in :func:`~ottt_loihi.onchip.network.scales.learning_network`
    packed, labels, learn
        as in :class:`~ottt_loihi.onchip.lava.processes.source.SampleSource`, the whole network's input; graded:
        :class:`~ottt_loihi.onchip.lava.processes.source.MessageSource`
    backend
        where it will run, with adapters between host and network if need be; default: Lava's CPU models

    Raises
    ------
    UsageError
        a rate too small or too large for the integers (``sim/learning/integers.py``)
    """
    require_lava()
    builder = Builder(learning_network(plan, rates, rule, subspaces), schedule_of(plan, rule))
    source = build_source(plan, packed, labels, builder.turn(SOURCE_PHASE), learn)
    backbone = build_backbone(plan, source, builder)
    return connect(builder, source, len(labels), backbone, backend)


def build_source(plan: Plan, messages: np.ndarray, labels: np.ndarray, turn: Turn, learn: np.ndarray | bool) -> Any:
    """Return the process that streams the samples: spikes, packed, or graded messages ``(n, T, size)``."""
    from ottt_loihi.onchip.lava.processes.source import MessageSource, SampleSource

    if plan.graded:
        return MessageSource(messages, labels.astype(np.int32), turn, learn)
    return SampleSource(messages, plan.whole.input_size, labels.astype(np.int32), turn, learn)


def build_backbone(plan: Plan, source: Any, builder: Builder) -> tuple[Any, ...]:
    """Return the backbone's neurons, wired behind the source; empty without a backbone."""
    from ottt_loihi.onchip.lava.processes.neuron import FrozenNeuron

    if plan.backbone is None:
        return ()
    turns = [builder.turn(builder.schedule.backbone_phase(layer)) for layer in range(len(plan.backbone.layers))]
    parts = enumerate(zip(plan.backbone.layers, turns))
    neurons = tuple(FrozenNeuron(lif, turn, f"backbone[{layer}]") for layer, (lif, turn) in parts)
    for c in plan.backbone.connections:
        pre = source if c.pre == INPUT else neurons[c.pre]
        lava.wire(c, pre.s_out, lava.build_connection(c), neurons[c.post].a_in)
    return neurons


def host_models() -> dict[type, type]:
    """Return the ProcessModel of each source of samples: with a chip they stay on the host."""
    from ottt_loihi.onchip.lava.processes import source

    return {
        source.SampleSource: source.SampleSourceModel,
        source.MessageSource: source.MessageSourceModelFixed,
    }


@dataclass(frozen=True)
class Builder:
    """Makes the processes of a network that learns, each from its :class:`~.sim.learning.network.LearningLayer`.

    In floating point the layers are those of ``float_graph.py``.
    """

    network: LearningNetwork
    schedule: Schedule
    arithmetic: str = "fixed"
    otpe: bool = False

    def turn(self, phase: int) -> Turn:
        """Return the Lava steps of a process that acts in a phase."""
        return self.schedule.turn(phase, self.network.num_steps)

    def plastic(self, layer: int) -> Any:
        """Return the connection into a layer, of Lava's own class where that is enough (``stock.py``)."""
        part, name = self.network.layers[layer], f"plastic[{layer}]"
        c = part.connection
        if stock.is_chosen(self.network.rule) and isinstance(c, Dense):
            return stock.connection(c.matrix(), self._lavas_rule(layer, stock=True), c.weight_exp, name)
        return self.connection(layer, c.matrix(), name, part.weight_seed)

    def connection(self, layer: int, weight: np.ndarray, name: str, seed: int) -> Any:
        """Return a connection of our classes that learns as the one into a layer does: that one, or its twin."""
        from ottt_loihi.onchip.lava.processes import plastic
        from scipy.sparse import csr_matrix, issparse

        part, rule, interval = self.network.layers[layer], self.network.rule, self.network.epoch
        c = part.connection
        if part.decay:
            interval = NEVER if rule.silent_epochs else self.schedule.period(self.network.num_steps)
        settings = self._lavas_rule(layer), interval, c.weight_exp, name, rule.rounding, seed
        if isinstance(c, Sparse):  # its weights that are 0 are stored as well
            weight = csr_matrix((weight[c.rows, c.columns].astype(np.int32), (c.rows, c.columns)), c.size)
        if issparse(weight):
            return plastic.OTTTSparse(weight, *settings)
        if part.subspace is not None:
            return plastic.ProjectedDense(weight, *settings, subspace=part.subspace)
        return plastic.OTTTDense(weight, *settings)

    def neuron(self, layer: int) -> Any:
        """Return a hidden layer's neurons."""
        from ottt_loihi.onchip.lava.processes.neuron import OTTTNeuron

        part, schedule = self.network.layers[layer], self.schedule
        update, feedback = self.turn(schedule.update_phase(layer)), self.turn(schedule.feedback_phase(layer))
        own = {"mean": part.decay if self.tagged(layer) else None, "name": f"neuron[{layer}]"}
        return OTTTNeuron(part=part, rule=self.network.rule, update=update, feedback=feedback, **own)

    def readout(self, samples: int) -> Any:
        """Return the readout, for so many samples."""
        from ottt_loihi.onchip.lava.processes.readout import OTTTReadout

        update = self.turn(self.schedule.update_phase(self.schedule.hidden_layers))
        own = {"logit_scale": self.network.logit_scale, "samples": samples}
        return OTTTReadout(part=self.network.layers[-1], rule=self.network.rule, update=update, **own)

    def tagged(self, layer: int) -> bool:
        """Whether a layer learns from its synapses' tags: OTPE's hidden layers but the last."""
        return self.otpe and layer < self.schedule.hidden_layers - 1

    def _lavas_rule(self, layer: int, stock: bool = False) -> Any:
        from ottt_loihi.onchip.lava.rule import OTTTLearningRule

        part = self.network.layers[layer]
        after = None if part.after is None else (part.after.sign, part.after.shift)
        own = {"impulse": part.impulse, "seed": part.trace_seed, "slow": part.slow, "after": after}
        own |= {"encoding": self.network.rule.encoding, "stock": stock, "tagged": self.tagged(layer)}
        return OTTTLearningRule(self.network.epoch, part.pre_phase, part.decay, self.arithmetic, **own)


def connect(
    builder: Builder,
    source: Any,
    samples: int,
    backbone: tuple[Any, ...] = (),
    backend: LavaBackend | None = None,
) -> LearningGraph:
    """Make the processes of a network that learns, and wire them.

    Parameters
    ----------
    source
        streams so many samples
    backbone
        wired already; its last layer takes the source's place before the plastic connections
    backend
        whose adapters stand between the source and the network
    """
    hidden, ports = range(builder.schedule.hidden_layers), PORTS[builder.network.rule.encoding]
    plastic = tuple(builder.plastic(layer) for layer in (*hidden, len(hidden)))
    neurons, readout = tuple(builder.neuron(layer) for layer in hidden), builder.readout(samples)
    parts = enumerate(builder.network.layers)
    feedback = tuple(part.feedback.process(layer, builder) for layer, part in parts if part.feedback is not None)
    sent = [eligibility.ports(ports, builder.network.rule.alpha_post != 0)] * len(hidden) + [ports]
    spikes, label = (backbone[-1] if backbone else source).s_out, source.label_out
    if backend is not None:
        spikes, label = backend.to_network(spikes, 0), backend.to_network(label, LABEL_BITS)
    label.connect(readout.label_in)
    layers = [*neurons, readout]
    for connection, pre, post, of in zip(plastic, [spikes, *(neuron.s_out for neuron in neurons)], layers, sent):
        pre.connect(connection.s_in)
        connection.a_out.connect(post.a_in)
        _connect_messages(post, connection, of)
    local: tuple[Any, ...] = ()
    if builder.network.rule.feedback == "local":
        local = tuple(_class_neurons(builder, layer, neurons[layer], label, feedback[layer]) for layer in hidden)
    senders = local or [readout] * len(hidden)
    for neuron, back, above, sender, of in zip(neurons, feedback or plastic[1:], layers[1:], senders, sent[1:]):
        _connect_back(neuron, back, above, sender, of)
    turn = builder.turn(SOURCE_PHASE)
    return LearningGraph(source, plastic, neurons, readout, feedback, turn.epoch, turn.period, backbone, local)


def _class_neurons(builder: Builder, layer: int, neuron: Any, label: Any, back: Any) -> Any:
    """Return the class neurons of a hidden layer, with its spikes and the label; back: their Dense, signs."""
    from lava.proc.dense.process import Dense
    from ottt_loihi.onchip.lava.processes.feedback import ClassNeurons

    weights = np.asarray(back.weights.init).T
    turn, kappa = builder.turn(builder.schedule.class_phase(layer)), builder.network.rule.kappa
    found = ClassNeurons(*weights.shape, kappa, turn, f"class_neurons[{layer}]")
    forward = Dense(weights=weights, name=f"local[{layer}]")
    neuron.s_out.connect(forward.s_in)
    forward.a_out.connect(found.a_in)
    label.connect(found.label_in)
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
        if not back.s_in.get_src_ports():  # a twin gets the spikes and messages of its connection
            neuron.s_out.connect(back.s_in)
            _connect_messages(above, back, ports)
        return
    sender.error_out.connect(back.error_in if hasattr(back, "error_in") else back.s_in)
    back.a_out.connect(neuron.a_third_factor_in)


def begin_at(graph: LearningGraph, learner: Learner) -> None:
    """Let a graph that does not run yet begin where ``learner`` stands: with its variables, at its Lava step."""
    from ottt_loihi.onchip.lava.processes.plastic import with_matrix

    known = learner.variables()
    stock.require_start(graph.plastic, learner.samples)
    for name, var in graph.variables().items():
        if name in known:
            var.init = with_matrix(var.init, known[name]) if hasattr(var.init, "tocsr") else known[name]
    others = (*graph.feedback, *graph.backbone, *graph.local)
    for process in (graph.source, *graph.plastic, *graph.neurons, graph.readout, *others):
        process.proc_params["start"] = learner.samples * graph.period
