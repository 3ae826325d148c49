"""Samples as one recording: every state goes on from one to the next, in the oracle, the simulator and Lava."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ottt_loihi.converters.lava.backends import find
from ottt_loihi.converters.samples import chip_choice, chip_input
from ottt_loihi.onchip import fresh_network
from ottt_loihi.sim import storage
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.inference.continuous import as_recording, run_continuous
from ottt_loihi.sim.learning.weight_formats import to_inference
from ottt_loihi.sim.network import LIF, ChipNetwork, Dense, Diagonal

from ottt_loihi.cli.run import run as command
from ottt_loihi.errors import UsageError

STEPS, SAMPLES = 5, 7
READOUTS = ("sum_v", "last_v", "max_v", "spike_count")


def network(readout="sum_v"):
    rng = np.random.default_rng(0)
    layers = (LIF((9,), 1000, 4096, 60), LIF((4,), 4095, 400, 300 if readout == "spike_count" else 131071))
    weights = [2 * rng.integers(-20, 40, shape) for shape in ((9, 6), (4, 9))]
    dense = Dense(-1, 0, weights[0]), Diagonal(0, 0, np.full(9, -30)), Dense(0, 1, weights[1])
    return ChipNetwork((6,), layers, dense, STEPS, readout)


def samples():
    return np.random.default_rng(1).integers(0, 2, (SAMPLES, STEPS, 6), np.uint8)


def step_by_step(chip, x):
    """The oracle's neurons, never reset, read out anew for every sample."""
    state, found = reference.NetworkState(chip, 1), []
    for sample in x.astype(np.int32):
        low = reference.LEAST if chip.readout == "max_v" else 0
        scores = np.full((1, chip.layers[-1].size), low, np.int64)
        for messages in sample:
            state.step(messages[None])
            scores = reference.read_out(chip.readout, scores, state.v[-1], state.s[-1])
        found.append(scores[0])
    return np.array(found)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize(
    "backend", ["sim", *(pytest.param(name, marks=pytest.mark.lava) for name in ("inprocess", "lava"))]
)
def test_nothing_is_reset_in_any_backend(backend, readout):
    if backend != "sim":
        pytest.importorskip("lava.magma.core.process.process")
    chip, x = network(readout), samples()
    found = run_continuous(find(backend), chip, x).scores
    np.testing.assert_array_equal(found, step_by_step(chip, x))
    apart = reference.run(chip, x).scores
    np.testing.assert_array_equal(found[0], apart[0])
    assert (found[1:] != apart[1:]).any()


def test_a_recording_may_be_cut_into_other_samples():
    chip, x = network(), samples()
    whole = reference.run(*as_recording(chip, x)).scores[0]
    np.testing.assert_array_equal(run_continuous(find("sim"), chip, x).scores.sum(axis=0), whole)


def test_what_it_cannot_do_is_said():
    with pytest.raises(UsageError, match="at least one sample"):
        as_recording(network(), samples()[:0])
    with pytest.raises(UsageError, match="the host computes the first connection"):
        as_recording(SimpleNamespace(host=network()), samples())


def test_the_command_runs_all_samples_as_one_recording(tmp_path, capsys):
    model = tmp_path / "model.h5"
    chip = to_inference(fresh_network(hidden=(20,))).chip
    storage.save(chip, model)
    with pytest.raises(UsageError, match="--samples: --continuous runs all samples"):
        command(model, data="digits", samples=5, continuous=True, output=tmp_path, json=True)
    command(model, data="digits", continuous=True, output=tmp_path, json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["samples"], said["continuous"]) == (360, True)
    found = chip_choice(chip, "digits", 360)
    expected = run_continuous(find("sim"), chip, chip_input(chip, found)).predictions
    assert said["accuracy"] == pytest.approx((expected == found.labels).mean())
    command(model, data="digits", output=tmp_path, json=True)
    assert json.loads(capsys.readouterr().out)["accuracy"] != said["accuracy"]
