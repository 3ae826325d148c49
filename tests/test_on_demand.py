"""What a coding makes of a data set comes in parts: the memory is bounded, and every number stays the same."""

import json

import numpy as np
import pytest
from commands import run_here
from ottt_loihi.converters import samples
from ottt_loihi.converters.export import Options, export
from ottt_loihi.converters.samples import chip_choice, chip_input, input_on_demand
from ottt_loihi.onchip import Settings, learn, prequential, watch
from ottt_loihi.sim import storage
from ottt_loihi.sim.learning.weight_formats import make_plastic
from test_backbone import data as messages
from test_backbone import network
from test_data_to_chip import events, series, trained
from test_learner import digits, small

from ottt_loihi import sim
from ottt_loihi.data import on_demand
from ottt_loihi.data.on_demand import OnDemand
from ottt_loihi.data.sparse import SparseArray
from ottt_loihi.errors import UsageError


def later(x):
    return OnDemand(lambda places: x[places], len(x))


def test_it_is_read_like_the_array(monkeypatch):
    x = np.random.default_rng(0).integers(0, 9, (7, 3, 2))
    found = later(x)
    assert (len(found), found.shape, found.dtype, found.nbytes) == (7, x.shape, x.dtype, x.nbytes)
    for key in (3, -1, slice(2, 5), slice(None), [5, 2], np.array([6]), slice(7, 9)):
        np.testing.assert_array_equal(found[key], x[key])
        if not isinstance(key, int) and len(x[key]):
            np.testing.assert_array_equal(found.only(key)[:], x[key])
    for limit, sizes in ((1, [1] * 7), (2 * x[0].nbytes, [2, 2, 2, 1]), (x.nbytes, [7])):
        monkeypatch.setattr(on_demand, "BATCH_BYTES", limit)
        assert [len(part) for part in found] == sizes
        np.testing.assert_array_equal(np.concatenate(list(found)), x)
    assert isinstance(found.kept(), np.ndarray)
    monkeypatch.setattr(on_demand, "KEPT_BYTES", x.nbytes - 1)
    assert found.kept() is found


@pytest.fixture
def asked(monkeypatch):
    """Bytes of each array that a coding was asked for, where 4,000 are few and 2,000 a batch."""
    sizes, coded = [], samples.coded

    def counted(*args, **options):
        found = coded(*args, **options)
        sizes.append(found.nbytes)
        return found

    monkeypatch.setattr(samples, "coded", counted)
    monkeypatch.setattr(on_demand, "BATCH_BYTES", 2000)
    monkeypatch.setattr(on_demand, "KEPT_BYTES", 4000)
    return sizes


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    net = trained(series(folder / "a.npz"), folder, encoding="thermometer:levels=20")
    storage.save(export(net, Options(check=0, allow_dead=True)).chip, folder / "model.h5")
    return folder


def output(program, *line):
    done = run_here(program, *line, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_command_runs_batch_by_batch(exported, tmp_path, asked, monkeypatch):
    line = ("ottt-run", exported / "model.h5", "--data", exported / "a.npz", "-o", tmp_path)
    found = output(*line, "--predictions", tmp_path / "parts.csv")
    assert len(asked) > 1
    assert max(asked) <= 2000
    monkeypatch.setattr(on_demand, "BATCH_BYTES", 1 << 24)
    expected = output(*line, "--predictions", tmp_path / "whole.csv")
    assert max(asked) == 12 * 8 * 20 * 4
    assert (tmp_path / "parts.csv").read_text() == (tmp_path / "whole.csv").read_text()
    for name in ("accuracy", "recall", "spikes_per_sample", "overflows", "warnings", "samples"):
        assert found[name] == expected[name], name


def test_the_command_learns_block_by_block(exported, tmp_path, asked, monkeypatch):
    """A pass on demand is a pass in memory: the same weights, curve and answers."""
    monkeypatch.setattr("ottt_loihi.onchip.stream.AHEAD", 4)
    monkeypatch.setattr("ottt_loihi.onchip.network.rates.CALIBRATION_SAMPLES", 3)
    kept = []
    monkeypatch.setattr("ottt_loihi.cli.learn_report.write", lambda *given: kept.append(given[2].chip) or {})
    line = ("ottt-learn", exported / "model.h5", "--data", exported / "a.npz", "--epochs", "1", "-o", tmp_path)
    found = output(*line)
    assert max(asked) <= 16 * 8 * 20 * 4  # the samples between two reports, whatever the data set
    monkeypatch.setattr(on_demand, "KEPT_BYTES", 1 << 28)
    expected = output(*line)
    assert max(asked) == 48 * 8 * 20 * 4
    for name in ("accuracy", "recall", "rates", "curve", "saturated", "accuracy_deployed"):
        assert found[name] == expected[name], name
    assert kept[0].connections == kept[1].connections


def test_events_stay_sparse_until_they_run(tmp_path):
    net = trained(events(tmp_path / "e.npz"), tmp_path, encoding="slots:parts=4")
    chip = export(net, Options(check=0, allow_dead=True)).chip
    found = chip_choice(chip, str(tmp_path / "e.npz"), 10)
    assert isinstance(found.x, SparseArray)
    x = input_on_demand(chip, found)
    np.testing.assert_array_equal(x[:], chip_input(chip, found))
    np.testing.assert_array_equal(sim.run(chip, x).scores, sim.run(chip, x[:]).scores)


@pytest.mark.parametrize("tested", [False, True])
def test_learning_is_the_same(tested):
    x, y = digits(60)
    known, chosen = digits(30, 100), Settings(shuffle=not tested, tested=tested)
    run = prequential if tested else learn
    found, expected = (run(small(), (a, y), settings=chosen, known=known) for a in (later(x), x))
    found, expected = (r.result if tested else r for r in (found, expected))
    assert found.chip == expected.chip
    assert found.rates == expected.rates
    assert found.answers == expected.answers


def test_behind_a_backbone_too():
    chip = make_plastic(network(graded=True), layers=["readout"])
    x, y = messages(chip, 40)
    results = [learn(chip, (a, y), test=(a, y), epochs=2, settings=Settings(shuffle=True)) for a in (later(x), x)]
    assert results[0].chip == results[1].chip
    assert results[0].curve == results[1].curve
    assert [s.fixed for s in watch(chip, later(x), 2)] == [s.fixed for s in watch(chip, x, 2)]


def test_wrong_samples_are_found_when_they_come():
    x, y = digits(60)
    x[50, 0, 0, 0] = 3
    with pytest.raises(UsageError, match="data: expected spikes 0 or 1, got \\[0, 3\\]"):
        learn(
            small(),
            (later(x), y),
            settings=Settings(readout_rate=0.02, hidden_rate=1.0, usual_mistakes=0, logit_scale=900),
        )
