"""From a file of a sensor to the chip: every coding goes the whole way, with the same bits in training and there."""

import csv
import json

import numpy as np
import pytest
from commands import assert_one_line, run_here
from ottt_loihi.converters.export import Options, export
from ottt_loihi.converters.lava.backends import BACKENDS
from ottt_loihi.converters.samples import chip_choice, chip_input
from ottt_loihi.converters.verify import compare

from ottt_loihi import sim
from ottt_loihi.data import CODINGS, encode
from ottt_loihi.data.codings import message_value, parse_coding
from ottt_loihi.data.sparse import SparseArray
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.inputs import frames
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.config import make_config
from ottt_loihi.training.encoding import encode as encode_for_training
from ottt_loihi.training.run import run

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
STEPS = 8


def series(path, **more):
    x = RNG.normal(size=(60, STEPS, 4))
    x[np.arange(60), :, Y] += np.linspace(0, 4, STEPS)
    np.savez(path, x=x, y=Y, time_axis=True, **more)
    return path


def trained(path, folder, network=None, **data):
    tables = {
        "data": {"name": str(path), **data},
        "network": {"hidden": [12, 8], **(network or {})},
        "rule": {"update": "sequence"},
    }
    run(make_config({**tables, "training": {"epochs": 2, "learning_rate": 0.02}}), folder)
    return load(folder / "model.pt")


def events(path):
    """Few spikes, which are kept sparse; a class is the order in which two groups of lines fire."""
    x = (RNG.random((60, STEPS, 24)) < 0.03).astype(np.uint8)
    x[np.arange(60), 1 + 2 * Y, :12] = x[np.arange(60), 5 - 2 * Y, 12:] = 1
    np.savez(path, x=x, y=Y, time_axis=True)
    return path


def images(path):
    x = RNG.random((60, 12))
    x[np.arange(60), Y] = 1
    np.savez(path, x=x, y=Y)
    return path


# every coding, on data of the kind that it is for
ENCODINGS = {
    "rate": series,
    "regular": series,
    "latency": images,
    "delta": series,
    "population:neurons=3": series,
    "thermometer:levels=3": series,
    "graded": series,
    "frames": events,
    "delays:copies=3,apart=2": events,
    "slots:parts=3": events,
    "constant": images,
}


def test_every_coding_is_tried():
    assert {parse_coding(text).name for text in ENCODINGS} == set(CODINGS)


@pytest.mark.lava
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_training_simulator_and_lava_get_the_same_bits(tmp_path, encoding):
    path = ENCODINGS[encoding](tmp_path / "a.npz")
    steps = {"time_steps": STEPS} if ENCODINGS[encoding] is images else {}
    net = trained(path, tmp_path, network=steps, encoding=encoding)
    chip = export(net, Options(check=5, allow_dead=True)).chip  # float, torch integers and sim are compared here
    assert chip.data == net.data
    found = chip_choice(chip, str(path), 7)
    assert isinstance(found.split.x_test, SparseArray) == (ENCODINGS[encoding] is events)
    messages = chip_input(chip, found, seed=0)
    coding, indices, time_axis = net.data.coding, found.indices, net.data.time_axis
    x = found.split.x_test[indices]
    trained_on = encode_for_training(x, coding, STEPS, 0, indices, time_axis=time_axis)
    seen = np.stack([frame.numpy() for frame in frames(trained_on)], axis=1)
    expected = np.rint(seen / message_value(coding)).astype(messages.dtype).reshape(messages.shape)
    np.testing.assert_array_equal(messages, expected)
    np.testing.assert_array_equal(
        messages, encode(found.x, coding, STEPS, 0, indices, time_axis=time_axis).reshape(messages.shape)
    )
    assert messages.any()
    graded = any(c.num_message_bits for c in chip.connections if c.pre < 0)
    assert graded == CODINGS[coding.name].messages
    alone = sim.run(chip, messages[3:4]).scores
    np.testing.assert_array_equal(sim.run(chip, messages).scores[3:4], alone)
    states, few = ("u", "v", "s"), messages[:2]
    checked = compare(chip, sim.run(chip, few, states), BACKENDS["inprocess"].run(chip, few, states))
    assert checked.different == 0
    assert checked.compared > 2 * STEPS * 23 * 2


def test_counts_are_messages_of_their_own_unit(tmp_path):
    counts = RNG.integers(0, 6, (60, STEPS, 4)).astype(np.uint8)
    counts[np.arange(60), :, Y] += 4
    np.savez(tmp_path / "c.npz", x=counts, y=Y, time_axis=True)
    net = trained(tmp_path / "c.npz", tmp_path)
    found = export(net, Options(check=12, allow_dead=True))
    assert found.agreement.predictions >= 0.9
    choice = chip_choice(found.chip, str(tmp_path / "c.npz"), 5)
    np.testing.assert_array_equal(chip_input(found.chip, choice), choice.split.x_test[choice.indices])
    with pytest.raises(UsageError, match="this input changes, choose graded"):
        export(net, Options(input_form="bias"))


def test_the_commands_need_no_option_again(tmp_path, monkeypatch):
    path = series(tmp_path / "a.npz", class_names=np.array(["rest", "fist", "wave"]), dt=0.01)
    trained(path, tmp_path / "r")
    done = run_here("ottt-export", tmp_path / "r/model.pt", "--max-disagreement", "0.5", "--allow-dead")
    assert done.returncode == 0, done.stderr
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    np.savez(tmp_path / "new.npz", x=np.load(path)["x"][:9])
    model = "../r/model.h5"
    done = run_here("ottt-run", model, "--data", "../new.npz", "--predictions", "p.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["said"] == "all 9"
    with open("p.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert {row["prediction"] for row in rows} <= {"rest", "fist", "wave"}
    assert {row["label"] for row in rows} == {""}
    done = run_here("ottt-run", model, "--samples", "5", "--json")
    found = json.loads(done.stdout)
    assert (found["said"], len(found["recall"])) == ("5 of 12, drawn over all,", 3)
    np.savez(tmp_path / "short.npz", x=np.load(path)["x"][:, :5], y=Y, time_axis=True)
    assert_one_line(run_here("ottt-run", model, "--data", "../short.npz"), 2, "expected samples of 8 time steps, got 5")
