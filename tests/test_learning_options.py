"""The rule's options in Lava: floating point is the loop with the same options, all backends learn the same weights."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ottt_loihi.onchip import Settings, fresh_network, learn
from ottt_loihi.onchip.checkpoint import VERSION
from ottt_loihi.sim.learning import losses
from ottt_loihi.sim.learning.encodings import ENCODINGS
from ottt_loihi.sim.learning.rule import FEEDBACKS, Rule

from ottt_loihi.data import load_digits, rate_code
from ottt_loihi.errors import FileError
from ottt_loihi.rules.three_factor import ThreeFactorLoop

pytestmark = pytest.mark.lava
pytest.importorskip("lava.magma.core.process.process")

from ottt_loihi.converters.lava.inprocess import InProcessRun  # noqa: E402
from ottt_loihi.onchip.lava.float_graph import build_float_graph  # noqa: E402

T, CLASSES = 4, 3


class OptionsLoop(ThreeFactorLoop):
    """The three-factor loop with another loss."""

    def __init__(self, *arguments, options, **kwargs):
        self.options = options
        super().__init__(*arguments, **kwargs)

    def _errors(self, o, target, surrogate):
        e = losses.float_error(self.options.loss, o[0], int(target[0].argmax()), 1.0)
        return super()._errors(o, o - e, surrogate)


def float_case(options, hidden=(9, 7), count=30, feedback="symmetric", reset="subtract"):
    rng = np.random.default_rng(3)
    sizes = (12, *hidden, CLASSES)
    weights = [rng.normal(0, 2 / np.sqrt(n), (m, n)) for n, m in zip(sizes, sizes[1:])]  # noqa: RUF007
    biases = [np.zeros(n) for n in sizes[1:]] if options.learn_bias else None
    common = dict(learning_rate=0.05, time_steps=T, surrogate="rectangle", feedback=feedback, reset=reset)
    loop = OptionsLoop(weights, biases, options=options, **common)
    x, labels = rng.integers(0, 2, (count, T, 12), np.uint8), rng.integers(0, CLASSES, count)
    for frames, label in zip(x, labels):
        loop.learn(frames[np.newaxis], np.eye(CLASSES)[[label]])
    graph = build_float_graph(
        weights,
        np.packbits(x, axis=-1),
        labels,
        learning_rate=0.05,
        feedback=loop.feedback,
        rule=replace(options, feedback=feedback),
        reset=reset,
    )
    with InProcessRun(graph.source, tag="floating_pt") as run:
        run.steps(count * T * graph.epoch)
        found = [run.get(process.weights) for process in graph.plastic]
        if options.learn_bias:
            on_v = [1 / (1 - 0.5) if reset == "subtract" else 1.0] * len(hidden) + [1.0]
            for process, bias, scale in zip((*graph.neurons, graph.readout), loop.biases, on_v):
                np.testing.assert_allclose(run.get(process.bias), bias * scale, rtol=0, atol=1e-12)
                assert np.abs(bias).max() > 0.01
    return found, loop.weights, weights


@cache
def plain_case():
    return float_case(Rule())


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        Rule(loss="softmax"),
        *(Rule(encoding=encoding) for encoding in ("signed", "split")),
    ],
    ids=lambda options: str(options.chosen()),
)
def test_float_learning_is_the_loop_with_the_same_options(options):
    plain, _, _ = plain_case()
    found, expected, start = float_case(options)
    for a, b, before, other in zip(found, expected, start, plain):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        assert np.abs(b - before).max() > 0.001
        assert (np.abs(b - other).max() > 0.001) == (set(options.chosen()) != {"encoding"}), (
            "an encoding learns the same weights"
        )


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_float_biases_learn_as_in_the_loop(reset):
    found, expected, _ = float_case(Rule(learn_bias=True), reset=reset)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def digits(count=10):
    split = load_digits()
    return rate_code(split.x_train[:count], 6, 1), split.y_train[:count]


CHOICES = (
    *({"encoding": encoding} for encoding in ENCODINGS[1:]),
    {"encoding": "signed", "learn_bias": True},
    {"encoding": "factored", "learn_bias": True, "loss": "softmax"},
    {"encoding": "split", "loss": "softmax"},
)
# each choice with one kind of feedback in every test run, with all of them among the slow ones
CASES = [
    pytest.param(options, feedback, id=f"{options}-{feedback}", marks=[pytest.mark.slow] * (i % len(FEEDBACKS) != k))
    for i, options in enumerate(CHOICES)
    for k, feedback in enumerate(FEEDBACKS)
]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "feedback"), CASES)
def test_lavas_models_learn_the_same(options, feedback):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 2, (8, T, 12), np.uint8), rng.integers(0, CLASSES, 8)
    chip = fresh_network((12,), (9, 7), CLASSES, T, resolution=128, seed=1)
    settings = Settings(feedback=feedback, hidden_rate=2.0, readout_rate=0.1, **options)
    found, expected = (learn(chip, data, backend=backend, settings=settings) for backend in ("sim", "inprocess"))
    assert found.chip == expected.chip
    assert found.counters == expected.counters
    assert max(found.moved) > 0.1


@pytest.mark.slow
def test_all_backends_learn_the_same_with_every_option():
    settings = Settings(loss="softmax", learn_when="mistaken", learn_bias=True, encoding="split")
    sim, *others = (
        learn(fresh_network(hidden=(20,)), digits(), backend=b, settings=settings) for b in ("sim", "inprocess", "lava")
    )
    for other in others:
        assert sim.chip == other.chip
        assert sim.counters == other.counters


class TestCheckpoint:
    def run(self, folder, resume=False, epochs=1, **options):
        rng = np.random.default_rng(0)
        data = rng.integers(0, 2, (30, T, 12), np.uint8), rng.integers(0, CLASSES, 30)
        chip = fresh_network((12,), (9,), CLASSES, T, resolution=128, seed=1)
        settings = Settings(readout_rate=0.02, hidden_rate=1.0, **options)
        return learn(
            chip, data, epochs=epochs, settings=settings, evaluate_every=10, checkpoint=folder / "state", resume=resume
        )

    EVERYTHING: ClassVar = dict(loss="mse", learn_bias=True, encoding="split", schedule="pipelined")

    def test_a_run_with_every_option_goes_on_bit_for_bit(self, tmp_path):
        self.run(tmp_path, **self.EVERYTHING)
        resumed = self.run(tmp_path, resume=True, epochs=3, **self.EVERYTHING)
        (tmp_path / "whole").mkdir()
        whole = self.run(tmp_path / "whole", epochs=3, **self.EVERYTHING)
        assert resumed.chip == whole.chip
        assert resumed.counters == whole.counters

    def test_a_run_of_version_0_1_goes_on_with_its_defaults_and_says_so(self, tmp_path):
        old = {"rounding": "per-synapse-1", "encoding": "signed", "learn_when": "always", "feedback": "random"}
        old |= {"average_every": 0, "loss": "mse"}
        assert not self.run(tmp_path, **old).warnings
        (curve,) = tmp_path.glob("*.json")
        curve.write_text(curve.read_text().replace(f'"version": {VERSION}', '"version": 1'))
        resumed = self.run(tmp_path, resume=True, epochs=3)
        (said,) = resumed.warnings
        assert said.startswith("the resumed state is of version 0.1 and continues with its rounding per-synapse-1, ")
        (tmp_path / "whole").mkdir()
        assert resumed.chip == self.run(tmp_path / "whole", epochs=3, **old).chip
        assert resumed.chip != self.run(tmp_path / "whole", epochs=3).chip

    @pytest.mark.parametrize("name", EVERYTHING)
    def test_a_run_of_other_options_is_refused(self, tmp_path, name):
        self.run(tmp_path, **self.EVERYTHING)
        other = {k: v for k, v in self.EVERYTHING.items() if k != name}
        with pytest.raises(FileError, match="the state of another network or rule"):
            self.run(tmp_path, resume=True, epochs=2, **other)


@pytest.mark.slow
def test_the_command_takes_every_option(tmp_path):
    program = Path(sys.executable).with_name("ottt-learn")
    options = {
        "loss": "softmax", "learn-when": "always", "encoding": "split",
        "schedule": "pipelined", "hidden": 16, "epochs": 1, "repeat-in-lava": 50,
    }  # fmt: skip
    line = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [str(program), *line, "--learn-bias", "-o", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    settings = json.loads(done.stdout)["settings"]
    for name, value in options.items():
        assert settings.get(name.replace("-", "_"), value) == value
    assert settings["learn_bias"] is True
    assert json.loads(done.stdout)["steps"] == 1437 * (12 + 3)  # T from scratch, and a gap of three steps
