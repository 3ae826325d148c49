"""The errors of the first ten minutes: each is one line, and the line has the cure."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import assert_one_line, run, run_here

from ottt_loihi.cli import command

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    from ottt_loihi.nn.models import mlp
    from ottt_loihi.training.checkpoint import save

    net = mlp((64, 16, 10), input_shape=(8, 8))
    net.provenance["data"] = "digits"
    path = tmp_path_factory.mktemp("untrained") / "model.pt"
    save(net, path)
    return path


def test_no_data_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("OTTT_DATA_DIR", raising=False)
    done = run_here("ottt-train", "--data", "mnist", "-o", tmp_path)
    assert_one_line(done, 3, "set OTTT_DATA_DIR", "train-images", "nothing is downloaded")


def test_misspelt_names(tmp_path):
    assert_one_line(
        run_here("ottt-train", "--rule", "otttt", "-o", tmp_path), 2, "expected one of ottt, bptt", "'otttt'"
    )
    assert_one_line(run_here("ottt-train", "--network", "mpl", "-o", tmp_path), 2, "expected one of mlp, conv", "'mpl'")
    assert_one_line(run_here("ottt-train", "--data", "digit", "-o", tmp_path), 2, "expected one of digits, mnist")
    assert_one_line(run_here("ottt-train", tmp_path / "none.toml"), 3, "configs/ has examples")


def test_an_untrained_network_is_exported_with_a_note(untrained, tmp_path):
    done = run("ottt-export", untrained, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained; ottt-train -o FOLDER trains one" in done.stderr


def test_the_wrong_file_for_a_command(untrained, tmp_path):
    assert_one_line(run_here("ottt-run", untrained), 3, "expected a model.h5; ottt-export makes one of it")
    assert_one_line(run_here("ottt-learn", untrained), 3, "expected a model.h5; ottt-export makes one of it")
    assert_one_line(run_here("ottt-export", tmp_path / "none.pt"), 3, "no such file; ottt-train -o FOLDER makes one")
    (tmp_path / "model.h5").write_bytes(b"")
    assert_one_line(run_here("ottt-eval", tmp_path / "model.h5"), 3, "ottt-run classifies with the integer network")
    assert_one_line(run_here("ottt-run", tmp_path), 3, f"a folder; give {tmp_path / 'model.h5'}")


def test_a_missing_package_is_named(monkeypatch, capsys):
    def needs_it():
        import a_package_nobody_has  # noqa: F401

    monkeypatch.setattr(sys, "argv", ["ottt-run"])
    with pytest.raises(SystemExit) as ended:
        command.execute(needs_it, "ottt-run")
    assert ended.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "a_package_nobody_has is not installed" in told
    assert "pip install -e ." in told


def test_make_without_a_python_that_fits(tmp_path):
    for name in ("Makefile", "pyproject.toml", "uv.lock", "packaging"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "uv").write_text("#!/bin/sh\nexit 1\n")  # a uv that is no uv, before any real one
    (tmp_path / "uv").chmod(0o755)
    line = ["make", "demo", "PYTHON=python3.99"]
    done = subprocess.run(
        line,
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "no Python 3.10 to 3.13 here at python3.99" in done.stdout
    assert "make demo PYTHON=/path" in done.stdout
    assert not (tmp_path / ".venv").exists()
