"""What is compared of the integer side: exports, states of ``sim.run``, and learning on the chip."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from goldens.trainings import NETWORKS, STEPS, Arrays, make

EXPORTS: dict[str, dict[str, Any]] = {
    "8 bits": {},
    "4 bits": {"num_weight_bits": 4},
    "ternary": {"num_weight_bits": "ternary"},
    "binary": {"num_weight_bits": "binary"},
    "binary, one threshold a layer": {"num_weight_bits": "binary", "thresholds": "layer"},
    "power of two": {"scale": "power-of-two"},
    "not for netx": {"for_netx": False},
}
USE = ("input_form", "input_transform", "logit_scale", "loss", "data", "data_set", "untrained")  # of no integer
FORMS = ("graded", "inject", "bias")
FRESH = {"input_shape": (10,), "hidden": (12, 9), "classes": 4, "num_steps": STEPS}
LEARNING: dict[str, dict[str, Any]] = {  # beside every feedback with every encoding, schedule and reset
    "softmax": {"loss": "softmax"},
    "biases": {"learn_bias": True},
}


def every(names: SimpleNamespace) -> Iterator[tuple[str, Any]]:
    """Yield (name, function that returns arrays) of every export, run and lesson."""
    resets = ("subtract", "zero")
    for network, reset in product(NETWORKS, resets):
        if not (network.startswith("dsr") and reset == "zero"):
            for how in EXPORTS:
                yield f"export/{network}/{reset}/{how}", lambda a=(network, reset, how): exported(names, *a)
    for network, form, reset in product(("mlp", "conv", "vgg"), FORMS, resets):
        name = f"export of a constant input/{network}/{form}/{reset}"
        yield name, lambda a=(network, reset, "8 bits", form): exported(names, *a)
    yield "export checked and calibrated", lambda: checked(names)
    for seed in range(12):
        yield f"sim/dense {seed}", lambda seed=seed: simulated(names, random_dense(names, seed), seed)
        yield f"sim/conv {seed}", lambda seed=seed: simulated(names, random_conv(names, seed), seed)
    combinations = product(names.FEEDBACKS, ("signed", "split", "factored"), ("phased", "pipelined"), resets)
    for feedback, encoding, schedule, reset in combinations:
        if not (feedback == "opzo" and schedule == "pipelined"):
            name = f"learning/{feedback}/{encoding}/{schedule}/{reset}"
            options = {"encoding": encoding, "schedule": schedule}
            yield name, lambda a=(feedback, options, reset): lesson(names, *a)
    for feedback, what in product(names.FEEDBACKS, LEARNING):
        yield f"learning/{feedback}/{what}", lambda a=(feedback, LEARNING[what]): lesson(names, *a)
    for what in ("lava rounding", "sparse", "subspaces", "no hidden layer", "halved rates"):
        yield f"learning/{what}", lambda what=what: lesson(names, "kolen-pollack", {}, what=what)
    for feedback in names.FEEDBACKS:
        yield f"learn resumed/{feedback}", lambda feedback=feedback: learnt(names, feedback)


def exported(names: SimpleNamespace, network: str, reset: str, how: str, form: str = "") -> Arrays:
    """The integer network and its states on random input."""
    net = make(names, network, **({} if network.startswith("dsr") else {"reset": reset}))
    if form:
        net.provenance = {"encoding": {"name": "constant"}}
    settings = EXPORTS[how] | ({"input_form": form} if form else {})
    bits = settings.pop("num_weight_bits", 8)
    chip = names.quantize(names.from_torch(net.float()), bits, {}, **settings).chip
    rng = np.random.default_rng(5)
    if form:
        x = names.host_messages(chip, names.as_messages(rng.random((3, *net.input_shape)), STEPS, form))
    else:
        x = (rng.random((3, STEPS, *net.input_shape)) < 0.4).astype(np.uint8)
    return arrays(chip, "chip") | states(names, chip, x)


def checked(names: SimpleNamespace) -> Arrays:
    """A trained network, exported with calibration and a check against the float network."""
    split = names.load_data("digits").first(100, 50)
    net = names.mlp((64, 16, 10), input_shape=split.x_train.shape[1:], time_steps=STEPS, seed=1)
    trainer = names.Trainer(net, names.make_rule("ottt"), batch_size=10)
    history = trainer.fit(split.x_train, split.y_train, 2)
    net.provenance = {"data": "digits", **trainer.provenance(2, history)}
    found = names.export(net, names.ExportOptions(check=30, calibrate=30))
    return arrays(found.quantized.chip, "chip") | {"predictions": np.array(found.agreement.predictions)}


def states(names: SimpleNamespace, chip: Any, x: np.ndarray) -> Arrays:
    """Everything ``sim.run`` says of a run."""
    result = names.run(chip, x, ("u", "v", "s"), threads=1)
    found = {f"{name} {i}": a for name, layers in result.states.items() for i, a in enumerate(layers)}
    found |= {"scores": result.scores, "spike counts": result.spike_counts}
    return found | {f"overflows {name}": np.asarray(count) for name, count in result.overflows.items()}


def arrays(part: Any, name: str) -> Arrays:
    """All values of a dataclass of integers, arrays and texts, names and provenance apart."""
    if is_dataclass(part):
        found: Arrays = {f"{name} is a": np.array(type(part).__name__)}
        for field in fields(part):
            if field.name not in ("name", "provenance", *USE):
                found |= arrays(getattr(part, field.name), f"{name}.{field.name}")
        return found
    if isinstance(part, tuple) and any(is_dataclass(item) for item in part):
        return {key: a for i, item in enumerate(part) for key, a in arrays(item, f"{name}[{i}]").items()}
    return {} if part is None else {name: np.asarray(part)}


def simulated(names: SimpleNamespace, chip: Any, seed: int) -> Arrays:
    rng = np.random.default_rng([3, seed])
    x = (rng.random((4, chip.num_steps, *chip.input_shape)) < 0.4).astype(np.uint8)
    return states(names, chip, x)


def random_dense(names: SimpleNamespace, seed: int) -> Any:
    """Three dense layers with any decay, bias, exponent and delay; recurrent, and reset by subtraction."""
    n, rng = names.network, np.random.default_rng([1, seed])
    layers = [
        n.LIF(
            (size,),
            int(rng.integers(-1, 4096)) if seed % 3 else 4095,
            int(rng.integers(0, 4097)),
            rng.integers(1, 3000, size) if seed % 2 else int(rng.integers(1, 3000)),
            bias_mant=rng.integers(-4096, 4096, size),
            bias_exp=int(rng.integers(0, 8)),
            u_init=rng.integers(-(2**20), 2**20, size),
        )
        for size in (9, 8, 5)
    ]
    sizes = (7, 9, 8, 5)
    connections = [
        n.Dense(i - 1, i, _even(names, rng, (sizes[i + 1], sizes[i])), int(rng.integers(-8, 8))) for i in range(3)
    ]
    connections.append(n.Dense(1, 1, _even(names, rng, (8, 8)), -2, delay=int(rng.integers(0, 3))))
    connections.append(n.Diagonal(0, 0, -layers[0].thresholds // 16, int(rng.integers(-3, 4))))
    connections.append(n.Sparse(2, 0, (9, 5), [0, 3, 8], [1, 1, 4], np.array([-20, 60, 8]), -1))
    return n.ChipNetwork((7,), tuple(layers), tuple(connections), 6, ("sum_v", "last_v", "spike_count")[seed % 3])


def random_conv(names: SimpleNamespace, seed: int) -> Any:
    """Two convolutions into one layer, one of them from later neurons, and a dense layer."""
    n, rng = names.network, np.random.default_rng([2, seed])
    stride, groups = 1 + seed % 2, 1 + seed // 2 % 2
    first = n.Conv(-1, 0, _even(names, rng, (4, 2 // groups, 3, 3)), (2, 7, 6), (stride, 1), (1, 1), (1, 1), groups)
    shape = first.output_shape
    second = n.Conv(0, 1, _even(names, rng, (4, 4, 3, 3)), shape, (1, 1), (1, 1))
    back = n.Conv(1, 0, _even(names, rng, (4, 2, 3, 3)), shape, (1, 1), (2, 2), (2, 2), 2)
    layers = [
        n.LIF(shape, 4095, int(rng.integers(0, 4097)), rng.integers(100, 900, (4, 1, 1)), rng.integers(-50, 50, shape))
        for _ in range(2)
    ]
    layers.append(n.LIF((3,), 4095, 4096, names.arithmetic.VTH_MAX))
    out = n.Dense(1, 2, _even(names, rng, (3, layers[1].size)), -3 + seed % 5)
    return n.ChipNetwork((2, 7, 6), tuple(layers), (first, back, second, out), 5)


def _even(names: SimpleNamespace, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    weight = rng.integers(-128, 128, shape) * 2
    weight.flat[0], weight.flat[-1] = -2, 2  # both signs
    return weight


def lesson(
    names: SimpleNamespace, feedback: str, options: dict[str, Any], reset: str = "subtract", what: str = ""
) -> Arrays:
    """All state after some samples, without a stop and with one, where it is saved and loaded."""
    fresh = (
        FRESH | ({"hidden": ()} if what == "no hidden layer" else {}) | ({"density": 0.5} if what == "sparse" else {})
    )
    chip = names.fresh_network(**fresh, reset=reset, seed=3)
    layers = tuple(
        replace(layer, bias_mant=np.random.default_rng(i).integers(-20, 40, layer.shape), bias_exp=6)
        for i, layer in enumerate(chip.layers)
    )
    plan = names.make_plan(replace(chip, layers=layers))
    subspaces = None
    if what == "subspaces":
        rng = np.random.default_rng(8)
        subspaces = tuple(
            names.Subspace(rng.integers(-6000, 6000, (4, c.shape[1])), 2, 12, 5 + i) for i, c in enumerate(plan.dense)
        )
    network = names.learning_network(
        plan,
        [0.3] * len(layers),
        feedback=feedback,
        seed=13,
        halve_every=4 if what == "halved rates" else 0,
        rounding="lava" if what == "lava rounding" else _independent(names),
        subspaces=subspaces,
        **{"encoding": "signed"} | options,
    )
    rng = np.random.default_rng(6)
    packed = np.packbits((rng.random((14, STEPS, 10)) < 0.4).astype(np.uint8), axis=-1)
    labels, gate = rng.integers(0, 4, 14), rng.random(14) < 0.8
    learner = names.Learner(network)
    predictions = learner.learn(packed, labels, gate)
    stopped = names.Learner(network)
    with tempfile.TemporaryDirectory() as folder:
        stopped.learn(packed[:6], labels[:6], gate[:6])
        stopped.save(Path(folder) / "state.h5")
        resumed = names.Learner.load(Path(folder) / "state.h5", network)
    resumed.learn(packed[6:], labels[6:], gate[6:])
    found = {"predictions": predictions, **learner.variables()}
    return found | {f"resumed {name}": a for name, a in resumed.variables().items()}


def _independent(names: SimpleNamespace) -> str:
    """Return the rounding with a hash for each synapse: ``"per-synapse"`` in ca2cd2d."""
    return "per-synapse-1" if "per-synapse-1" in names.ROUNDINGS else "per-synapse"


def learnt(names: SimpleNamespace, feedback: str) -> Arrays:
    """``learn`` with a checkpoint: one epoch, and from there on to the end of the second."""
    chip = names.fresh_network(**FRESH | {"input_shape": (40,), "hidden": (30, 20)}, seed=3)
    rng = np.random.default_rng(6)
    data = (rng.random((14, STEPS, 40)) < 0.6).astype(np.uint8), rng.integers(0, 4, 14)
    rates = {"readout_rate": 0.02, "hidden_rate": 1.0, "loss": "mse"}
    settings = names.Settings(feedback=feedback, seed=2, rounding=_independent(names), **rates)
    with tempfile.TemporaryDirectory() as folder:
        common = {"settings": settings, "checkpoint": Path(folder) / "state", "evaluate_every": 7, "test": data}
        first = names.learn(chip, data, **common)
        second = names.learn(chip, data, epochs=2, resume=True, **common)
    curve = {"curve": np.array([list(vars(p).values()) if hasattr(p, "__dict__") else list(p) for p in second.curve])}
    return arrays(first.chip, "one epoch") | arrays(second.chip, "two epochs") | curve
