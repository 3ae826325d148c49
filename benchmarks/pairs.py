"""How many times as fast as another worktree the simulators are, in interleaved pairs. Run: make bench.

Each tree has a process of its own, with its own Python (``PATH/.venv``) and its own ``benchmarks/sim.py`` and
``benchmarks/learning.py``, which make the same networks. The two take turns (A, B, A, B, …), so that other work on the
machine meets both; the figure is the median of the ratios of the pairs: of the time that passed, and (``CPU``) of the
processors' time, which other work changes less but which does not see how well threads share theirs. Scores must be
equal, and the weights that are learnt with Lava's rounding.

Networks and thresholds are those of ``benchmarks/sim.py`` at a density of 10 %: batch 1 is one sample of 256 steps on
one thread, batch 256 has 32 steps a sample and all threads. ``recurrent`` is 64-256-10 whose hidden layer is connected
to itself. ``learning`` is 784-256-10 as in ``benchmarks/learning.py``. Beside each are this tree's ratio to Lava and
its share of the bound of ``benchmarks/sim.py``.

    python benchmarks/pairs.py --against PATH [--cases conv] [--pairs 31] [--no-lava] [--json]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: BLAS threads of their own make timings swing
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
DENSITY = 0.1
STRETCH = 0.05  # seconds that one timing takes


class Case(NamedTuple):
    """One comparison: the network, samples in a batch, and the smallest ratio to version 0.1 that is wanted."""

    network: str
    batch: int
    bar: float


CASES = (
    Case("784-256-10", 1, 1.3),
    Case("784-256-10", 256, 1.6),
    Case("conv", 1, 1.6),
    Case("conv", 256, 1.6),
    Case("recurrent", 1, 2.0),
    Case("recurrent", 256, 2.0),
    Case("learning", 1, 1.3),
)


def recurrent(sim: Any) -> Any:
    """64-256-10 with 256 neurons that are connected to each other."""
    rng = np.random.default_rng(0)
    chip = sim.mlp(rng, 64, 256, 10)
    own = sim.Dense(0, 0, sim.weights(rng, 256, 256) // 4 * 2)
    return replace(chip, connections=(*chip.connections[:1], own, *chip.connections[1:]))


def ready(case: Case, threads: int) -> tuple[Callable[[], Any], int, str]:
    """Return a call of this process's tree, its sample-steps, and a digest of what it computes."""
    if case.network == "learning":
        learning = import_module("learning")

        plan, rates, x, labels = learning.setting("784-256-10", DENSITY)
        learner = learning.Learner(learning_network(learning, plan, rates, "per-synapse"))
        packed = np.packbits(x, axis=-1)
        exact = learning.Learner(learning_network(learning, plan, rates, "lava"))
        exact.learn(packed, labels)
        digest = b"".join(w.astype(np.int64).tobytes() for w in exact.weights())
        return lambda: learner.learn(packed, labels), len(x) * learning.STEPS, hashlib.sha256(digest).hexdigest()
    chip, x, simulator = network(case, threads)
    digest = hashlib.sha256(simulator.run(x).scores.tobytes()).hexdigest()
    return lambda: simulator.run(x), case.batch * chip.num_steps, digest


def learning_network(learning: Any, plan: Any, rates: list[float], rounding: str) -> Any:
    """Return what ``sim.learn`` learns, with a rule; version 0.1 took its fields one by one."""
    if hasattr(learning, "Rule"):
        return learning.learning_network(plan, rates, learning.Rule(rounding=rounding))
    return learning.learning_network(plan, rates, rounding=rounding)


def network(case: Case, threads: int) -> tuple[Any, np.ndarray, Any]:
    """Return the chip network of a case, its input and its simulator."""
    sim = import_module("sim")  # of benchmarks/, of the tree that is measured

    chip = recurrent(sim) if case.network == "recurrent" else sim.NETWORKS[case.network](np.random.default_rng(0))
    chip = sim.firing(chip, DENSITY)
    if case.batch == 1:
        chip, threads = replace(chip, num_steps=sim.ALONE), 1
    return chip, sim.spikes(chip, case.batch, DENSITY), sim.Simulator(chip, threads)


def work(threads: int, stretch: float) -> None:
    """Answer a case with its digest, an empty line with sample-steps per second of time and of CPU."""
    call: Callable[[], Any] = lambda: None  # noqa: E731
    steps = calls = 0
    for line in sys.stdin:
        if line.strip():
            call, steps, digest = ready(Case(*json.loads(line)), threads)
            started = time.perf_counter()
            call()
            calls = max(1, round(stretch / (time.perf_counter() - started)))
            answer: Any = digest
        else:
            started = time.perf_counter(), time.process_time()
            for _ in range(calls):
                call()
            ended = time.perf_counter(), time.process_time()
            answer = [calls * steps / (end - start) for start, end in zip(started, ended)]
        print(json.dumps(answer), flush=True)


class Tree:
    """A worktree's process."""

    def __init__(self, path: Path, threads: int, stretch: float) -> None:
        python = path / ".venv" / "bin" / "python"
        if not python.exists():
            if path != HERE.parent:
                raise SystemExit(f"--against: expected a worktree with its own environment, {python} is missing")
            python = Path(sys.executable)
        command = [python, __file__, "--work", str(path / "benchmarks"), "--threads", str(threads)]
        self.process = subprocess.Popen(
            [*map(str, command), "--stretch", str(stretch)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: str = "") -> Any:
        """Return the answer to one line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args[0]} ended with {self.process.wait()}")
        return json.loads(answer)

    def end(self) -> None:
        """Close the process's input and wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(case: Case, now: Tree, before: Tree, pairs: int) -> dict[str, Any]:
    """Return a row: medians of both trees and of their ratio."""
    line = json.dumps(case)
    if now.ask(line) != before.ask(line):
        raise SystemExit(f"{case.network}: the two trees find different integers")
    before_rates, now_rates = [], []
    for number in range(pairs):
        turns = [(before, before_rates), (now, now_rates)]
        for tree, rates in turns if number % 2 == 0 else turns[::-1]:
            rates.append(tree.ask())
    ratios = np.array(now_rates) / np.array(before_rates)
    row = {"network": case.network, "batch": case.batch, "bar": case.bar}
    row |= {"before": statistics.median(wall for wall, _ in before_rates)}
    row |= {"now": statistics.median(wall for wall, _ in now_rates)}
    return row | dict(zip(("ratio", "cpu_ratio"), map(float, np.median(ratios, axis=0))))


def beside(case: Case, threads: int, lava: bool) -> dict[str, float]:
    """Return Lava's rate and the bound of a case, of this process's tree."""
    learning = import_module("learning")

    sim = import_module("sim")  # of benchmarks/, of the tree that is measured

    if case.network == "learning":
        if not lava:
            return {}
        rate, _ = learning.lava_rate(*learning.setting("784-256-10", DENSITY), "per-synapse")
        return {"lava": rate}
    chip, _, _ = network(case, threads)
    found = {"bound": sim.bound_rate(chip, DENSITY, 1 if case.batch == 1 else threads)}
    return found | ({"lava": sim.lava_rate(chip, DENSITY)} if lava else {})


def show(rows: list[dict[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("network", "batch", "before", "now", "ratio", "CPU", "asked", "× Lava", "bound", "of bound"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        lava = f"{row['now'] / row['lava']:,.0f}" if "lava" in row else "–"
        bound = [f"{row['bound']:,.0f}", f"{row['now'] / row['bound']:.0%}"] if "bound" in row else ["–", "–"]
        rates = [f"{row[key]:,.0f}" for key in ("before", "now")]
        asked = [f"{row['ratio']:.2f}", f"{row['cpu_ratio']:.2f}", f"{row['bar']:.1f}"]
        table.add_row(row["network"], str(row["batch"]), *rates, *asked, lava, *bound)
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = list(dict.fromkeys(case.network for case in CASES))
    parser.add_argument("--against", type=Path, default=HERE.parent, help="another worktree; default: this one itself")
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-lava", action="store_true", help="without Lava and the bound")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # a tree's own process: its benchmarks
    parser.add_argument("--stretch", type=float, default=STRETCH, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        sys.path.insert(0, str(arguments.work))
        return work(arguments.threads, arguments.stretch)
    if arguments.short:
        arguments.cases, arguments.pairs, arguments.stretch = ["recurrent", "learning"], 3, 0.0
    arguments.no_lava |= arguments.short
    load = os.getloadavg()[0]
    trees = [Tree(path, arguments.threads, arguments.stretch) for path in (HERE.parent, arguments.against.resolve())]
    rows = []
    for case in CASES:
        if case.network in arguments.cases:
            print(f"{case.network}, batch {case.batch} …", file=sys.stderr)
            rows.append(measure(case, *trees, arguments.pairs))
    for tree in trees:
        tree.end()
    chosen = [case for case in CASES if case.network in arguments.cases]
    for row, case in zip(rows, chosen):
        row |= {} if arguments.no_lava else beside(case, arguments.threads, lava=True)
    if arguments.json:
        print(json.dumps({"against": str(arguments.against), "load": load, "rows": rows}, indent=2))
    else:
        title = f"sample-steps per second, {arguments.pairs} pairs, load {load:.1f} before"
        show(rows, title + (", against this very tree" if arguments.against == HERE.parent else ""))
    return None


if __name__ == "__main__":
    main()
