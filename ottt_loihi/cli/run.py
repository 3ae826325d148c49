"""``ottt-run``: classify with the integer network, and prove that Lava computes the same."""

from __future__ import annotations

import csv
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ottt_loihi.checks import number
from ottt_loihi.cli import command
from ottt_loihi.cli.options import DEBUG, JSON, LOADER_OPTIONS, SEED, VERIFY, argument, option, with_options
from ottt_loihi.converters import replay
from ottt_loihi.converters.lava.backends import Backend, find
from ottt_loihi.errors import UsageError, VerificationError
from ottt_loihi.files import atomic_write
from ottt_loihi.report import report
from ottt_loihi.report.report import Table

if TYPE_CHECKING:
    import numpy as np

    from ottt_loihi.converters.samples import Chosen
    from ottt_loihi.data.on_demand import OnDemand
    from ottt_loihi.metrics import Metrics
    from ottt_loihi.sim.inference.reference import Result
    from ottt_loihi.sim.network import ChipNetwork


EVERYTHING = 2**31 - 1  # samples
OVERFLOWS = {
    "int32": "a sum left 32 bits",
    "conv": "a convolution's output left 24 bits",
    "u": "a current wrapped at 24 bits",
    "v": "a membrane was clipped",
}


@with_options
def run(
    model: Path = argument("The integer network, model.h5 of ottt-export.", ...),
    output: Path | None = option("Folder of the report; default: beside the model.", None, "--output", "-o"),
    samples: int | None = option("Number of test samples. [360]", min=1),
    backend: str = option(
        "What classifies: sim, our simulator; lava or inprocess, hundreds of times slower; loihi2, a chip.", "sim"
    ),
    verify: list[str] | None = VERIFY,
    verify_samples: int | None = option("Number of samples that --verify repeats. [20]", min=1),
    data: str | None = option("Data set; default: that of the training."),
    changes: list[str] | None = LOADER_OPTIONS,
    predictions: Path | None = option(
        "A .csv file for the prediction and scores of each sample; labels are not needed."
    ),
    input_range: str | None = option(
        "The values that 0 and 1 of the data become, such as -1,1, if a .net scales its input."
    ),
    continuous: bool = option("The samples are one recording: no state is reset between them.", False),
    seed: int = SEED,
    json: bool = JSON,
    debug: bool = DEBUG,
) -> None:
    """Classify test samples in our simulator or in Lava, and compare the two: every current, membrane and spike.

    Example: ottt-run runs/demo/model.h5 --verify lava --verify netx
    """
    from ottt_loihi.converters.samples import chip_choice, input_on_demand
    from ottt_loihi.data.registry import chosen_options
    from ottt_loihi.metrics import warnings
    from ottt_loihi.sim.inference.continuous import as_recording

    place = find(backend, "--backend")
    for where in verify or []:
        replay.require(where)
    place.require()
    verify_samples = command.repeated_samples(verify_samples, bool(verify))
    if continuous and place.streams:
        raise UsageError(f"--continuous: {place.name} gives no v at every step; choose sim, inprocess or lava")
    chip = command.load_chip(model)
    if data is None and chip.data_set is None:
        raise UsageError(f"{model}: does not store on which data it was trained; name them with --data")
    data = data or chip.data_set.name
    options = chosen_options(data, changes or ())
    if continuous and samples is not None:
        raise UsageError("--samples: --continuous runs all samples in their order; leave out one of the two")
    count = EVERYTHING if continuous else samples or 360
    found = chip_choice(chip, data, count, labelled=predictions is None, options=options)
    command.say("data", found.notes)
    x = input_on_demand(chip, found, seed, _range(input_range))
    prepared = place.prepare(chip, x)
    command.say("note", prepared.notes)
    result, seconds = _classify(prepared.chip, place, x, json, continuous)
    measured = _measured(result.predictions, found, chip)
    if predictions is not None:
        _write_predictions(predictions, result, found)
    checks = []
    if verify:
        repeated = as_recording(chip, x[:verify_samples]) if continuous else (chip, x[:verify_samples])
        checks = [_verify(*repeated, model, where, json) for where in verify]
    summary: dict[str, Any] = {
        "model": str(model),
        "backend": place.name,
        "prepared": list(prepared.notes),
        "samples": len(x),
        "samples_available": found.total,
        "said": found.said,
        "continuous": continuous,
        **({"accuracy": None} if measured is None else {"accuracy": measured.accuracy, **measured.to_json()}),
        "warnings": warnings(measured, [n / len(x) for n in result.spike_counts[:-1]]),
        "spikes_per_sample": [float(n) / len(x) for n in result.spike_counts],
        "overflows": {name: counts.tolist() for name, counts in result.overflows.items()},
        "strategies": [vars(strategy) for strategy in result.strategies],
        "seconds": seconds,
        "verified": checks,
    }
    line, compared = _summary_line(summary), _tables(checks)
    recall = [] if measured is None else [command.recall_table(measured)]
    text = f"Computed by the {place.title}: {line}. {_verdict(checks)}"
    section = report.Section("run", "Run bit for bit", text, tables=[*recall, *compared])
    path = report.add(output or model.parent, section)
    if json:
        command.print_json(summary | {"report": str(path)})
    else:
        command.say("warning", summary["warnings"])
        command.out.print(line)
        for part in [*(recall if summary.get("balanced_accuracy") != 1 else []), *compared]:
            command.print_table(part)
        command.print_files({"report": str(path)})
    _fail_if_different(checks)


main = partial(command.execute, run, "ottt-run")


def _measured(predictions: np.ndarray, found: Chosen, chip: ChipNetwork) -> Metrics | None:
    from ottt_loihi.metrics import measure

    if not len(found.labels):
        return None
    classes = max(chip.layers[-1].size, found.split.num_classes)
    return measure(predictions, found.labels, classes, found.split.class_names)


def _write_predictions(path: Path, result: Result, found: Chosen) -> None:
    """Write a line for each sample: its number, prediction, label if it has one, and the score of each class."""
    names = found.split.class_names or tuple(map(str, range(result.scores.shape[1])))
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["sample", "prediction", "label", *(f"score {name}" for name in names)])
        for row, (index, label) in enumerate(zip(found.indices, result.predictions)):
            known = names[found.labels[row]] if len(found.labels) else ""
            lines.writerow([int(index), names[label], known, *map(int, result.scores[row])])


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    expected = "--input-range: expected two numbers like -1,1"
    found = tuple(number(value, "--input-range") for value in command.numbers(text, expected, float))
    if len(found) != 2:
        raise UsageError(f"{expected}, got {text!r}")
    return found


def _classify(chip: ChipNetwork, backend: Backend, x: OnDemand, quiet: bool, continuous: bool) -> tuple[Result, float]:
    """Return (result, seconds) of all samples. Only the simulator has a bar: Lava must not fork beside its thread.

    Lava's source keeps all of a run's messages, so it gets them whole.
    """
    from rich.progress import Progress

    from ottt_loihi.sim.inference.continuous import run_continuous

    started = time.perf_counter()
    if continuous:
        command.begin(f"{backend.title}, a recording of {len(x)} samples", quiet)
        return run_continuous(backend, chip, x[:]), time.perf_counter() - started
    if backend.name != "sim":
        command.begin(f"{backend.title}, {len(x)} images", quiet)
        return backend.run(chip, x[:]), time.perf_counter() - started
    with Progress(console=command.err, transient=True, disable=quiet) as bar:
        task = bar.add_task("images", total=len(x))
        result = backend.run(chip, x, progress=lambda done, _: bar.update(task, completed=done))
    return result, time.perf_counter() - started


def _verify(chip: ChipNetwork, x: np.ndarray, model: Path, place: str, quiet: bool) -> dict[str, Any]:
    """Run ``x`` in a place and in the simulator, and compare every state."""
    started = time.perf_counter()
    command.begin(f"{replay.title(place)}, {len(x)} images", quiet)
    found = replay.replay(chip, place, x, model.with_suffix(".net"))
    counts = {"samples": len(x), "compared": found.compared, "different": found.different}
    first = None if found.first is None else str(found.first)
    return {"backend": place, **counts, "first": first, "seconds": time.perf_counter() - started}


def _fail_if_different(checks: list[dict[str, Any]]) -> None:
    for check in checks:
        if check["different"]:
            raise VerificationError(
                f"{replay.title(check['backend'])} against the simulator: {check['different']} of "
                f"{check['compared']} states differ, first at {check['first']}; please report this"
            )


def _tables(checks: list[dict[str, Any]]) -> list[Table]:
    rows = [
        [replay.title(check["backend"]), *(f"{check[name]:,}" for name in ("samples", "compared", "different"))]
        + [f"{check['seconds']:.1f}"]
        for check in checks
    ]
    columns = ["against", "images>", "states compared>", "different>", "seconds>"]
    note = "States: u, v and spikes of every layer and step, and the readout. Seconds include starting Lava."
    return [Table("Simulator against Lava", columns, rows, note)] if rows else []


def _summary_line(summary: dict[str, Any]) -> str:
    # the readout of a trained network fires no spike: its threshold is out of reach
    counts = summary["spikes_per_sample"]
    spikes = ", ".join(f"{n:.1f}" for n in (counts if counts[-1] else counts[:-1])) or "none"
    accuracy = "no labels"
    if summary["accuracy"] is not None:
        accuracy = f"accuracy {summary['accuracy']:.2%}, balanced {summary['balanced_accuracy']:.2%},"
    samples = "test samples, one recording" if summary["continuous"] else "test samples"
    line = f"{accuracy} on {summary['said']} {samples}; spikes per sample, layer by layer: {spikes}"
    happened = [f"{OVERFLOWS[name]} {sum(n):,} times" for name, n in summary["overflows"].items() if sum(n)]
    return line + (f"; {', '.join(happened)}" if happened else "")


def _verdict(checks: list[dict[str, Any]]) -> str:
    """Return a sentence about the comparisons with Lava."""
    if not checks:
        return "Nothing was compared with Lava in this run."
    names = " and ".join(replay.title(check["backend"]) for check in checks)
    different = any(check["different"] for check in checks)
    return f"{'NOT every state' if different else 'Every u, v and spike'} agrees with the {names}."
