"""The forked operating system processes of a Lava run: what they inherit, and what they tell about themselves."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import register_after_fork
from typing import IO


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """While this holds, forked processes learn to leave Ctrl-C to us; nothing changes outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change signal handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stacks_on_request(file: IO[bytes]) -> Iterator[None]:
    """While this holds, forked processes learn to write their Python stack to ``file`` on SIGUSR1."""
    faulthandler.register(signal.SIGUSR1, file, all_threads=False)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGUSR1)


@contextmanager
def ending_with_us() -> Iterator[None]:
    """While this holds, processes that multiprocessing forks are killed when this one dies, however it dies (Linux)."""
    if sys.platform != "linux":
        yield
        return
    prctl, parent, death_signal = ctypes.CDLL(None).prctl, os.getpid(), 1  # PR_SET_PDEATHSIG of <sys/prctl.h>

    def follow(_: object) -> None:
        prctl(death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it was asked for
            os._exit(1)

    class Mark:
        """multiprocessing forgets what was registered for it when it is gone."""

    mark = Mark()
    register_after_fork(mark, follow)
    yield


def place_in_step(stack: str) -> str | None:
    """From faulthandler's output: ``is at file:line in function``, or None outside ``run_spk`` and ``run_lrn``."""
    frames = re.findall(r'File "(.+?)", line (\d+) in (\w+)', stack)  # innermost first
    step = next((i for i, frame in enumerate(frames) if frame[2] in ("run_spk", "run_lrn")), None)
    if step is None:
        return None
    file, line, function = frames[step]
    waiting = [f[2] for f in frames[:step] if f[2] in ("recv", "send")]
    verb = f"waits in {waiting[0]}()" if waiting else "is"
    return f"{verb} at {os.path.basename(file)}:{line} in {function}"


def cpu_seconds(pid: int | None) -> float:
    """CPU time a process has used, all its threads; 0 where ``/proc`` is missing or the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def last_frame(trace: str) -> str:
    """`` at file:line`` of the innermost frame of a formatted traceback."""
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    if not frames:
        return ""
    parts = frames[-1].split('"')
    return f" at {os.path.basename(parts[1])}{parts[2].replace(', line ', ':').split(',')[0]}"
