"""Real events and real colour images go through the whole of training, augmentations included, and are learnt."""

from pathlib import Path

import pytest

from ottt_loihi.training.config import make_config, override, read_config
from ottt_loihi.training.run import run

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.slow
def test_nmnist_is_learnt(real_data, monkeypatch, tmp_path):
    """1,000 recordings and 4 epochs; 84 % after 8 epochs, chance is 10 %."""
    monkeypatch.setenv("OTTT_DATA_DIR", str(real_data("nmnist-small")))
    config = read_config(CONFIGS / "n-mnist-mlp.toml")
    changes = {"training.epochs": 4, "training.threads": 1, "training.batch_size": 32}
    assert run(override(config, changes), tmp_path)["test_accuracy"] > 0.6


@pytest.mark.slow
def test_cifar10_is_learnt(cifar10_folder, monkeypatch, tmp_path):
    """4,000 images, the paper's augmentations and rule, a small network; 41 % after 2 epochs, chance is 10 %."""
    monkeypatch.setenv("OTTT_DATA_DIR", str(cifar10_folder))
    tables = read_config(CONFIGS / "cifar10-vgg-ottt-a.toml").tables()
    tables["network"] = {
        "name": "conv",
        "features": "16C3-AP2-32C3-AP2-64C3-AP2-128F",
        "standardized": True,
        "convention": "authors",
    }
    changes = {"device": "cpu", "epochs": 2, "batch_size": 32, "optimizer": "adam", "learning_rate": 2e-3}
    tables["training"] |= changes
    assert run(make_config(tables), tmp_path)["test_accuracy"] > 0.25


def test_tensorboard_has_every_epoch(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    config = make_config({"network": {"hidden": [8]}, "training": {"epochs": 2}})
    result = run(config, tmp_path, tensorboard=True)
    found = events.EventAccumulator(str(tmp_path)).Reload()
    assert set(found.Tags()["scalars"]) == {
        "loss", "train_accuracy", "validation_accuracy", "test_accuracy", "learning_rate", "samples_per_second",
        "spike_rate/1",
    }  # fmt: skip
    assert [event.step for event in found.Scalars("test_accuracy")] == [1, 2]
    assert found.Scalars("test_accuracy")[1].value == pytest.approx(result["test_accuracy"])
