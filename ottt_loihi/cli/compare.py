"""``ottt-compare``: several rules on the same network and data, one table and one plot."""

from __future__ import annotations

import json as json_module
import os
from functools import partial
from pathlib import Path
from typing import Any

from ottt_loihi.cli.command import err, execute, expect_file, print_files, print_json, print_table
from ottt_loihi.cli.options import DEBUG, JSON, argument, option, with_options
from ottt_loihi.files import write_text
from ottt_loihi.report.report import Table


@with_options
def compare(
    config: Path = argument(
        "A TOML file with a table 'rules' for each rule, such as configs/compare/digits.toml.", ...
    ),
    output: Path = option("Folder for the runs and the table.", Path("runs/compare"), "--output", "-o"),
    processes: int = option("Number of runs at the same time; default: one for each core.", os.cpu_count() or 1, min=1),
    check: int = option("Number of test samples on the chip; 0: no export.", 1000, min=0),
    json: bool = JSON,
    debug: bool = DEBUG,
) -> None:
    """Train with several rules and seeds, and show the results side by side.

    Example: ottt-compare configs/compare/digits.toml -o runs/digits-compare

    Finished runs are kept: the same command continues with those that are missing.
    """
    from rich.progress import Progress

    from ottt_loihi.report import plots
    from ottt_loihi.training.compare import read_comparison, run, summarise

    expect_file(config, "TOML file", {"": "configs/compare/digits.toml is one", ".pt": "ottt-eval tests a network"})
    comparison = read_comparison(config)
    results: list[dict[str, Any]] = []
    with Progress(console=err, disable=json) as bar:
        task = bar.add_task("comparing", total=len(comparison.contenders) * len(comparison.seeds))
        for result in run(comparison, output, processes, check):
            results.append(result)
            bar.update(task, advance=1, description=f"{result['label']} {result['accuracy']:.2%}")
    results.sort(key=lambda result: comparison.seeds.index(result["seed"]))
    rows = [summarise(c.label, [r for r in results if r["label"] == c.label]) for c in comparison.contenders]
    series = {
        where: [None if row[f"accuracy{of}"] is None else (row[f"accuracy{of}"], row[f"deviation{of}"]) for row in rows]
        for where, of in (("float", ""), ("chip", "_chip"))
    }
    texts = {
        "table": ("comparison.md", _markdown(rows)),
        "plot": ("comparison.svg", plots.intervals([row["rule"] for row in rows], series, "test accuracy (%)")),
        "numbers": ("comparison.json", json_module.dumps(rows, indent=1) + "\n"),
    }
    for name, text in texts.values():
        write_text(output / name, text)
    if json:
        print_json({"rules": rows})
        return
    print_table(Table("ottt-compare", COLUMNS, [_cells(row) for row in rows], _note(rows)))
    print_files({what: str(output / name) for what, (name, _) in texts.items()})


main = partial(execute, compare, "ottt-compare")


COLUMNS = ("rule", "accuracy>", "chip>", "time>", "memory>", "spikes>", "operations>", "cosine>")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    spread = f" ± {100 * row['deviation']:.2f}" if len(row["seeds"]) > 1 else ""
    return (
        row["rule"],
        f"{row['accuracy']:.2%}{spread}",
        "–" if row["accuracy_chip"] is None else f"{row['accuracy_chip']:.2%}",
        f"{row['seconds']:.1f} s",
        f"{row['memory'] / 2**20:,.0f} MiB",
        f"{row['spikes']:,.0f}",
        f"{row['synaptic_operations']:,.0f}",
        " ".join("–" if cosine is None else f"{cosine:.2f}" for cosine in row["cosines"]) or "–",
    )


def _note(rows: list[dict[str, Any]]) -> str:
    note = (
        "Means over the seeds. Chip: the accuracy as integers, 8 bits, or ±1 where a rule trains weights of one bit. "
        "Time: training. Memory: the process's most. Spikes, synaptic operations: per sample. Cosine: of each layer's "
        "gradient with BPTT's, before training, the readout last; –: learns nothing, or none."
    )
    for row in rows:
        if row["reason"]:
            note += f" {row['rule']} on the chip: {row['reason']}."
        if row["no_cosines"]:
            note += f" {row['rule']}, cosines: none, because {row['no_cosines']}."
    return note


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| " + " | ".join(c.removesuffix(">") for c in COLUMNS) + " |",
        "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
    ]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows), "", _note(rows)]) + "\n"


if __name__ == "__main__":
    main()
