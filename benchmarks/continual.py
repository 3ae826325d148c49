"""Permuted MNIST, one task after the other, with HLOP and without; stopped runs go on.

    python benchmarks/continual.py [--runs runs/continual] [--only plain] [--docs docs]

A 784-256-256-10 network, pixels as a constant current, T = 6, OTTT with one update per sequence, SGD without weight
decay, one epoch a task. Writes ``continual-results.md`` into the docs folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import short
import torch

from ottt_loihi.data import load_data
from ottt_loihi.files import atomic_write
from ottt_loihi.nn.models import mlp
from ottt_loihi.rules import make_rule
from ottt_loihi.training.continual import Retention, learn_tasks, permuted
from ottt_loihi.training.trainer import Trainer

TASKS = 5
HLOP = {"rows": [80, 60, 60], "later_rows": [70, 40, 40], "learning_rate": [0.001, 0.01, 0.01], "iterations": 2}
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hlop": {"hlop": HLOP},
    "hlop-spikes": {"hlop": {**HLOP, "spikes": 40}},
    "sltt": {"name": "sltt"},
    "sltt-hlop": {"name": "sltt", "hlop": HLOP},
}
TITLES = {
    "plain": "OTTT",
    "hlop": "OTTT, HLOP",
    "hlop-spikes": "OTTT, HLOP with lateral neurons that spike, 40 steps",
    "sltt": "SLTT",
    "sltt-hlop": "SLTT, HLOP",
}


def learn(name: str, folder: Path) -> Retention:
    """One run, or what is left of it to do."""
    settings = {"name": "ottt", "update": "sequence", **RUNS[name]}
    net = mlp((784, 256, 256, 10), input_shape=(28, 28), time_steps=6, surrogate="sigmoid", bias=False, seed=0)
    trainer = Trainer(
        net,
        make_rule(**settings),
        loss="cross-entropy",
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.9,
        schedule="constant",
        batch_size=64,
        encoding="constant",
    )
    return learn_tasks(
        trainer,
        permuted(load_data("mnist"), TASKS),
        1,
        folder / name,
        lambda number, row: print(name, number + 1, [f"{a:.2%}" for a in row], flush=True),
    )


def table(found: dict[str, Retention]) -> str:
    lines = [
        "| rule | " + " | ".join(f"task {n + 1}" for n in range(TASKS)) + " | average | backward transfer |",
        "|---|" + "---:|" * (TASKS + 2),
    ]
    for name, retention in found.items():
        cells = [f"{a:.2%}" for a in retention.accuracy[-1]]
        cells += [f"**{retention.average:.2%}**", f"{100 * retention.backward_transfer:+.2f}"]
        lines.append(f"| {TITLES[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(docs: Path, found: dict[str, Retention]) -> None:
    k = "/".join(map(str, HLOP["rows"]))
    more = "/".join(map(str, HLOP["later_rows"]))
    text = (
        "# Tasks one after the other, measured\n\n`python benchmarks/continual.py` measures this table on the CPU. "
        f"There are {TASKS} tasks of permuted MNIST, with 60,000 images each, which are shown once. The network is "
        "784-256-256-10 with T = 6 and one readout for all tasks; batches of 64, SGD with learning rate 0.1 and "
        "momentum, seed 0.\n\nHLOP keeps the learning of later tasks out of the directions that earlier tasks use "
        f"([rules.md](rules.md#hlop)). The first task gets {k} directions at the three connections, and each "
        f"later task {more} more. The table has the test accuracy on the 10,000 images of each task, after the last "
        "task. Backward transfer is the mean number of points that the earlier tasks have gained since they were "
        "learnt.\n\n"
        f"{table(found)}\n"
    )
    with atomic_write(docs / "continual-results.md") as temporary:
        temporary.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/continual"))
    parser.add_argument("--only", default="", help=f"one of {', '.join(RUNS)}; default: all, and write the docs")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    arguments = parser.parse_args()
    if arguments.short:
        short.use()
        arguments.runs = arguments.docs = short.folder()
    torch.set_num_threads(1)
    found = {name: learn(name, arguments.runs) for name in RUNS if arguments.only in ("", name)}
    if not arguments.only:
        write(arguments.docs, found)


if __name__ == "__main__":
    main()
