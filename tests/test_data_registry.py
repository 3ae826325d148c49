"""All data sets by name, ottt-data, and what importing them loads."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from commands import run_here

from ottt_loihi.data import DATA_SETS, load_data, rate_code
from ottt_loihi.errors import FileError, UsageError

ROOT = Path(__file__).parent.parent


def run(*arguments, folder=None):
    environment = {key: value for key, value in os.environ.items() if key != "OTTT_DATA_DIR"}
    if folder is not None:
        environment["OTTT_DATA_DIR"] = str(folder)
    with mock.patch.dict(os.environ, environment, clear=True):
        return run_here("ottt-data", *arguments)


def test_digits_need_nothing(monkeypatch):
    monkeypatch.delenv("OTTT_DATA_DIR", raising=False)
    split = load_data("digits")
    assert (len(split.x_train), len(split.x_test), split.num_classes, split.input_shape) == (1437, 360, 10, (8, 8))
    assert split.y_train.dtype == np.int64
    assert rate_code(split.x_test, 6).shape == (360, 6, 8, 8)


def test_names_and_options(tmp_path):
    with pytest.raises(UsageError, match=r"expected one of digits, mnist, .*a file \.npz, .*; got 'minst'"):
        load_data("minst")
    with pytest.raises(UsageError, match="mnist has no option 'num_steps'; it has none"):
        load_data("mnist", tmp_path, num_steps=4)
    with pytest.raises(UsageError, match="n-mnist has no option 'steps'; it has num_steps, by, ceiling"):
        load_data("n-mnist", tmp_path, steps=4)
    with pytest.raises(FileError, match=r"mine\.npz: no such file"):
        load_data("mine.npz", tmp_path)
    np.savez(tmp_path / "mine.npz", x=np.zeros((4, 3), np.uint8), y=np.zeros(4, int))
    assert load_data("mine.npz", tmp_path).name == "mine.npz"
    for data_set in DATA_SETS.values():
        assert "folder" not in data_set.options()


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "digits"])
def test_a_missing_data_set_says_what_goes_where(name, tmp_path):
    with pytest.raises(FileError, match=f"{name}: not found; put .* in .*nothing is downloaded"):
        load_data(name, tmp_path)


def test_a_real_event_set_by_name(real_data):
    split = load_data("n-mnist", real_data("nmnist-small"), num_steps=4, num_train=10, num_test=5)
    assert split.x_train.shape == (10, 4, 2, 34, 34)
    assert set(np.unique(split.x_train)) == {0, 1}


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, ottt_loihi.data\n"
        "heavy = {'torch', 'lava', 'sklearn', 'scipy', 'PIL', 'h5py', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_the_command_lists_what_is_missing(tmp_path):
    done = run()
    assert done.returncode == 0, done.stderr
    assert "OTTT_DATA_DIR is not set" in done.stdout
    assert "mnist: train-images-idx3-ubyte.gz" in done.stdout
    done = run("--json", folder=tmp_path)
    listing = json.loads(done.stdout)
    assert listing["folder"] == str(tmp_path)
    assert {state["name"]: state["found"] for state in listing["data_sets"]} == {
        name: name == "digits" for name in DATA_SETS
    }
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "data_batch_1.bin").write_bytes(b"")
    assert "cifar10 lacks data_batch_2.bin, data_batch_3.bin" in run(folder=tmp_path).stdout


def test_the_command_shows_a_data_set(tmp_path):
    done = run("digits")
    assert done.returncode == 0, done.stderr
    assert "1,437 training, 360 test" in done.stdout
    np.savez(tmp_path / "mine.npz", x=np.ones((10, 4, 3), bool), y=np.arange(10) % 2)
    done = run("mine.npz", "-f", tmp_path, "--json")
    shown = json.loads(done.stdout)
    assert (shown["training_samples"], shown["samples_per_class"], shown["mean"]) == (8, [4, 4], 1.0)


def test_the_command_fails_in_one_line(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((10, 4, 3), bool), y=np.arange(10) % 2)
    for arguments, code, says in (
        (("mnist", "-f", tmp_path), 3, "mnist: not found; put train-images"),
        (("-f", tmp_path / "none"), 3, "no such folder"),
        (("minst",), 2, "expected one of digits"),
        (("digits", "--time-axis"), 2, "--time-axis: digits has no option 'time_axis'"),
        (("digits", "-T", 3), 2, "--time-steps: has an effect only with --encoding or --plot"),
        ((tmp_path / "a.npz", "-T", 3), 2, "--time-steps: the samples have 4 time steps, got 3; leave it out"),
        (("--encoding", "delta"), 2, "--encoding: needs a data set; give its name or path"),
        (("digits", "--plot", tmp_path / "spikes.png"), 2, "--plot: expected a file ending in .svg"),
        (("a.npz", "--time-axis", "--set", "data.time_axis=false"), 2, "another option says True; give one of the two"),
    ):
        done = run(*arguments)
        assert done.returncode == code, done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_documentation_names_every_data_set():
    text = (ROOT / "docs" / "data.md").read_text()
    for data_set in DATA_SETS.values():
        assert f"`{data_set.name}`" in text
        for layout in data_set.layouts:
            assert layout.folders[0] in text, layout
            names = [names[0].rstrip("/") for names in layout.files.values()]
            assert any(name in text for name in names), names


def test_the_command_takes_the_loaders_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{step},{step % 7},{'ab'[step // 10 % 2]}" for step in range(200)]
    (tmp_path / "log.csv").write_text("\n".join(["time,x,label", *rows]))
    done = run(
        "log.csv", "--set", "data.window=10", "--set", 'data.leave_out=["time"]', "--encoding", "delta", "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["time_steps"], found["input_shape"], found["encoding"]) == (10, [1], "delta")
    for change, problem in (
        ("window=10", "expected data.NAME=value"),
        ("data.windo=10", "log.csv has no option 'windo'"),
    ):
        done = run("log.csv", "--set", change)
        assert done.returncode == 2
        assert problem in done.stderr
