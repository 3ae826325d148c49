"""Test, then learn: the answers are those of a network that has not seen the label."""

import json

import numpy as np
import pytest
from ottt_loihi.onchip import Settings, learn, prequential
from ottt_loihi.onchip.stream import UNLABELLED
from ottt_loihi.sim import storage
from ottt_loihi.sim.learning.weight_formats import to_inference
from test_continued import RATES, data, start
from test_learner import small

from ottt_loihi import sim
from ottt_loihi.cli.learn import learn as command
from ottt_loihi.cli.learn_prequential import rows
from ottt_loihi.errors import FileError, UsageError


def run(count=30, **chosen):
    more = {name: chosen.pop(name) for name in ("backend", "label_share") if name in chosen}
    return prequential(start(), data(count), settings=Settings(**RATES | chosen), known=data(50, 3), **more)


@pytest.mark.parametrize("when", ["always", "mistaken"])
def test_answers_are_those_of_the_network_before_each_sample(when):
    found = run(learn_when=when)
    x, y = data(30)
    chip, answers = start(), []
    result = None
    for sample in range(30):
        answers.append(sim.run(chip, x[sample : sample + 1]).predictions[0])
        if result is None:
            more = {"known": data(50, 3), "settings": Settings(**RATES, learn_when=when, shuffle=False, tested=True)}
        else:
            more = {"after": result}
        result = learn(chip, (x[sample : sample + 1], y[sample : sample + 1]), **more)
        chip = result.chip
    np.testing.assert_array_equal(found.answers, answers)
    assert found.accuracy == np.mean(np.array(answers) == y)
    assert found.result.chip == chip


def test_only_labelled_samples_are_learnt_from():
    found = run(label_share=0.1, learn_when="always")
    assert found.labelled.sum() == 3
    first = int(np.flatnonzero(found.labelled)[0])
    frozen = sim.run(start(), data(30)[0]).predictions
    np.testing.assert_array_equal(found.answers[: first + 1], frozen[: first + 1])
    x, y = data(30)
    none = learn(start(), (x, np.full(30, UNLABELLED)), settings=Settings(shuffle=False), known=data(50, 3))
    assert none.chip.connections == start().connections
    # the labels of the others decide nothing
    other = np.where(found.labelled, y, (y + 1) % 3)
    again = prequential(
        start(), (x, other), label_share=0.1, settings=Settings(**RATES, learn_when="always"), known=data(50, 3)
    )
    np.testing.assert_array_equal(again.answers, found.answers)
    assert again.result.chip == found.result.chip


def test_a_stream_in_pieces():
    whole = run()
    x, y = data(30)
    first = prequential(start(), (x[:13], y[:13]), settings=Settings(**RATES), known=data(50, 3))
    rest = prequential(first.result.chip, (x[13:], y[13:]), after=first.result)
    np.testing.assert_array_equal(np.concatenate([first.answers, rest.answers]), whole.answers)
    assert rest.result.chip == whole.result.chip


def test_the_curve_has_every_sample_once():
    found = run()
    for points in (1, 7, 20, 100):
        ends, accuracies = found.curve(points)
        counts = np.diff([0, *ends])
        assert len(ends) == min(points, 30)
        assert (counts * accuracies).sum() == pytest.approx(found.accuracy * 30)
    recalls = [(found.answers == c)[found.labels == c].mean() for c in range(3)]
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))


def stopped(folder, after, **more):
    """A stream that keeps its state every 4 samples and is stopped by Ctrl-C."""

    def stop(done, total, accuracy):
        if done >= after:
            raise KeyboardInterrupt

    return run_kept(folder, progress=stop, **more)


def run_kept(folder, share=0.5, **more):
    kept = {"checkpoint": folder / "state", "checkpoint_every": 4, "evaluate_every": 7, "known": data(50, 3)}
    return prequential(
        start(), data(30), label_share=share, settings=Settings(**RATES), test=data(9, 4), **kept, **more
    )


@pytest.mark.parametrize("backend", ["sim", pytest.param("inprocess", marks=pytest.mark.lava)])
def test_a_stream_that_was_stopped_goes_on(tmp_path, backend):
    whole = run_kept(tmp_path / "whole")
    first = stopped(tmp_path, 18)
    assert (first.result.interrupted, len(first.answers)) == (True, first.result.samples)
    if backend != "sim":
        pytest.importorskip("lava.magma.core.process.process")
    found = run_kept(tmp_path, resume=True, backend=backend)
    np.testing.assert_array_equal(found.answers, whole.answers)
    np.testing.assert_array_equal(found.labelled, whole.labelled)
    assert found.result.chip == whole.result.chip
    assert found.result.curve == whole.result.curve
    again = run_kept(tmp_path, resume=True)  # nothing is left to do
    np.testing.assert_array_equal(again.answers, whole.answers)


def test_states_that_do_not_fit_the_stream(tmp_path):
    stopped(tmp_path, 18)
    with pytest.raises(UsageError, match="a run on other data"):
        run_kept(tmp_path, share=0.4, resume=True)
    curve = tmp_path / "state.json"
    document = json.loads(curve.read_text())
    assert len(document.pop("answers")) == 20
    curve.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="lacks the answers before the stop; start again, without"):
        run_kept(tmp_path, resume=True)
    curve.write_text(json.dumps({**document, "answers": ["a"]}))
    with pytest.raises(FileError, match="no learning curve of ours, or damaged"):
        run_kept(tmp_path, resume=True)


@pytest.mark.lava
def test_lavas_models_answer_the_same():
    pytest.importorskip("lava.magma.core.process.process")
    found, expected = run(12, label_share=0.5, backend="inprocess"), run(12, label_share=0.5)
    np.testing.assert_array_equal(found.answers, expected.answers)
    assert found.result.chip == expected.result.chip


def test_shares_out_of_range():
    for share, message in ((0, "label_share: expected a number"), (2, "label_share"), (0.01, "is no label")):
        with pytest.raises(UsageError, match=message):
            run(label_share=share)


class TestCommand:
    def test_a_stream_of_digits_upside_down(self, tmp_path, monkeypatch, capsys):
        """A tenth of the labels: the answers are those of the API, and of the frozen network until the first label."""
        storage.save(to_inference(small()).chip, tmp_path / "model.h5")
        monkeypatch.setattr("ottt_loihi.cli.learn_report.write", lambda folder, scenario, result, summary: {})
        line = {"transform": "upside-down", "prequential": True, "label_share": 0.1, "json": True}
        command(tmp_path / "model.h5", output=tmp_path, **line)
        summary = json.loads(capsys.readouterr().out)
        found, settings = summary["prequential"], summary["settings"]
        assert (found["samples"], found["labels"], summary["samples"]) == (1437, 144, 1437)
        assert (settings["shuffle"], settings["tested"], settings["epochs"]) == (False, True, 1)
        assert len(found["curve"]["accuracy"]) == 20
        assert np.mean(found["curve"]["accuracy"][10:]) > np.mean(found["curve"]["accuracy_frozen"][10:])
        text = dict(rows(found))
        assert text["labels learnt from"] == "144 of 1,437"
        assert text["stream, frozen weights"].startswith(f"{found['accuracy_frozen']:.1%}, balanced")

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ({"label_share": 0.1}, "--label-share: belongs to --prequential"),
            ({"prequential": True, "label_share": 0.0}, r"--label-share: expected a number in \(0, 1\], got 0.0"),
            ({"prequential": True, "label_share": 1e-5}, "is no label, so nothing can be learnt"),
            ({"prequential": True, "epochs": 2}, "--epochs: a stream comes once, got 2"),
            ({"prequential": True, "stop_at": 0.5}, "--stop-at: a stream is answered to its end"),
            ({"prequential": True, "resume": True}, "no run to go on with; start without --resume"),
        ],
    )
    def test_wrong_use(self, tmp_path, line, says):
        with pytest.raises((UsageError, FileError), match=says):
            command(output=tmp_path, json=True, **line)

    def test_in_order(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("ottt_loihi.cli.learn_report.write", lambda folder, scenario, result, summary: {})
        command(output=tmp_path, json=True, in_order=True, hidden=8, epochs=1, stop_at=0.01)
        summary = json.loads(capsys.readouterr().out)
        assert summary["settings"]["shuffle"] is False
        assert summary["prequential"] is None
