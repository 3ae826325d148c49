"""The script that ottt-export writes runs on its own in Lava and gives the simulator's answer."""

import subprocess
import sys

import numpy as np
import pytest
from networks import random_messages
from ottt_loihi.converters.lava import script as lava_script
from ottt_loihi.sim import storage
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal, Sparse

from ottt_loihi import sim
from ottt_loihi.errors import ChipError


def network():
    """Everything at once: convolution, delays, exponents, biases, a reset by subtraction, a recurrent layer."""
    rng = np.random.default_rng(0)
    even = lambda *shape: 2 * rng.integers(-100, 100, shape)  # noqa: E731
    layers = (
        LIF((2, 3, 3), 4095, 1024, np.array([150, 90]).reshape(2, 1, 1), rng.integers(-9, 9, (2, 3, 3)), 6),
        LIF((4,), 2047, 4096, 200, 5, 6, -5 << 6),
        LIF((3,), 4095, 4096, 131071),
    )
    connections = (
        Conv(INPUT, 0, even(2, 1, 2, 3), (1, 4, 5)),
        Dense(0, 1, even(4, 18)),
        Diagonal(1, 1, np.full(4, -100)),
        Dense(1, 2, even(3, 4), weight_exp=1),
        Sparse(0, 2, (3, 18), np.array([0, 2]), np.array([1, 17]), np.array([50, -50]), delay=1),
    )
    return ChipNetwork((1, 4, 5), layers, connections, 6)


@pytest.mark.lava
def test_the_script_runs_on_its_own(tmp_path):
    chip = network()
    storage.save(chip, tmp_path / "model.h5")
    lava_script.write(chip, tmp_path / "model_lava.py")
    assert "ottt_loihi" not in (tmp_path / "model_lava.py").read_text()
    x = random_messages(chip, 1, seed=3)
    np.save(tmp_path / "sample.npy", x[0])
    done = subprocess.run(
        [sys.executable, "model_lava.py", "sample.npy"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = sim.run(chip, x)
    assert done.stdout.splitlines()[-2] == " ".join(map(str, expected.scores[0]))
    assert done.stdout.splitlines()[-1] == f"class {expected.predictions[0]}"
    assert expected.spike_counts[:2].min() > 0


def test_plastic_connections_are_refused(tmp_path):
    chip = ChipNetwork(
        (2,), (LIF((1,), 0, 0, 9),), (Dense(INPUT, 0, np.array([[3, -5]]), weight_format="learning9"),), 2
    )
    with pytest.raises(ChipError, match="to_inference"):
        lava_script.write(chip, tmp_path / "a.py")
