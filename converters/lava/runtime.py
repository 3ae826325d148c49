"""Running a Lava graph so that it always ends: with a result, or with one clear error.

Lava 0.10's runtime gives each Process an operating system process. When one of them raises inside ``run_spk`` while
another waits for it, a blocking ``run()`` waits for ever; without ``stop()`` the interpreter never exits; ``run()``
after ``stop()`` crashes. :class:`LavaRun` is the one place in this project that starts a Lava runtime. It

* runs non-blocking, in chunks, and looks at the operating system processes while it waits;
* ends all of them when one raised, died, or when nothing moves any more, and raises :class:`LavaError` with the name
  of the Lava process and its message;
* ends the run on leaving the ``with`` block, whatever happened inside, and on Linux also when it is killed itself;
* refuses any ProcessModel that was not asked for: Lava's run configurations fall back in silence.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters.lava.forked import (
    cpu_seconds,
    ending_with_us,
    interrupts_ignored,
    last_frame,
    place_in_step,
    stacks_on_request,
)
from ottt_loihi.converters.lava.installed import lava_problem
from ottt_loihi.converters.lava.models import ChipModels, SimulatorModels

from ottt_loihi.errors import BackendUnavailableError, LavaError, UsageError

if TYPE_CHECKING:
    from lava.magma.compiler.executable import Executable
    from lava.magma.core.process.process import AbstractProcess
    from lava.magma.core.process.variable import Var

POLL_SECONDS = 0.005  # how often the operating system processes are looked at
CHUNK_SECONDS = 0.5  # a chunk of steps is chosen to take about this long: it is the unit in which progress is seen
BUSY_FACTOR = 20  # a process that computes without finishing a step gets this many times the stall timeout


def require_lava() -> None:
    """Raise :class:`BackendUnavailableError`, saying what to do, unless Lava can run here."""
    if problem := lava_problem():
        raise BackendUnavailableError(problem)


def compiled(process: AbstractProcess, choice: SimulatorModels | ChipModels) -> Executable:
    """Return the compiled graph of a process; :class:`LavaError` where Lava cannot, or selected another model."""
    try:
        executable = process.compile(choice.config())
    except Exception as error:  # Lava raises anything here
        raise LavaError(f"Lava cannot compile the graph: {type(error).__name__}: {error}") from error
    choice.check(executable)
    return executable


class LavaRun:
    """A running Lava graph: ``with LavaRun(process) as run: run.steps(100); run.get(process.v)``.

    Parameters
    ----------
    process
        any Lava Process; it is run with everything connected to it
    tag
        the ProcessModels to use, ``"fixed_pt"`` or ``"floating_pt"``; every selected model has to carry it
    models
        ProcessModel by Process class, where another model than the tagged one is wanted, or one without a tag
    choice
        in place of ``tag`` and ``models``: which models the processes may get, and the run configuration for them
    stall_timeout
        seconds; the run has stalled when for that long no chunk of steps ended and no process used the CPU.
        One that computes for ``BUSY_FACTOR`` times as long without finishing a step is ended as well.

    Raises
    ------
    BackendUnavailableError
        without Lava
    LavaError
        when the graph does not compile, another ProcessModel was selected than asked for, a process raised, died or
        stalled, or the run is used after its end
    """

    def __init__(
        self,
        process: AbstractProcess,
        tag: str = "fixed_pt",
        models: Mapping[type, type] | None = None,
        stall_timeout: float = 10.0,
        choice: SimulatorModels | ChipModels | None = None,
    ) -> None:
        if not stall_timeout > 0:
            raise UsageError(f"stall_timeout: expected seconds > 0, got {stall_timeout}")
        self._process = process
        self._choice = choice or SimulatorModels(tag, dict(models or {}))
        self._stall_timeout = stall_timeout
        self._runtime: Any = None
        self._executable: Executable | None = None
        self._pids: list[int] = []
        self._stacks: IO[bytes] | None = None  # where the processes write their stacks when asked to
        self._seconds_per_step: float | None = None
        self.steps_done = 0

    def __enter__(self) -> LavaRun:
        require_lava()
        if self._process.runtime is not None:
            raise LavaError("this Lava graph has been run already: build new processes for a new run")
        self._executable = compiled(self._process, self._choice)
        self._start()
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        if kind is None:
            self.close()
        else:
            self._kill()

    def steps(self, count: int) -> None:
        """Run ``count`` ≥ 1 time steps."""
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise UsageError(f"steps: expected an integer ≥ 1, got {count!r}")
        left = int(count)
        while left:
            chunk = min(left, self._chunk())
            started = time.monotonic()
            self._run_chunk(chunk)
            self._seconds_per_step = (time.monotonic() - started) / chunk
            left -= chunk
            self.steps_done += chunk

    def get(self, var: Var) -> np.ndarray:
        """The value of a Var, in the dtype its ProcessModel declares (Lava itself returns float64); of a sparse matrix
        all elements."""
        value = np.asarray(self._guarded(lambda: self._live_runtime().get_var(var.id), f"get {var.name}"))
        model = self._executable.proc_builders[var.process].proc_model  # type: ignore[union-attr]
        declared = getattr(model, var.name).d_type
        value = value.astype(declared) if isinstance(declared, type) and declared is not str else value
        return _full(var.init, value) if hasattr(var.init, "tocsr") else value

    def set(self, var: Var, value: np.ndarray) -> None:
        """Overwrite a Var. Not for our plastic connections: Lava would also round the time constants of their traces.

        Raises :class:`UsageError` for a sparse matrix: Lava forgets which synapses have the weight 0, and hangs.
        """
        if hasattr(var.init, "tocsr"):
            raise UsageError(f"{var.name}: a sparse matrix cannot be set while it runs; build the process with it")
        array = np.broadcast_to(np.asarray(value), var.shape)
        self._guarded(lambda: self._live_runtime().set_var(var.id, array), f"set {var.name}")

    def close(self) -> None:
        """End the run. The ``with`` block calls this method; a second call is a no-op."""
        if self._runtime is None:
            return
        if failure := self._failure():
            self._fail(failure)
        self._guarded(self._runtime.stop, "stop", watch=False)  # they end now, as they should
        self._forget()

    def _start(self) -> None:
        from lava.magma.core.process.message_interface_enum import ActorType

        self._runtime = _runtime_class()(self._executable, ActorType.MultiProcessing)
        self._runtime.stall_timeout = self._stall_timeout * BUSY_FACTOR
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115 (closed in _forget)
        try:
            # inherited by the processes: Ctrl-C is ours to handle, not theirs; SIGUSR1 makes them tell where they are,
            # which is how a stall is explained; and if we are killed, nothing else ends them
            with interrupts_ignored(), stacks_on_request(self._stacks), ending_with_us():
                self._executable.assign_runtime_to_all_processes(self._runtime)  # type: ignore[union-attr]
                self._runtime.initialize()
            self._pids = [actor.pid for actor in self._actors()]
            self._runtime._is_started = True  # its services answer from here on; Lava would refuse get() and stop()
        except BaseException as error:
            self._kill()
            if isinstance(error, _BuildFailure):
                raise LavaError(f"{self._name(error.index)} could not be built: {error}") from error
            raise

    def _live_runtime(self) -> Any:
        if self._runtime is None:
            if self._executable is None:
                raise LavaError("this Lava run has not begun: with LavaRun(process) as run: run.steps(10)")
            raise LavaError("this Lava run has ended: build new processes and a new LavaRun")
        return self._runtime

    def _chunk(self) -> int:
        """Return the steps of a chunk: one until the speed is known, then as many as take about CHUNK_SECONDS."""
        if self._seconds_per_step is None:
            return 1
        seconds = min(CHUNK_SECONDS, self._stall_timeout / 4)
        return max(1, int(seconds / max(self._seconds_per_step, 1e-6)))

    def _run_chunk(self, chunk: int) -> None:
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal

        runtime = self._live_runtime()
        runtime.start(RunSteps(num_steps=chunk, blocking=False))
        what = f"step {self.steps_done + 1}" if chunk == 1 else f"steps {self.steps_done + 1}–{self.steps_done + chunk}"
        self._await(lambda: all(port.probe() for port in runtime.service_to_runtime), what)
        for port in runtime.service_to_runtime:
            if not enum_equal(port.peek(), MGMT_RESPONSE.DONE):
                self._await(lambda: False, what)  # a process raised: wait until its message is there
        runtime.wait()

    def _guarded(self, action: Callable[[], Any], what: str, watch: bool = True) -> Any:
        """Do something that may block for ever, in a thread that can be left behind."""
        outcome: dict[str, Any] = {}

        def work() -> None:
            try:
                outcome["value"] = action()
            except BaseException as error:
                outcome["error"] = error

        thread = threading.Thread(target=work, daemon=True, name=f"lava {what}")
        self._live_runtime()
        thread.start()
        self._await(lambda: not thread.is_alive(), what, watch)
        if isinstance(error := outcome.get("error"), LavaError):
            raise error
        if error is not None:
            self._fail(f"Lava could not {what}: {type(error).__name__}: {error}", error)
        return outcome["value"]

    def _await(self, done: Callable[[], bool], what: str, watch: bool = True) -> None:
        """Wait until ``done`` is true; raise an error if a process failed or died, or if nothing progresses."""
        started = moved = time.monotonic()
        used = self._cpu_seconds()
        while not done():
            if watch and (failure := self._failure()):
                self._fail(f"{failure} (in {what})")
            now = time.monotonic()
            if now - moved > self._stall_timeout:
                usage = self._cpu_seconds()
                if usage - used < 0.02 * (now - moved):
                    still = f"for {now - moved:.0f} s no process did anything"
                    self._fail(f"the Lava run stalled in {what}: {still}; {self._standing()}")
                if now - started > BUSY_FACTOR * self._stall_timeout:
                    self._fail(f"the Lava run did not finish {what} within {now - started:.0f} s; {self._standing()}")
                used, moved = usage, now
            time.sleep(min(POLL_SECONDS, (now - started) / 10 + 2e-4))

    def _failure(self) -> str | None:
        """Return the error of the operating system processes, if there is one."""
        died = None
        for index, actor in enumerate(self._actors()):
            if actor.exception is not None:
                error, trace = actor.exception
                return f"{self._name(index)} raised {type(error).__name__}: {error}{last_frame(trace)}"
            if not actor.is_alive():
                died = died or f"{self._name(index)} died with exit code {actor.exitcode}"
        return died

    def _standing(self) -> str:
        """Return the place in the code of each process that is in the middle of a step."""
        places = []
        for index, actor in enumerate(self._actors()):
            start = self._stacks.seek(0, os.SEEK_END)  # type: ignore[union-attr]
            with suppress(OSError):
                os.kill(actor.pid, signal.SIGUSR1)
            time.sleep(0.05)
            self._stacks.seek(start)  # type: ignore[union-attr]
            stack = self._stacks.read().decode(errors="replace")  # type: ignore[union-attr]
            if place := place_in_step(stack):
                places.append(f"{self._name(index)} {place}")
        return "; ".join(places) or "every process waits for a command"

    def _fail(self, message: str, cause: BaseException | None = None) -> None:
        self._kill()
        raise LavaError(message) from cause

    def _kill(self) -> None:
        """Kill every operating-system process of the run at once."""
        if self._runtime is None:
            return
        infrastructure = self._runtime._messaging_infrastructure
        if infrastructure is not None:
            alive = [actor for actor in infrastructure.actors if not getattr(actor, "_is_done", False)]
            for actor in alive:
                actor.kill()
            for actor in alive:
                actor.join()
            self._runtime.join()
            if infrastructure.smm is not None:
                infrastructure.smm.shutdown()
        if self._runtime._watchdog_manager is not None:
            self._runtime._watchdog_manager.stop()
        self._forget()

    def _forget(self) -> None:
        """Drop the runtime, because a ``__del__`` of Lava would stop it again and hang."""
        self._runtime._is_started = self._runtime._is_running = False
        if self._stacks is not None:
            self._stacks.close()
        for process in self._executable.process_list:  # type: ignore[union-attr]
            process._runtime = _Ended()
        self._runtime = None

    def _actors(self) -> list[Any]:
        infrastructure = self._runtime._messaging_infrastructure if self._runtime is not None else None
        return infrastructure.actors if infrastructure is not None else []

    def _name(self, index: int) -> str:
        """Return the Lava process that runs in an operating-system process: both have the order of the builders."""
        processes = [f"{p.name} ({type(p).__name__})" for p in self._executable.proc_builders]  # type: ignore[union-attr]
        return f"Lava process {processes[index]}" if index < len(processes) else "Lava's runtime service"

    def _cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in self._pids)


class _Ended:
    """Stands in for the runtime of processes whose run has ended: Lava would crash the interpreter there."""

    def stop(self) -> None:
        """Nothing is left to stop; Lava calls this when a process is garbage collected."""

    def __getattr__(self, name: str) -> Any:
        raise LavaError("this Lava run has ended: build new processes and a new LavaRun")


class _BuildFailure(Exception):
    """A ProcessModel that could not be built; ``index`` counts the operating system processes."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


def _runtime_class() -> type:
    """Return a Runtime of Lava that never waits for ever for its processes, and that names the one that failed."""
    from lava.magma.runtime.runtime import Runtime

    class GuardedRuntime(Runtime):
        stall_timeout = 60.0

        def join(self) -> None:
            """End the threads of the channels and wait for them, because the next run forks."""
            threads = [thread for port in self._open_ports if (thread := getattr(port, "thread", None)) is not None]
            super().join()
            for thread in threads:
                thread.join(timeout=1.0)

        def _start_ports(self) -> None:
            super()._start_ports()
            deadline = time.monotonic() + self.stall_timeout
            for index, (queue, actor) in enumerate(zip(self.exception_q, self._messaging_infrastructure.actors)):
                while queue.empty():
                    if not actor.is_alive() and queue.empty():
                        raise _BuildFailure(index, f"it died with exit code {actor.exitcode}")
                    if time.monotonic() > deadline:
                        raise _BuildFailure(index, f"nothing came from it for {self.stall_timeout:.0f} s")
                    time.sleep(0.001)
                if (error := queue.get()) is not None:
                    raise _BuildFailure(index, f"{type(error).__name__}: {error}")
            self.exception_q = []  # Lava would print the error on stdout

    return GuardedRuntime


def _full(start: Any, values: np.ndarray) -> np.ndarray:
    """Return a sparse matrix as an array; values: of the synapses of ``start``, by columns, as Lava sends them."""
    from lava.utils.sparse import find

    rows, columns, _ = find(start.copy(), explicit_zeros=True)
    if len(rows) != len(values):
        raise LavaError(f"a sparse matrix of {len(rows)} synapses has {len(values)} now: Lava drops those of weight 0")
    full = np.zeros(start.shape, values.dtype)
    full[rows, columns] = values
    return full
