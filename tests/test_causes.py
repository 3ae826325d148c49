"""Why an integer network's spikes differ: the stages from the trained network to the chip."""

from dataclasses import replace

import numpy as np
import pytest
from ottt_loihi.converters.quantize.causes import causes
from ottt_loihi.converters.quantize.float_connection import FloatConnection
from ottt_loihi.converters.quantize.float_network import FloatLayer, FloatNetwork
from ottt_loihi.converters.quantize.quantize import quantize


def network(weights, v_threshold=1.0, beta=0.5, bias=0.0):
    """Return an MLP whose hidden layer has these weights, and a readout that adds pairs of its neurons."""
    hidden = len(weights)
    layers = (
        FloatLayer("hidden 1", (hidden,), np.full(hidden, bias), "zero", beta, v_threshold),
        FloatLayer("readout", (2,), np.zeros(2)),
    )
    second = np.zeros((2, hidden))
    second[0, ::2] = second[1, 1::2] = 1.0
    connections = (FloatConnection(-1, 0, np.asarray(weights, float)), FloatConnection(0, 1, second))
    return FloatNetwork((weights.shape[1],), 8, layers, connections)


def found(net, bits=8):
    x = (np.random.default_rng(0).random((20, 8, *net.input_shape)) < 0.4).astype(np.uint8)
    result = causes(net, quantize(net, bits), x, x)
    return {stage.name: stage.spikes for stage in result.stages}, result


def test_weights_of_few_bits_are_the_cause():
    weights = np.random.default_rng(1).normal(0, 0.4, (30, 12))
    shares, result = found(network(weights, v_threshold=0.9), bits=3)
    assert shares["as trained"] > 0.02
    assert shares["weights and biases"] < 0.2 * shares["as trained"]
    assert result.samples == 20
    assert result.stages[0].predictions > 0 == result.stages[-1].predictions


def test_a_decay_between_two_of_the_chips_is_the_cause():
    """Weights and thresholds are whole numbers, which nothing rounds."""
    weights = np.full((4, 3), 127.0) * np.array([[1], [0.5], [-1], [0.25]])
    weights = np.round(weights) * 2
    shares, _ = found(network(weights, v_threshold=100.0, beta=0.9 + 1 / 8192 / 2), bits=8)
    assert shares["as trained"] == shares["weights and biases"] == shares["thresholds"]
    assert "decays" in shares


@pytest.mark.parametrize("bias", [0.0, 0.07])
def test_the_stages_end_where_only_sums_are_rounded(bias):
    """The last float network has all the values of the chip's integers, biases included."""
    weights = np.random.default_rng(2).normal(0, 0.5, (40, 16))
    shares, _ = found(network(weights, v_threshold=0.83, beta=0.77, bias=bias), bits=4)
    last = list(shares.values())[-1]
    assert last < 0.003 < shares["as trained"]


def test_graded_messages_of_any_unit_are_what_the_float_network_sees():
    """The unit is in the float weights, so samples in the network's own unit, 0.1 here, are not its input."""
    net = replace(network(np.random.default_rng(3).normal(0, 2, (30, 12))), input="graded")
    messages = np.random.default_rng(0).integers(0, 200, (5, 8, 12))
    own, other = (causes(net, quantize(net), messages * unit, messages) for unit in (1 / 255, 0.1))
    assert own == other


def test_a_network_too_large_to_follow_is_left_out(monkeypatch):
    from ottt_loihi.converters.quantize import causes as module

    monkeypatch.setattr(module, "MAX_WORK", 10)
    net = network(np.eye(4))
    assert causes(net, quantize(net), np.ones((1, 8, 4)), np.ones((1, 8, 4), np.uint8)) is None


@pytest.mark.parametrize(
    ("coding", "options"),
    [
        ("rate", {}),
        ("constant", {}),
        ("constant", {"mean": [0.2], "std": [0.3]}),
        ("graded", {}),
        ("graded", {"unit": 0.02}),
    ],
)
def test_the_first_stage_is_the_network_that_was_trained(coding, options, tmp_path):
    """Whatever the input: the float spikes are those that the export compares with the chip's."""
    pytest.importorskip("torch")
    from ottt_loihi.converters.export import Options
    from ottt_loihi.converters.export import export as export_network

    import ottt_loihi as ol
    from ottt_loihi.data.description import DataDescription, Step

    net = ol.conv("6C3-AP2-8C3-GAP", input_shape=(1, 8, 8), reset="subtract", time_steps=5, seed=1)
    for block in net.blocks:
        block.connection.weight.data *= 2.5
    timed = coding == "graded"
    x = np.random.default_rng(0).random((30, 5, 1, 8, 8) if timed else (30, 1, 8, 8), np.float32)
    labels = np.arange(30) % 10
    path = tmp_path / "images.npz"
    np.savez(path, x_train=x, y_train=labels, x_test=x, y_test=labels, time_axis=timed)
    net.data = DataDescription((1, 8, 8), 10, Step(coding, options), "analog", (0.0, 1.0), 5 if timed else None)
    net.provenance |= {"data": str(path), "encoding": {"name": coding, "options": options}}
    found = export_network(net, Options(num_weight_bits=4, check=30))
    sizes = [layer.size for layer in found.chip.layers[:-1]]
    differing = 1 - np.average(found.agreement.spikes_equal, weights=sizes)
    assert differing > 0.003
    assert found.causes.stages[0].spikes == pytest.approx(differing, abs=1e-3)
    last = found.causes.stages[-1]
    assert last.spikes < 0.3 * differing
