"""ChipNetwork, the NumPy reference and the Lava runtime agree on every u, v and spike; and so does lava-dl's netx."""

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from networks import chip_networks, conv_networks, random_messages
from ottt_loihi.converters import verify
from ottt_loihi.converters.lava import graph as lava
from ottt_loihi.converters.lava.backends import BACKENDS
from ottt_loihi.converters.netx import write as netx
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal

from ottt_loihi.errors import ChipError

EVERYTHING = ("u", "v", "s")
# Lava's own ProcessModels; without the operating system processes of its runtime a random network costs a tenth
IN_PROCESS = BACKENDS["inprocess"]


def assert_equal_runs(chip, expected, found):
    for name in EVERYTHING:
        for left, right in zip(expected.states[name], found.states[name], strict=True):
            np.testing.assert_array_equal(left, right, err_msg=str(verify.compare(chip, expected, found).first))
    np.testing.assert_array_equal(expected.scores, found.scores)
    np.testing.assert_array_equal(expected.spike_counts, found.spike_counts)


def mlp(reset, seed=0, bias=False):
    rng = np.random.default_rng(seed)
    hidden, readout = rng.integers(-60, 60, (32, 16)) * 2, rng.integers(-128, 128, (10, 32)) * 2
    b = rng.integers(-20, 20, 32) if bias else np.zeros(32, np.int32)
    connections = [Dense(INPUT, 0, hidden), Dense(0, 1, readout)]
    if reset == "zero":
        lif = LIF((32,), 4095, 2048, 200, b, 6, name="hidden")
    else:
        lif = LIF((32,), 2047, 4096, 200, b, 6, -(b << 6), name="hidden")
        connections.append(Diagonal(0, 0, np.full(32, -100)))
    return ChipNetwork((16,), (lif, LIF((10,), 4095, 4096, 131071, name="readout")), tuple(connections), 6)


@pytest.mark.lava
@settings(max_examples=4, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(chip=chip_networks())
def test_random_networks_equal_lava(chip):
    x = random_messages(chip, batch=3)
    assert_equal_runs(chip, reference.run(chip, x, EVERYTHING), lava.run(chip, x, EVERYTHING))


@pytest.mark.slow
@pytest.mark.lava
@settings(max_examples=7, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(chip=conv_networks())
def test_convolutions_equal_lava(chip):
    x = random_messages(chip, batch=2)
    assert_equal_runs(chip, reference.run(chip, x, EVERYTHING), lava.run(chip, x, EVERYTHING))


@pytest.mark.lava
def test_conv_sums_wrap_at_24_bits_as_in_lava():
    conv = Conv(INPUT, 0, np.full((1, 2, 3, 3), 254), (2, 4, 4), padding=(1, 1), num_message_bits=12)
    chip = ChipNetwork((2, 4, 4), (LIF((1, 4, 4), 4095, 4096, 131071),), (conv,), 2)
    x = np.full((1, 2, 2, 4, 4), 4000)
    expected = reference.run(chip, x, EVERYTHING)
    assert (expected.states["u"][0] != 64 * 254 * 4000 * 18).any()
    assert_equal_runs(chip, expected, lava.run(chip, x, EVERYTHING))


@pytest.mark.lava
@pytest.mark.slow
@settings(max_examples=80, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(chip=conv_networks())
def test_many_convolutions_equal_lavas_models(chip):
    x = random_messages(chip, batch=3)
    assert_equal_runs(chip, reference.run(chip, x, EVERYTHING), IN_PROCESS.run(chip, x, EVERYTHING))


@pytest.mark.lava
@pytest.mark.slow
@settings(max_examples=120, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(chip=chip_networks(max_layers=4, max_size=12))
def test_many_random_networks_equal_lavas_models(chip):
    x = random_messages(chip, batch=4)
    assert_equal_runs(chip, reference.run(chip, x, EVERYTHING), IN_PROCESS.run(chip, x, EVERYTHING))


@pytest.mark.slow
@pytest.mark.lava
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("bias", [False, True])
def test_netx_equals_the_reference(reset, bias, tmp_path):
    chip = mlp(reset, bias=bias)
    netx.write(chip, tmp_path / "model.net")
    x = random_messages(chip, batch=3)
    expected = reference.run(chip, x, EVERYTHING)
    assert expected.spike_counts[0] > 50
    assert_equal_runs(chip, expected, netx.run(chip, tmp_path / "model.net", x, EVERYTHING))


@pytest.mark.lava
def test_plastic_weights_are_refused_because_lava_would_truncate_them():
    chip = ChipNetwork(
        (2,), (LIF((1,), 0, 0, 1),), (Dense(INPUT, 0, np.array([[-3, 5]]), weight_format="learning9"),), 1
    )
    with pytest.raises(ChipError, match="to_inference"):
        lava.run(chip, np.zeros((1, 1, 2), np.uint8))


def test_net_file_holds_what_netx_expects(tmp_path):
    chip = mlp("subtract", bias=True)
    netx.write(chip, tmp_path / "model.net")
    with h5py.File(tmp_path / "model.net") as file:
        assert file["layer/0/type"][()] == b"dense_rec"
        np.testing.assert_array_equal(np.diag(file["layer/0/weight_rec"][()]), -100)
        np.testing.assert_array_equal(file["layer/1/weight"][()], chip.connections[1].weight)
        assert file["layer/0/neuron/iDecay"][()] == chip.layers[0].du + 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bias_exp": 3, "bias_mant": 5}, "bias_exp"),
        ({"weight_exp": 1}, "weight exponent"),
        ({"skip": True}, "model.h5"),
    ],
)
def test_what_netx_cannot_load_is_refused(change, says, tmp_path):
    w = np.array([[2, -4]])
    layers = (LIF((2,), 0, 0, 1), LIF((1,), 0, 0, 1, change.get("bias_mant", 0), change.get("bias_exp", 0)))
    connections = [Dense(INPUT, 0, w.T @ w), Dense(0, 1, w, weight_exp=change.get("weight_exp", 0))]
    if "skip" in change:
        connections.append(Dense(INPUT, 1, w, delay=1))
    with pytest.raises(ChipError, match=says):
        netx.write(ChipNetwork((2,), layers, tuple(connections), 2), tmp_path / "model.net")
    assert not list(tmp_path.iterdir())
