"""Runs that a real ``ottt-learn`` of version 0.1 (commit ca2cd2d) began and that were stopped go on, bit for bit.

``fixtures/learning-v1.zip``: a network trained on digits, three states after 143 samples, written with ::

    ottt-learn model.h5 --passes 1 --stop-at 0.01 -o more
    ottt-learn model.h5 --transform upside-down --feedback kolen-pollack --passes 1 --stop-at 0.01 -o drift
    ottt-learn --hidden 24 --passes 1 --stop-at 0.01 -o scratch

and in ``ends.json`` the SHA-256 of the weights after that version had gone on to 1,437 samples.
"""

import hashlib
import json
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ottt_loihi.cli.learn import learn
from ottt_loihi.errors import FileError, UsageError

CHOSEN = {
    "more": {},
    "drift": {"transform": "upside-down", "feedback": "kolen-pollack"},
    "scratch": {"hidden": 24},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ottt_loihi.cli.learn_report.write", lambda folder, scenario, result, summary: {"weights": sha(result)}
    )
    with zipfile.ZipFile(Path(__file__).parent / "fixtures" / "learning-v1.zip") as states:
        states.extractall(tmp_path)
    return tmp_path


def sha(result):
    weights = b"".join(np.asarray(c.weight).astype(np.int64).tobytes() for c in result.chip.connections)
    return hashlib.sha256(weights).hexdigest()


def go_on(folder, name, capsys, **more):
    model = None if name == "scratch" else folder / "model.h5"
    learn(model, epochs=1, resume=True, output=folder / name, json=True, **CHOSEN[name] | more)
    return json.loads(capsys.readouterr().out)


def stop(monkeypatch, samples, run, *arguments, **more):
    """Interrupt a run after so many samples, as Ctrl-C does."""

    @contextmanager
    def interrupting(visible):
        def show(done, total, accuracy):
            if done == samples:
                raise KeyboardInterrupt

        yield show

    with monkeypatch.context() as patched:
        patched.setattr("ottt_loihi.cli.learn._progress", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run(*arguments, **more)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_run_of_version_0_1_ends_in_its_bits(folder, name, capsys, monkeypatch):
    stop(monkeypatch, 286, go_on, folder, name, capsys)
    stopped = json.loads(capsys.readouterr().out)
    assert stopped["samples"] == 286
    assert json.loads((folder / name / f"{name}-state.json").read_text())["version"] == 1
    end = go_on(folder, name, capsys)
    assert (end["samples"], end["files"]["weights"]) == (1437, json.loads((folder / "ends.json").read_text())[name])


def test_that_it_keeps_its_choices_is_said(folder, capsys, monkeypatch):
    stop(monkeypatch, 286, go_on, folder, "more", capsys)
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    kept = "rounding per-synapse-1, encoding signed, feedback random, learn_when always, readout_rate 0.02, "
    assert f"the resumed state is of version 0.1 and continues with its {kept}hidden_rate 1.0" in warnings


def test_a_run_with_other_choices_is_another_one(folder, capsys):
    with pytest.raises(FileError, match="the state of another network or rule"):
        go_on(folder, "more", capsys, hidden_rate=2.0)
    with pytest.raises(UsageError, match="with --stop-at, a tenth of the samples is left out: give it as before"):
        go_on(folder, "more", capsys, stop_at=0.5)


def test_a_run_of_version_0_2_0_goes_on_with_its_halvings_and_loss(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "ottt_loihi.cli.learn_report.write", lambda folder, scenario, result, summary: {"weights": sha(result)}
    )

    def run(name, **more):
        learn(None, hidden=8, epochs=3, output=tmp_path / name, json=True, **more)
        return json.loads(capsys.readouterr().out)

    whole = run("whole", halve_every=1437, loss="mse")
    stop(monkeypatch, 143, run, "stopped", halve_every=1437, loss="mse")
    capsys.readouterr()
    state = tmp_path / "stopped" / "scratch-state.json"
    kept = json.loads(state.read_text())
    assert kept["version"] == 3
    state.write_text(json.dumps(kept | {"version": 2}))
    resumed = run("stopped", resume=True)
    assert resumed["files"] == whole["files"]
    assert whole["weights_averaged"]
