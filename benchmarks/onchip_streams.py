"""Three sensors that change, learnt on the chip as they come: a part of ``benchmarks/onchip.py``.

A network is trained on the first world, quantised and deployed. What comes later is a stream: every sample is answered
first and learnt from after, if its label comes. Beside it the same network with frozen weights, and scikit-learn's
logistic regression on the same values: fitted to the first world, and refitted on the way to all labels so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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

from ottt_loihi.data import load_like
from ottt_loihi.files import atomic_write
from ottt_loihi.report import plots
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.config import override, read_config
from ottt_loihi.training.run import run as train

CONFIGS = Path(__file__).parents[1] / "configs"
SHARES = (1.0, 0.1, 0.01)
KNOWN = 1000  # samples of the first world that the network is measured on, as ottt-learn does
REFITS = 10  # of the regression in a part
EPOCHS: int | None = None  # None: the configuration's
MOST = 1 << 30  # samples of a part
PEOPLE = ("12345", "21547", "45612", "54321", "78945")  # those that the data set's authors chose
PATIENTS = (100, 105, 200, 202, 210, 213, 214, 219, 221, 222, 228, 232, 233, 234)  # of DS2

READ: dict[tuple[Any, ...], Any] = {}  # what was read of data sets

Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # values, what the chip gets, labels
Counts = list[list[list[list[int]]]]  # of each world and each of its parts: label × answer


@dataclass(frozen=True)
class Sensor:
    """A sensor, and how its world changes.

    Attributes
    ----------
    name
        of the data set and of its configuration
    title, text
        of the page's section
    worlds
        of each: the loader's options of the training, and those of each part that comes after; every world has a
        network of its own, but for the same options
    columns
        what the table shows, by name: a number from the counts
    measure
        the column that counts
    shuffled
        whether the order inside a part is drawn: the files have none
    balanced
        whether rare classes count as much as others
    most_old
        samples of the first world that the regression is refitted with
    """

    name: str
    config: str
    title: str
    text: str
    worlds: tuple[tuple[dict[str, Any], tuple[dict[str, Any], ...]], ...]
    columns: dict[str, Callable[[Counts], float]]
    measure: str
    shuffled: bool = True
    balanced: bool = False
    most_old: int = 1 << 30


def accuracy(counts: Counts, part: int | None = None) -> float:
    """Return the accuracy in a part, or the mean over the parts; the mean over the worlds."""
    found = [[np.trace(c) / np.sum(c) for c in (world if part is None else world[part : part + 1])] for world in counts]
    return float(np.mean([np.mean(world) for world in found]))


def recall(counts: Counts, label: int) -> float:
    """Return the recall of a class over all worlds."""
    total = np.sum([c for world in counts for c in world], axis=0)
    return float(total[label, label] / total[label].sum())


def balanced_recall(counts: Counts) -> float:
    """Return the mean recall of the classes that occur, over all worlds."""
    total = np.sum([c for world in counts for c in world], axis=0)
    return float(np.mean([recall(counts, label) for label in np.flatnonzero(total.sum(axis=1))]))


def of_part(part: int) -> Callable[[Counts], float]:
    return lambda counts: accuracy(counts, part)


def of_class(label: int) -> Callable[[Counts], float]:
    return lambda counts: recall(counts, label)


def first_batches(count: int) -> dict[str, Callable[[Counts], float]]:
    return {**{f"batch {n}": of_part(i) for i, n in enumerate(BATCHES[:count])}, "mean": accuracy}


BATCHES = (2, 3, 4, 5, 6, 8, 9)
GAS = Sensor(
    "gas-drift",
    "gas-drift-mlp",
    "Gas sensors over 30 months",
    "It was trained on batch 1. Then each later batch is a stream; our copy of the data lacks the batches 7 and 10. "
    "The samples of a batch have no times, so their order is drawn.",
    (({}, tuple({"train": [n], "test": [1]} for n in BATCHES)),),
    first_batches(len(BATCHES)),
    "mean",
)
EMG = Sensor(
    "myo-emg",
    "myo-emg-mlp",
    "A re-mounted armband",
    "Five people make eight gestures. Each person has a network, which was trained within session 1. Then the armband "
    "is put on again, twice. Each file contains one gesture, so the order of the windows is drawn. The table has means "
    "over the people.",
    tuple(
        (
            {"participant": person},
            tuple({"participant": person, "sessions": [n], "test_sessions": [1]} for n in (2, 3)),
        )
        for person in PEOPLE
    ),
    {"session 2": of_part(0), "session 3": of_part(1), "mean": accuracy},
    "mean",
)
ECG = Sensor(
    "mitbih",
    "mitbih-mlp",
    "A new patient's heart",
    "It was trained on the 22 patients of DS1. Then it is deployed anew for each of "
    f"{len(PATIENTS)} patients of DS2, whose beats are a stream in the order of time. These are all patients that have "
    "at least ten beats of a second class. The table has the recall of each class (N normal, S supraventricular, V "
    'ventricular, F fusion) over the beats of all these patients; "balanced" is the mean of the four. The logistic '
    "regression beside the network gives all classes the same weight, and is refitted together with 2,000 beats drawn "
    "from DS1.",
    tuple(({}, ({"train": [patient], "test": [101]},)) for patient in PATIENTS),
    {"balanced": balanced_recall, **{name: of_class(i) for i, name in enumerate("NSVF")}},
    "balanced",
    shuffled=False,
    balanced=True,
    most_old=2000,
)
SENSORS = (GAS, EMG, ECG)


def read_once(key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
    """Return what was computed for a key before, or now: the patients of an archive take seconds each time."""
    if key not in READ:
        READ[key] = compute()
    return READ[key]


def deployed(sensor: Sensor, options: dict[str, Any], runs: Path) -> ChipNetwork:
    """Return the plastic network that was trained on the first world."""
    folder = runs / "-".join([sensor.name, *map(str, options.values()), "offline"])
    if not (folder / "model.pt").exists():
        changes = {f"data.{name}": value for name, value in options.items()}
        changes |= {} if EPOCHS is None else {"training.epochs": EPOCHS}
        train(override(read_config(CONFIGS / f"{sensor.config}.toml"), changes), folder, progress=False)
    return make_plastic(export(load(folder / "model.pt"), Options(check=0, allow_dead=True)).chip)


def part_of(sensor: Sensor, chip: ChipNetwork, options: dict[str, Any], number: int) -> Part:
    """Return a part of the stream: its samples are the training samples of the loader with these options."""
    split, _ = load_like(sensor.name, chip.data, {**chip.data_set.options, **options})
    order = np.arange(len(split.y_train))
    if sensor.shuffled:
        order = np.random.default_rng(number).permutation(order)
    x, y = split.x_train[order[:MOST]], split.y_train[order[:MOST]]
    found = replace(chip_choice(chip, sensor.name, 1), x=x, labels=y, indices=np.arange(len(y)))
    return x.reshape(len(x), -1), chip_input(chip, found), y


def parts_of(sensor: Sensor, chip: ChipNetwork, world: int) -> list[Part]:
    return [
        read_once((sensor.name, world, number), lambda o=options, n=number: part_of(sensor, chip, o, n))
        for number, options in enumerate(sensor.worlds[world][1])
    ]


def known_of(sensor: Sensor, chip: ChipNetwork, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return samples of the first world and their labels, on which the network is measured."""
    known = read_once((sensor.name, str(options)), lambda: chip_choice(chip, sensor.name, KNOWN, "train"))
    return chip_input(chip, known), known.labels


def counted(labels: np.ndarray, answers: np.ndarray, classes: int) -> list[list[int]]:
    """Return label × answer."""
    return np.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes).tolist()


def frozen(sensor: Sensor, runs: Path) -> Counts:
    """Return the answers with the weights as deployed."""
    found = []
    for world, (options, _) in enumerate(sensor.worlds):
        chip = deployed(sensor, options, runs)
        classes, simulator = chip.layers[-1].size, Simulator(chip)
        found.append([counted(y, simulator.run(x).predictions, classes) for _, x, y in parts_of(sensor, chip, world)])
    return found


def stream(sensor: Sensor, share: float, runs: Path, **chosen: Any) -> Counts:
    """Return the answers of the network that learns, from one part to the next."""
    found = []
    for world, (options, _) in enumerate(sensor.worlds):
        chip = deployed(sensor, options, runs)
        now, result, counts = chip, None, []
        for _, x, y in parts_of(sensor, chip, world):
            more: dict[str, Any] = {"after": result}
            if result is None:
                more = {"settings": Settings(**chosen), "known": known_of(sensor, chip, options)}
            answered = prequential(now, (x, y), label_share=max(share, 1 / len(y)), **more)
            now, result = answered.result.chip, answered.result
            counts.append(counted(y, answered.answers, chip.layers[-1].size))
        found.append(counts)
    return found


def regression(sensor: Sensor, share: float | None, runs: Path) -> Counts:
    """Return the answers of logistic regression: refitted to a share of the labels, or None: frozen."""
    found: Counts = []
    first: dict[str, tuple[Any, np.ndarray, np.ndarray]] = {}
    for world, (options, _) in enumerate(sensor.worlds):
        chip = deployed(sensor, options, runs)
        classes = chip.layers[-1].size
        if str(options) not in first:
            old = chip_choice(chip, sensor.name, 1).split
            values, labels = old.x_train.reshape(len(old.x_train), -1), old.y_train
            few = np.random.default_rng(0).permutation(len(labels))[: sensor.most_old]
            first[str(options)] = fitted(sensor, values, labels), values[few], labels[few]
        model, values, labels = first[str(options)]
        counts = []
        for number, (x, _, y) in enumerate(parts_of(sensor, chip, world)):
            answers = []
            labelled = drawn_labels(len(y), max(share or 1.0, 1 / len(y)), number)
            for some in np.array_split(np.arange(len(y)), REFITS):
                answers.append(model.predict(x[some]))
                new = some[labelled[some]]
                if share is not None and len(new):
                    values, labels = np.concatenate([values, x[new]]), np.concatenate([labels, y[new]])
                    model = fitted(sensor, values, labels)
            counts.append(counted(y, np.concatenate(answers), classes))
        found.append(counts)
    return found


def fitted(sensor: Sensor, values: np.ndarray, labels: np.ndarray) -> Any:
    """Return logistic regression, fitted."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weights = "balanced" if sensor.balanced else None
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight=weights)).fit(values, labels)


def measure(sensor: Sensor, runs: Path, kept: Callable[[Path, Callable[[], Any]], Any]) -> dict[str, Counts]:
    """Return the answers by what was done; earlier runs are kept."""

    def of(kind: str, compute: Callable[[], Counts]) -> Counts:
        return kept(runs / f"{sensor.name}-{kind}.json", compute)

    found = {"network, frozen": of("frozen", lambda: frozen(sensor, runs))}
    for share in SHARES:
        found[learning(share)] = of(f"learning-{share:g}", lambda share=share: stream(sensor, share, runs))
    found["regression, frozen"] = of("regression", lambda: regression(sensor, None, runs))
    for share in SHARES:
        found[refitted(share)] = of(f"refitted-{share:g}", lambda share=share: regression(sensor, share, runs))
    return found


def learning(share: float) -> str:
    return f"network, learning on the chip, {share:.0%} of the labels"


def refitted(share: float) -> str:
    return f"regression, refitted, {share:.0%} of the labels"


def table(sensor: Sensor, found: dict[str, Counts]) -> str:
    """Return the columns of every line, as Markdown."""
    lines = ["| | " + " | ".join(sensor.columns) + " |", "|---|" + "---:|" * len(sensor.columns)]
    for name, counts in found.items():
        cells = [f"{value(counts):.1%}" for value in sensor.columns.values()]
        place = list(sensor.columns).index(sensor.measure)
        cells[place] = f"**{cells[place]}**"
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def gains(sensor: Sensor, found: dict[str, Counts]) -> list[float]:
    """Return (learning − frozen network) / (refitted − frozen regression), for each share of the labels."""
    score = {name: sensor.columns[sensor.measure](counts) for name, counts in found.items()}
    return [
        (score[learning(share)] - score["network, frozen"]) / (score[refitted(share)] - score["regression, frozen"])
        for share in SHARES
    ]


def section(sensor: Sensor, found: dict[str, Counts]) -> str:
    """Return the page's section."""
    said = ", ".join(f"{gain:.0%} with {share:.0%}" for gain, share in zip(gains(sensor, found), SHARES))
    picture = "![accuracy in each batch](onchip-gas.png)\n\n" if sensor is GAS else ""
    return (
        f"## {sensor.title}\n\nThe network is that of `configs/{sensor.config}.toml`. {sensor.text} Each sample is "
        "answered first and learnt from afterwards, with all labels, 10 % and 1 % of them. The rates are the defaults, "
        "and there is one seed. Logistic regression gets the same labels. It is refitted ten times in each part of the "
        f"stream, to all labels so far.\n\n{table(sensor, found)}\n\n{picture}"
        "The gain of the network over its frozen weights, divided by the gain of the refitted regression over the "
        f"frozen one, is {said} of the labels.\n"
    )


def save_plot(path: Path, found: dict[str, Counts]) -> None:
    """Draw the gas sensors' accuracy in each batch, frozen and with all labels."""
    names = {
        "network, learning on the chip": learning(1.0),
        "network, frozen": "network, frozen",
        "logistic regression, refitted": refitted(1.0),
        "logistic regression, frozen": "regression, frozen",
    }
    batches = BATCHES[: len(found["network, frozen"][0])]
    series = {
        title: (batches, [accuracy(found[name], part) for part in range(len(batches))]) for title, name in names.items()
    }
    with atomic_write(path) as temporary:
        plots.save_curves(temporary, series, "batch (each of some months)", "right answers (%)", percent=True)
