"""The results of ``ottt-learn``: the learnt network, its curve, the report's section, the table."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ottt_loihi import sim
from ottt_loihi.cli import learn_prequential
from ottt_loihi.cli.learn_scenario import Scenario
from ottt_loihi.files import atomic_write, write_text
from ottt_loihi.metrics import measure, warnings
from ottt_loihi.onchip.lava.executors import Repetition
from ottt_loihi.onchip.learner import accuracy
from ottt_loihi.onchip.result import LearningResult
from ottt_loihi.report import plots, report
from ottt_loihi.sim import Simulator, storage
from ottt_loihi.sim.learning import trial
from ottt_loihi.sim.learning.rule import BESIDE, Rule
from ottt_loihi.sim.learning.weight_formats import to_inference
from ottt_loihi.sim.network import ChipNetwork

MANY = 12  # classes
SEEN = 500  # test samples that silent neurons are counted on


def summarise(scenario: Scenario, result: LearningResult, repeated: Repetition | None) -> dict[str, Any]:
    """Return the results of a run as JSON values."""
    frozen, (x, labels) = to_inference(result.inference_chip), scenario.test
    answers = Simulator(frozen.chip).run(x).predictions
    measured = measure(answers, labels, frozen.chip.layers[-1].size)
    inference = measured.accuracy
    deployed = old_world = None
    changed = False
    if scenario.old_world is not None:
        before = scenario.old_world[0]
        changed = before is not scenario.test
        deployed, old_world = result.curve[0].accuracy, inference
        if changed:
            deployed, old_world = accuracy(scenario.chip, *before), accuracy(frozen.chip, *before)
    story = [*([] if deployed is None else [deployed]), result.curve[0].accuracy, inference]
    return {
        "scenario": scenario.name,
        "world_changed": changed,
        "accuracies": story,
        "accuracy_deployed": deployed,
        "accuracy_before": result.curve[0].accuracy,
        "accuracy_learning_weights": result.accuracy,
        "accuracy": inference,
        "recall": measured.to_json()["recall"],
        "accuracy_in_the_old_world": old_world,
        "directions_protected": [s.fixed for s in result.subspaces or ()],
        "weights_averaged": result.averaged is not None,
        "weights_changed_by_freezing": frozen.changed,
        "samples": result.samples,
        "samples_replayed": scenario.replayed * result.samples // scenario.samples,
        "data_notes": list(scenario.notes),
        "steps": result.steps,
        "steps_per_second": result.steps_per_second,
        "rates": list(result.rates),
        "saturated": result.counters,
        "messages": result.messages,
        "weights_at_rails": list(result.rails),
        "weights_moved": list(result.moved),
        "silent_neurons": _silent(result.chip, scenario.test[0]),
        "warnings": result.warnings + warnings(measured),
        "settings": result.settings,
        "interrupted": result.interrupted,
        "repeated_in_lava": None if repeated is None else vars(repeated),
        "curve": {"samples": [p.samples for p in result.curve], "accuracy": [p.accuracy for p in result.curve]},
    }


def _silent(chip: ChipNetwork, x: np.ndarray) -> list[int]:
    """Return the number of hidden neurons of each layer that fire for none of the first test samples."""
    states = sim.run(chip, x[:SEEN], {"s": list(range(len(chip.layers) - 1))}).states["s"]
    return [int((~s.any(axis=(0, 1))).sum()) for s in states[:-1]]


def write(folder: Path, scenario: Scenario, result: LearningResult, summary: dict[str, Any]) -> dict[str, str]:
    """Write the learnt network, also with inference weights, the curve and the report's section; return the paths."""
    learning = {key: summary[key] for key in ("scenario", "accuracy", "samples", "steps", "rates", "settings")}
    chip = replace(result.chip, provenance={**result.chip.provenance, "learning": learning})
    paths = {kind: folder / f"{scenario.name}-{end}" for kind, end in (
        ("learnt", "learnt.h5"), ("inference", "inference.h5"), ("curve", "curve.png"), ("data", "curve.json"),
    )}  # fmt: skip
    storage.save(chip, paths["learnt"])
    averaged = replace(result.inference_chip, provenance=chip.provenance)
    storage.save(to_inference(averaged).chip, paths["inference"])
    labels = {"x_label": "samples learnt from", "y_label": "test accuracy, weights frozen (%)", "percent": True}
    with atomic_write(paths["curve"]) as temporary:
        plots.save_curves(temporary, _series(summary), **labels)
    write_text(paths["data"], json.dumps(summary["curve"], indent=1))
    pairs = _weights(scenario.chip, chip)
    figures = [
        report.Figure(plots.curves(_series(summary), **labels), "Each point: all test samples, weights frozen."),
        report.Figure(
            plots.weight_histograms(pairs, ("before", "learnt"), "integer units"), "Weights before and after learning."
        ),
    ]
    if summary["prequential"]:
        figures.insert(0, learn_prequential.figure(summary["prequential"]))
    page = report.add(folder, _section(summary, figures))
    return {kind: str(path) for kind, path in paths.items()} | {"report": str(page)}


def _series(summary: dict[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    samples, accuracy = summary["curve"]["samples"], summary["curve"]["accuracy"]
    series = {"learning on the chip": (samples, accuracy)}
    if summary["accuracy_deployed"] is not None:
        series["as deployed"] = ([0, samples[-1]], [summary["accuracy_deployed"]] * 2)
    if summary["weights_averaged"]:
        series["mean of the weights"] = (samples[-1:], [summary["accuracy"]])
    return series


def _weights(before: ChipNetwork, after: ChipNetwork) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pairs = zip(before.connections, after.connections)
    shown = ((old, new) for old, new in pairs if new.weight.ndim == 2 or new.weight_format == "learning9")
    return {after.layers[new.post].name: (old.weight, new.weight) for old, new in shown}


def _section(summary: dict[str, Any], figures: list[Any]) -> Any:
    titles = {
        "scratch": "Learning on the chip from scratch",
        "drift": "The sensor is mounted upside down",
        "more": "Learning continued",
    }
    return report.Section(
        name=f"learn-{summary['scenario']}",
        title=titles[summary["scenario"]],
        summary=story(summary),
        tables=[table(summary)],
        figures=figures,
    )


def story(summary: dict[str, Any]) -> str:
    """Return the test accuracies before, during and after the run in one sentence."""
    found = []
    if summary["accuracy_deployed"] is not None:
        found.append(f"{summary['accuracy_deployed']:.1%} as deployed")
    if summary["scenario"] == "scratch":
        state = "untrained"
    elif summary["accuracy_deployed"] is None:
        state = "as deployed"
    elif summary["scenario"] == "drift":
        state = "with images rotated by 180°"
    else:
        state = "on the changed data" if summary["world_changed"] else "before learning"
    found.append(f"{summary['accuracy_before']:.1%} {state}")
    mean = "the mean of the weights, rounded" if summary["weights_averaged"] else "the weights rounded"
    return (
        f"Test accuracy: {', '.join(found)}, and {summary['accuracy']:.1%} after {summary['samples']:,} samples, with "
        f"{mean} to 8 bits ({summary['accuracy_learning_weights']:.1%} with the last learning weights)."
    )


def table(summary: dict[str, Any]) -> Any:
    saturated = ", ".join(f"{name} {count:,}" for name, count in summary["saturated"].items() if count) or "none"
    rows = [
        ["recall of each class", _recall(summary["recall"])],
        ["Lava steps", f"{summary['steps']:,}, {summary['steps_per_second']:,.0f} a second"],
        ["rounding of weights", summary["settings"]["rounding"]],
        ["rule", _rule(summary["settings"])],
        ["learning rates η", ", ".join(f"{rate:.3g}" for rate in summary["rates"])],
        ["saturated messages", f"{saturated} (of {summary['messages']:,} per neuron)"],
        ["weights at their limit", ", ".join(f"{part:.2%}" for part in summary["weights_at_rails"])],
        ["weights that changed", ", ".join(f"{part:.1%}" for part in summary["weights_moved"])],
        [
            f"silent neurons in {SEEN} samples",
            ", ".join(str(n) for n in summary["silent_neurons"]) or "no hidden layer",
        ],
        ["weights changed by freezing", f"{summary['weights_changed_by_freezing']:,}"],
    ]
    if summary["world_changed"]:
        protected = summary["directions_protected"]
        how = f", HLOP keeps out of {', '.join(map(str, protected))} directions" if protected else ""
        if replayed := summary["samples_replayed"]:
            how += f", {replayed:,} of the samples replayed"
        rows.insert(0, ["accuracy on the old data", f"{summary['accuracy_in_the_old_world']:.1%}{how}"])
    if summary["prequential"]:
        rows = learn_prequential.rows(summary["prequential"]) + rows
    if repeated := summary["repeated_in_lava"]:
        rows.append(["repeated in the Lava runtime", f"{repeated['steps']:,} steps: every variable equal"])
    return report.Table("What it took", ["", ">"], rows)


def _recall(parts: list[float | None]) -> str:
    """Return the recall of all classes, or the three lowest of many."""
    known = [(part, c) for c, part in enumerate(parts) if part is not None]
    if len(known) <= MANY:
        return ", ".join(f"{c}: {part:.1%}" for part, c in known)
    return "lowest " + ", ".join(f"{c}: {part:.1%}" for part, c in sorted(known)[:3])


def _rule(settings: dict[str, Any]) -> str:
    """Return the choices that differ from the plain rule."""
    chosen = Rule(**{f.name: settings[f.name] for f in fields(Rule)}).chosen()
    if "usual_mistakes" in chosen:
        chosen["usual_mistakes"] = f"{chosen['usual_mistakes'] / trial.UNITY:.1%}"
    return ", ".join(f"{name} {value}" for name, value in chosen.items() if name not in BESIDE) or "OTTT, squared error"
