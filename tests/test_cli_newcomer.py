"""The errors of the first ten minutes: each is one line, and the line has the cure."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import assert_one_line, run, run_here
from ottt_loihi.sim import storage
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Dense

from ottt_loihi.cli import command
from ottt_loihi.toml import read_tables

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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--dt", 0.1), "--dt: for a .nir; leave it out"),
        (("--reset", "zero"), "--reset: for a .nir"),
        (("--input-shape", "16"), "--input-shape: for a module, mynet.py:build or a .net"),
        (("--time-steps", 3), "--time-steps: for a module, mynet.py:build or a .nir or a .net"),
        (("--data", "digits"), "--data: for a module"),
        (("--verify-samples", 3), "--verify-samples: has no effect without --verify"),
        (("--no-check", "--check", 5), "--no-check: excludes --check and --max-disagreement"),
        (("--no-check", "--max-disagreement", 0), "--no-check: excludes --check and --max-disagreement"),
    ],
)
def test_options_of_another_kind_of_network(untrained, tmp_path, options, says):
    assert_one_line(run_here("ottt-export", untrained, "-o", tmp_path, *options), 2, says)


def test_options_that_a_network_of_integers_cannot_have(tmp_path):
    weights = Dense(INPUT, 0, np.full((3, 8), 2))
    storage.save(ChipNetwork((8,), (LIF((3,), 4095, 4096, 131071),), (weights,), 5), tmp_path / "a.h5")
    line = ("ottt-export", tmp_path / "a.h5", "-o", tmp_path)
    for option, value in (("--weight-bits", 4), ("--calibrate", 5), ("--scale", "power-of-two")):
        says = f"{option}: the network holds integers already, which are not rounded again; leave it out"
        assert_one_line(run_here(*line, option, value), 2, says)
    says = "--max-disagreement: no predictions were compared: it is an integer network already"
    assert_one_line(run_here(*line, "--max-disagreement", 0.02), 1, says)
    assert_one_line(run_here("ottt-run", tmp_path / "a.h5", "--verify-samples", 3), 2, "without --verify")


@pytest.mark.slow
def test_an_untrained_network_is_exported_with_a_note(untrained, tmp_path):
    done = run("ottt-export", untrained, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained; ottt-train -o FOLDER trains one" in done.stderr


def test_the_wrong_file_for_a_command(untrained, tmp_path):
    assert_one_line(run_here("ottt-run", untrained), 3, "expected a model.h5; ottt-export makes one of it")
    assert_one_line(run_here("ottt-learn", untrained), 3, "expected a model.h5; ottt-export makes one of it")
    assert_one_line(run_here("ottt-export", tmp_path / "none.pt"), 3, "no such file; ottt-train -o FOLDER makes one")
    for name, maker in (
        ("none.nir", "the exporter of the program that"),
        ("none.net", "export_hdf5"),
        ("none.h5", "ottt-e"),
    ):
        assert_one_line(run_here("ottt-export", tmp_path / name), 3, f"no such file; {maker}")
    assert_one_line(run_here("ottt-export", tmp_path / "mynet.py"), 3, "give mynet.py:build, the function")
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


@pytest.fixture
def make(tmp_path):
    """A function that calls ``make`` in a copy of what set-up needs, with no uv and no Python of pyenv on the path."""
    for name in ("Makefile", "pyproject.toml", "uv.lock", "packaging"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "uv").write_text("#!/bin/sh\nexit 1\n")  # a uv that is no uv, before any real one
    (tmp_path / "uv").chmod(0o755)

    def call(*options, **variables):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **variables}
        line = ["make", *options]
        return subprocess.run(
            line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
        )

    return call


def test_make_with_a_python_that_does_not_fit(make, tmp_path):
    done = make("demo", "PYTHON=python3.99")
    assert done.returncode == 2
    assert done.stdout == "python3.99 is no Python 3.10 to 3.13: make demo PYTHON=/path/to/python3.13\n"
    assert not (tmp_path / ".venv").exists()


def test_make_without_any_python(make, tmp_path):
    for version in ("3.13", "3.12", "3.11", "3.10", "3"):
        (tmp_path / f"python{version}").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / f"python{version}").chmod(0o755)
    done = make("demo")
    assert done.returncode == 2
    assert done.stdout.startswith("no Python 3.10 to 3.13 with venv here. Install one (apt install python3-venv, ")
    assert not (tmp_path / ".venv").exists()


def test_make_keeps_the_python_of_its_environment_and_makes_it_anew_for_another(make, tmp_path):
    here = Path(sys.executable).resolve()
    version = ".".join(map(str, sys.version_info[:2]))
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / f".venv/lib/python{version}").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(here)
    assert f"setting up .venv with {here} and pip" in make("-n", "setup").stdout
    (tmp_path / f".venv/.ready-{version}").touch()
    assert "Nothing to be done" in make("-n", "setup").stdout
    other = "3.10" if version != "3.10" else "3.13"
    (tmp_path / "other").write_text(f"#!/bin/sh\necho {other}\n")
    (tmp_path / "other").chmod(0o755)
    done = make("-n", "setup", "PYTHON=./other")
    assert f"[ -e .venv/lib/python{other} ] || echo --clear" in done.stdout
    assert ("./packaging/lava-nc" in done.stdout) == (other != "3.10")


def test_make_takes_a_folder_of_wheels_from_where_it_was_called(make, tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text() + "\nshow:\n\t@echo $$LAVA_WHEELS\n")
    assert make("show", LAVA_WHEELS="wheels").stdout == f"{tmp_path}/wheels\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line():
    program = Path(sys.executable).with_name("ottt-data")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [program, "digits", "--json"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (3, "ottt-data: standard output: No space left on device\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_utf_8(tmp_path, encoding):
    path = tmp_path / "ü.npz"
    np.savez(path, x=np.ones((8, 3)), y=np.array(["α", "b"] * 4))
    program = Path(sys.executable).parent / "ottt-data"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    for options in ((), ("--json",)):
        line = [program, path, *options]
        done = subprocess.run(line, env=environment, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert b"b" in done.stdout
    assert json.loads(done.stdout)["class_names"] == ["b", "α"]


def test_ctrl_c_is_confirmed(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["ottt-x"])
    with pytest.raises(SystemExit, match="130"):
        command.execute(interrupted, "ottt-x")
    assert capsys.readouterr().err == "ottt-x: stopped\n"


def test_a_configuration_saved_by_windows_notepad(tmp_path):
    (tmp_path / "a.toml").write_text("[network]\nhidden = [4]\n", encoding="utf-8-sig")
    assert read_tables(tmp_path / "a.toml") == {"network": {"hidden": [4]}}
