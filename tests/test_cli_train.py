import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from ottt_loihi.cli.train import main
from ottt_loihi.training.checkpoint import load

ENVIRONMENT = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}


WITHOUT_LAVA = """
import sys
from ottt_loihi.cli.train import main
try:
    main()
finally:
    assert not [name for name in sys.modules if name.split(".")[0] == "lava"]
"""


def ottt_train(*arguments, **settings):
    command = [sys.executable, "-c", WITHOUT_LAVA, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, **settings)


@pytest.mark.parametrize(
    ("command", "passed", "used_by_name"),
    [
        (
            "train",
            lambda module: " ".join(module.TABLES.values()),
            "config output resume force data network rule changes tensorboard json debug",
        ),
        (
            "learn",
            lambda module: module.CHOICES,
            "model transform epochs backend hidden density current_decay membrane_decay rule plastic hlop "
            "repeat_in_lava changed replay in_order prequential label_share resume checkpoint_every stop_at data "
            "changes output json debug",
        ),
    ],
)
def test_no_option_is_declared_and_left_unused(command, passed, used_by_name):
    module = importlib.import_module(f"ottt_loihi.cli.{command}")
    names = set(inspect.signature(getattr(module, command)).parameters)
    assert names == set(passed(module).split()) | set(used_by_name.split())
    assert not set(passed(module).split()) & set(used_by_name.split())
    assert {name for group in module.GROUPS.values() for name in group.split()} <= names


def test_help_needs_neither_torch_nor_lava():
    code = """
import sys
from ottt_loihi.cli.train import main
sys.argv = ["ottt-train", "--help"]
try:
    main()
finally:
    heavy = {"torch", "lava", "sklearn", "matplotlib"} & set(sys.modules)
    assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "--surrogate" in done.stdout


def test_help_names_every_network_rule_coding_and_surrogate():
    """And the defaults in brackets, which rich reads as styles unless they are escaped."""
    from ottt_loihi.data import CODINGS
    from ottt_loihi.nn.models import ARCHITECTURES
    from ottt_loihi.nn.surrogates import SURROGATES
    from ottt_loihi.rules import RULES

    done = ottt_train("--help-all")
    shown = set(re.findall(r"[\w-]+", done.stdout))
    names = {*ARCHITECTURES, *RULES, *CODINGS, *SURROGATES}
    assert names <= shown, names - shown
    assert all(default in done.stdout for default in ("[digits]", "[mlp]", "[ottt]", "[subtract]")), done.stdout


@pytest.mark.slow
def test_a_run_prints_json_and_repeats_itself(tmp_path):
    results = []
    for name in ("a", "b"):
        done = ottt_train("-o", tmp_path / name, "--epochs", 2, "--hidden", "24,16", "--seed", 3, "--json", "--bias")
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert (tmp_path / "a" / "model.pt").read_bytes() == (tmp_path / "b" / "model.pt").read_bytes()
    assert sorted(os.listdir(tmp_path / "a")) == ["best.pt", "metrics.csv", "model.pt", "training.pt"]
    result = results[0]
    assert result["sizes"] == [64, 24, 16, 10]
    assert result["model"] == str(tmp_path / "a" / "model.pt")
    assert result["test_accuracy"] == results[1]["test_accuracy"] > 0.3
    net = load(result["model"])
    assert net.readout.bias is not None
    assert net.provenance["seed"] == 3
    assert net.provenance["data"] == "digits"


@pytest.mark.slow
def test_a_run_for_people_writes_runs_train_by_default(tmp_path):
    done = ottt_train("--epochs", 1, "--reset", "zero", "--update", "sequence", "--convention", "authors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    assert "ottt-export runs/train/model.pt" in done.stdout
    net = load(tmp_path / "runs" / "train" / "model.pt")
    assert (net.blocks[0].neuron.reset, net.convention) == ("zero", "authors")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--epohcs", "3"], 2, "No such option"),
        (["model.pt"], 3, "model.pt: cannot be read"),
        (["--set", "training.epohcs=3"], 2, "training.epohcs: unknown; did you mean 'epochs'?"),
        (["--set", "network.hiden=[3]"], 2, "network.hiden: unknown; did you mean 'hidden'?"),
        (["--set", "rule.k=3"], 2, "rule.k: unknown"),
        (["--time-axis", "--set", "data.time_axis=false"], 2, "another option says True; give one of the two"),
        (["--epochs", "3", "--set", "training.epochs=4"], 2, "--set training.epochs=4: another option says 3"),
        (["--set", "rule.k=3", "--set", "rule.k=4"], 2, "--set rule.k=4: another option says 3"),
        (["--set", "training.device=gpu"], 2, "training.device: expected 'cpu', 'cuda' or 'cuda:1'"),
        (["--set", "training.device=meta"], 2, "no other kind is supported"),
        (["--set", "training.device=cuda:77"], 2, "ottt-doctor says what torch sees"),
        (["--set", "training.cuda_graph=true"], 2, "the optimiser steps after every time step; use update='sequence'"),
        (
            ["--update", "sequence", "--set", "training.cuda_graph=true"],
            2,
            "is for GPUs, the network is on cpu; use training.device = 'cuda'",
        ),
        (["--rule", "bp"], 2, "rule.name: expected one of ottt"),
        (["--network", "lenet"], 2, "network.name: expected one of mlp"),
        (["--data", "imagenot"], 2, "data: expected one of digits"),
        (
            ["--encoding", "frames"],
            2,
            "expected rate, regular, latency, population, thermometer, graded, constant, got 'frames'",
        ),
        (["--resume"], 3, "training.pt: cannot be read"),
        (["--epochs", "0"], 2, "--epochs"),
        (["--reset", "hard"], 2, "--reset"),
        (["--beta", "1.5"], 2, "--beta"),
        (["--hidden", "12;3"], 2, "--hidden: expected numbers separated by commas"),
        (["--hidden", "0"], 2, "sizes: expected"),
        (["--v-threshold", "0"], 2, "v_threshold: expected"),
        (["--lr", "-1"], 2, "learning_rate: expected a number in (0, 1e+30]"),
        (["-o", "/proc/nowhere"], 3, "cannot be written"),
        (["--lr", "1e30", "--optimizer", "sgd"], 1, "lower the learning rate"),
    ],
)
def test_mistakes_end_in_one_line_and_the_right_code(tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ottt-train", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    stderr = capsys.readouterr().err
    assert ended.value.code == code, stderr
    assert message in stderr
    assert not list(tmp_path.rglob("model.pt"))


@pytest.mark.slow
def test_ctrl_c_says_where_the_network_is(tmp_path):
    # a shell's background jobs ignore Ctrl-C, and so would what they start
    command = [
        sys.executable,
        "-c",
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ottt_loihi.cli.train import main; main()",
        "--epochs",
        "100000",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=tmp_path)
    try:
        while not (tmp_path / "runs" / "train").exists():  # made just before training starts
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "the network as it is now is in runs/train/model.pt" in stderr
    assert "Traceback" not in stderr
    load(tmp_path / "runs" / "train" / "model.pt")


@pytest.mark.slow
def test_a_finished_run_is_not_overwritten_by_accident(tmp_path):
    arguments = ("-o", tmp_path, "--epochs", 1, "--hidden", "4", "--json")
    assert ottt_train(*arguments).returncode == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = ottt_train(*arguments, "--seed", 1)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "--resume" in done.stderr
    assert "--force" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert ottt_train(*arguments, "--seed", 1, "--force").returncode == 0
    assert (tmp_path / "model.pt").read_bytes() != before["model.pt"]
