"""Sample-steps per second of the simulators in one run: Lava, the NumPy reference, sim.run. Run: make bench.

A sample-step is one time step of one sample. Three networks with random weights, thresholds set so that hidden layers
fire as often as the input. Lava runs one sample (it has no batches) in one ``run()`` call, without start-up and without
recording. ``batch 1`` of the others is one sample of 256 steps in one call on one thread; larger batches have 32 steps
a sample and all threads. Medians; ratios are to Lava in the same run.

``bound`` is what the same integers would take if nothing but the inner loops were left: the additions of the weights
of all spikes at the rate at which a full matrix of the same size is added up, and the neuron updates at the rate of
one large layer; on all threads for a batch.

    python benchmarks/sim.py [--json] [--networks 784-256-10] [--densities 0.1] [--threads 2] [--strategies]

``--strategies`` compares instead events with a float32 product, by spike density (``sim/inference/strategies.py`` says
which is used).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: BLAS threads of their own make timings swing
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from ottt_loihi.sim.inference import kernels, reference
from ottt_loihi.sim.inference.simulator import Simulator, cores
from ottt_loihi.sim.inference.strategies import Events, Messages, Product, plan
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Conv, Dense

BATCHES = (1, 64, 256)
ALONE, TOGETHER = 256, 32  # steps of a sample in a batch of 1, and in a larger one
REPEATS = 7
TARGETS = {  # ratios to Lava at 10 %, from the issue
    ("64-128-10", 1): 1000,
    ("784-256-10", 1): 400,
    ("784-256-10", 256): 800,
    ("conv", 1): 60,
    ("conv", 256): 250,
}


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Even weights spread like trained ones: normal, the largest at the end of the range."""
    return np.clip(2 * np.round(rng.normal(0, 42, shape)), -254, 254).astype(np.int32)


def mlp(rng: np.random.Generator, *sizes: int) -> ChipNetwork:
    """Fully connected, λ = 0.5, reset to zero."""
    layers = [LIF((n,), 4095, 2048, 1000) for n in sizes[1:-1]]
    connections = [Dense(i - 1, i, weights(rng, sizes[i + 1], sizes[i])) for i in range(len(sizes) - 1)]
    return ChipNetwork((sizes[0],), (*layers, readout(sizes[-1])), tuple(connections), TOGETHER)


def conv(rng: np.random.Generator) -> ChipNetwork:
    """1×28×28-16C5-P2-32C5-P2-10 with each average pooling folded into the layer behind it."""
    pool = np.ones((2, 2), np.int32)
    first = Conv(INPUT, 0, weights(rng, 16, 1, 5, 5), (1, 28, 28))
    second = Conv(0, 1, np.kron(weights(rng, 32, 16, 5, 5), pool), (16, 24, 24), stride=(2, 2))
    last = Dense(1, 2, np.kron(weights(rng, 10, 32, 4, 4), pool).reshape(10, -1))
    layers = [LIF(c.output_shape, 4095, 2048, 1000) for c in (first, second)]
    return ChipNetwork((1, 28, 28), (*layers, readout(10)), (first, second, last), TOGETHER)


def readout(size: int) -> LIF:
    return LIF((size,), 4095, 4096, 131071)


NETWORKS: dict[str, Callable[[np.random.Generator], ChipNetwork]] = {
    "64-128-10": lambda rng: mlp(rng, 64, 128, 10),
    "784-256-10": lambda rng: mlp(rng, 784, 256, 10),
    "conv": conv,
}


def firing(chip: ChipNetwork, density: float) -> ChipNetwork:
    """Set the thresholds of the hidden layers, one after the other, so that ``density`` of the neurons fire."""
    x = spikes(chip, 4, density)
    for index in range(len(chip.layers) - 1):
        low, high = 0, 131071
        while high - low > 1:
            middle = (low + high) // 2
            layers = list(chip.layers)
            layers[index] = replace(layers[index], vth=middle)
            chip = replace(chip, layers=tuple(layers))
            counts = Simulator(chip, 1).run(x).spike_counts
            rate = counts[index] / (len(x) * chip.num_steps * layers[index].size)
            low, high = (middle, high) if rate > density else (low, middle)
    return chip


def spikes(chip: ChipNetwork, batch: int, density: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.random((batch, chip.num_steps, *chip.input_shape)) < density).astype(np.uint8)


def median_seconds(
    function: Callable[[], Any], repeats: int | None = None, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median of ``repeats`` (REPEATS) runs after one that warms up; each at least 20 ms long."""
    started = clock()
    function()
    calls = max(1, int(0.02 / (clock() - started)))
    times = []
    for _ in range(repeats or REPEATS):
        started = clock()
        for _ in range(calls):
            function()
        times.append((clock() - started) / calls)
    return statistics.median(times)


def lava_rate(chip: ChipNetwork, density: float, seconds: float = 1.0) -> float:
    """Steps per second of the Lava runtime, median of five stretches."""
    from ottt_loihi.converters.lava import graph as lava
    from ottt_loihi.converters.lava.runtime import LavaRun

    chip = replace(chip, num_steps=2000)
    graph = lava.build(chip, reference.check_input(chip, spikes(chip, 1, density)))
    with LavaRun(graph.source, stall_timeout=30) as run:
        started = time.perf_counter()
        run.steps(20)
        stretch = max(10, int(20 * seconds / 5 / (time.perf_counter() - started)))
        times = []
        for _ in range(5):
            started = time.perf_counter()
            run.steps(stretch)
            times.append(time.perf_counter() - started)
    return stretch / statistics.median(times)


def reference_rate(chip: ChipNetwork, batch: int, density: float) -> float:
    """Sample-steps per second of the NumPy reference over a few steps."""
    steps = max(1, min(chip.num_steps, 200 // batch)) if len(chip.input_shape) == 1 else 1
    short = replace(chip, num_steps=steps)
    x = spikes(short, min(batch, 64) if len(chip.input_shape) == 3 else batch, density)
    return len(x) * steps / median_seconds(lambda: reference.run(short, x), 1)


def fast_rate(chip: ChipNetwork, batch: int, density: float, threads: int) -> float:
    """Sample-steps per second of sim.run."""
    if batch == 1:
        chip, threads = replace(chip, num_steps=ALONE), 1
    simulator, x = Simulator(chip, threads), spikes(chip, batch, density)
    return batch * chip.num_steps / median_seconds(lambda: simulator.run(x))


def bound_rate(chip: ChipNetwork, density: float, threads: int) -> float:
    """Sample-steps per second of ``threads`` cores that only add and update (module docstring)."""
    result = reference.run(chip, spikes(chip, 1, density))
    sources = {index: count / chip.num_steps for index, count in enumerate(result.spike_counts)}
    sources[INPUT] = density * chip.input_size
    seconds = sum(layer.size for layer in chip.layers) * _neuron_seconds()
    for c in chip.connections:
        seconds += sources[c.pre] * _fan_out(c) * _addition_seconds(c)
    return threads / seconds


def _fan_out(c: Connection) -> float:
    if isinstance(c, Conv):  # taps of all outputs, borders counted exactly by what the outputs receive
        return c.shape[0] * c.weight[0].size / c.shape[1]
    return c.shape[0]


def _addition_seconds(c: Connection) -> float:
    """Of one synapse, when a matrix as large as the weights is added up row by row without a gap."""
    width = 256
    pre = max(8, min(c.weight.size // width, 4000) // 8 * 8)
    rows = np.ones((pre, width), np.int8)
    sent, out = Messages(pre, None, 0, 1, 8, False), np.zeros((1, 8, width), np.int32)
    sent.bytes[:] = 1
    link = Events(kernels.rows, (rows, 32767, 0), "")
    neurons = _idle(1, 8, width)
    return median_seconds(lambda: link.deliver(sent, 0, True, False, out, neurons)) / (8 * pre * width)


def _idle(samples: int, steps: int, size: int) -> kernels.Neurons:
    """Neurons with λ = 0.5 for a kernel that adds up their input, or that advances them."""
    u, v = np.zeros((samples, size), np.int32), np.zeros((samples, size), np.int32)
    messages, bias, vth = np.zeros((samples, steps, size), np.uint8), np.zeros(size, np.int32), np.full(size, 640)
    loop, nothing = np.zeros(0, np.int32), np.zeros((0, 0, 0), np.int32)
    scores, counts = np.zeros((samples, size), np.int64), np.zeros(5, np.int64)
    constants = kernels.Constants(0.0, 0.5, True, bias, vth.astype(np.int32), loop)
    return kernels.Neurons(constants, u, v, messages, 0, nothing, nothing, scores, 0, counts)


def _neuron_seconds() -> float:
    size, steps = 4096, 16
    a, neurons = np.ones((1, steps, size), np.int32), _idle(1, steps, size)
    return median_seconds(lambda: kernels.scan(a, neurons)) / (steps * size)


def measure(name: str, density: float, threads: int) -> list[dict[str, Any]]:
    """One network at one density: a row for each batch size."""
    chip = firing(NETWORKS[name](np.random.default_rng(0)), density)
    x = spikes(chip, 2, density)
    if not np.array_equal(reference.run(chip, x).scores, Simulator(chip).run(x).scores):
        raise SystemExit(f"{name}: sim.run differs from the reference")
    lava = lava_rate(chip, density)
    rows = []
    for batch in BATCHES:
        fast = fast_rate(chip, batch, density, threads)
        rows.append(
            {
                "network": name,
                "density": density,
                "batch": batch,
                "lava": lava,
                "reference": reference_rate(chip, batch, density),
                "sim": fast,
                "bound": bound_rate(chip, density, 1 if batch == 1 else threads),
                "ratio": fast / lava,
                "target": TARGETS.get((name, batch)) if density == 0.1 else None,
            }
        )
    return rows


def strategies() -> list[dict[str, Any]]:
    """Microseconds per sample-step of events and of the float32 product, by spike density."""
    rng = np.random.default_rng(0)
    dense, network = mlp(rng, 784, 256, 10), conv(rng)
    cases = {"784→256": (dense, 0), "1×28×28→16C5": (network, 0), "16×24×24→32C5 (P2 folded)": (network, 1)}
    rows = []
    for name, (chip, index) in cases.items():
        c = chip.connections[index]
        links = {"events": plan(chip).layers[index].inputs[0][2], "product": Product(c, None, "")}
        for density in (0.02, 0.1, 0.3, 0.5, 1.0):
            sent, out = Messages(c.shape[1], None, 0, 32, 32, False), np.zeros((32, 32, c.shape[0]), np.int32)
            sent.bytes[:, :, : c.shape[1]] = rng.random((32, 32, c.shape[1])) < density
            neurons = _idle(32, 32, c.shape[0])
            calls = {
                strategy: partial(link.deliver, sent, 0, True, False, out, neurons) for strategy, link in links.items()
            }
            times = {strategy: median_seconds(call, 3) / 1024 * 1e6 for strategy, call in calls.items()}
            rows.append({"connection": name, "density": density} | times)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="sample-steps per second", title_justify="left")
    for column in ("network", "density", "batch", "Lava", "NumPy", "sim.run", "bound", "× Lava", "target"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        rates = [f"{row[key]:,.0f}" for key in ("lava", "reference", "sim", "bound")]
        target = f"{row['target']:,}" if row["target"] else ""
        table.add_row(
            row["network"], f"{row['density']:.0%}", str(row["batch"]), *rates, f"{row['ratio']:,.0f}", target
        )
    Console(width=110).print(table)


def share(text: str) -> float:
    """Return a share of spikes from ``0.1``, ``10%`` or ``10`` (percent, where it is above 1)."""
    value = float(text.rstrip("% "))
    value = value / 100 if "%" in text or value > 1 else value
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share of spikes in (0, 1], or a percentage up to 100, got {text}")
    return value


def shorten(arguments: argparse.Namespace) -> None:
    """One network, one density, one timing of each."""
    global REPEATS, BATCHES
    REPEATS, BATCHES = 1, (1, 64)
    arguments.networks, arguments.densities = ["64-128-10"], [0.1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--densities", nargs="+", type=share, default=[0.02, 0.1, 0.3], help="0.1 or 10 %%")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--strategies", action="store_true", help="compare events with products")
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    arguments = parser.parse_args()
    if arguments.short:
        shorten(arguments)
    if arguments.strategies:
        for row in strategies():
            print("{connection:<28} {density:>5.0%} events {events:8.2f} µs   product {product:8.2f} µs".format(**row))
        return
    rows = []
    for name in arguments.networks:
        for density in arguments.densities:
            print(f"{name}, {density:.0%} …", file=sys.stderr)
            rows += measure(name, density, arguments.threads)
    if arguments.json:
        machine = {
            "machine": platform.machine(),
            "cores": cores(),
            "threads": arguments.threads,
            "numpy": np.__version__,
        }
        print(json.dumps({**machine, "rows": rows}, indent=2))
    else:
        show(rows)


if __name__ == "__main__":
    main()
