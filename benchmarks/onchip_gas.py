"""Gas sensors that drift for 30 months, learnt on the chip as they come: a part of ``benchmarks/onchip.py``.

A network is trained on the first batch of months, quantised and deployed. The batches after it come as one stream:
every sample is answered first and learnt from after, if its label comes. Beside it the same network with frozen
weights, and scikit-learn's logistic regression on the same features: fitted to the first batch, and refitted ten times
a batch to all labels so far. Inside a batch the file has no times, so its order is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ottt_loihi.converters.export import Options, export
from ottt_loihi.converters.samples import chip_choice, chip_input
from ottt_loihi.onchip import Settings, prequential
from ottt_loihi.onchip.answered import drawn_labels
from ottt_loihi.sim import Simulator
from ottt_loihi.sim.learning.weight_formats import make_plastic
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi.data.prepare import load_like
from ottt_loihi.files import atomic_write
from ottt_loihi.report import plots
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.config import override, read_config
from ottt_loihi.training.run import run as train

CONFIGS = Path(__file__).parents[1] / "configs"
BATCHES = (2, 3, 4, 5, 6, 8, 9)
SHARES = (1.0, 0.1, 0.01)
REFITS = 10  # of the regression in a batch
EPOCHS: int | None = None  # None: the configuration's
MOST = 1 << 30  # samples of a batch
Pair = tuple[np.ndarray, np.ndarray]


def deployed(folder: Path) -> ChipNetwork:
    """Return the plastic network trained on the first batch."""
    if not (folder / "model.pt").exists():
        changes = {} if EPOCHS is None else {"training.epochs": EPOCHS}
        train(override(read_config(CONFIGS / "gas-drift-mlp.toml"), changes), folder, progress=False)
    return make_plastic(export(load(folder / "model.pt"), Options(check=0, allow_dead=True)).chip)


def batch(chip: ChipNetwork, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, spikes and labels of a batch, in a drawn order."""
    split, _ = load_like("gas-drift", chip.data, {"train": [number], "test": [1 if number > 1 else 2]})
    order = np.random.default_rng(number).permutation(len(split.y_train))[:MOST]
    x, y = split.x_train[order], split.y_train[order]
    found = replace(chip_choice(chip, "gas-drift", 1), x=x, labels=y, indices=np.arange(len(y)))
    return x.reshape(len(x), -1), chip_input(chip, found), y


def frozen(chip: ChipNetwork) -> list[float]:
    """Return the accuracy in each batch with the weights as deployed."""
    parts = (batch(chip, number) for number in BATCHES)
    return [float((Simulator(chip).run(x).predictions == y).mean()) for _, x, y in parts]


def stream(chip: ChipNetwork, share: float) -> list[float]:
    """Return the accuracy of the answers in each batch, learnt one after the other."""
    _, old, old_labels = batch(chip, 1)
    now, result, right = chip, None, []
    for number in BATCHES:
        _, x, y = batch(chip, number)
        more = {"settings": Settings(), "known": (old, old_labels)} if result is None else {"after": result}
        found = prequential(now, (x, y), label_share=max(share, 1 / len(y)), **more)
        now, result = found.result.chip, found.result
        right.append(found.accuracy)
    return right


def regression(chip: ChipNetwork, share: float | None) -> list[float]:
    """Return the accuracy of logistic regression in each batch: refitted to a share of the labels, or None: frozen."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, _, labels = batch(chip, 1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, labels)
    right = []
    for number in BATCHES:
        x, _, y = batch(chip, number)
        if share is None:
            right.append(float(model.score(x, y)))
            continue
        labelled, answers = drawn_labels(len(y), max(share, 1 / len(y)), number), []
        for part in np.array_split(np.arange(len(y)), REFITS):
            answers.append(model.predict(x[part]))
            new = part[labelled[part]]
            features, labels = np.concatenate([features, x[new]]), np.concatenate([labels, y[new]])
            model.fit(features, labels)
        right.append(float((np.concatenate(answers) == y).mean()))
    return right


def measure(runs: Path, kept: Callable[[Path, Callable[[], Any]], Any]) -> dict[str, list[float]]:
    """Return the accuracy in each batch, by what was done; earlier runs are kept."""
    chip = deployed(runs / "gas-offline")
    found = {"network, frozen": kept(runs / "gas-frozen.json", lambda: frozen(chip))}
    for share in SHARES:
        name = f"network, learning on the chip, {share:.0%} of the labels"
        found[name] = kept(runs / f"gas-learning-{share:g}.json", lambda share=share: stream(chip, share))
    found["regression, frozen"] = kept(runs / "gas-regression.json", lambda: regression(chip, None))
    for share in SHARES:
        name = f"regression, refitted, {share:.0%} of the labels"
        found[name] = kept(runs / f"gas-refitted-{share:g}.json", lambda share=share: regression(chip, share))
    return found


def table(found: dict[str, list[float]]) -> str:
    """Return the accuracy in each batch, and its mean over the batches, as Markdown."""
    lines = [
        "| batch | " + " | ".join(map(str, BATCHES)) + " | mean |",
        "|---|" + "---:|" * (len(BATCHES) + 1),
    ]
    for name, right in found.items():
        lines.append("| " + " | ".join([name, *(f"{a:.1%}" for a in right), f"**{np.mean(right):.1%}**"]) + " |")
    return "\n".join(lines)


def section(found: dict[str, list[float]]) -> str:
    """Return the page's section."""
    return (
        "## Gas sensors over 30 months\n\nThe network of `configs/gas-drift-mlp.toml`, trained on batch 1. Then batch "
        "after batch is a stream: each sample is answered first and learnt from after, with all labels, 10 % and 1 %. "
        "Default rates, one seed. The regression is refitted ten times a batch to all labels so far, with the same "
        f"shares.\n\n{table(found)}\n\n![accuracy in each batch](onchip-gas.png)\n\n"
        f"Of what the refitted regression gains over the frozen one, the network gains {gains(found)}.\n"
    )


def gains(found: dict[str, list[float]]) -> str:
    """Return (learning − frozen network) / (refitted − frozen regression) of the means, for each share of labels."""
    mean = {name: float(np.mean(right)) for name, right in found.items()}
    parts = []
    for share in SHARES:
        network = mean[f"network, learning on the chip, {share:.0%} of the labels"] - mean["network, frozen"]
        regressed = mean[f"regression, refitted, {share:.0%} of the labels"] - mean["regression, frozen"]
        parts.append(f"{network / regressed:.0%} with {share:.0%} of the labels")
    return ", ".join(parts)


def save_plot(path: Path, found: dict[str, list[float]]) -> None:
    """Draw the accuracy in each batch, frozen and with all labels."""
    names = {
        "network, learning on the chip": "network, learning on the chip, 100% of the labels",
        "network, frozen": "network, frozen",
        "logistic regression, refitted": "regression, refitted, 100% of the labels",
        "logistic regression, frozen": "regression, frozen",
    }
    series = {title: (BATCHES, found[name]) for title, name in names.items()}
    with atomic_write(path) as temporary:
        plots.save_curves(temporary, series, "batch of months", "right answers (%)", percent=True)
