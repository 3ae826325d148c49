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
from ottt_loihi.converters.lava import graph as lava
from ottt_loihi.converters.lava.runtime import require_lava
from ottt_loihi.onchip.lava import stock
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.schedule import Schedule
from ottt_loihi.onchip.network.trainable import Plan
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning import eligibility
from ottt_loihi.sim.learning.encodings import PORTS
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.network import LearningLayer, LearningNetwork
from ottt_loihi.sim.learning.rule import DEFAULT, Rule
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import INPUT, Dense, Sparse

if TYPE_CHECKING:
    from ottt_loihi.converters.lava.backends import LavaBackend

LABEL_BITS = 16  # of the message that brings a label to the readout
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
    backbone
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
    backbone: tuple[Any, ...] = ()
    local: tuple[Any, ...] = ()

    def variables(self) -> dict[str, Any]:
        """Return every Var that learning depends on or counts in, by a readable name."""
        named = {}
        for kind, processes, names in (
            ("plastic", self.plastic, ("weights", "x1", "x2", "y1", "y2", "y3", "a_buff")),
            (
                "neuron",
                self.neurons,
                ("u", "v", "s", "y1", "rng", "h", "bias", "u_init", "y1_saturated", "error_saturated"),
            ),
            (
                "readout",
                (self.readout,),
                ("v", "y1", "rng", "bias", "scores", "correct", "trial", "y1_saturated", "error_saturated"),
            ),
        ):
            for index, process in enumerate(processes):
                named.update({f"{kind}[{index}].{name}": getattr(process, name) for name in names})
                if hasattr(process, "rows"):
                    named[f"{kind}[{index}].rows"] = process.rows
        for index, process in enumerate(self.backbone):
            named.update({f"backbone[{index}].{name}": getattr(process, name) for name in "uvs"})
        for index, process in enumerate(self.feedback):
            names = [name for name in ("weights", "x1", "noise", "saturated") if hasattr(process, name)]
            named.update({f"feedback[{index}].{name}": getattr(process, name) for name in names})
        return named


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
    schedule = plan.schedule(rule)
    builder = Builder(learning_network(plan, rates, rule, subspaces), schedule)
    source = build_source(plan, packed, labels, schedule, learn)
    backbone = build_backbone(plan, source, schedule)
    hidden = range(len(plan.hidden))
    plastic = [builder.plastic(layer) for layer in range(len(plan.dense))]
    neurons = [builder.neuron(layer) for layer in hidden]
    feedback = [part.feedback.process(layer, builder) for layer, part in builder.with_feedback()]
    readout = builder.readout(len(labels))
    ports = PORTS[rule.encoding]
    sent = [eligibility.ports(ports, part.after is not None) for part in builder.network.layers]
    num_steps = plan.chip.num_steps
    local = class_neurons(plan.classes, feedback, schedule, num_steps, rule.kappa) if rule.feedback == "local" else []
    more = {"backbone": backbone, "backend": backend, "local": local}
    return connect(source, plastic, neurons, readout, feedback, schedule, num_steps, sent, **more)


def build_source(
    plan: Plan, messages: np.ndarray, labels: np.ndarray, schedule: Schedule, learn: np.ndarray | bool
) -> Any:
    """Return the process that streams the samples: spikes, packed, or graded messages ``(n, T, size)``."""
    from ottt_loihi.onchip.lava.processes.source import MessageSource, SampleSource

    if plan.graded:
        return MessageSource(messages, labels.astype(np.int32), schedule.epoch, learn)
    period = schedule.period(plan.chip.num_steps)
    return SampleSource(messages, plan.whole.input_size, labels.astype(np.int32), schedule.epoch, learn, period)


def build_backbone(plan: Plan, source: Any, schedule: Schedule) -> tuple[Any, ...]:
    """Return the backbone's neurons, wired behind the source; empty without a backbone."""
    if plan.backbone is None:
        return ()
    neurons = tuple(_frozen_neuron(plan, index, schedule) for index in range(len(plan.backbone.layers)))
    for c in plan.backbone.connections:
        pre = source if c.pre == INPUT else neurons[c.pre]
        lava.wire(c, pre.s_out, lava.build_connection(c), neurons[c.post].a_in)
    return neurons


def _frozen_neuron(plan: Plan, index: int, schedule: Schedule) -> Any:
    from ottt_loihi.onchip.lava.processes.frozen import FrozenNeuron

    lif = plan.backbone.layers[index]  # type: ignore[union-attr]
    return FrozenNeuron(
        shape=(lif.size,),
        du=lif.du,
        dv=lif.dv,
        vth=lif.thresholds,
        bias=arithmetic.effective_bias(lif.bias_mant.reshape(-1), lif.bias_exp),
        u_init=lif.u_init.reshape(-1),
        epoch=schedule.epoch,
        num_steps=plan.chip.num_steps,
        update_phase=schedule.backbone_phase(index),
        name=f"backbone[{index}]",
    )


def host_models() -> dict[type, type]:
    """Return the ProcessModel of each source of samples: with a chip they stay on the host."""
    from ottt_loihi.onchip.lava.processes import source

    return {
        source.SampleSource: source.SampleSourceModelFixed,
        source.MessageSource: source.MessageSourceModelFixed,
    }


@dataclass(frozen=True)
class Builder:
    """Makes the processes of a network that learns, each from its :class:`~.sim.learning.network.LearningLayer`."""

    network: LearningNetwork
    schedule: Schedule

    @property
    def period(self) -> int:
        """Lava steps of a sample."""
        return self.schedule.period(self.network.num_steps)

    def with_feedback(self) -> list[tuple[int, LearningLayer]]:
        """Return the hidden layers that have feedback of their own, with their indices."""
        return [(index, part) for index, part in enumerate(self.network.layers) if part.feedback is not None]

    def plastic(self, layer: int) -> Any:
        """Return the connection into a layer, of Lava's own class where that is enough (``stock.py``)."""
        part, name = self.network.layers[layer], f"plastic[{layer}]"
        c = part.connection
        if stock.is_chosen(self.network.rule) and isinstance(c, Dense):
            return stock.connection(c.matrix(), self._lavas_rule(part, stock=True), c.weight_exp, name)
        return self.connection(layer, c.matrix(), name, part.weight_seed)

    def connection(self, layer: int, weight: np.ndarray, name: str, seed: int) -> Any:
        """Return a connection of our classes that learns as the one into a layer does: that one, or its twin."""
        from ottt_loihi.onchip.lava.processes import plastic

        part, rule = self.network.layers[layer], self.network.rule
        carried = NEVER if rule.silent_epochs else self.period
        interval = carried if part.decay else self.network.epoch
        settings = self._lavas_rule(part), interval, part.connection.weight_exp, name, rule.rounding, seed
        if isinstance(part.connection, Sparse):
            return plastic.OTTTSparse(_stored(part.connection, weight), *settings)
        if part.subspace is not None:
            return plastic.ProjectedDense(weight, *settings, part.subspace)
        return plastic.OTTTDense(weight, *settings)

    def neuron(self, layer: int) -> Any:
        """Return a hidden layer's neurons."""
        from ottt_loihi.onchip.lava.processes.neuron import OTTTNeuron

        part = self.network.layers[layer]
        lif, inhibition, noise = part.layer, part.inhibition, 0 if part.feedback is None else part.feedback.noise
        return OTTTNeuron(
            du=lif.du,
            dv=lif.dv,
            half_width=part.half_width,
            feedback_phase=self.schedule.feedback_phase(layer),
            u_init=lif.u_init.reshape(-1),
            self_weight=0 if inhibition is None else inhibition.weight,
            self_weight_exp=0 if inhibition is None else inhibition.weight_exp,
            noise=noise,
            after=part.after,
            name=f"neuron[{layer}]",
            **self._common(layer),
        )

    def readout(self, samples: int) -> Any:
        """Return the readout, for so many samples."""
        from ottt_loihi.onchip.lava.processes.readout import OTTTReadout

        network, last = self.network, len(self.network.layers) - 1
        rule = network.rule
        chosen = {"loss": rule.loss, "learn_when": rule.learn_when, "usual_mistakes": rule.usual_mistakes}
        return OTTTReadout(logit_scale=network.logit_scale, samples=samples, **chosen, **self._common(last))

    def _common(self, layer: int) -> dict[str, Any]:
        """Return the arguments that hidden neurons and the readout have in common."""
        network, part = self.network, self.network.layers[layer]
        return {
            "shape": (part.layer.size,),
            "vth": part.layer.vth,
            "y1_scale": part.y1,
            "error_scale": part.error,
            "halve_every": network.rule.halve_every * network.num_steps,
            "epoch": network.epoch,
            "num_steps": network.num_steps,
            "period": self.period,
            "update_phase": self.schedule.update_phase(layer),
            "bias": arithmetic.effective_bias(part.layer.bias_mant.reshape(-1), part.layer.bias_exp),
            "encoding": network.rule.encoding,
            "bias_learning": part.bias,
            "seed": part.seed,
        }

    def _lavas_rule(self, part: LearningLayer, stock: bool = False) -> Any:
        from ottt_loihi.onchip.lava.rule import OTTTLearningRule

        after = None if part.after is None else (part.after.sign, part.after.shift)
        own = {"impulse": part.impulse, "seed": part.trace_seed, "slow": part.slow, "after": after}
        own["encoding"] = self.network.rule.encoding
        return OTTTLearningRule(self.network.epoch, part.pre_phase, part.decay, stock=stock, **own)


def _stored(c: Sparse, weight: np.ndarray) -> Any:
    """Return the weights of a sparse connection, or of its twin, as a csr_matrix, which stores zeros as well."""
    from scipy.sparse import csr_matrix

    return csr_matrix((weight[c.rows, c.columns].astype(np.int32), (c.rows, c.columns)), c.size)


def connect(
    source: Any,
    plastic: list[Any],
    neurons: list[Any],
    readout: Any,
    feedback: list[Any],
    schedule: Schedule,
    num_steps: int,
    sent: Sequence[tuple[str, ...]],
    backbone: tuple[Any, ...] = (),
    backend: LavaBackend | None = None,
    local: Sequence[tuple[Any, Any]] = (),
) -> LearningGraph:
    """Wire the processes; ``feedback``: one process per hidden layer, or none for the transposed weights.

    Parameters
    ----------
    sent
        the messages of each layer, the readout last, by port
    backbone
        wired already; its last layer takes the source's place before the plastic connections
    backend
        whose adapters stand between the source and the network.
    local
        of each hidden layer, the connection to its class neurons, and these
    """
    spikes, label = (backbone[-1] if backbone else source).s_out, source.label_out
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
    return LearningGraph(source, *processes, schedule.epoch, schedule.period(num_steps), backbone, tuple(own))


def class_neurons(
    classes: int, back: Sequence[Any], schedule: Schedule, num_steps: int, kappa: float | None
) -> list[tuple[Any, Any]]:
    """Return for each hidden layer the connection to its class neurons, and these; back: their Dense, signs."""
    from lava.proc.dense.process import Dense
    from ottt_loihi.onchip.lava.processes.class_neurons import ClassNeurons

    found = []
    for layer, process in enumerate(back):
        weights, name = np.asarray(process.weights.init).T, f"class_neurons[{layer}]"
        times = schedule.epoch, num_steps, schedule.period(num_steps), schedule.class_phase(layer)
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
        if not back.s_in.get_src_ports():  # a twin gets the spikes and messages of its connection
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
    others = (*graph.feedback, *graph.backbone, *graph.local)
    for process in (graph.source, *graph.plastic, *graph.neurons, graph.readout, *others):
        process.proc_params["start"] = learner.samples * graph.period


def _with(weights: Any, matrix: np.ndarray) -> Any:
    """Return the same synapses with the weights that they have in ``matrix``."""
    from ottt_loihi.onchip.lava.processes.plastic import places, with_data

    return with_data(weights, matrix[places(weights)])
