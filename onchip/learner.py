"""Learning on the chip: stream samples through a plastic network, and watch what it learns.

:func:`learn` runs Lava's learning engine: in Lava's runtime, in-process, or as ``sim.learn`` computes it without Lava,
much faster; bit for bit the same. While it learns the weights are read now and then and evaluated, frozen, with the
exact simulator.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ottt_loihi.converters.lava_runtime import LavaRun, require_lava
from ottt_loihi.onchip.checkpoint import Checkpoint
from ottt_loihi.onchip.front import packed_spikes, predictions, unpacked
from ottt_loihi.onchip.inprocess import InProcessRun
from ottt_loihi.onchip.plan import CALIBRATION_SAMPLES, FEEDBACKS, Plan, make_plan, trace_energy
from ottt_loihi.onchip.scales import learning_network
from ottt_loihi.sim import Simulator, reference
from ottt_loihi.sim.learning import Learner
from ottt_loihi.sim.learning_bias import with_bias
from ottt_loihi.sim.learning_encodings import largest
from ottt_loihi.sim.learning_options import Options
from ottt_loihi.sim.network import INPUT, ChipNetwork, Connection, Sparse
from ottt_loihi.sim.subspace import Subspace

from ottt_loihi.errors import UsageError, VerificationError

Data = tuple[np.ndarray, np.ndarray]

BACKENDS = ("sim", "inprocess", "lava")
READOUT_RATE = 0.02  # part of its error that one time step's update takes from the readout
HIDDEN_RATE = 1.0  # the same for a hidden layer, with the error that its feedback delivers
# parts of a layer's messages or weights that are a warning: more at their limits, or fewer changed
SATURATED, RAILS, MOVED = 0.1, 0.1, 0.01
CHUNK = 16  # samples between two reports to ``progress``


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy on the test data with the weights frozen, after so many samples were learnt from."""

    samples: int
    accuracy: float


@dataclass(frozen=True)
class LearningResult:
    """What learning gave.

    ==============  ==============================================================================================
    field           meaning
    ==============  ==============================================================================================
    chip            the network with the learnt weights (``learning9``; ``sim.freeze.freeze`` makes it inference)
    curve           accuracy over samples seen, before the first sample included; empty without test data
    samples         samples learnt from
    steps           Lava steps
    rates           η per plastic connection, ``Δw = −η·â·f(u)·δ`` with δ_out = o − y (torch's η is this times T)
    counters        saturated y1 and error messages per process, out of ``messages`` per neuron
    messages        learning epochs: how often each neuron sent a y1
    rails           per plastic connection the part of the weights at −256 or 255
    moved           per plastic connection the part of the weights that are others than at the start
    seconds         time spent stepping, since it was resumed
    interrupted     stopped by Ctrl-C; everything above is as of the last point of the curve
    settings        backend, feedback, seed and all else that makes the run repeatable
    subspaces       HLOP's, as they are now: rows that were not fixed have learnt
    ==============  ==============================================================================================
    """

    chip: ChipNetwork
    curve: tuple[CurvePoint, ...]
    samples: int
    steps: int
    rates: tuple[float, ...]
    counters: dict[str, int]
    messages: int
    rails: tuple[float, ...]
    moved: tuple[float, ...]
    seconds: float
    interrupted: bool
    settings: dict[str, Any] = field(default_factory=dict)
    subspaces: tuple[Subspace, ...] | None = None

    @property
    def accuracy(self) -> float | None:
        """The last point of the curve."""
        return self.curve[-1].accuracy if self.curve else None

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the learning rates, in sentences with numbers; empty if nothing is."""
        found, last, most = [], len(self.rates) - 1, largest(self.settings.get("encoding", "signed"))
        for layer, rate in enumerate(self.rates):
            name = "the readout" if layer == last else f"hidden layer {layer + 1}"
            sent = self.counters["readout.y1_saturated" if layer == last else f"neuron[{layer}].y1_saturated"]
            saturated = sent / max(1, self.messages * self.chip.layers[layer - last - 1].size)
            for part, wrong, what in (
                (saturated, saturated > SATURATED, f"of the messages y1 saturate at ±{most}; lower its rate"),
                (self.rails[layer], self.rails[layer] > RAILS, "of the weights are at −256 or 255; lower its rate"),
                (
                    self.moved[layer],
                    self.samples > 0 and self.moved[layer] < MOVED,
                    "of the weights have changed, other updates were rounded to nothing; raise its rate",
                ),
            ):
                if wrong:
                    found.append(f"{name}, η = {rate:.3g}: {part:.1%} {what}")
        return found

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Settings(Options):
    """How to learn; the rule's :class:`~ottt_loihi.sim.learning_options.Options` are settings as well.

    readout_rate, hidden_rate: part of a layer's error that one update takes away, default measured
    good on digits; seed: of order, feedback and rounding; unit: what stands for a logit of 1, default provenance's;
    halve_every: samples after which the rates are halved, again and again; 0: never, for a world that keeps changing.
    rounding: of updated weights, ``"per-synapse"`` as on the chip, or ``"lava"``: one number an epoch for all.
    """

    feedback: str = "random"
    readout_rate: float = READOUT_RATE
    hidden_rate: float = HIDDEN_RATE
    seed: int = 0
    unit: int | None = None
    halve_every: int = 0
    shuffle: bool = True
    rounding: str = "per-synapse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feedback not in FEEDBACKS:
            raise UsageError(f"feedback: expected one of {', '.join(FEEDBACKS)}, got {self.feedback!r}")
        if self.rounding not in ("per-synapse", "lava"):
            raise UsageError(f"rounding: expected per-synapse or lava, got {self.rounding!r}")
        if not (0 < self.readout_rate < 2 and 0 < self.hidden_rate < 100):
            raise UsageError(
                f"rates: expected 0 < readout_rate < 2 and 0 < hidden_rate < 100, "
                f"got {self.readout_rate} and {self.hidden_rate}"
            )
        if isinstance(self.halve_every, bool) or not isinstance(self.halve_every, int) or self.halve_every < 0:
            raise UsageError(f"halve_every: expected an integer ≥ 0, got {self.halve_every!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"seed: expected an integer ≥ 0, got {self.seed!r}")


def learn(
    chip: ChipNetwork,
    data: Data | Callable[[int], Data],
    *,
    test: Data | None = None,
    passes: int = 1,
    backend: str = "sim",
    settings: Settings | None = None,
    evaluate_every: int | None = None,
    progress: Callable[[int, int, float | None], None] | None = None,
    stall_timeout: float = 10.0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    stop_at: float | None = None,
    subspaces: Sequence[Subspace] | None = None,
) -> LearningResult:
    """Let a network learn online, one sample after the other, each plastic weight after every time step.

    Parameters
    ----------
    chip
        a plastic network: from :func:`~ottt_loihi.onchip.fresh.fresh_network`, or an exported one after
        :func:`~ottt_loihi.sim.freeze.make_plastic`
    data
        spikes 0 or 1 ``(n, T, *input_shape)`` and labels ``(n,)``; or a function of the pass's number, 0 …, that gives
        them, so that every pass can be encoded afresh
    test
        the same, for the accuracy curve
    passes
        how often the data is gone through, in another order each time
    backend
        ``"sim"``; or with Lava the same result, slower: ``"inprocess"`` (Lava's models), ``"lava"`` (Lava's runtime)
    evaluate_every
        samples between two points of the curve; default about ten points a pass
    progress
        called with (samples done, samples in all, last accuracy)
    stall_timeout
        of the Lava runtime, in seconds
    checkpoint
        a path without suffix: at every point of the curve the state is kept there (backend sim; ``checkpoint.py``)
    resume
        go on from there, bit for bit as if there had been no stop; with more ``passes``, longer
    stop_at
        accuracy on the test data, 0 … 1, at which learning has done enough and ends
    subspaces
        HLOP: what learning keeps out of, one per plastic connection (:func:`~ottt_loihi.onchip.lateral.watch`)

    Raises
    ------
    FileError
        for a checkpoint that is missing, damaged, or of another network
    UsageError
        for wrong data, labels out of range, unknown names, rates that vanish or overflow in integers
    ChipError
        for a network that cannot learn here
    LavaError, BackendUnavailableError
        when Lava fails, or is not there
    """
    settings = settings or Settings()
    if backend not in BACKENDS:
        raise UsageError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend != "sim":
        require_lava()
    plan = make_plan(chip, settings.unit)
    if test is not None:
        test = check_data(chip, *test, what="test data")
    stream = make_stream(plan, data, passes, settings, subspaces, for_lava=backend != "sim")
    total = len(stream.labels)
    every = max(1, total // (10 * passes)) if evaluate_every is None else evaluate_every
    if isinstance(every, bool) or not isinstance(every, (int, np.integer)) or every < 1:
        raise UsageError(f"evaluate_every: expected an integer ≥ 1, got {evaluate_every!r}")
    kept, first = None, slice(total // passes)
    if checkpoint is not None:
        kept = Checkpoint(Path(checkpoint), stream.packed[first], stream.labels[first], int(every))
    if backend != "sim" and kept is not None:
        raise UsageError(f"checkpoint: backend sim can be stopped and resumed, {backend} cannot")
    if stop_at is not None and (test is None or not 0 < stop_at <= 1):
        raise UsageError(f"stop_at: expected an accuracy in 0 … 1 and test data to measure it on, got {stop_at}")
    if resume and kept is None:
        raise UsageError("resume: say from where, with checkpoint=")
    with _executor(stream, backend, settings, stall_timeout) as run:
        session = _Session(plan, _steps_per_sample(plan, settings), run, test, kept, resume)
        interrupted = session.run(total, int(every), progress, stop_at)
    return session.result(stream.rates, interrupted, {"backend": backend, "passes": passes, **vars(settings)})


@dataclass(frozen=True)
class Stream:
    """All samples in the order they are learnt from, and the rates they are learnt with.

    packed: what the layers that learn hear · messages: what the source sends in Lava, the same without a frozen front;
    None where nobody asked for it
    """

    plan: Plan
    packed: np.ndarray
    labels: np.ndarray
    rates: list[float]
    subspaces: Sequence[Subspace] | None
    messages: np.ndarray | None

    def learner(self, settings: Settings) -> Learner:
        """A fresh :class:`~ottt_loihi.sim.learning.Learner`."""
        return Learner(
            learning_network(
                self.plan,
                self.rates,
                settings.feedback,
                settings.seed,
                settings.halve_every,
                settings.rounding,
                self.subspaces,
                settings.options(),
            )
        )

    def build(self, settings: Settings) -> Any:
        """A fresh :class:`~ottt_loihi.onchip.graph.LearningGraph`."""
        from ottt_loihi.onchip.graph import build_graph

        return build_graph(
            self.plan,
            self.messages,  # type: ignore[arg-type]
            self.labels,
            self.rates,
            settings.feedback,
            settings.seed,
            halve_every=settings.halve_every,
            rounding=settings.rounding,
            subspaces=self.subspaces,
            options=settings.options(),
        )


def make_stream(
    plan: Plan,
    data: Data | Callable[[int], Data],
    passes: int,
    settings: Settings,
    subspaces: Sequence[Subspace] | None = None,
    for_lava: bool = False,
) -> Stream:
    """Order and pack the samples of all passes, and measure the rates on the first of them."""
    if isinstance(passes, bool) or not isinstance(passes, (int, np.integer)) or passes < 1:
        raise UsageError(f"passes: expected an integer ≥ 1, got {passes!r}")
    if subspaces is not None:
        _require_protection(settings)
    packed, labels, messages, rates = [], [], [], None
    for number in range(passes):
        if number == 0 or callable(data):
            x, y = check_data(plan.whole, *(data(number) if callable(data) else data), what="data")
            heard = packed_spikes(plan.front, x)
        if rates is None:
            energy = trace_energy(plan, unpacked(plan.chip, heard[:CALIBRATION_SAMPLES]), subspaces)
            wanted = [settings.hidden_rate] * len(plan.hidden) + [settings.readout_rate]
            rates = [part / e for part, e in zip(wanted, energy)]
        order = np.random.default_rng([settings.seed, number]).permutation(len(x)) if settings.shuffle else slice(None)
        packed.append(heard[order])
        labels.append(y[order])
        if for_lava:
            flat = x.reshape(*x.shape[:2], -1)[order]
            messages.append(flat if plan.graded else np.packbits(flat, axis=-1))
    streamed = np.concatenate(messages) if for_lava else None
    rates_, all_packed = rates or [], np.concatenate(packed)
    return Stream(plan, all_packed, np.concatenate(labels), rates_, subspaces, streamed)


def _require_protection(settings: Settings) -> None:
    """Refuse with HLOP what changes a network's answers outside the projected updates."""
    if settings.learn_bias:
        raise UsageError("learn_bias: biases change every answer, whatever is projected; do without them with HLOP")
    if settings.decay_every:
        raise UsageError("decay_every: decay also takes from protected directions; use 0 with HLOP")


def check_data(chip: ChipNetwork, x: np.ndarray, labels: np.ndarray, what: str = "data") -> Data:
    """Validate spikes (as uint8) or graded messages ``(n, T, *input_shape)``, and labels, int64 ``(n,)``."""
    x, labels = np.asarray(x), np.asarray(labels)
    classes = chip.layers[-1].size
    reference.check_input(chip, x[:1])
    if not len(x) or labels.shape != (len(x),):
        raise UsageError(
            f"{what}: expected as many labels as samples and at least one, got {len(x)} and {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise UsageError(f"{what}: expected integer labels, got dtype {labels.dtype}")
    graded = any(c.num_message_bits for c in chip.connections if c.pre == INPUT)
    if graded:
        reference.check_range(chip, x)
    elif x.min() < 0 or x.max() > 1:
        raise UsageError(f"{what}: expected spikes 0 or 1, got [{x.min()}, {x.max()}]; encode them first")
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(bad):
        raise UsageError(f"{what}: expected labels 0 … {classes - 1}, got {labels[bad[0]]} at {bad[0]}")
    return x if graded else x.astype(np.uint8), labels.astype(np.int64)


def accuracy(chip: ChipNetwork, x: np.ndarray, labels: np.ndarray) -> float:
    """Part of the samples that the frozen network classifies correctly, with the exact simulator."""
    return float((Simulator(chip).run(x).predictions == labels).mean())


class _SimRun:
    """Learns a stream with ``sim.learn``."""

    def __init__(self, stream: Stream, settings: Settings) -> None:
        self._stream, self._learner = stream, stream.learner(settings)

    def save(self, checkpoint: Checkpoint, curve: Sequence[CurvePoint]) -> None:
        checkpoint.save(self._learner, [(point.samples, point.accuracy) for point in curve])

    def resume(self, checkpoint: Checkpoint) -> list[CurvePoint]:
        """Take up the state that was kept; returns the curve."""
        self._learner, curve = checkpoint.load(self._learner.network)
        return [CurvePoint(*point) for point in curve]

    @property
    def samples(self) -> int:
        return self._learner.samples

    def learn(self, samples: int) -> None:
        part = slice(self._learner.samples, self._learner.samples + samples)
        self._learner.learn(self._stream.packed[part], self._stream.labels[part])

    def variables(self) -> dict[str, np.ndarray]:
        return self._learner.variables()

    def weights(self) -> list[np.ndarray]:
        return self._learner.weights()

    def biases(self) -> list[np.ndarray] | None:
        return self._learner.biases()

    def subspaces(self) -> tuple[Subspace, ...]:
        return tuple(s for s in self._learner.subspaces() if s is not None)

    def counters(self) -> dict[str, int]:
        counts = self._learner.variables(("y1_saturated", "error_saturated"))
        return {name.replace("readout[0]", "readout"): int(value[0]) for name, value in counts.items()}


class _GraphRun:
    """Learns a stream with Lava's processes, in-process or in the runtime."""

    def __init__(self, stream: Stream, graph: Any, run: Any, settings: Settings) -> None:
        self._graph, self._run, self._learns_bias = graph, run, settings.learn_bias
        self._subspaces, self._per_sample = stream.subspaces or (), graph.period

    def learn(self, samples: int) -> None:
        self._run.steps(samples * self._per_sample)

    def weights(self) -> list[np.ndarray]:
        return [self._run.get(p.weights) for p in self._graph.plastic]

    def biases(self) -> list[np.ndarray] | None:
        layers = (*self._graph.neurons, self._graph.readout)
        return [self._run.get(p.bias) for p in layers] if self._learns_bias else None

    def subspaces(self) -> tuple[Subspace, ...]:
        return tuple(replace(s, rows=self._run.get(p.rows)) for s, p in zip(self._subspaces, self._graph.plastic))

    def counters(self) -> dict[str, int]:
        return {
            f"{process.name}.{kind}": int(self._run.get(getattr(process, kind))[0])
            for process in (*self._graph.neurons, self._graph.readout)
            for kind in ("y1_saturated", "error_saturated")
        }


@contextmanager
def _executor(stream: Stream, backend: str, settings: Settings, stall_timeout: float) -> Iterator[_SimRun | _GraphRun]:
    if backend == "sim":
        yield _SimRun(stream, settings)
        return
    graph = stream.build(settings)
    source = graph.source
    with InProcessRun(source) if backend == "inprocess" else LavaRun(source, stall_timeout=stall_timeout) as run:
        yield _GraphRun(stream, graph, run, settings)


class _Session:
    """One run: steps it, evaluates on the way, keeps what was read last."""

    def __init__(
        self,
        plan: Plan,
        per_sample: int,
        run: _SimRun | _GraphRun,
        test: Data | None,
        checkpoint: Checkpoint | None = None,
        resume: bool = False,
    ) -> None:
        self.plan, self.per_sample, self.executor, self.test, self.checkpoint = plan, per_sample, run, test, checkpoint
        self.heard = None if test is None or plan.front is None else packed_spikes(plan.front, test[0])
        self.curve: list[CurvePoint] = []
        self.seconds, self.done = 0.0, 0
        if resume:
            self.curve = run.resume(checkpoint)
            self.done = run.samples
        self._read(measure=not resume)

    def run(
        self,
        total: int,
        every: int,
        progress: Callable[[int, int, float | None], None] | None,
        stop_at: float | None = None,
    ) -> bool:
        """Learn from ``total`` samples, or until the accuracy is reached; True if interrupted."""
        done = self.done
        try:
            while done < total:
                until = min(total, (done // every + 1) * every)
                chunk = min(CHUNK, until - done)
                started = time.monotonic()
                self.executor.learn(chunk)
                self.seconds += time.monotonic() - started
                done += chunk
                if done == until:
                    self.done = done
                    self._read()
                    if self.checkpoint is not None:
                        self.executor.save(self.checkpoint, self.curve)
                if progress is not None:
                    progress(done, total, self.curve[-1].accuracy if self.curve else None)
                if stop_at is not None and done == until and self.curve[-1].accuracy >= stop_at:
                    break
        except KeyboardInterrupt:
            return True
        return False

    def _read(self, measure: bool = True) -> None:
        self.chip = with_weights(self.plan, self.executor.weights(), self.executor.biases())
        self.counters, self.subspaces = self.executor.counters(), self.executor.subspaces()
        if measure and self.test is not None:
            self.curve.append(CurvePoint(self.done, self._accuracy(self.test)))

    def _accuracy(self, test: Data) -> float:
        if self.heard is None:
            return accuracy(self.chip, *test)
        return float((predictions(make_plan(self.chip, self.plan.unit).chip, self.heard) == test[1]).mean())

    def result(self, rates: Sequence[float], interrupted: bool, settings: dict[str, Any]) -> LearningResult:
        plan = self.plan
        dense = make_plan(self.chip, plan.unit).dense
        return LearningResult(
            chip=self.chip,
            curve=tuple(self.curve),
            samples=self.done,
            steps=self.done * self.per_sample,
            rates=tuple(rates),
            counters=self.counters,
            messages=self.done * plan.chip.num_steps,
            rails=tuple(float(((c.weight == -256) | (c.weight == 255)).mean()) for c in dense),
            moved=tuple(float((c.weight != old.weight).mean()) for c, old in zip(dense, plan.dense)),
            seconds=self.seconds,
            interrupted=interrupted,
            settings=settings,
            subspaces=self.subspaces or None,
        )


def with_weights(plan: Plan, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray] | None = None) -> ChipNetwork:
    """The plan's network, its front included, with other weights in its plastic connections, and with learnt biases."""
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


def _steps_per_sample(plan: Plan, settings: Settings) -> int:
    """Lava steps."""
    return plan.schedule(settings.feedback, settings.schedule).period(plan.chip.num_steps)


@dataclass(frozen=True)
class Repetition:
    """A stretch of learning that ``sim.learn`` and Lava's runtime went through with the same result."""

    steps: int
    variables: int
    sim_steps_per_second: float
    lava_steps_per_second: float


def repeat_in_lava(
    chip: ChipNetwork,
    data: Data | Callable[[int], Data],
    steps: int,
    *,
    settings: Settings | None = None,
    stall_timeout: float = 10.0,
    subspaces: Sequence[Subspace] | None = None,
) -> Repetition:
    """Learn for at least ``steps`` Lava steps with ``sim.learn`` and in the Lava runtime, and compare everything.

    Weights, traces, membranes, random states and counters, all elements. Rounded up to whole samples; the data is gone
    through as often as it takes.

    Raises
    ------
    VerificationError
        naming the first variable and element that differ
    """
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise UsageError(f"steps: expected an integer ≥ 1, got {steps!r}")
    settings = settings or Settings()
    plan = make_plan(chip, settings.unit)
    per_sample = _steps_per_sample(plan, settings)
    samples = -(-int(steps) // per_sample)
    first = check_data(chip, *(data(0) if callable(data) else data), what="data")
    stream = make_stream(plan, data, -(-samples // len(first[1])), settings, subspaces, for_lava=True)
    _SimRun(stream, settings).learn(1)  # numba compiles
    run_sim, graph = _SimRun(stream, settings), stream.build(settings)
    started = time.monotonic()
    run_sim.learn(samples)
    sim_seconds = time.monotonic() - started
    expected = run_sim.variables()
    with LavaRun(graph.source, stall_timeout=stall_timeout) as run:
        started = time.monotonic()
        run.steps(samples * per_sample)
        lava_seconds = time.monotonic() - started
        found = {name: run.get(var) for name, var in graph.variables().items() if name in expected}
    for name, value in found.items():
        _check_equal(name, expected[name], value, samples * per_sample)
    steps = samples * per_sample
    return Repetition(steps, len(found), steps / sim_seconds, steps / lava_seconds)


def _check_equal(name: str, sim: np.ndarray, lava: np.ndarray, steps: int) -> None:
    if not np.array_equal(sim, lava):
        place = tuple(int(i) for i in np.argwhere(sim != lava)[0])
        raise VerificationError(
            f"{name} differs at {place} after {steps} steps: "
            f"{sim[place]} in sim.learn, {lava[place]} in the Lava runtime"
        )
