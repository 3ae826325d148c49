"""Every file of configs/ is sound, and trains: a batch of real samples where they are, of random ones where not."""

import csv
import importlib.util
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ottt_loihi.data.images import load_image_folder
from ottt_loihi.data.registry import DATA_SETS, loader_options
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.training.compare import read_comparison
from ottt_loihi.training.config import Config, override, read_config
from ottt_loihi.training.run import run

CONFIGS = Path(__file__).parents[1] / "configs"
PATHS = sorted(CONFIGS.glob("*.toml"))
COMPARISONS = sorted((CONFIGS / "compare").glob("*.toml"))
SAMPLES, STEPS = 1, 2
SHAPES = {  # of a sample, time included, and classes
    "digits": ((8, 8), 10),
    "mnist": ((28, 28), 10),
    "fashion-mnist": ((28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "imagenet": ((3, 224, 224), 1000),
    "n-mnist": ((STEPS, 2, 34, 34), 10),
    "cifar10-dvs": ((STEPS, 2, 48, 48), 10),
    "dvs-gesture": ((STEPS, 2, 128, 128), 11),
    "fsdd": ((STEPS, 40), 10),
    "gas-drift": ((128,), 6),
    "myo-emg": ((STEPS, 16), 8),
    "mitbih": ((42,), 4),
    "braille": ((STEPS, 12), 7),
    "uea-timeseries": ((STEPS, 12), 9),
}
# what a configuration asks for and this test does not do
ELSEWHERE = {
    "device": ("cpu", "tests/test_gpu.py trains on a GPU"),
    "autocast": ("", "tests/test_precision.py trains with 16 bits"),
    "cuda_graph": (False, "tests/test_cuda_graph.py records a graph"),
    "epochs": (1, "it is no test of what is learnt"),
    "validation": (0.0, "tests/test_fit.py holds samples out"),
    "class_weights": ("", "one sample does not show every class; tests/test_fit.py weighs them"),
    "batch_size": (SAMPLES, "one batch"),
    "threads": (1, "tests run side by side"),
    "workers": (0, "the few samples are an array; tests/test_fit.py reads in processes"),
}


def sample_shape(config: Config) -> tuple[tuple[int, ...], int]:
    """Shape of a sample, with a channel axis where the network wants one, and number of classes."""
    shape, classes = SHAPES[config.data["name"]]
    flat = len(shape) == 2 and config.network.get("name", "mlp") != "mlp"
    return (1, *shape) if flat else shape, classes


def timed(shape: tuple[int, ...]) -> bool:
    """Whether a sample of this shape begins with time."""
    return shape[0] == STEPS


def options_of(config: Config) -> list[str]:
    """The loader's options; ImageNet has no name of its own."""
    name = config.data["name"]
    return loader_options(name) if name in DATA_SETS else []


def few_samples(config: Config) -> Split:
    """The first real samples, or random ones of the same shape."""
    try:
        return load_data(config).first(SAMPLES, SAMPLES)
    except (FileError, UsageError):  # ImageNet has no name of its own
        shape, classes = sample_shape(config)
        rng = np.random.default_rng(0)
        x, y = rng.random((SAMPLES, *shape)).astype(np.float32), rng.integers(0, classes, SAMPLES)
        return Split(x, y, x, y, num_classes=classes, name=config.data["name"], time_axis=timed(shape))


load_data = Config.load_data


def has_slayer():
    return importlib.util.find_spec("lava") is not None and importlib.util.find_spec("lava.lib.dl") is not None


def train(config, folder):
    """One batch and one test; returns the loss."""
    changes = {f"training.{name}": value for name, (value, _) in ELSEWHERE.items()}
    if config.network.get("name", "mlp") != "dsr":
        changes["network.time_steps"] = STEPS
    if "num_steps" in options_of(config):
        changes["data.num_steps"] = STEPS
    if str(config.data.get("encoding", "")).startswith("slots"):
        changes["data.encoding"] = f"slots:parts={STEPS}"  # at most as many parts as steps
    if config.rule.get("name") in ("ide", "spide"):
        changes["rule.not_converged"] = "continue"  # so few steps reach no equilibrium
    run(override(config, changes), folder)
    with (folder / "metrics.csv").open() as file:
        return float(next(csv.DictReader(file))["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_config_trains(path, tmp_path, monkeypatch):
    monkeypatch.setattr(Config, "load_data", few_samples)
    config = read_config(path)
    if config.network.get("name") == "slayer" and not has_slayer():
        pytest.skip("lava-dl is not installed")
    assert math.isfinite(train(config, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_every_contender_trains(path, tmp_path, monkeypatch):
    monkeypatch.setattr(Config, "load_data", few_samples)
    for contender in read_comparison(path).contenders:
        assert math.isfinite(train(contender.config, tmp_path / contender.folder)), contender.label


def test_what_is_not_done_here_is_done_where_it_says():
    for _, reason in ELSEWHERE.values():
        if reason.startswith("tests/"):
            assert (CONFIGS.parent / reason.split()[0]).exists()


def test_data_options_of_every_config_are_the_loaders():
    for path in PATHS:
        data = dict(read_config(path).data)
        name = data.pop("name")
        loader = DATA_SETS[name].load if name in DATA_SETS else load_image_folder
        assert set(data) - {"encoding", "augmentations", "scale", "quantile"} <= set(
            inspect.signature(loader).parameters
        ), path


def test_every_config_is_sound():
    assert len(PATHS) >= 12
    for path in PATHS:
        config = read_config(path)
        if config.network.get("name") == "slayer" and not has_slayer():
            continue
        shape, classes = sample_shape(config)
        with torch.device("meta"):
            net = config.make_network(shape[1:] if timed(shape) else shape, classes)
        config.make_rule(net.convention)


def test_every_comparison_is_sound():
    for path in COMPARISONS:
        for contender in read_comparison(path).contenders:
            contender.config.make_network((1, 28, 28), 10)
