"""Forgetting while learning on the chip, with HLOP and without: a part of ``benchmarks/onchip.py``.

``drift``: the world turns by 180°; how well does the network still know the upright one? ``new class``: nine digits
were learnt offline, the tenth appears online; its images alone, or among old ones that are replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onchip_digits import BEFORE
from ottt_loihi.converters.export import Options, export
from ottt_loihi.onchip import Settings, learn, watch
from ottt_loihi.onchip.learner import accuracy
from ottt_loihi.onchip.network.trainable import estimate_logit_scale
from ottt_loihi.sim.learning.weight_formats import make_plastic, to_inference
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi.data import load_data, rate_code
from ottt_loihi.nn.models import mlp
from ottt_loihi.rules import make_rule
from ottt_loihi.training.checkpoint import load, save
from ottt_loihi.training.trainer import Trainer

T = 6
NEW = 9
WATCHED = 4000  # samples of the old world, without labels
Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Variant:
    """How to learn. rows: of each plastic connection's subspace, None: no HLOP · replay: old samples per new one ·
    settings: rates."""

    name: str
    rows: tuple[int, int] | None = None
    replay: float = 0.0
    settings: Settings = field(default_factory=lambda: Settings(**BEFORE))


def curve(
    chip: ChipNetwork,
    variant: Variant,
    watched: np.ndarray,
    data: Pair,
    tests: dict[str, Pair],
    points: tuple[int, ...],
) -> dict[str, Any]:
    """Accuracy on several test sets after so many samples, weights frozen to 8 bits."""
    lateral = None if variant.rows is None else watch(chip, watched, list(variant.rows))
    found = {}
    for count in points:
        now = chip
        if count:
            part = data[0][:count], data[1][:count]
            now = learn(chip, part, settings=replace(variant.settings, shuffle=False), subspaces=lateral).chip
        deployed = to_inference(now).chip
        found[str(count)] = {name: accuracy(deployed, *test) for name, test in tests.items()}
    return {"points": found, "deviation": None if lateral is None else max(s.deviation() for s in lateral)}


def coded(chip: ChipNetwork, images: np.ndarray, seed: int) -> np.ndarray:
    return rate_code(images, T, seed).reshape(-1, T, *chip.input_shape)


def turned(images: np.ndarray) -> np.ndarray:
    return images[..., ::-1, ::-1]


def drift(model: Path, variant: Variant, points: tuple[int, ...]) -> dict[str, Any]:
    """A deployed network learns on upside down, and is tested both ways up."""
    split = load_data("mnist")
    chip = make_plastic(export(load(model), Options(check=0)).quantized.chip)
    chosen = np.random.default_rng(0).permutation(len(split.y_train))
    old, new = chosen[:WATCHED], chosen[-max(points) :]
    tests = {
        "upright": (coded(chip, split.x_test, 0), split.y_test),
        "turned": (coded(chip, turned(split.x_test), 0), split.y_test),
    }
    variant = replace(
        variant, settings=replace(variant.settings, logit_scale=estimate_logit_scale(chip, *tests["upright"]))
    )
    data = coded(chip, turned(split.x_train[new]), 1), split.y_train[new]
    return curve(chip, variant, coded(chip, split.x_train[old], 2), data, tests, points)


def nine_digits(model: Path) -> None:
    """The network that has never seen the tenth class."""
    split = load_data("mnist")
    known = split.y_train != NEW
    net = mlp((784, 256, 10), bias=True, surrogate="sigmoid", input_shape=(28, 28), time_steps=T, seed=0)
    rule = make_rule("ottt", update="sequence")
    trainer = Trainer(
        net, rule, loss="cross-entropy", learning_rate=2e-3, batch_size=256, encoding="rate", schedule="cosine"
    )
    trainer.fit(split.x_train[known], split.y_train[known], 2)
    save(net, model)


def new_class(model: Path, variant: Variant, points: tuple[int, ...]) -> dict[str, Any]:
    """The tenth digit appears: accuracy on it, on the nine old ones, and on all."""
    if not model.exists():
        nine_digits(model)
    split = load_data("mnist")
    chip = make_plastic(export(load(model), Options(check=0)).quantized.chip)
    rng = np.random.default_rng(0)
    old, new = (rng.permutation(np.flatnonzero(of)) for of in (split.y_train != NEW, split.y_train == NEW))
    stream = interleaved(old[WATCHED:], new, variant.replay, max(points))
    x_test, is_new = coded(chip, split.x_test, 0), split.y_test == NEW
    tests = {
        "old": (x_test[~is_new], split.y_test[~is_new]),
        "new": (x_test[is_new], split.y_test[is_new]),
        "all": (x_test, split.y_test),
    }
    variant = replace(
        variant, settings=replace(variant.settings, logit_scale=estimate_logit_scale(chip, *tests["old"]))
    )
    data = coded(chip, split.x_train[stream], 1), split.y_train[stream]
    return curve(chip, variant, coded(chip, split.x_train[old[:WATCHED]], 2), data, tests, points)


def interleaved(old: np.ndarray, new: np.ndarray, replay: float, count: int) -> np.ndarray:
    """Indices of ``count`` samples, ``replay`` old ones for each new one, evenly spread."""
    is_new = np.diff(np.floor(np.arange(count + 1) / (1 + replay))) > 0
    stream = np.empty(count, int)
    stream[is_new], stream[~is_new] = new[: is_new.sum()], old[: (~is_new).sum()]
    return stream


DRIFT = (
    Variant("nothing"),
    Variant("HLOP, 100 and 60 directions", (100, 60)),
    Variant("rates halved every 1,000 samples", settings=Settings(halve_every=1000, **BEFORE)),
    Variant("HLOP, rates halved every 1,000", (100, 60), settings=Settings(halve_every=1000, **BEFORE)),
)
DRIFT_POINTS = (0, 500, 2000, 10_000)
FALLING = Settings(halve_every=100, **BEFORE)
NEW_CLASS = (
    Variant("nothing"),
    Variant("rates halved every 100 samples", settings=FALLING),
    Variant("HLOP", (100, 60)),
    Variant("HLOP, rates halved every 100 samples", (100, 60), settings=FALLING),
    Variant("replay, an old image for each new one", replay=1.0),
    Variant("HLOP, replay, rates halved every 100 samples", (100, 60), 1.0, FALLING),
)
NEW_POINTS = (0, 100, 500, 2000)


def measure(runs: Path, kept: Callable[[Path, Callable[[], Any]], dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """All runs of both scenarios, or what is left of them to do; ``runs/offline/model.pt`` is there already."""
    found: dict[str, list[dict[str, Any]]] = {"drift": [], "new class": []}
    for number, variant in enumerate(DRIFT):
        model, place = runs / "offline" / "model.pt", runs / f"forgetting-drift-{number}.json"
        found["drift"].append(kept(place, partial(drift, model, variant, DRIFT_POINTS)))
        print("drift", variant.name, found["drift"][-1], flush=True)
    for number, variant in enumerate(NEW_CLASS):
        place = runs / f"forgetting-class-{number}.json"
        found["new class"].append(kept(place, partial(new_class, runs / "nine.pt", variant, NEW_POINTS)))
        print("new class", variant.name, found["new class"][-1], flush=True)
    return found


def section(found: dict[str, list[dict[str, Any]]]) -> str:
    """Of ``docs/onchip-results.md``."""
    return (
        "## What is forgotten\n\nAll rows have the same rates and 8-bit inference weights. With HLOP, the deployed "
        f"network has watched {WATCHED:,} old images without labels, before anything changed.\n\n"
        "**Images turned by 180°** (784-256-10, as above). The table has the test accuracy on upright / turned images; "
        "the columns say after how many turned samples.\n\n"
        f"{table(DRIFT, found['drift'], DRIFT_POINTS, ('upright', 'turned'))}\n\n"
        "**A new class.** The network learnt the digits 0 to 8 off the chip (2 epochs). "
        f"Then it learns the digit {NEW}. "
        "The table has the test accuracy on the nine old digits / the new digit / all digits. The columns say after "
        "how many samples, including replayed ones.\n\n"
        f"{table(NEW_CLASS, found['new class'], NEW_POINTS, ('old', 'new', 'all'))}\n"
    )


def table(
    variants: tuple[Variant, ...], rows: list[dict[str, Any]], points: tuple[int, ...], names: tuple[str, ...]
) -> str:
    lines = ["| against forgetting | deployed | " + " | ".join(f"{n:,}" for n in points[1:]) + " |"]
    lines.append("|---|" + "---:|" * len(points))
    for variant, found in zip(variants, rows, strict=True):
        cells = [" / ".join(f"{100 * found['points'][str(n)][name]:.1f}" for name in names) for n in points]
        lines.append(f"| {variant.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
