import json
import os

import pytest
from commands import run

from ottt_loihi.cli import doctor


def findings(done):
    return {finding["what"]: finding for finding in json.loads(done.stdout)["findings"]}


@pytest.mark.lava
def test_a_healthy_machine():
    environment = {key: value for key, value in os.environ.items() if key != "OTTT_DATA_DIR"}
    done = run("ottt-doctor", "--json", env=environment)
    assert done.returncode == 0, done.stdout
    assert findings(done)["packages"]["state"] == "ok"
    assert "ottt-loihi " in findings(done)["packages"]["detail"]


def test_a_wrong_data_folder_is_found(tmp_path):
    done = run("ottt-doctor", "--json", env={"OTTT_DATA_DIR": str(tmp_path / "none")})
    assert done.returncode == 1
    assert "none is no folder" in findings(done)["data"]["detail"]


def test_the_data_sets_that_are_there_are_named(tmp_path, monkeypatch):
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / "mnist").mkdir(exist_ok=True)
            (tmp_path / "mnist" / f"{part}-{kind}-ubyte").write_bytes(b"")
    monkeypatch.setenv("OTTT_DATA_DIR", str(tmp_path))
    detail = doctor._data().detail
    assert detail.startswith("digits, mnist in OTTT_DATA_DIR")
    assert "cifar10" not in detail


def test_it_fits_one_screen():
    done = run("ottt-doctor", env=os.environ | {"COLUMNS": "80"})
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_what_is_missing_comes_with_its_cure(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "torch" else "1.0")
    assert doctor._packages().state == "missing"
    assert "pip install" in doctor._packages().detail


def test_without_lava_the_cure_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "lava_problem", lambda: "Lava is not installed: pip install -e '.[lava]'")
    assert doctor._lava().state == "missing"
    assert "pip install" in doctor._lava().detail


def test_a_cure_with_brackets_is_shown_whole(capsys):
    doctor._show([doctor.Finding("Lava", "missing", "pip install -e '.[lava]'")])
    assert "pip install -e '.[lava]'" in capsys.readouterr().out
