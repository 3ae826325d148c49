"""What ottt-export --kit writes runs on its own: in Lava, and with stand-ins for a chip; and finds what differs."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import assert_one_line, run_here
from networks import random_messages
from ottt_loihi.converters.lava import kit
from ottt_loihi.sim import storage
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal

from ottt_loihi import sim
from ottt_loihi.errors import ChipError

TESTS = Path(__file__).parent
STAND_INS = """
import json, sys
import numpy as np
from stand_ins import loihi2
class Patch:
    def setitem(self, place, name, value): place[name] = value
loihi2.install(Patch())
loihi2.PyToNxAdapter.delay, loihi2.NxToPyAdapter.delay = 2, 1
import graph
graph.MODELS = loihi2.MODELS
print(json.dumps(graph.measure()))
messages = np.load("samples.npz")["messages"]
np.savez("found.npz", **graph.run(messages, graph.T + 1, lag_in=2, lag_out=1, probe=1))
"""


def network(reset="subtract"):
    rng = np.random.default_rng(0)
    even = lambda *shape: 2 * rng.integers(-100, 100, shape)  # noqa: E731
    layers = [
        LIF((2, 3, 3), 4095, 1024, 150, rng.integers(-9, 9, (2, 3, 3)), 6, name="conv"),
        LIF((4,), 2047, 4096, 200, 5, 6, -5 << 6, name="hidden") if reset == "subtract" else LIF((4,), 4095, 2048, 200),
        LIF((3,), 4095, 4096, 131071, name="readout"),
    ]
    connections = [Conv(INPUT, 0, even(2, 1, 2, 3), (1, 4, 5)), Dense(0, 1, even(4, 18)), Dense(1, 2, even(3, 4))]
    if reset == "subtract":
        connections.append(Diagonal(1, 1, np.full(4, -100)))
    return ChipNetwork((1, 4, 5), tuple(layers), tuple(connections), 4)


@pytest.fixture(params=["subtract", "zero"])
def written(request, tmp_path):
    chip = network(request.param)
    x = random_messages(chip, 3, seed=3)
    return tmp_path, kit.write(chip, tmp_path, x, np.array([0, 1, 2]), of="nothing").chip, x


def python(*arguments, cwd, **environment):
    settings = {"capture_output": True, "text": True, "timeout": 120, "env": os.environ | environment}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, **settings)


def compared(folder):
    spec = importlib.util.spec_from_file_location("compare", folder / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compare


def test_it_holds_all_that_is_needed_and_nothing_of_ours(written):
    folder, chip, x = written
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "compare.py", "expected.npz", "graph.py", "network.h5", "samples.npz"
    ]  # fmt: skip
    assert storage.load(folder / "network.h5") == chip
    for name in ("graph.py", "compare.py"):
        assert "ottt_loihi" not in (folder / name).read_text()
    with np.load(folder / "expected.npz") as expected:
        np.testing.assert_array_equal(expected["scores"], sim.run(chip, x).scores)
        assert expected["v1"].shape == (4, 1, 4)
    text = (folder / "README.md").read_text()
    assert "Nothing of this ever ran on a chip" in text
    assert "3 samples of nothing" in text


@pytest.mark.lava
@pytest.mark.parametrize("written", ["subtract"], indirect=True)
def test_the_scripts_run_in_lava_and_agree(written):
    folder, _, _ = written
    done = python("graph.py", "--simulate", "--probe", "0", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    done = python("compare.py", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scores   0 of 9 differ" in done.stdout
    with np.load(folder / "found.npz") as found:
        assert sorted(found) == ["s0", "s1", "s2", "scores", "u0", "v0"]
        assert found["s0"].any()
        wrong = dict(found) | {"scores": found["scores"] + 1}
    np.savez(folder / "found.npz", **wrong)
    done = python("compare.py", cwd=folder)
    assert done.returncode == 1
    assert "scores   9 of 9 differ, first at sample 0, class 0" in done.stdout


@pytest.mark.lava
def test_the_graph_for_a_chip_runs_with_stand_ins(tmp_path):
    """Adapters that take steps are measured, and given; another interval than T; a probe at every step."""
    chip = network()
    kit.write(chip, tmp_path, random_messages(chip, 2, seed=3))
    done = python("-c", STAND_INS, cwd=tmp_path, PYTHONPATH=f"{TESTS}{os.pathsep}{tmp_path}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[0]) == {"lag_in": 2, "lag_out": 1, "reset": 7}
    with np.load(tmp_path / "expected.npz") as expected, np.load(tmp_path / "found.npz") as found:
        assert sorted(found) == ["s0", "s1", "s2", "scores", "u1", "v1"]
        for name in found:
            shown = expected[name][:, :1] if name in ("u1", "v1") else expected[name]
            np.testing.assert_array_equal(found[name], shown, name)
        assert found["s1"].any()


def test_v_at_a_spike_is_left_out_and_nowhere_else(written):
    """A probe of the chip shows 128 there."""
    folder, _, _ = written
    compare = compared(folder)
    with np.load(folder / "expected.npz") as file:
        expected = dict(file)
    found = {name: expected[name].copy() for name in ("s0", "v0", "scores")}
    fired = expected["s0"][:, :1]
    assert fired.any()
    found["v0"][fired] = 128
    assert [(name, different) for name, _, different, _ in compare(expected, found)] == [
        ("s0", 0), ("scores", 0), ("v0", 0)
    ]  # fmt: skip
    place = tuple(np.argwhere(~fired)[0])
    found["v0"][place] += 1
    (line,) = [line for line in compare(expected, found) if line[0] == "v0"]
    assert line[2] == 1
    assert f"step {place[0] + 1}, sample 0, neuron {place[2]}" in line[3]


def test_the_command_writes_it_and_says_what_is_different(tmp_path):
    storage.save(network(), tmp_path / "model.h5")
    done = run_here("ottt-export", tmp_path / "model.h5", "--kit", "--verify-samples", "2")
    assert done.returncode == 0, done.stderr
    assert "kit: registers: dv = 4095 for 4096 in hidden" in done.stderr
    assert "2 samples of random messages" in (tmp_path / "loihi2_kit" / "README.md").read_text()
    line = ("ottt-export", tmp_path / "model.h5", "--kit", "--target", "loihi1")
    assert_one_line(run_here(*line), 2, "--kit: is for --target loihi2")


def test_plastic_and_unfit_networks_are_refused_before_anything_is_written(tmp_path):
    chip = network("zero")
    odd = Dense(1, 2, np.full((3, 4), -3), weight_format="learning9")
    plastic = replace(chip, connections=(*chip.connections[:2], odd))
    slow = replace(chip, layers=(replace(chip.layers[0], du=-1), *chip.layers[1:]))
    for network_, says in ((plastic, "to_inference"), (slow, "du = -1")):
        with pytest.raises(ChipError, match=says):
            kit.write(network_, tmp_path / "kit", random_messages(network_, 1))
    assert not (tmp_path / "kit").exists()
