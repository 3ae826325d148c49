"""Time per iteration and peak memory of the paper's VGG (standardised weights) for growing numbers of time steps.

    python benchmarks/vgg.py [--device cuda] [--steps 2 6 12 24 48] [--autocast bfloat16] [--json file] [--plot file]

On a GPU the whole network with batches of 128; on the CPU a network of the same kind that is small enough. An iteration
is forward, backward and the optimiser's step. Memory is what torch has allocated at most at one time, beside network,
optimiser and input. OTTT's must stay the same for all T, BPTT's grows.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from ottt_loihi.fast.cuda_graph import GraphedRule
from ottt_loihi.nn.inputs import ConstantInput
from ottt_loihi.nn.models import conv, vgg
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.precision import check_autocast
from ottt_loihi.report import plots
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import CrossEntropy
from ottt_loihi.training.engine import choose

SMALL = "16C3-32C3-AP2-64C3-64C3-AP2-128C3-128C3-GAP"


def rules(device: str) -> dict[str, Any]:
    """Return the contenders; several steps at once are for the CPU."""
    ottt = {"convention": "authors"}
    found = {
        "OTTT_A": make_rule("ottt", update="sequence", **ottt),
        "OTTT_O": make_rule("ottt", update="step", **ottt),
        "BPTT": make_rule("bptt"),
    }
    if device != "cpu":
        found |= {f"{name}, CUDA graph": GraphedRule(found[name]) for name in ("OTTT_A", "BPTT")}
    else:
        found["OTTT_A, plain engine"] = make_rule("ottt", update="sequence", **ottt)
    return found


def seconds(run: Callable[[], Any], device: str, repeats: int) -> float:
    """Median over the iterations after the first."""
    found = []
    for _ in range(repeats + 1):
        _synchronize(device)
        start = time.perf_counter()
        run()
        _synchronize(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """Bytes allocated at most at one time during an iteration, beside what was there before.

    A CUDA graph allocates its memory when it is recorded, so this has to be its first iteration.
    """
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        run()
    live = most = 0
    for event in prof.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def network(device: str) -> tuple[Network, int]:
    """The network and its batch size."""
    settings = {"input_shape": (3, 32, 32), "convention": "authors", "surrogate": "sigmoid"}
    net = conv(SMALL, standardized=True, **settings) if device == "cpu" else vgg(10, **settings)
    return net.to(device), 16 if device == "cpu" else 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--autocast", default="")
    parser.add_argument("--only", default="", help="rules whose name contains this")
    parser.add_argument("--json", help="write the figures here too")
    parser.add_argument("--plot", help="and draw them here, as PNG")
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.steps, arguments.repeats = [2, 4], 1
    torch.set_num_threads(arguments.threads)
    device, kind = arguments.device, check_autocast(arguments.autocast)
    steps = arguments.steps or ([2, 6, 12, 24, 48] if device != "cpu" else [2, 6, 12])
    net, batch = network(device)
    rows, table = [], Table("rule", "T", "ms per iteration", "peak memory (MiB)", "of T = least")
    for name in filter(lambda name: arguments.only in name, rules(device)):
        least = 0
        for length in steps:
            x = ConstantInput(torch.rand(batch, 3, 32, 32, device=device), length)
            labels = torch.arange(batch, device=device) % 10
            optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
            rule = rules(device)[name]

            engine = choose(net, rule, CrossEntropy(), length, "plain" if "plain" in name else "auto")

            def run(
                engine: Any = engine, rule: Any = rule, x: Any = x, labels: Any = labels, o: Any = optimizer
            ) -> None:
                with torch.autocast(device, kind, enabled=kind is not None):
                    engine.train_batch(net, rule, x, labels, CrossEntropy(), o)

            run(rule=getattr(rule, "rule", rule))  # gradients and momentum are there from then on
            memory, duration = peak_bytes(run, device), seconds(run, device, arguments.repeats)
            del rule, run, engine
            torch.cuda.empty_cache()
            least = least or memory
            rows.append({"rule": name, "steps": length, "milliseconds": 1e3 * duration, "bytes": memory})
            cells = (f"{1e3 * duration:.1f}", f"{memory / 2**20:.1f}", f"{memory / least:.2f}×")
            table.add_row(name, str(length), *cells)
    Console(width=100).print(table)
    where = torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()}, {arguments.threads} threads"
    print(f"{'VGG' if device != 'cpu' else SMALL}, batch {batch}, torch {torch.__version__}, {where}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"device": where, "rows": rows}, file, indent=1)
    if arguments.plot:
        draw(arguments.plot, rows)


def draw(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Time and memory over T, a line for each rule."""
    panels = {}
    for label, key, unit in (("milliseconds per iteration", "milliseconds", 1), ("peak memory (GiB)", "bytes", 2**30)):
        panels[label] = {
            name: tuple(zip(*((row["steps"], row[key] / unit) for row in rows if row["rule"] == name)))
            for name in dict.fromkeys(row["rule"] for row in rows)
        }
    plots.save_panels(path, panels, x_label="time steps T")


if __name__ == "__main__":
    main()
