"""Dense layers that learn behind frozen convolutions: a part of ``benchmarks/onchip.py``.

A convolutional network is trained offline on images as they are, exported with graded pixels, and then the world turns
by 180°. Its convolutions keep their 8-bit inference weights; the layers behind them learn on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onchip_digits import BEFORE
from ottt_loihi.converters.export import Options, export
from ottt_loihi.converters.samples import as_messages
from ottt_loihi.onchip import Settings, learn, watch
from ottt_loihi.onchip.learner import accuracy
from ottt_loihi.onchip.network.trainable import estimate_logit_scale
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.learning.weight_formats import make_plastic, to_inference
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi.data import load_data
from ottt_loihi.nn.models import conv
from ottt_loihi.rules import make_rule
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.trainer import Trainer

T = 6
EPOCHS = (1, 2)
Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Backbone:
    """Images and the network that is trained on them. offline: training images · samples: of each epoch on the chip, as
    many watched before · test: images tested on · seeds: of offline training and of learning."""

    data: str
    features: str
    epochs: int
    offline: int
    samples: int
    test: int
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.data} {self.features}"


@dataclass(frozen=True)
class Variant:
    """The layers that learn: how many of the last ones, and the rows of each plastic connection's HLOP subspace."""

    name: str
    layers: int
    rows: tuple[int, ...] | None = None


BACKBONES = (Backbone("digits", "16C3-AP2-32C3-64F", 20, 1437, 1437, 360, (0, 1, 2)),)
VARIANTS = (
    Variant("readout", 1),
    Variant("hidden layer and readout", 2),
    Variant("readout, HLOP with 20 directions", 1, (20,)),
    Variant("hidden layer and readout, HLOP with 60 and 20", 2, (60, 20)),
)


def train(backbone: Backbone, seed: int, model: Path) -> None:
    """The network as it is deployed."""
    split = load_data(backbone.data).with_channels().first(backbone.offline, backbone.test)
    shape = split.x_train.shape[1:]
    net = conv(backbone.features, input_shape=shape, time_steps=T, surrogate="sigmoid", bias=True, seed=seed)
    trainer = Trainer(net, make_rule("ottt", update="sequence"), encoding="constant", learning_rate=2e-3, seed=seed)
    trainer.fit(split.x_train, split.y_train, backbone.epochs, checkpoint=model)


def adapt(backbone: Backbone, seed: int, model: Path) -> dict[str, Any]:
    """Accuracy (turned, upright) as deployed, and for each variant after each number of epochs, frozen to 8 bits."""
    if not model.exists():
        train(backbone, seed, model)
    chip = export(load(model), Options(input_form="graded")).quantized.chip
    split = load_data(backbone.data).with_channels().first(backbone.offline, backbone.test)
    tests = [(messages(images), split.y_test) for images in both(split.x_test)]
    order = np.random.default_rng(seed).permutation(backbone.offline)[: backbone.samples]
    turned, upright = (messages(images[order]) for images in both(split.x_train))
    found: dict[str, Any] = {"deployed": [accuracy(chip, *test) for test in tests]}
    settings = Settings(seed=seed, logit_scale=estimate_logit_scale(chip, *tests[1]), **BEFORE)
    for variant in VARIANTS:
        plastic = make_plastic(chip, layers=range(len(chip.layers) - variant.layers, len(chip.layers)))
        lateral = None if variant.rows is None else watch(plastic, upright, variant.rows, seed=seed)
        found[variant.name] = [
            after(plastic, (turned, split.y_train[order]), tests, epochs, settings, lateral) for epochs in EPOCHS
        ]
    return found


def after(
    chip: ChipNetwork,
    data: Pair,
    tests: list[Pair],
    epochs: int,
    settings: Settings,
    lateral: tuple[Subspace, ...] | None,
) -> list[float]:
    """Accuracies after so many epochs."""
    learnt = learn(chip, data, epochs=epochs, settings=settings, subspaces=lateral).chip
    return [accuracy(to_inference(learnt).chip, *test) for test in tests]


def both(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turned by 180°, and upright."""
    return images[..., ::-1, ::-1], images


def messages(images: np.ndarray) -> np.ndarray:
    return as_messages(images, T, "graded")


def measure(runs: Path, kept: Callable[[Path, Callable[[], Any]], Any]) -> dict[str, list[dict[str, Any]]]:
    """All seeds of all networks, or what is left of them to do."""
    found: dict[str, list[dict[str, Any]]] = {}
    for backbone in BACKBONES:
        for seed in backbone.seeds:
            name = f"backbone-{backbone.name.replace(' ', '-')}-{seed}"
            row = kept(runs / f"{name}.json", partial(adapt, backbone, seed, runs / f"{name}.pt"))
            found.setdefault(backbone.name, []).append(row)
            print(name, row, flush=True)
    return found


def section(found: dict[str, list[dict[str, Any]]]) -> str:
    """Of ``docs/onchip-results.md``."""
    of = " · ".join(
        f"{f.data}: {f.features}, {f.epochs} epochs of {f.offline:,} images offline, epochs of {f.samples:,}, tested "
        f"on {f.test:,}, {'one seed' if len(f.seeds) == 1 else f'mean ± standard deviation over {len(f.seeds)} seeds'}"
        for f in BACKBONES
    )
    return (
        "## Behind convolutions\n\nThe network was trained off the chip on upright images and exported with graded "
        "pixels. Then the images are turned by 180°. The convolutions keep their 8-bit weights; the layers that the "
        "table names learn on, at constant rates. With HLOP, the deployed network has first watched as many upright "
        "images, without labels. The table has the test accuracy on turned / upright images with 8-bit inference "
        f"weights.\n\n{of}.\n\n{table(found)}\n"
    )


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| network | learns | deployed | " + " | ".join(f"epoch {n}" for n in EPOCHS) + " |",
        "|---|---|---:|" + "---:|" * len(EPOCHS),
    ]
    for name, rows in found.items():
        for variant in VARIANTS:
            after_epoch = [[row[variant.name][n] for row in rows] for n in range(len(EPOCHS))]
            points = [[row["deployed"] for row in rows], *after_epoch]
            lines.append(f"| {name} | {variant.name} | " + " | ".join(map(cell, points)) + " |")
    return "\n".join(lines)


def cell(seeds: list[list[float]]) -> str:
    """(turned, upright) of each seed."""
    values = 100 * np.array(seeds)
    if len(seeds) == 1:
        return " / ".join(f"{value:.1f}" for value in values[0])
    return " / ".join(f"{mean:.1f} ± {std:.1f}" for mean, std in zip(values.mean(axis=0), values.std(axis=0, ddof=1)))
