"""Two threads on two cores of which another process keeps one busy: they must not be slower than one thread.

    python benchmarks/busy.py [--repeats 15]

A batch of OTTT as ``engine="auto"`` trains it, with one thread and with two in turns, while a process that never sleeps
runs beside them, and without it. Medians of wall-clock milliseconds, and of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import training as figures
from rich.console import Console
from rich.table import Table

from ottt_loihi.rules import make_rule
from ottt_loihi.training.engine import choose


def batches(steps: int) -> dict[str, Callable[[], object]]:
    """One batch of each kind, from rest to new weights."""
    found: dict[str, Callable[[], object]] = {}
    for name, (net, size) in list(figures.networks("authors").items())[:2]:
        x, labels = figures.inputs(net, size, steps, False, "cpu")
        figures.let_fire(net, x, 0.1)
        optimizer = torch.optim.SGD(net.parameters(), 1e-6, momentum=0.9)
        for update in ("sequence", "step"):
            rule = make_rule("ottt", update=update, convention=net.convention)
            engine = choose(net, rule, figures.LOSS, steps)

            def run(engine=engine, net=net, rule=rule, x=x, labels=labels, optimizer=optimizer) -> object:
                return engine.train_batch(net, rule, x, labels, figures.LOSS, optimizer)

            found[f"{name.split('-')[0]}, {update}"] = run
    return found


def measure(run: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Milliseconds with one thread and with two, and the second over the first."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(repeats + 1):
        for threads, found in seconds.items():
            torch.set_num_threads(threads)
            start = time.perf_counter()
            run()
            if turn:  # the first one compiles and allocates
                found.append(time.perf_counter() - start)
    ratio = statistics.median(two / one for one, two in zip(seconds[1], seconds[2]))
    return 1e3 * statistics.median(seconds[1]), 1e3 * statistics.median(seconds[2]), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.repeats, arguments.steps = 1, 3
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # of a larger machine, two cores
    table = Table("batch", "another process", "one thread, ms", "two threads, ms", "two / one")
    for name, run in batches(arguments.steps).items():
        for beside in (False, True):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
            try:
                one, two, ratio = measure(run, arguments.repeats)
            finally:
                if busy is not None:
                    busy.kill()
            table.add_row(name, "busy" if beside else "none", f"{one:.1f}", f"{two:.1f}", f"{ratio:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
