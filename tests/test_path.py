"""The whole path on real images: train on digits, export, run in Lava; the bars the project promises."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from ottt_loihi.converters import export as exporter  # noqa: E402
from ottt_loihi.converters import verify  # noqa: E402
from ottt_loihi.converters.lava import graph as lava  # noqa: E402
from ottt_loihi.converters.netx import write as netx  # noqa: E402
from ottt_loihi.converters.samples import choose  # noqa: E402
from ottt_loihi.sim.inference import reference  # noqa: E402

from ottt_loihi.data import load_digits  # noqa: E402
from ottt_loihi.nn.models import mlp  # noqa: E402
from ottt_loihi.rules import OTTT  # noqa: E402
from ottt_loihi.training.evaluation import evaluate  # noqa: E402
from ottt_loihi.training.trainer import Trainer  # noqa: E402

EVERYTHING = ("u", "v", "s")


def trained(reset, seed, epochs=30):
    digits = load_digits()
    net = mlp((64, 128, 10), reset=reset, time_steps=6, input_shape=(8, 8), seed=seed)
    net.provenance["data"] = "digits"
    Trainer(net, OTTT(update="step"), seed=seed).fit(digits.x_train, digits.y_train, epochs)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_accuracy_and_agreement_over_three_seeds(reset):
    digits = load_digits()
    accuracies, agreements = [], []
    for seed in range(3):
        net = trained(reset, seed)
        accuracies.append(evaluate(net, digits.x_test, digits.y_test).accuracy)
        agreements.append(exporter.export(net, exporter.Options(check=360)).agreement.predictions)
    assert np.mean(accuracies) >= 0.965
    assert np.mean(agreements) >= 0.99


@pytest.mark.slow
@pytest.mark.lava
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_twenty_images_are_equal_in_lava_and_netx(reset, tmp_path):
    chip = exporter.export(trained(reset, seed=0, epochs=4)).quantized.chip
    x = choose("digits", 20, None).coded(6)
    expected = reference.run(chip, x, EVERYTHING)
    assert expected.spike_counts[0] > 500
    netx.write(chip, tmp_path / "model.net")
    for found in (lava.run(chip, x, EVERYTHING), netx.run(chip, tmp_path / "model.net", x, EVERYTHING)):
        comparison = verify.compare(chip, expected, found)
        assert comparison.different == 0, comparison.first
        assert comparison.compared == 20 * 6 * 3 * 138 + 200
