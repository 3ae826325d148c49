"""The accuracies that the documentation claims, run again: ``make results``. Every run resumes where it was stopped.

    python benchmarks/results.py [--runs runs/results] [--only mnist] [--epochs 2] [--threads 1] [--docs docs]

Writes ``results.md``, ``results.json`` and, with every epoch, ``results-log.csv`` into the docs folder: of each
experiment whose seeds have all been run, now or before; rows of other experiments that the files have stay. So several
of these commands, each with its own ``--only``, can work side by side.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import short
import torch

from ottt_loihi.files import atomic_write
from ottt_loihi.training.config import override, read_config
from ottt_loihi.training.run import run

CONFIGS = Path(__file__).parents[1] / "configs"
LOGGED = ("loss", "train_accuracy", "test_accuracy", "seconds")


@dataclass(frozen=True)
class Experiment:
    """A configuration, what is changed in it, the seeds, and the accuracy it has to reach on average."""

    name: str
    config: str
    changes: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    at_least: float | None = None


def _rules(data: str) -> list[Experiment]:
    """OTTT, BPTT and SLTT on one network."""
    return [
        Experiment(f"{data} MLP, {rule}", f"{data}-mlp", {"rule": {"name": rule, **settings}}, (0, 1, 2), bar)
        for rule, settings, bar in (
            ("ottt", {"update": "sequence"}, {"mnist": 0.984, "fashion-mnist": 0.895}[data]),
            ("bptt", {}, None),
            ("sltt", {}, None),
        )
    ]


EXPERIMENTS = [
    *_rules("mnist"),
    *_rules("fashion-mnist"),
    Experiment("fashion-mnist recurrent R400, T = 5", "fashion-mnist-recurrent", {}, (0, 1, 2), 0.90),
    Experiment("mnist conv", "mnist-conv", {}, (0,), 0.992),
    Experiment("fashion-mnist conv", "fashion-mnist-conv", {}, (0,), 0.92),
    Experiment("mnist MLP, dsr", "mnist-dsr", {}, (0,), 0.98),
    Experiment("mnist feedback, ide", "mnist-ide", {}, (0,), 0.98),
    Experiment("mnist feedback, spide", "mnist-spide", {}, (0,), 0.98),
    Experiment("mnist one-bit weights", "mnist-binary", {}, (0,), 0.97),
    Experiment("fashion-mnist feedback, ide", "fashion-mnist-ide", {}, (0,), 0.885),
]


def place(experiment: Experiment, seed: int, runs: Path) -> Path:
    """The folder of one run."""
    return runs / f"{experiment.name.replace(' ', '-').replace(',', '')}-{seed}"


def finish(experiment: Experiment, seed: int, runs: Path, epochs: int | None, threads: int | None) -> None:
    """One run: left alone where it is done, resumed where it was begun."""
    folder = place(experiment, seed, runs)
    if (folder / "result.json").exists():
        return
    config = read_config(CONFIGS / f"{experiment.config}.toml")
    tables = {**config.tables(), **{k: v for k, v in experiment.changes.items() if isinstance(v, dict)}}
    changes = {f"{table}.{key}": value for table, keys in tables.items() for key, value in keys.items()}
    if "rule" in experiment.changes:  # another rule takes none of the file's settings
        config = type(config)(config.data, config.network, {}, config.training)
    changes |= {"training.seed": seed}
    changes |= {} if epochs is None else {"training.epochs": epochs}
    changes |= {} if threads is None else {"training.threads": threads}
    config = override(config, changes)
    result = run(config, folder, resume=(folder / "training.pt").exists(), progress=True)
    with atomic_write(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1))


def finished(experiment: Experiment, runs: Path) -> list[dict[str, Any]]:
    """The results of all seeds; empty while one is missing."""
    files = [place(experiment, seed, runs) / "result.json" for seed in experiment.seeds]
    return [json.loads(file.read_text()) for file in files] if all(file.exists() for file in files) else []


def log(experiment: Experiment, runs: Path) -> list[dict[str, Any]]:
    """Every epoch of every seed."""
    found = []
    for seed in experiment.seeds:
        with open(place(experiment, seed, runs) / "metrics.csv", newline="") as file:
            for epoch in csv.DictReader(file):
                numbers = {name: f"{float(epoch[name]):.5g}" for name in LOGGED}
                found.append({"experiment": experiment.name, "seed": seed, "epoch": epoch["epoch"], **numbers})
    return found


def write(runs: Path, docs: Path) -> str:
    """The table of everything that is finished, into all three files; other rows of theirs stay as they are."""
    done = {e.name: (e, results) for e in EXPERIMENTS if (results := finished(e, runs))}
    names = [e.name for e in EXPERIMENTS]
    earlier = json.loads((docs / "results.json").read_text()) if (docs / "results.json").exists() else []
    found = {row["experiment"]: row for row in earlier} | {name: summary(*found) for name, found in done.items()}
    rows = [found[name] for name in names if name in found]
    text = (
        "# Measured accuracies\n\n`make results` measures this table on full data sets. The test accuracy is that "
        'after the last epoch, mean ± standard deviation over the seeds. "Best epoch" is chosen on the test set, as '
        'in many publications. "Required" is the target of this project. Firing rates are spikes per neuron and '
        "step, for each layer. [results-log.csv](results-log.csv) has every epoch. "
        f"Machine: {platform.machine()}, CPU, one thread; the minutes are by the clock, mostly beside other work.\n\n"
    )
    with atomic_write(docs / "results.md") as temporary:
        temporary.write_text(text + table(rows))
    with atomic_write(docs / "results.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")
    place = docs / "results-log.csv"
    old = list(csv.DictReader(place.read_text().splitlines())) if place.exists() else []
    lines = [row for row in old if row["experiment"] not in done]
    lines += [row for experiment, _ in done.values() for row in log(experiment, runs)]
    with atomic_write(place) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, ["experiment", "seed", "epoch", *LOGGED], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(lines, key=lambda row: names.index(row["experiment"])))
    return table(rows)


def table(rows: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| experiment | seeds | test accuracy | best epoch | required | epochs | min a run | firing rates | torch |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        last, best = (_spread(row[name]) for name in ("accuracies", "best_accuracies"))
        required = "" if row["at_least"] is None else f"{row['at_least']:.1%}"
        rates = ", ".join(f"{rate:.2f}" for rate in row["spike_rates"])
        minutes = f"{row['minutes']:.1f}"
        cells = (row["experiment"], row["seeds"], last, best, required, row["epochs"], minutes, rates, row["torch"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _spread(accuracies: list[float]) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(accuracies) * 100:.2f}" if len(accuracies) > 1 else ""
    return f"{statistics.mean(accuracies):.2%}{deviation}"


def summary(experiment: Experiment, results: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: the accuracies of the seeds."""
    return {
        "experiment": experiment.name,
        "seeds": len(results),
        "accuracies": [result["test_accuracy"] for result in results],
        "best_accuracies": [result["best_test_accuracy"] for result in results],
        "at_least": experiment.at_least,
        "epochs": results[0]["epochs"],
        "minutes": statistics.mean(result["seconds"] for result in results) / 60,
        "spike_rates": results[0]["spike_rates"],
        "torch": torch.__version__.split("+")[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--only", default="", help="experiments whose name contains this")
    parser.add_argument("--epochs", type=int, help="fewer epochs than the configurations say, for a trial")
    parser.add_argument("--threads", type=int, help="other than the configurations say")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    arguments = parser.parse_args()
    if arguments.short:
        short.use()
        arguments.runs = arguments.docs = short.folder()
        arguments.epochs, arguments.threads = 1, 1
    for experiment in EXPERIMENTS:
        if arguments.only in experiment.name:
            for seed in experiment.seeds:
                finish(experiment, seed, arguments.runs, arguments.epochs, arguments.threads)
                write(arguments.runs, arguments.docs)
    print(write(arguments.runs, arguments.docs))


if __name__ == "__main__":
    main()
