"""The fast simulator: the integers of ``sim/inference/reference.py`` and of Lava, as fast as the machine allows.

Samples go through in chunks, one chunk a thread; a chunk goes through time in windows, layer after layer (layers that
spikes can go round in take turns, block by block). So memory holds one window of one chunk per thread, whatever the
number of samples and steps. ``sim/inference/strategies.py`` chooses how each connection is computed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from ottt_loihi.sim.inference import kernels, reference
from ottt_loihi.sim.inference.recording import Recording, selection
from ottt_loihi.sim.inference.reference import LEAST, OVERFLOWS, Result, Strategy, host_messages
from ottt_loihi.sim.inference.strategies import LayerPlan, Messages, Plan, Product, plan
from ottt_loihi.sim.network import INPUT, ChipNetwork

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

WINDOW_BYTES = 1 << 21  # synaptic input of the widest layer in one window
MAX_SAMPLES = 64  # in a chunk
CHUNKS_PER_THREAD = 4  # at least, so that no thread waits long for the others
MAX_HELPERS = 255  # threads of the pool; they start when there is work for them
POOL_WORK = 1_000_000  # neurons × steps: about 2 ms, below which a thread that wakes up late costs more than it brings
CLOCKS = ("logical", "wall")
COUNTS = ("spikes", *OVERFLOWS)
READOUT_CODES = {"sum_v": 1, "last_v": 2, "spike_count": 3, "max_v": 4}

Record = Sequence[str] | Mapping[str, Sequence[int | str]]
Progress = Callable[[int, int], None]


def run(
    chip: ChipNetwork,
    x: np.ndarray | Iterable[np.ndarray],
    record: Record = (),
    *,
    clock: str = "logical",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run samples, each from the network's initial state; equal to :func:`ottt_loihi.sim.inference.reference.run` in
    every bit.

    Parameters
    ----------
    chip
        the integer network
    x
        messages, integers or bool, ``(batch, num_steps, *input_shape)``, 0 or 1 unless the input connection is graded;
        for a network with a host's part the host's input, ``(batch, num_steps, *host.input_shape)``, which is applied;
        or an iterable of such arrays, a loader, which are run one after the other and forgotten
    record
        the states to keep: any of ``"u"``, ``"v"``, ``"s"`` for all layers, or a mapping from these names to layers
        (indices or names), e.g. ``{"s": [0, 1], "v": ["readout"]}``
    clock
        ``"logical"``: recorded states are ``(num_steps, batch, *shape)``, all layers aligned. ``"wall"``: as the chip
        does it, layer l works on step t at wall-clock step t + l + 1; states are ``(num_steps + layers, batch,
        *shape)``. Scores and counts are the same.
    threads
        how many samples to work on at once; default: all cores this process may use
    progress
        called with (samples done, samples in all) as they finish; with (done, 0) for an iterator

    Raises
    ------
    UsageError
        for a wrong shape, dtype, message range or name, and for a recording that would not fit into memory
    """
    return Simulator(chip, threads).run(x, record, clock=clock, progress=progress)


def explain(chip: ChipNetwork) -> tuple[Strategy, ...]:
    """Return how :func:`run` computes each connection, and why."""
    return plan(checks.instance(chip, "chip", ChipNetwork)).strategies


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that help whoever calls :func:`run`, one pool for the process."""
    return ThreadPoolExecutor(MAX_HELPERS, "sim")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


class Simulator:
    """A network made ready to run many times; ``run`` takes the arguments of the function :func:`run`."""

    def __init__(self, chip: ChipNetwork, threads: int | None = None) -> None:
        self.chip = checks.instance(chip, "chip", ChipNetwork)
        self.threads = cores() if threads is None else checks.integer(threads, "threads", 1)
        self.plan = plan(chip)
        self._blocks = any(group.block for group in self.plan.groups)
        self._widest = max(layer.size for layer in chip.layers)
        self._neurons = sum(layer.size for layer in chip.layers)
        self._multiplies = any(isinstance(link, Product) for layer in self.plan.layers for _, _, link in layer.inputs)
        self._idle: SimpleQueue[_Space] = SimpleQueue()

    def run(
        self,
        x: np.ndarray | Iterable[np.ndarray],
        record: Record = (),
        *,
        clock: str = "logical",
        progress: Progress | None = None,
    ) -> Result:
        """See :func:`run`."""
        checks.one_of(clock, "clock", CLOCKS)
        if progress is not None and not callable(progress):
            raise UsageError(f"progress: expected a function of (samples done, samples in all), got {progress!r:.80}")
        recorded = selection(self.chip, record)
        if not hasattr(x, "__array__") and isinstance(x, Iterable) and not isinstance(x, (list, tuple)):
            if recorded:
                raise UsageError("record: states of an iterator over batches are not kept; give one array")
            return self._run_each(x, clock, progress)
        return self._run_batch(x, recorded, clock, progress)

    def _run_each(self, batches: Iterable[np.ndarray], clock: str, progress: Progress | None) -> Result:
        results, done = [], 0
        for batch in batches:
            results.append(self._run_batch(batch, {}, clock, None))
            done += len(batch)
            if progress is not None:
                progress(done, 0)
        if not results:
            raise UsageError("input: the iterator holds no batch")
        return Result(
            np.concatenate([r.scores for r in results]),
            {},
            np.sum([r.spike_counts for r in results], axis=0),
            {name: np.sum([r.overflows[name] for r in results], axis=0) for name in OVERFLOWS},
            self.plan.strategies,
        )

    def _run_batch(
        self, x: np.ndarray, recorded: dict[str, tuple[int, ...]], clock: str, progress: Progress | None
    ) -> Result:
        x, layers = reference.check_shape(self.chip, host_messages(self.chip, x)), len(self.chip.layers)
        steps = self.chip.num_steps + (layers if clock == "wall" else 0)
        recording = Recording(self.chip, recorded, len(x), steps, shifted=clock == "wall")
        scores = np.zeros((len(x), self.chip.layers[-1].size), np.int64)
        totals, done = np.zeros((layers, len(COUNTS)), np.int64), 0
        samples, window = self._chunk(len(x), steps)
        starts = iter(range(0, len(x), samples))  # whoever is free takes the next one

        def work(begin: int) -> tuple[int, np.ndarray]:
            part, space = slice(begin, min(begin + samples, len(x))), self._space(samples, window)
            self._run_chunk(space, x[part], part, window, steps, recording)
            order = self.plan.layers[-1].order
            scores[part, slice(None) if order is None else order] = space.scores
            self._idle.put(space)
            return part.stop - part.start, space.counts

        helpers = min(self.threads, -(-len(x) // samples), MAX_HELPERS + 1) - 1
        alone = helpers <= 0 or len(x) * steps * self._neurons < POOL_WORK
        with self._one_blas_thread():
            for part, counts in map(work, starts) if alone else _helped(work, starts, helpers):
                totals += counts
                done += part
                if progress is not None:
                    progress(done, len(x))
        spikes, *overflows = totals.T
        return Result(scores, recording.states, spikes, dict(zip(OVERFLOWS, overflows)), self.plan.strategies)

    def _chunk(self, batch: int, steps: int) -> tuple[int, int]:
        """(samples, steps) of a window: as many as the cache holds, whole samples first, all threads busy."""
        messages = self.chip.input_size * (5 if self.chip.message_bits else 1)  # bytes, and int32 beside them
        fitting = max(1, WINDOW_BYTES // max(4 * self._widest, messages))
        share = -(-batch // (CHUNKS_PER_THREAD * self.threads)) if self.threads > 1 else batch
        most = min(MAX_SAMPLES, share)  # which is best where layers take turns, few steps at a time
        samples = most if self._blocks else min(max(1, fitting // steps), most)
        window = min(max(fitting // max(samples, 1), 1), steps)
        return max(samples, 1), -(-steps // -(-steps // window))  # windows of one length

    def _one_blas_thread(self) -> Any:
        if not self._multiplies:
            return nullcontext()
        from threadpoolctl import threadpool_limits

        return threadpool_limits(1, user_api="blas")

    def _run_chunk(
        self, space: _Space, x: np.ndarray, part: slice, window: int, steps: int, recording: Recording
    ) -> None:
        """Run samples ``part`` of a batch, ``x``, through all steps."""
        space.begin(len(x))
        x = x.reshape(len(x), self.chip.num_steps, self.chip.input_size)
        for begin, end in _windows(steps, self.chip.num_steps, window):
            counted = begin < self.chip.num_steps
            space.load(x if counted else None, begin, end)
            for group in self.plan.groups:
                block = group.block or window
                for offset in range(0, end - begin, block):
                    span = _Span(begin, offset, min(block, end - begin - offset), counted)
                    for index in range(group.begin, group.end):
                        space.advance(index, span, recording, part)
            for messages in space.messages.values():
                messages.keep_history(end - begin)

    def _space(self, samples: int, window: int) -> _Space:
        """Return the memory for a chunk: one that is free, or a new one in place of one that is too small."""
        try:
            space = self._idle.get_nowait()
        except Empty:
            return _Space(self.plan, samples, window)
        return space if space.samples >= samples and space.window >= window else _Space(self.plan, samples, window)


def _helped(work: Callable[[int], Any], starts: Iterator[int], helpers: int) -> Iterator[Any]:
    """Yield ``work(begin)`` for each of ``starts`` as it is done, with so many threads of the pool beside this one."""
    done: SimpleQueue[Any] = SimpleQueue()

    def help_out() -> None:
        try:
            for begin in starts:
                done.put(work(begin))
        except BaseException:
            deque(starts, 0)  # the others stop as well
            raise

    helping = [_pool().submit(help_out) for _ in range(helpers)]
    try:
        for begin in starts:
            yield work(begin)
            while not done.empty():
                yield done.get()
    finally:
        deque(starts, 0)
        if started := [future for future in helping if not future.cancel()]:
            wait(started)
    for future in started:
        future.result()
    while not done.empty():
        yield done.get()


def _windows(steps: int, num_steps: int, window: int) -> Iterator[tuple[int, int]]:
    """Cut ``steps`` into windows; none straddles ``num_steps``, where samples end."""
    begin = 0
    while begin < steps:
        end = min(begin + window, num_steps if begin < num_steps else steps)
        yield begin, end
        begin = end


class _Span(NamedTuple):
    """``length`` steps from ``offset`` of the window that starts at ``begin``; counted: they belong to a sample."""

    begin: int
    offset: int
    length: int
    counted: bool


class _Space:
    """The memory of one chunk: states, messages of one window, synaptic input of one block."""

    def __init__(self, plan: Plan, samples: int, window: int) -> None:
        self.plan, self.samples, self.window = plan, samples, window
        self.messages = {}
        for index, history in plan.history.items():
            order = None if index == INPUT else plan.layers[index].order
            graded = plan.chip.message_bits > 0 and index == INPUT
            self.messages[index] = Messages(plan.chip.size(index), order, history, samples, window, graded)
        sizes = [layer.layer.size for layer in plan.layers]
        self._states = np.zeros(2 * samples * sum(sizes), np.int32)
        self._scores = np.zeros((samples, sizes[-1]), np.int64)
        self.input = np.zeros(samples * window * max(sizes), np.int32)
        self.nothing = np.zeros((0, 0, 0), np.int32)
        self._currents = {i: layer.u_init for i, layer in enumerate(plan.layers) if layer.u_init.any()}
        self._share(samples)

    def _share(self, samples: int) -> None:
        """Cut the memory of states for so many samples: u and v of each layer ``(samples, neurons)``."""
        sizes = [layer.layer.size for layer in self.plan.layers] * 2
        ends = np.cumsum([samples * size for size in sizes])
        states = [self._states[end - samples * size : end].reshape(samples, size) for size, end in zip(sizes, ends)]
        self.u, self.v = states[: len(states) // 2], states[len(states) // 2 :]
        self.scores = self._scores[:samples]

    def begin(self, samples: int) -> None:
        """Every state of so many samples as it is before a sample."""
        for messages in self.messages.values():
            messages.begin(samples)
        if len(self.scores) != samples:
            self._share(samples)
        self._states[:] = 0
        self._scores[:] = LEAST if self.plan.chip.readout == "max_v" else 0
        for index, current in self._currents.items():
            self.u[index][:] = current
        counts = np.zeros((2, len(self.u), len(COUNTS)), np.int64)
        self.counts, self.uncounted = counts[0], counts[1]

    def load(self, x: np.ndarray | None, begin: int, end: int) -> None:
        """Put steps of the input, ``(samples, num_steps, size)``, behind the history; None is silence.

        Refuses messages that are out of range.
        """
        target = self.messages[INPUT]
        rows = slice(target.history, target.history + end - begin)
        if x is None:
            target.bytes[:, rows] = 0
            if target.graded is not None:
                target.graded[:, rows] = 0
            return
        easy = target.graded is None and x.dtype == np.uint8 and x.flags.c_contiguous and x.flags.writeable
        if easy and kernels.copy(x, begin, end, target.bytes, target.history) <= 1:
            return
        window = x[:, begin:end]
        low, high = reference.check_range(self.plan.chip, window)
        if target.graded is not None:
            target.graded[:, rows] = window
        binary = low >= 0 and high <= 1
        np.copyto(target.bytes[:, rows, : target.size], window if binary else window != 0, casting="unsafe")

    def advance(self, index: int, span: _Span, recording: Recording, part: slice) -> None:
        """One layer over one block of steps."""
        layer = self.plan.layers[index]
        kept = {"u": self.nothing, "v": self.nothing}
        for name in kept if recording.recorded else ():
            if recording.wants(name, index):
                kept[name] = np.empty((len(self.scores), span.length, layer.layer.size), np.int32)
        if layer.by_reference:
            self._by_reference(index, layer, span, kept)
        else:
            self._by_kernels(index, layer, span, kept)
        if not recording.recorded:
            return
        if recording.wants("s", index):
            messages = self.messages[index]
            first = messages.history + span.offset
            kept["s"] = messages.bytes[:, first : first + span.length, : messages.size]
        for name, states in kept.items():
            if states.size:
                recording.add(name, index, states, layer.order, span.begin + span.offset, part)

    def _by_kernels(self, index: int, layer: LayerPlan, span: _Span, kept: dict[str, np.ndarray]) -> None:
        shape = (len(self.scores), span.length, layer.layer.size)
        a = self.input[: shape[0] * shape[1] * shape[2]].reshape(shape)
        target = self.messages[index]
        neurons = kernels.Neurons(
            layer.constants,
            self.u[index],
            self.v[index],
            target.bytes,
            target.history + span.offset,
            kept["u"],
            kept["v"],
            self.scores,
            READOUT_CODES[self.plan.chip.readout] if index == len(self.u) - 1 and span.counted else 0,
            (self.counts if span.counted else self.uncounted)[index],
        )
        last = len(layer.inputs) - 1
        for number, (pre, delay, link) in enumerate(layer.inputs):
            source = self.messages[pre]
            link.deliver(source, source.history + span.offset - delay, number == 0, number == last, a, neurons)
        if not layer.inputs:
            a[:] = 0
            kernels.scan(a, neurons)

    def _by_reference(self, index: int, layer: LayerPlan, span: _Span, kept: dict[str, np.ndarray]) -> None:
        target = self.messages[index]
        for t in range(span.length):
            inputs = []
            for c in layer.connections:
                source = self.messages[c.pre]
                row = source.history + span.offset + t - self.plan.chip.logical_delay(c)
                inputs.append((c, source.logical(row, row + 1)[:, 0]))
            u, v, s, overflows = reference.layer_step(layer.layer, inputs, self.u[index], self.v[index])
            self.u[index][:], self.v[index][:] = u, v
            target.bytes[:, target.history + span.offset + t, : target.size] = s
            for name, states in (("u", u), ("v", v)):
                if kept[name].size:
                    kept[name][:, t] = states
            if not span.counted:
                continue
            if index == len(self.u) - 1:
                self.scores[:] = reference.read_out(self.plan.chip.readout, self.scores, v, s)
            self.counts[index] += (int(s.sum()), *(overflows[name] for name in OVERFLOWS))
