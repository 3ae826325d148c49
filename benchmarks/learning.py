"""Time steps of learning per second in one run: Lava, the NumPy reference, sim.learn. Run: make bench.

A time step is one step of the network with one update of all its weights: K Lava steps. One sample at a time, 6 steps a
sample, random feedback, the input fires with ``--density``, one thread. Lava: its CPU runtime, one ``run()`` call,
without start-up. Medians; ratios are to Lava in the same run, time step for time step, and (``per Lava step``) with a
time step of ours counted as if it were a single Lava step, which leaves out that Lava needs K of them.

    python benchmarks/learning.py [--json] [--density 0.1] [--networks 64-10] [--rounding per-synapse] [--no-lava]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: BLAS threads of their own make timings swing
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import Plan, make_plan, trace_energy
from ottt_loihi.sim import Learner
from ottt_loihi.sim.learning import reference as learning_reference
from ottt_loihi.sim.learning.rule import Rule

NETWORKS = {"64-10": 1500, "784-128": 140, "64-128-10": None, "784-256-10": None}  # targets: × Lava, from the issue
STEPS = 6
REPEATS = 7
LAVA_SECONDS = 2.0
MNIST = 60_000


def median_rate(function: Callable[[], int], repeats: int, seconds: float = 0.1) -> float:
    """Steps per second: median of ``repeats`` stretches of ``seconds`` each; ``function`` returns steps done."""
    function()
    rates = []
    for _ in range(repeats):
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            done += function()
        rates.append(done / (time.perf_counter() - started))
    return statistics.median(rates)


def setting(name: str, density: float) -> tuple[Plan, list[float], np.ndarray, np.ndarray]:
    """(plan, rates, spikes, labels) of random data."""
    inputs, *hidden, classes = map(int, name.split("-"))
    plan = make_plan(fresh_network((inputs,), tuple(hidden), classes, STEPS))
    rng = np.random.default_rng(0)
    x = (rng.random((256, STEPS, inputs)) < density).astype(np.uint8)
    wanted = [1.0] * len(hidden) + [0.02]
    return plan, [p / e for p, e in zip(wanted, trace_energy(plan, x[:64]))], x, rng.integers(0, classes, len(x))


def sim_rate(plan: Plan, rates: list[float], x: np.ndarray, labels: np.ndarray, rounding: str) -> float:
    learner, packed = Learner(learning_network(plan, rates, Rule(rounding=rounding))), np.packbits(x, axis=-1)

    def go() -> int:
        learner.learn(packed, labels)
        return len(x) * STEPS

    return median_rate(go, REPEATS)


def reference_rate(plan: Plan, rates: list[float], x: np.ndarray, labels: np.ndarray, rounding: str) -> float:
    network, count = learning_network(plan, rates, Rule(rounding=rounding)), 4

    def go() -> int:
        learning_reference.learn(network, x[:count], labels[:count])
        return count * STEPS

    return median_rate(go, 3)


def lava_rate(plan: Plan, rates: list[float], x: np.ndarray, labels: np.ndarray, rounding: str) -> tuple[float, int]:
    """(time steps per second of the Lava runtime, K)."""
    from ottt_loihi.converters.lava.runtime import LavaRun
    from ottt_loihi.onchip.lava.graph import build_graph

    graph = build_graph(plan, np.packbits(x, axis=-1), labels, rates, Rule(rounding=rounding))
    with LavaRun(graph.source, stall_timeout=60) as run:

        def go() -> int:
            run.steps(STEPS * graph.epoch)
            return STEPS

        return median_rate(go, 5, LAVA_SECONDS / 5), graph.epoch


def measure(name: str, density: float, rounding: str, lava: bool) -> dict[str, Any]:
    case = setting(name, density)
    sim = sim_rate(*case, rounding)
    row = {"network": name, "rounding": rounding, "sim": sim, "images": sim / STEPS, "mnist": MNIST * STEPS / sim}
    row |= {"reference": reference_rate(*case, rounding), "target": NETWORKS[name]}
    if lava:
        rate, epoch = lava_rate(*case, rounding)
        row |= {"lava": rate, "epoch": epoch, "ratio": sim / rate, "ratio_lava_steps": sim / rate / epoch}
    return row


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="time steps of learning per second", title_justify="left")
    columns = ("network", "rounding", "K", "Lava", "NumPy", "sim.learn", "images/s", "MNIST epoch (s)", "× Lava")
    for column in (*columns, "per Lava step", "target"):
        table.add_column(column, justify="left" if column in columns[:2] else "right")
    for row in rows:
        rates = [f"{row[key]:,.0f}" for key in ("reference", "sim", "images")]
        against = [f"{row[key]:,.0f}" if key in row else "–" for key in ("ratio", "ratio_lava_steps")]
        known = [str(row.get("epoch", "–")), f"{row['lava']:,.0f}" if "lava" in row else "–"]
        target = f"{row['target']:,}" if row["target"] else ""
        table.add_row(row["network"], row["rounding"], *known, *rates, f"{row['mnist']:.1f}", *against, target)
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--rounding", nargs="+", choices=("lava", "per-synapse"), default=["lava", "per-synapse"])
    parser.add_argument("--no-lava", action="store_true", help="where Lava is not installed")
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.networks, arguments.rounding = arguments.networks[:1], ["per-synapse"]
    rows = []
    for name in arguments.networks:
        for rounding in arguments.rounding:
            print(f"{name}, {rounding} …", file=sys.stderr)
            rows.append(measure(name, arguments.density, rounding, not arguments.no_lava))
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows)


if __name__ == "__main__":
    main()
