"""Digits, 64-128-10, from scratch on the chip, and what limits it: a part of ``benchmarks/onchip.py``.

``digits``: every feedback kind in floating point and in integers, and how far its updates point along torch OTTT's
gradient. ``limits``: rounding, rates, traces and error messages made better or worse, one at a time, also on MNIST.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ottt_loihi.onchip.learner import Settings, accuracy
from ottt_loihi.onchip.network.feedback.kolen_pollack import start_weights
from ottt_loihi.onchip.network.feedback.opzo import AVERAGING, NOISE
from ottt_loihi.onchip.network.feedback.random import random_feedback
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import Plan, make_plan, with_weights
from ottt_loihi.onchip.stream import Stream
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.network import LearningNetwork
from ottt_loihi.sim.learning.rule import FEEDBACKS
from ottt_loihi.sim.learning.weight_formats import to_inference

from ottt_loihi.data import load_data, rate_code
from ottt_loihi.files import atomic_write
from ottt_loihi.nn.models import mlp
from ottt_loihi.report import plots
from ottt_loihi.rules import OTTT
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.rules.three_factor import KolenPollackLoop, OPZOLoop, ThreeFactorLoop

# the rule that the figures of docs/onchip-results.md are of
BEFORE = {"feedback": "random", "readout_rate": 0.02, "hidden_rate": 1.0, "learn_when": "always", "loss": "mse"}
EPOCHS, SEEDS = 3, (0, 1, 2)
HIDDEN, TIME_STEPS = {"digits": 128, "mnist": 256}, {"digits": 12, "mnist": 6}
MNIST_SAMPLES = 20_000  # of the limits, once
BATCHES, BATCH = 5, 64  # that cosines are averaged over
ARITHMETICS = {
    "float": "float",
    "per-synapse": "integers, per-synapse rounding",
    "lava": "integers, Lava's rounding",
}
Pair = tuple[np.ndarray, np.ndarray]
Change = Callable[[LearningNetwork], LearningNetwork]


class Samples(NamedTuple):
    """Packed spikes uint8 ``(n, T, ⌈inputs / 8⌉)`` and labels ``(n,)``, in the order in which they are learnt."""

    packed: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Task:
    """A network at its start, all it will learn from, and what it is tested with."""

    plan: Plan
    samples: Samples
    rates: list[float]
    test: Pair
    settings: Settings
    epochs: int


def unchanged(network: LearningNetwork) -> LearningNetwork:
    return network


def make_task(data: str, seed: int, longer: float = 1, **settings: Any) -> Task:
    """longer: times the time steps that are used otherwise."""
    split, epochs = load_data(data), EPOCHS if data == "digits" else 1
    chip = fresh_network(split.input_shape, (HIDDEN[data],), num_steps=round(longer * TIME_STEPS[data]), seed=seed)
    count = len(split.y_train) if data == "digits" else MNIST_SAMPLES

    def coded(images: np.ndarray, spikes: int) -> np.ndarray:
        return rate_code(images, chip.num_steps, spikes).reshape(-1, chip.num_steps, *chip.input_shape)

    def training(number: int) -> Pair:
        return coded(split.x_train[:count], 1000 * (seed + 1) + number), split.y_train[:count]

    plan, chosen = make_plan(chip), Settings(seed=seed, **{**BEFORE, "halve_every": count, **settings})
    test = coded(split.x_test, seed), split.y_test
    stream = Stream(plan, training, epochs, chosen)
    return Task(plan, Samples(*stream.part(0, stream.total)), stream.rates, test, chosen, epochs)


def fixed(task: Task, change: Change = unchanged, aligned: bool = False) -> dict[str, Any]:
    """Integers: accuracy after each epoch; at the end with inference weights; saturation; cosines if asked for."""
    samples, settings = task.samples, task.settings
    learner = Learner(change(learning_network(task.plan, task.rates, settings)))
    found: dict[str, Any] = {"epochs": [], "cosines": [alignment(task, learner)] if aligned else []}
    for part in np.split(np.arange(len(samples.labels)), task.epochs):
        learner.learn(samples.packed[part], samples.labels[part])
        chip = with_weights(task.plan, learner.weights())
        found["epochs"].append(accuracy(chip, *task.test))
        found["cosines"] += [alignment(task, learner)] if aligned else []
    messages = len(samples.labels) * task.plan.chip.num_steps
    saturated = learner.variables(("y1_saturated",)).values()
    sizes = [layer.size for layer in task.plan.chip.layers]
    return found | {
        "accuracy": accuracy(to_inference(chip).chip, *task.test),
        "saturated": max(int(s[0]) / messages / size for s, size in zip(saturated, sizes)),
        "rails": max(float(((w == -256) | (w == 255)).mean()) for w in learner.weights()),
    }


def floating(task: Task) -> dict[str, Any]:
    """The same rule, rates, order and spikes in float64."""
    loop, samples, settings = float_loop(task), task.samples, task.settings
    found = []
    for part in np.split(np.arange(len(samples.labels)), task.epochs):
        for index in part:
            x, label = _spikes(task.plan, samples.packed[index]), samples.labels[index]
            rates = np.array(task.rates) / 2 ** integers.halvings(index, settings.halve_every)
            loop.start()
            for s in x:
                factors = loop.step(s[np.newaxis], np.eye(task.plan.classes)[[label]])
                loop.apply([rate * change for rate, change in zip(rates, factors.delta_w)])
        x, labels = task.test
        scores = ThreeFactorLoop(loop.weights, **_neuron(task.plan), learning_rate=0.0).learn(
            x.reshape(*x.shape[:2], -1), np.zeros((len(x), task.plan.classes)), update="sequence"
        )
        found.append(float((scores.argmax(axis=1) == labels).mean()))
    return {"epochs": found, "accuracy": found[-1]}


def float_loop(task: Task) -> ThreeFactorLoop:
    """In units of the threshold, and of a logit at the readout; everything starts as in integers."""
    plan, kind, seed = task.plan, task.settings.feedback, task.settings.seed
    weights = _in_units(plan, [c.weight for c in plan.dense])
    common = {**_neuron(plan), "learning_rate": 1.0}
    if kind == "kolen-pollack":
        twins = [start_weights(plan, 1, plan.dense[1].weight.shape, seed) / plan.resolution(1)]
        return KolenPollackLoop(weights, twins, **common)
    if kind == "opzo":
        rng, size = np.random.default_rng(seed), plan.hidden[0].size
        start = [start_weights(plan, -1, (size, plan.classes), seed) / plan.resolution(1)]
        signs = lambda layer: rng.choice([-1.0, 1.0], size)  # noqa: E731
        return OPZOLoop(weights, noise=1 / NOISE, averaging=AVERAGING, signs=signs, momentum=start, **common)
    feedback = "symmetric" if kind == "symmetric" else random_feedback(plan, seed)
    return ThreeFactorLoop(weights, feedback=feedback, **common)


def alignment(task: Task, learner: Learner) -> dict[str, list[float]]:
    """Cosines, per layer, of a batch's update with torch OTTT's gradient for squared error at the same weights.

    Parameters
    ----------
    rule
        without rounding, Σ f·δ·â with the feedback as it is now
    chip
        what the integers really change, the weights put back after each sample.
    """
    plan, samples = task.plan, task.samples
    rng = np.random.default_rng(0)
    found: dict[str, list[list[float]]] = {"rule": [], "chip": []}
    for _ in range(BATCHES):
        chosen = rng.choice(len(samples.labels), BATCH, replace=False)
        x, labels = _spikes(plan, samples.packed[chosen]), samples.labels[chosen]
        weights = _in_units(plan, learner.weights())
        gradient = torch_gradient(plan, weights, x, labels)
        updates = {
            "rule": _rule_update(task, learner, weights, x, labels),
            "chip": _chip_update(learner, samples, chosen),
        }
        for name, update in updates.items():
            found[name].append([_cosine(u, -g) for u, g in zip(update, gradient)])
    return {name: np.mean(rows, axis=0).tolist() for name, rows in found.items()}


def torch_gradient(plan: Plan, weights: list[np.ndarray], x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    sizes = [w.shape[1] for w in weights] + [plan.classes]
    net = mlp(sizes, beta=plan.decay[0], time_steps=plan.chip.num_steps).double()
    layers = [*(block.connection for block in net.blocks), net.readout]
    for layer, weight in zip(layers, weights):
        layer.weight.data = torch.from_numpy(weight)
    spikes = torch.from_numpy(x.astype(np.float64))
    OTTT("sequence").train_batch(net, spikes, torch.from_numpy(labels), SquaredError(), None)
    return [layer.weight.grad.numpy() for layer in layers]


def _rule_update(
    task: Task, learner: Learner, weights: list[np.ndarray], x: np.ndarray, labels: np.ndarray
) -> list[np.ndarray]:
    kind, common = task.settings.feedback, _neuron(task.plan)
    if kind == "symmetric":
        loop = ThreeFactorLoop(weights, **common)
    elif kind == "kolen-pollack":
        twin = learner.variables()["feedback[0].weights"] / task.plan.resolution(1)
        loop = KolenPollackLoop(weights, [twin.reshape(weights[1].shape)], **common)
    else:
        matrix = learner.network.layers[0].feedback.matrix if kind == "random" else None
        matrix = learner.variables()["feedback[0].weights"] if matrix is None else matrix
        loop = ThreeFactorLoop(weights, feedback=[matrix], **common)
    loop.learn(x.astype(np.float64), np.eye(task.plan.classes)[labels], update="sequence")
    return [new - old for new, old in zip(loop.weights, weights)]


def _chip_update(learner: Learner, data: Samples, chosen: np.ndarray) -> list[np.ndarray]:
    """Return the changes by the samples, each from the weights of now; the learner then is as it was."""
    before, samples = {name: array.copy() for name, array in learner.state._asdict().items()}, learner.samples
    weights = learner.weights()
    total = [np.zeros(w.shape) for w in weights]
    for index in chosen:  # the numbers of epochs go on, so every sample is rounded by random numbers of its own
        learner.learn(data.packed[[index]], data.labels[[index]])
        total = [t + new - old for t, new, old in zip(total, learner.weights(), weights)]
        learner.state.weights[...] = before["weights"]
    for name, array in learner.state._asdict().items():
        array[...] = before[name]
    learner.samples = samples
    return total


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))


def _neuron(plan: Plan) -> dict[str, Any]:
    return {"beta": plan.decay[0], "reset": "subtract"}


def _in_units(plan: Plan, weights: list[np.ndarray]) -> list[np.ndarray]:
    return [w / plan.resolution(layer) for layer, w in enumerate(weights)]


def _spikes(plan: Plan, packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, axis=-1, count=plan.chip.input_size)


def error_bits(bits: int) -> Change:
    """Error messages in coarser steps: an error of ±1 is ±64 with 8 bits, and ±1 with 2."""

    def change(network: LearningNetwork) -> LearningNetwork:
        lost = 8 - bits
        below, readout = network.layers
        below = replace(below, y1=(below.y1[0], below.y1[1] - lost))
        return replace(network, layers=(below, replace(readout, error=(readout.error[0], readout.error[1] + lost))))

    return change


def impulse(size: int) -> Change:
    """A trace in fewer steps, and messages y1 that make up for it."""

    def change(network: LearningNetwork) -> LearningNetwork:
        below, readout = network.layers
        mantissa, shift = below.y1
        y1 = integers.mantissa_and_shift(mantissa / 2**shift * below.impulse / size, "y1")
        return replace(network, layers=(replace(below, impulse=size, y1=y1), readout))

    return change


@dataclass(frozen=True)
class Limit:
    """One thing that is worse, or better, than it is by default."""

    name: str
    change: Change = unchanged
    rates: float = 1.0
    rounding: str = "per-synapse"
    longer: float = 1


FACTORS = (1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16)
LIMITS = (
    Limit("as it is"),
    Limit("no rounding: float64", rounding="float"),
    *(Limit(f"rates × {factor:g}", rates=factor) for factor in FACTORS if factor != 1),
    Limit("Lava's rounding", rounding="lava"),
    *(Limit(f"Lava's rounding, rates × {f:g}", rates=f, rounding="lava") for f in FACTORS if f != 1),
    *(Limit(f"impulse {size} of the trace, not 63", impulse(size)) for size in (16, 4, 1)),
    *(Limit(f"error messages of {bits} bits, not 8", error_bits(bits)) for bits in (6, 4, 2)),
    Limit("half as many time steps", longer=1 / 2),
    Limit("twice as many time steps", longer=2),
)


def limited(limit: Limit, tasks: list[Task]) -> list[dict[str, Any]]:
    """A result per task, with random feedback."""
    found = []
    for task in tasks:
        rates = [limit.rates * rate for rate in task.rates]
        if limit.rounding == "float":
            found.append(floating(replace(task, rates=rates)))
        else:
            settings = replace(task.settings, rounding=limit.rounding)
            found.append(fixed(replace(task, rates=rates, settings=settings), limit.change))
    return found


def learnt(kind: str, how: str) -> list[dict[str, Any]]:
    """A result per seed."""
    if how == "float":
        return [floating(make_task("digits", seed, feedback=kind)) for seed in SEEDS]
    tasks = [make_task("digits", seed, feedback=kind, rounding=how) for seed in SEEDS]
    return [fixed(task, aligned=how == "per-synapse") for task in tasks]


def measure_digits(folder: Path, kept: Callable[..., Any]) -> dict[str, Any]:
    return {
        f"{kind} {how}": kept(folder / f"digits-{kind}-{how}.json", lambda kind=kind, how=how: learnt(kind, how))
        for kind in FEEDBACKS
        for how in ARITHMETICS
    }


def measure_limits(folder: Path, kept: Callable[..., Any]) -> dict[str, Any]:
    @cache
    def tasks(data: str, longer: float) -> list[Task]:
        return [make_task(data, seed, longer) for seed in (SEEDS if data == "digits" else SEEDS[:1])]

    return {
        data: [
            kept(
                folder / f"limit-{data}-{index}.json",
                lambda data=data, limit=limit: limited(limit, tasks(data, limit.longer)),
            )
            for index, limit in enumerate(LIMITS)
        ]
        for data in HIDDEN
    }


def section(digits: dict[str, Any], limits: dict[str, Any]) -> str:
    return (
        f"## Digits\n\n64-128-10, T = {TIME_STEPS['digits']}, {EPOCHS} epochs, rates halved after each. The table has "
        f'the test accuracy, mean ± standard deviation over {len(SEEDS)} seeds. "Float" is the same rule in float64, '
        'with the same rates, order and spikes. "8 bits" has the weights of the last epoch, rounded to 8 bits for '
        "inference.\n\n"
        f"{digits_table(digits)}\n\n"
        "The next table has the cosine of an update with the gradient of OTTT in torch, for the same weights, batch "
        f'and squared error (64 training images; mean over {BATCHES} batches and {len(SEEDS)} seeds). "Rule" is the '
        'update Σ f·δ·â without rounding, with the feedback weights of that moment. "Chip" is the change of the '
        "integers, rounded per synapse. The rates fall from epoch to epoch, so the rounding of single updates matters "
        "more and more.\n\n"
        f"{cosine_table(digits)}\n\n"
        "## What limits it\n\nEach row changes one thing. The digits are as above, with random feedback; MNIST is "
        f"784-256-10 after {MNIST_SAMPLES:,} samples with one seed. The accuracies are those of 8-bit inference "
        'weights. "Saturated" is the share of saturated messages y1 in the layer that has most of them. "At rails" '
        "is the share of the weights at −256 or 255 in the connection that has most of them. Both are of digits.\n\n"
        f"{limits_table(limits)}\n\n![accuracy over learning rates](onchip-limits.png)\n"
    )


def _spread(results: list[float]) -> str:
    return f"{100 * np.mean(results):.1f} ± {100 * np.std(results):.1f} %"


def digits_table(digits: dict[str, Any]) -> str:
    lines = ["| feedback | arithmetic | epoch 1 | 2 | 3 | 8 bits |", "|---|---|---:|---:|---:|---:|"]
    for key, rows in digits.items():
        kind, how = key.split()
        epochs = [_spread([row["epochs"][number] for row in rows]) for number in range(EPOCHS)]
        frozen = "" if how == "float" else f"**{_spread([row['accuracy'] for row in rows])}**"
        lines.append("| " + " | ".join([kind, ARITHMETICS[how], *epochs, frozen]) + " |")
    return "\n".join(lines)


def cosine_table(digits: dict[str, Any]) -> str:
    lines = [
        "| feedback | layer | rule, at the start | epoch 1 | 2 | 3 | chip, at the start | epoch 1 | 2 | 3 |",
        "|---|---|" + "---:|" * (2 * EPOCHS + 2),
    ]
    for kind in FEEDBACKS:
        for layer, name in enumerate(("hidden", "readout")):
            cells = [
                f"{np.mean([row['cosines'][number][which][layer] for row in digits[f'{kind} per-synapse']]):.2f}"
                for which in ("rule", "chip")
                for number in range(EPOCHS + 1)
            ]
            lines.append("| " + " | ".join([kind, name, *cells]) + " |")
    return "\n".join(lines)


def limits_table(limits: dict[str, Any]) -> str:
    lines = ["| what is different | digits | MNIST | saturated | at rails |", "|---|---:|---:|---:|---:|"]
    for limit, small, large in zip(LIMITS, limits["digits"], limits["mnist"]):
        cells = [limit.name, _spread([row["accuracy"] for row in small]), f"{large[0]['accuracy']:.1%}"]
        for key in ("saturated", "rails"):
            cells.append("" if limit.rounding == "float" else f"{max(row[key] for row in small):.2%}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save_plot(path: Path, limits: dict[str, Any]) -> None:
    """Accuracy over the factor of both rates, as a power of 2."""
    series = {}
    for data, name in (("digits", "digits"), ("mnist", "MNIST")):
        for rounding, described in (("per-synapse", "rounded per synapse"), ("lava", "Lava's rounding")):
            points = sorted(
                (float(np.log2(limit.rates)), float(np.mean([row["accuracy"] for row in rows])))
                for limit, rows in zip(LIMITS, limits[data])
                if limit.rounding == rounding and limit.change is unchanged and limit.longer == 1
            )
            series[f"{name}, {described}"] = tuple(zip(*points))
    with atomic_write(path) as temporary:
        labels = {"x_label": "log₂ of (learning rates / default rates)", "y_label": "test accuracy (%)"}
        plots.save_curves(temporary, series, **labels, percent=True)
