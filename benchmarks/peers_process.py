"""The processes of ``benchmarks/peers.py``: none is waited for longer than its limit, and one that fails says why."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LIMIT = 300.0  # seconds for one answer, or for one simulator


def last_line(printed: str) -> str:
    """Return the last line that is not empty: what Python says of an exception stands there."""
    lines = printed.strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"


def verdict(why: str) -> str:
    """Return "missing" where a package is not installed, "failed" for any other reason."""
    return "missing" if why.startswith("ModuleNotFoundError") else "failed"


def python_of(environments: Path, name: str) -> Path | None:
    """Return the Python of an environment; None where it was not made."""
    python = environments / name / "bin" / "python"
    return python if python.exists() else None


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process and those that it started, as a compiler."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def output_of(command: list[str], limit: float = LIMIT) -> tuple[str, str]:
    """Return what a command printed, and in a line why it failed; that is empty where it did not."""
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=out, stderr=log, env=environment, start_new_session=True, text=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return "", f"not ready after {limit:g} s"
        finally:
            _end(process)
        out.seek(0)
        log.seek(0)
        return out.read(), last_line(log.read()) if status else ""


class Peer:
    """The process of one contender.

    Attributes
    ----------
    versions
        of its packages
    unavailable
        one line: why it cannot run, or no longer; empty where it can
    """

    def __init__(self, name: str, environments: Path, threads: int) -> None:
        self.name, self.unavailable = name, ""
        self.versions: dict[str, str] = {}
        # without an environment the framework may still be installed beside this toolkit, as lava-dl is
        python = python_of(environments, "jax" if name.startswith("BrainTrace") else "torch") or sys.executable
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, closed by `close`
        self.process = subprocess.Popen(
            [str(python), "-W", "ignore", str(HERE / "peers_worker.py"), name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until the framework is imported, or is known to be unavailable."""
        answer = self._answer(LIMIT)
        self.versions, self.unavailable = answer.get("versions", {}), answer.get("failed", "")

    def _answer(self, limit: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], limit)[0]:
            _end(self.process)
            self.unavailable = f"no answer within {limit:g} s"
        elif line := self.process.stdout.readline():
            return json.loads(line)
        else:
            status = self.process.wait()
            self.log.seek(0)
            self.unavailable = f"its process ended with status {status}: {last_line(self.log.read())}"
        return {"failed": self.unavailable}

    def ask(self, limit: float = LIMIT, **request: Any) -> dict[str, Any]:
        """Return the answer to one request; ``{"failed": why}`` where the contender could not, or not in time."""
        assert self.process.stdin is not None
        if self.unavailable:
            return {"failed": self.unavailable}
        with contextlib.suppress(BrokenPipeError):  # the process ended; its last line is read below
            print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer(limit)

    def close(self) -> None:
        _end(self.process)
        self.log.close()
