"""How fast training is in this working tree, compared with another one, batch by batch in turns.

    python benchmarks/against.py --against ../v0.1 [--threads 1] [--turns 9] [--busy] [--only MLP] [--json out.json]

Each tree trains in a process of its own, with this interpreter and its packages. The two take turns: this tree, the
other, the other, this tree …, so that other work on the machine slows both. A ratio is the median of the ratios of the
turns; above 1 this tree is faster. Both trees get the same networks and the same samples. Version 0.1 is asked for
``stretch = 8`` where it had it; this tree chooses its engine itself. Without ``--against`` the tree meets itself, and
the ratios show how much the measurement varies.

``--cpu-time`` measures seconds of CPU, which other work on the machine disturbs less; of one thread they are seconds of
the clock on an idle machine. ``--busy`` keeps one core occupied and compares
this tree with 2 threads and with 1 thread instead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
SPIN = "while True: pass"
SETTINGS = [
    (name, kind, steps)
    for name in ("MLP", "conv", "standardised")
    for steps in (48, 6)
    for kind in ("events", "constant")
]
CASES = (
    [(*setting, "sequence") for setting in SETTINGS]
    + [("MLP", "events", 6, "step"), ("MLP", "constant", 6, "step"), ("conv", "events", 6, "step")]
    + [(name, kind, 6, "sequence") for name in ("VGG-F", "NF-ResNet") for kind in ("events", "constant")]
)


def work(tree: str) -> None:
    """Read one request a line, train one batch, and write its seconds; the process of one tree."""
    sys.path[:0] = [tree, str(Path(tree, "benchmarks"))]
    import torch
    import training as figures  # the tree's own networks, inputs and rates

    before = not hasattr(figures, "choose")  # version 0.1
    if not Path(figures.__file__).is_relative_to(tree):
        raise SystemExit(f"{figures.__file__} is not of {tree}")
    batches: dict[str, Any] = {}

    def network(name: str) -> tuple[Any, int]:
        for title, found in figures.networks("authors").items():
            if name in title:
                return found
        if before:
            from ottt_loihi.architectures import conv, nf_resnet34
        else:
            from ottt_loihi.nn.models import conv, nf_resnet34
        common = {"input_shape": (3, 32, 32), "surrogate": "sigmoid"}
        if name == "VGG-F":
            return conv("16C3-32C3-AP2-64C3-64C3-GAP", standardized=True, feedback=True, **common), 16
        return nf_resnet34(10, stages=((16, 1), (32, 1), (64, 1)), **common), 16

    def prepare(name: str, kind: str, steps: int, update: str) -> Any:
        net, batch = network(name)
        x, labels = figures.inputs(net, batch, steps, kind == "constant", "cpu")
        figures.let_fire(net, x, 0.1)
        settings = {"update": update, "convention": net.convention}
        if before and update == "sequence" and name not in ("VGG-F", "NF-ResNet"):
            settings["stretch"] = figures.STRETCH
        rule, optimizer = figures.make_rule("ottt", **settings), torch.optim.SGD(net.parameters(), 1e-6, momentum=0.9)
        if before:
            return lambda: rule.train_batch(net, x, labels, figures.LOSS, optimizer)
        chosen = figures.choose(net, rule, figures.LOSS, steps)
        return lambda: chosen.train_batch(net, rule, x, labels, figures.LOSS, optimizer)

    for line in sys.stdin:
        case, threads, cpu_time = json.loads(line)
        torch.set_num_threads(threads)
        if (key := json.dumps([case, threads])) not in batches:
            batches.clear()
            torch.manual_seed(0)
            batches[key] = prepare(*case)
            batches[key]()  # compiles and allocates
        clock = time.process_time if cpu_time else time.perf_counter
        start = clock()
        batches[key]()
        print(clock() - start, flush=True)


class Tree:
    """A process that trains batches with the code of one tree."""

    def __init__(self, path: Path, threads: int, cpu_time: bool) -> None:
        self.threads, self.cpu_time = threads, cpu_time
        environment = {**os.environ, "PYTHONPATH": str(path)}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def seconds(self, case: tuple[Any, ...]) -> float:
        """Train one batch of a case and return how long it took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([case, self.threads, self.cpu_time]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("a tree's process ended; its message is above")
        return float(answer)


def compare(ours: Tree, theirs: Tree, case: tuple[Any, ...], turns: int) -> dict[str, Any]:
    """Return both medians in milliseconds, and the median of the ratios of the turns."""
    for tree in (ours, theirs):
        tree.seconds(case)
    pairs = []
    for turn in range(turns):
        first, second = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        found = {first: first.seconds(case), second: second.seconds(case)}
        pairs.append((found[ours], found[theirs]))
    mine, other = (1e3 * statistics.median(values) for values in zip(*pairs))
    return {"milliseconds": mine, "other": other, "ratio": statistics.median(b / a for a, b in pairs)}


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, default=HERE, help="another working tree; default: this one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--cpu-time", action="store_true", help="seconds of CPU, for a machine that others use too")
    parser.add_argument("--busy", action="store_true", help="this tree with 2 threads and with 1, one core occupied")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--update", default="", choices=["", "step", "sequence"], help="only this one")
    parser.add_argument("--json", help="write the figures here too")
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(arguments.work)
    cases = [case for case in CASES if arguments.only in case[0] and arguments.update in case[3]]
    if arguments.short:
        cases, arguments.turns = [("MLP", "events", 2, "sequence"), ("NF-ResNet", "constant", 2, "sequence")], 1
    names = ("2 threads", "1 thread") if arguments.busy else ("this tree", "the other")
    wanted = (
        [(HERE, 2), (HERE, 1)] if arguments.busy else [(path, arguments.threads) for path in (HERE, arguments.against)]
    )
    trees = [Tree(path.resolve(), threads, arguments.cpu_time) for path, threads in wanted]
    spinning = subprocess.Popen([sys.executable, "-c", SPIN]) if arguments.busy else None
    rows = []
    table = Table("network", "input", "T", "update", *(f"{name} (ms)" for name in names), "×")
    try:
        for case in cases:
            found = compare(*trees, case, arguments.turns)
            rows.append(dict(zip(("network", "input", "steps", "update"), case)) | found)
            cells = f"{found['milliseconds']:.1f}", f"{found['other']:.1f}", f"{found['ratio']:.2f}"
            table.add_row(case[0], case[1], str(case[2]), case[3], *cells)
            print(*case, *cells, file=sys.stderr, flush=True)
    finally:
        for process in [tree.process for tree in trees] + ([spinning] if spinning else []):
            process.kill()
    Console(width=120).print(table)
    print(f"{arguments.turns} turns, load {os.getloadavg()[0]:.1f}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
