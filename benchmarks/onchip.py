"""Learning on the chip, measured on full data sets in the chip-exact simulator (``make onchip``). Runs are kept.

    python benchmarks/onchip.py [--runs runs/onchip] [--only mnist] [--docs docs]

One sample after the other, every weight after every time step, 9-bit learning weights, tested with the 8-bit inference
weights they freeze to. Writes ``onchip-results.md`` and its pictures into the docs folder; with ``--only`` the sections
that were measured, the others stay.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onchip_backbone as backbone
import onchip_digits as digits
import onchip_forgetting as forgetting
import onchip_old_world as old_world
import onchip_streams as streams
import short
from onchip_digits import BEFORE
from ottt_loihi.converters.export import Options, export
from ottt_loihi.onchip.learner import Settings, accuracy, learn
from ottt_loihi.onchip.network.trainable import estimate_logit_scale
from ottt_loihi.sim.learning.weight_formats import make_plastic, to_inference

from ottt_loihi.cli.learn import EPOCHS_FROM_SCRATCH
from ottt_loihi.cli.learn_scenario import make_scenario
from ottt_loihi.data import load_data, rate_code
from ottt_loihi.files import atomic_write
from ottt_loihi.report import plots
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.config import override, read_config
from ottt_loihi.training.run import run as train

CONFIGS = Path(__file__).parents[1] / "configs"
T = 6
DRIFT_AT = (0, 500, 2000, 10_000)
KINDS = ("rotated by 180°", "inverted", "with 20 % dead pixels")  # of drift


@dataclass(frozen=True)
class Experiment:
    """From scratch, as ``ottt-learn --data`` with these options."""

    data: str
    options: str = ""
    hidden: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    at_least: float | None = None
    epochs: int = EPOCHS_FROM_SCRATCH

    @property
    def name(self) -> str:
        return f"{self.data} {self.options}".strip()


SCRATCH = [
    Experiment("mnist", at_least=0.98),
    Experiment("mnist", "--rounding lava", settings={"rounding": "lava"}, at_least=0.97),
    Experiment("mnist", "--feedback random", settings={"feedback": "random"}),
    Experiment("mnist", "--feedback symmetric", settings={"feedback": "symmetric"}),
    Experiment("mnist", "--hidden 256", hidden=256),
    Experiment("fashion-mnist"),
    Experiment(
        "fashion-mnist",
        "--epochs 10 --halve-every 180000",
        settings={"halve_every": 180_000},
        at_least=0.88,
        epochs=10,
    ),
]


def from_scratch(experiment: Experiment) -> dict[str, Any]:
    """Accuracy after each epoch with the weights of that moment, and of the network to deploy at the end."""
    scenario = make_scenario(None, "none", experiment.hidden, 1.0, experiment.data, 0, None)
    result = learn(
        scenario.chip,
        scenario.training,
        test=scenario.test,
        epochs=experiment.epochs,
        settings=Settings(**{"halve_every": 2 * scenario.samples, **experiment.settings}),
        evaluate_every=scenario.samples,
    )
    return {
        "epochs": [point.accuracy for point in result.curve],
        "accuracy": accuracy(to_inference(result.inference_chip).chip, *scenario.test),
        "seconds": result.seconds,
        "rails": list(result.rails),
        "saturated": sum(result.counters.values()),
    }


def drifted(images: np.ndarray, kind: str) -> np.ndarray:
    """The images that a changed sensor gives."""
    if kind == "rotated by 180°":
        return images[..., ::-1, ::-1]
    if kind == "inverted":
        return 1 - images
    dead = np.random.default_rng(0).random(images.shape[1:]) < 0.2
    return np.where(dead, 0, images)


def drift(kind: str, folder: Path) -> dict[str, Any]:
    """Trained offline, deployed, then the sensor changes: accuracy before, and after so many samples learnt from."""
    split, model = load_data("mnist"), folder / "offline" / "model.pt"
    if not model.exists():
        changes = {"data.encoding": "rate", "network.hidden": [256], "training.epochs": 3, "data.augmentations": []}
        train(override(read_config(CONFIGS / "mnist-mlp.toml"), changes), folder / "offline", progress=False)
    chip = make_plastic(export(load(model), Options(check=0)).quantized.chip)
    shape = (-1, T, *chip.input_shape)
    deployed = (rate_code(split.x_test, T, 0).reshape(shape), split.y_test)
    before, logit_scale = accuracy(chip, *deployed), estimate_logit_scale(chip, *deployed)
    test = (rate_code(drifted(split.x_test, kind), T, 0).reshape(shape), split.y_test)
    chosen = np.random.default_rng(0).permutation(len(split.y_train))[: DRIFT_AT[-1]]
    data = (rate_code(drifted(split.x_train[chosen], kind), T, 1).reshape(shape), split.y_train[chosen])
    result = learn(
        chip, data, test=test, settings=Settings(logit_scale=logit_scale, **BEFORE), evaluate_every=DRIFT_AT[1]
    )
    found = {point.samples: point.accuracy for point in result.curve}
    return {"before": before, "after": {str(n): a for n, a in found.items()}, "seconds": result.seconds}


def kept(path: Path, compute: Any) -> Any:
    """The result of an earlier run, or of one now."""
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(compute(), indent=1))
    return json.loads(path.read_text())


def scratch_table(rows: list[tuple[Experiment, dict[str, Any]]]) -> str:
    lines = [
        "| `ottt-learn --data` … | epoch 1 | 2 | 3 | last | to deploy | required | at their limit | s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for experiment, found in rows:
        curve = [f"{a:.2%}" for a in found["epochs"][1:]]
        required = "" if experiment.at_least is None else f"{experiment.at_least:.1%}"
        rails = f"{max(found['rails']):.2%}"
        cells = (experiment.name, *curve[:3], curve[-1], f"**{found['accuracy']:.2%}**", required, rails)
        lines.append("| " + " | ".join([*cells, f"{found['seconds']:.0f}"]) + " |")
    return "\n".join(lines)


def scratch_section(rows: list[tuple[Experiment, dict[str, Any]]]) -> str:
    return (
        "## From scratch\n\n`ottt-learn` with its defaults and the options of each row, "
        f"{EPOCHS_FROM_SCRATCH} epochs unless said. The table has the test accuracy on 10,000 images: after each epoch "
        'with the weights of that moment, and in the column "to deploy" with the mean of the weights, rounded to 8 '
        'bits. "Required" is the target of this project. "At their limit" is the share of the weights at −256 or 255, '
        'in the connection that has most of them. "s" are seconds by the clock, mostly beside other work.'
        f"\n\n{scratch_table(rows)}\n"
    )


def drift_table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| the sensor's images are | deployed | right after | "
        + " | ".join(f"{n:,}" for n in DRIFT_AT[1:])
        + " samples |",
        "|---|---:|" + "---:|" * len(DRIFT_AT),
    ]
    for kind, found in rows.items():
        cells = [kind, f"{found['before']:.2%}", *(f"{found['after'][str(n)]:.2%}" for n in DRIFT_AT)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(docs: Path, sections: list[str], whole: bool) -> None:
    """Write the page: of sections alone, or with them in place of those of the same headings."""
    head = (
        "# Learning on the chip, measured\n\n`make onchip` measures this page on the CPU, in our simulator, which has "
        "the same bits as Lava's learning engine. The options are explained in [onchip.md](onchip.md). Unless a "
        f"section says otherwise: images are rate-coded, T = {T}, one sample at a time, seed 0. Each synapse is "
        "rounded with a random number of its own, the error goes directly to hidden layers through fixed random "
        "weights, and the learning rates are those of version 0.1 (0.02 for the readout, 1 for hidden layers).\n"
    )
    page = docs / "onchip-results.md"
    earlier = [] if whole or not page.exists() else page.read_text(encoding="utf-8").split("\n## ")[1:]
    found = {text.split("\n", 1)[0]: text.strip() for text in earlier}
    for section in sections:
        for text in f"\n{section}".split("\n## ")[1:]:
            found[text.split("\n", 1)[0]] = text.strip()
    with atomic_write(page) as temporary:
        temporary.write_text("\n".join([head, *(f"## {text}\n" for text in found.values())]), encoding="utf-8")


def drift_section(drifts: dict[str, dict[str, Any]]) -> str:
    return (
        "## A sensor that changes\n\nA 784-256-10 network was trained for 3 epochs off the chip and exported with 8 "
        "bits. Then the images of its sensor change, and it continues to learn."
        f"\n\n{drift_table(drifts)}\n\n![test accuracy while it learns](onchip-drift.png)\n"
    )


def save_drift_plot(path: Path, drifts: dict[str, dict[str, Any]]) -> None:
    series = {kind: ([int(n) for n in f["after"]], list(f["after"].values())) for kind, f in drifts.items()}
    with atomic_write(path) as temporary:
        plots.save_curves(temporary, series, x_label="samples learnt from", y_label="test accuracy (%)", percent=True)


def shorten(arguments: argparse.Namespace) -> None:
    """Few samples, points and epochs; what is written goes into a temporary folder."""
    global DRIFT_AT, SCRATCH
    short.use()
    arguments.runs = arguments.docs = short.folder()
    DRIFT_AT, SCRATCH = (0, 50, 100, 200), [replace(e, hidden=16, epochs=3) for e in SCRATCH[:2]]
    forgetting.WATCHED, forgetting.DRIFT_POINTS, forgetting.NEW_POINTS = 30, (0, 20), (0, 10)
    backbone.BACKBONES = (replace(backbone.BACKBONES[0], epochs=20, offline=200, samples=60, test=60, seeds=(0, 1)),)
    streams.SHARES, streams.EPOCHS, streams.MOST, streams.KNOWN, streams.REFITS = (1.0,), 2, 60, 60, 2
    streams.GAS = replace(streams.GAS, worlds=(({}, streams.GAS.worlds[0][1][:2]),), columns=streams.first_batches(2))
    streams.SENSORS = (streams.GAS,)
    old_world.OLD, old_world.PROTECTIONS = 60, old_world.PROTECTIONS[1:]
    digits.MNIST_SAMPLES, digits.SEEDS, digits.BATCHES = 100, (0,), 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/onchip"))
    parser.add_argument(
        "--only",
        default="",
        help="experiments whose name contains this; or drift, forgetting, streams (gas-drift, myo-emg, mitbih), "
        "old world, backbone; digits and limits need each other for their section",
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    arguments = parser.parse_args()
    if arguments.short:
        shorten(arguments)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    scratch, drifts, sections = [], {}, []
    for kind in KINDS:
        if arguments.only in f"drift {kind}":
            place = arguments.runs / f"drift-{kind.split()[0]}-{kind.split()[-1]}.json"
            drifts[kind] = kept(place, lambda kind=kind: drift(kind, arguments.runs))
            print(kind, drifts[kind], flush=True)
    for experiment in SCRATCH:
        if arguments.only in f"scratch {experiment.name}":
            place = arguments.runs / f"scratch-{experiment.name.replace(' ', '-')}.json"
            found = kept(place, lambda experiment=experiment: from_scratch(experiment))
            scratch.append((experiment, found))
            print(experiment.name, found, flush=True)
    if len(scratch) == len(SCRATCH):
        sections.append(scratch_section(scratch))
    if len(drifts) == len(KINDS):
        sections.append(drift_section(drifts))
        save_drift_plot(arguments.docs / "onchip-drift.png", drifts)
    if arguments.only in "forgetting":
        sections.append(forgetting.section(forgetting.measure(arguments.runs, kept)))
    for sensor in streams.SENSORS:
        if arguments.only in f"streams {sensor.name}":
            found = streams.measure(sensor, arguments.runs, kept)
            sections.append(streams.section(sensor, found))
            print(sections[-1], flush=True)
            if sensor is streams.GAS:
                streams.save_plot(arguments.docs / "onchip-gas.png", found)
    if arguments.only in "old world":
        cost = old_world.measure(arguments.runs, kept)
        sections.append(old_world.section(cost))
        print(old_world.table(cost), flush=True)
    if arguments.only in "backbone":
        behind = backbone.measure(arguments.runs, kept)
        sections.append(backbone.section(behind))
        print(backbone.table(behind), flush=True)
    learnt = limits = None
    if arguments.only in "digits":
        learnt = digits.measure_digits(arguments.runs, kept)
        print(digits.digits_table(learnt), digits.cosine_table(learnt), sep="\n\n", flush=True)
    if arguments.only in "limits":
        limits = digits.measure_limits(arguments.runs, kept)
        print(digits.limits_table(limits), flush=True)
    if learnt is not None and limits is not None:
        sections.append(digits.section(learnt, limits))
        digits.save_plot(arguments.docs / "onchip-limits.png", limits)
    write(arguments.docs, sections, not arguments.only)


if __name__ == "__main__":
    main()
