"""``ottt-learn --changed`` and ``--replay``: samples of the old world among the new ones."""

import json

import numpy as np
import pytest
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.sim import storage
from ottt_loihi.sim.learning.weight_formats import to_inference

from ottt_loihi.cli.learn import learn as command
from ottt_loihi.cli.learn_scenario import make_scenario, with_replay
from ottt_loihi.data.on_demand import OnDemand, joined
from ottt_loihi.errors import UsageError


@pytest.fixture
def model(tmp_path):
    chip = to_inference(fresh_network((8, 8), (12,), num_steps=4, seed=0)).chip
    storage.save(chip, tmp_path / "model.h5")
    return tmp_path / "model.h5"


def scenario(model, transform="upside-down"):
    return make_scenario(model, transform, None, 1.0, None, 0, None)


def test_old_samples_follow_the_new_ones_and_are_drawn_anew_each_epoch(model):
    plain, mixed = scenario(model), with_replay(scenario(model), 0.25)
    assert (plain.samples, mixed.samples) == (1437, 1437 + 359)
    drawn = []
    for epoch in range(2):
        (new, labels), (x, y) = plain.training(epoch), mixed.training(epoch)
        np.testing.assert_array_equal(x[:1437], new)
        np.testing.assert_array_equal(y[:1437], labels)
        again, same = mixed.training(epoch)
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y, same)
        drawn.append(y[1437:])
        old, of_old = scenario(model, "none").training(epoch)  # the same spikes of the same images
        known = {spikes.tobytes(): label for spikes, label in zip(old, of_old)}
        assert [known[spikes.tobytes()] for spikes in x[1437:]] == y[1437:].tolist()
    assert not np.array_equal(*drawn)


def test_samples_that_are_kept_for_stop_at_are_not_replayed(model):
    apart = make_scenario(model, "upside-down", None, 1.0, None, 0, None, validate=True)
    mixed = with_replay(apart, 1.0)
    upright = scenario(model, "none").training(0)[0]
    kept = np.setdiff1d(np.arange(1437), _places(scenario(model).training(0)[0], apart.training(0)[0]))
    assert len(kept) == 144
    replayed = _places(upright, mixed.training(0)[0][len(apart.training(0)[1]) :])
    assert not set(replayed) & set(kept)


def _places(everything, some):
    """Indices of all samples that have the spikes of some of them."""
    wanted = {spikes.tobytes() for spikes in some}
    return [place for place, spikes in enumerate(everything) if spikes.tobytes() in wanted]


def test_samples_of_both_in_their_order_also_on_demand():
    first, second = np.arange(6).reshape(3, 2), np.arange(10, 14).reshape(2, 2)
    whole = np.concatenate([first, second])
    lazy = joined(OnDemand(lambda places: first[places], 3), second)
    assert isinstance(lazy, OnDemand)
    for places in ([4, 0, 3], [0, 1], [3], slice(None)):
        np.testing.assert_array_equal(lazy[places], whole[places])
        np.testing.assert_array_equal(joined(first, second)[places], whole[places])


def test_one_option_chooses_loss_samples_rates_and_replay(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ottt_loihi.cli.learn_report.write", lambda folder, scenario, result, summary: {})
    line = {"transform": "upside-down", "epochs": 1, "output": tmp_path, "json": True}
    command(model, changed=True, **line)
    summary = json.loads(capsys.readouterr().out)
    chosen = {name: summary["settings"][name] for name in ("loss", "learn_when", "halve_every")}
    assert chosen == {"loss": "softmax", "learn_when": "always", "halve_every": 1796}
    assert (summary["samples"], summary["samples_replayed"]) == (1796, 359)
    command(model, changed=True, replay=0.0, halve_every=5, **line)
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["samples_replayed"], summary["settings"]["halve_every"]) == (1437, 0, 5)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            {"changed": True},
            "these are the data that the network was trained on, or those are not here; use --replay 0",
        ),
        ({"replay": 1.0, "in_order": True}, "belong to shuffled epochs; leave out --in-order and --prequential"),
        ({"changed": True, "prequential": True}, "belong to shuffled epochs"),
    ],
)
def test_wrong_use(model, tmp_path, line, says):
    with pytest.raises(UsageError, match=f"--changed, --replay: .*{says}"):
        command(model, output=tmp_path, json=True, **line)


def test_a_new_network_has_nothing_to_replay(tmp_path):
    with pytest.raises(UsageError, match="--changed, --replay: a network that starts from scratch has learnt nothing"):
        command(output=tmp_path, json=True, changed=True)
