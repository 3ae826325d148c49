"""Forgetting in the sensors' streams: a part of ``benchmarks/onchip.py``.

The first world is the data that a network was trained on. HLOP's lateral neurons watch one half of its training
samples, or these are replayed. The other half measures the accuracy before and after the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onchip_streams as streams
from onchip_streams import Counts, Sensor
from ottt_loihi.converters.samples import chip_choice, chip_input
from ottt_loihi.onchip import Settings, prequential, watch
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim import Simulator
from ottt_loihi.sim.learning.weight_formats import to_inference
from ottt_loihi.sim.network import ChipNetwork

OLD = 2000  # training samples of the first world, drawn; half of them measure
PATIENTS = 4  # of the ECG
Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Protection:
    """How the first world is protected.

    Attributes
    ----------
    name
        in the table
    rows
        directions that HLOP keeps in each connection, at most half of its inputs; 0: no HLOP
    every
        number of new samples after which an old one is replayed; 0: no replay
    """

    name: str
    rows: int = 0
    every: int = 0


PROTECTIONS = (Protection("nothing"), Protection("HLOP, 20 directions", rows=20), Protection("replay", every=4))


def first_world(sensor: Sensor, chip: ChipNetwork) -> tuple[Pair, Pair]:
    """Return two halves of the first world's samples: messages and labels."""
    found = chip_choice(chip, sensor.name, OLD, "train")
    order = np.random.default_rng(0).permutation(len(found.labels))
    x, labels = chip_input(chip, found)[order], found.labels[order]
    half = len(labels) // 2
    return (x[:half], labels[:half]), (x[half:], labels[half:])


def mixed(new: Pair, old: Pair, every: int, seed: int) -> tuple[Pair, np.ndarray]:
    """Return the new samples with an old one, drawn, after each ``every`` of them, and which ones are new."""
    count = len(new[1])
    places = np.arange(every, count + 1, every) if every else np.zeros(0, int)
    drawn = np.random.default_rng(seed).integers(len(old[1]), size=len(places))
    x, labels = (np.insert(mine, places, theirs[drawn], axis=0) for mine, theirs in zip(new, old))
    return (x, labels), np.insert(np.ones(count, bool), places, False)


def stream(sensor: Sensor, how: Protection, runs: Path) -> dict[str, Counts]:
    """Return the answers to the stream's new samples, and those to the first world before and after it."""
    found: dict[str, Counts] = {"stream": [], "before": [], "after": []}
    for world, (options, _) in enumerate(sensor.worlds):
        chip = streams.deployed(sensor, options, runs)
        (kept_x, kept_y), old = streams.read_once(
            (sensor.name, str(options), OLD), lambda c=chip: first_world(sensor, c)
        )
        more: dict[str, Any] = {"settings": Settings(), "known": old}
        if how.rows:
            rows = [min(how.rows, c.shape[1] // 2) for c in make_plan(chip, 1).dense]
            more["subspaces"] = watch(chip, old[0], rows)
        classes, now, counts = chip.layers[-1].size, chip, []
        for number, (_, x, y) in enumerate(streams.parts_of(sensor, chip, world)):
            data, is_new = mixed((x, y), old, how.every, number)
            answered = prequential(now, data, **more)
            now, more = answered.result.chip, {"after": answered.result}
            counts.append(streams.counted(y, answered.answers[is_new], classes))
        found["stream"].append(counts)
        for name, network in (("before", chip), ("after", to_inference(now).chip)):
            answers = Simulator(network).run(kept_x).predictions
            found[name].append([streams.counted(kept_y, answers, classes)])
    return found


def measure(
    runs: Path, kept: Callable[[Path, Callable[[], Any]], Any]
) -> dict[tuple[str, str], tuple[Sensor, dict[str, Counts]]]:
    """Return sensor and answers by sensor's title and protection; earlier runs are kept."""
    found = {}
    for sensor in streams.SENSORS:
        few = replace(sensor, worlds=sensor.worlds[:PATIENTS]) if sensor is streams.ECG else sensor
        for how in PROTECTIONS:
            place = runs / f"old-world-{sensor.name}-{how.rows}-{how.every}.json"
            counts = kept(place, lambda few=few, how=how: stream(few, how, runs))
            found[sensor.title, how.name] = few, counts
    return found


def table(found: dict[tuple[str, str], tuple[Sensor, dict[str, Counts]]]) -> str:
    """Return the three measures of every sensor and protection, as Markdown."""
    lines = ["| stream | against forgetting | answers in the stream | old data, before | after |"]
    lines.append("|---|---|---:|---:|---:|")
    for (title, name), (sensor, counts) in found.items():
        value = streams.balanced_recall if sensor.balanced else streams.accuracy
        cells = [f"{value(counts[kind]):.1%}" for kind in ("stream", "before", "after")]
        lines.append("| " + " | ".join([title, name, *cells]) + " |")
    return "\n".join(lines)


def section(found: dict[tuple[str, str], tuple[Sensor, dict[str, Counts]]]) -> str:
    """Return the page's section."""
    return (
        "## What the streams cost on the old data\n\nThe old data are those on which a network was trained. The "
        "three streams above are learnt with all labels and default rates, one seed; the heart's has "
        f"{PATIENTS} patients. The table has the accuracy (for the heart, the balanced recall) of the answers to the "
        "stream, and that on the old data before and after the stream, with 8-bit inference weights. "
        f"{OLD:,} training samples are drawn, or all if there are fewer. One half of them is the old data of the "
        "table. The other half serves to measure the rates; HLOP watches it without labels, or it is replayed, one "
        "old sample after every four new ones.\n\n"
        f"{table(found)}\n"
    )
