"""What a person sees who types something wrong: one line, the right exit code, nothing half-written."""

import json
import os
import threading
import zipfile

import pytest
from commands import assert_one_line, run, run_here

torch = pytest.importorskip("torch")
from ottt_loihi.cli import learn  # noqa: E402
from ottt_loihi.nn.models import mlp  # noqa: E402
from ottt_loihi.training.checkpoint import save  # noqa: E402


@pytest.fixture
def model(tmp_path):
    net = mlp((64, 16, 10), input_shape=(8, 8))
    net.provenance["data"] = "digits"
    save(net, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.slow
def test_export_and_run_alone_do_the_useful_thing(model):
    done = run("ottt-export", model, "--json", "--max-disagreement", "1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"]["net"].endswith("model.net")
    done = run("ottt-run", model.with_suffix(".h5"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 360
    assert {p.name for p in model.parent.iterdir()} == {
        "model.pt",
        "model.h5",
        "model.net",
        "model_lava.py",
        "report.html",
        "sections",
    }


@pytest.mark.slow
@pytest.mark.lava
def test_run_classifies_alike_in_the_simulator_and_in_lava(model):
    assert run("ottt-export", model, "--no-check", "--json").returncode == 0
    results = []
    for backend in ("sim", "lava"):
        done = run("ottt-run", model.with_suffix(".h5"), "--json", "--samples", "4", "--backend", backend)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert [r["backend"] for r in results] == ["sim", "lava"]
    assert results[0]["spikes_per_sample"] == results[1]["spikes_per_sample"]
    assert {each["strategy"] for each in results[0]["strategies"]} == {"events", "loop"}


@pytest.mark.slow
@pytest.mark.lava
def test_no_thread_of_ours_runs_when_lava_forks(model, monkeypatch):
    """Python ≥ 3.12 warns of it, since a lock that a thread holds stays locked in the child."""
    others, seen, fork = set(threading.enumerate()), [], os.fork
    monkeypatch.setattr(os, "fork", lambda: seen.append(set(threading.enumerate()) - others) or fork())
    assert run("ottt-export", model, "--no-check").returncode == 0
    for option in ("--backend", "--verify"):
        done = run_here("ottt-run", model.with_suffix(".h5"), "--samples", "2", option, "lava")
        assert done.returncode == 0, done.stderr
    with learn._progress(True):
        assert set(threading.enumerate()) == others
    assert len(seen) > 4
    assert not any(seen)


def test_wrong_usage_is_2(model):
    assert_one_line(run_here("ottt-export", model, "--weight-bit", "8"), 2, "No such option")
    assert_one_line(
        run_here("ottt-export", model, "--weight-bits", "99"), 2, "expected 2 … 8, ternary or binary, got 99"
    )
    assert_one_line(run_here("ottt-run", model.with_suffix(".h5"), "--verify", "loihi"), 2, "--verify: expected one of")
    for line in (("ottt-run", model.with_suffix(".h5")), ("ottt-learn",)):
        expected = "--backend: expected one of sim, inprocess, lava, loihi2, got 'loihi'"
        assert_one_line(run_here(*line, "--backend", "loihi"), 2, expected)


@pytest.mark.lava
def test_a_chip_that_is_not_there_is_one_line(model):
    for line in (("ottt-run", model.with_suffix(".h5"), "--backend"), ("ottt-export", model, "--verify")):
        assert_one_line(run_here(*line, "loihi2"), 2, "loihi2 needs Intel's Lava extension")
    assert_one_line(run_here("ottt-learn", "--backend", "loihi2"), 2, "loihi2 needs Intel's Lava extension")


def test_missing_and_truncated_files_are_3(model, tmp_path):
    assert_one_line(run_here("ottt-export", tmp_path / "none.pt"), 3, "none.pt")
    model.write_bytes(model.read_bytes()[:1000])
    assert_one_line(run_here("ottt-export", model), 3, "model.pt")
    assert_one_line(run_here("ottt-run", tmp_path / "none.h5"), 3, "no such file")
    assert_one_line(run_here("ottt-run", model), 3, "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.lava
def test_a_net_that_is_missing_or_damaged_is_3(model):
    assert run_here("ottt-export", model, "--no-check", "--no-net").returncode == 0
    line = ("ottt-run", model.with_suffix(".h5"), "--samples", "2", "--verify", "netx")
    assert_one_line(
        run_here(*line), 3, "model.net: no such file; ottt-export writes it where netx can load the network"
    )
    assert run_here("ottt-export", model, "--no-check").returncode == 0
    net = model.with_suffix(".net")
    net.write_bytes(net.read_bytes()[:900])
    assert_one_line(run_here(*line), 3, "model.net: not a readable HDF5 file of ours, or damaged")


def test_a_hostile_pickle_is_refused_and_does_not_run(model, tmp_path):
    marker = tmp_path / "executed"
    hostile = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
    with zipfile.ZipFile(tmp_path / "hostile.pt", "w") as file:
        file.writestr("archive/data.pkl", hostile)
        file.writestr("archive/version", "3\n")
    assert_one_line(run("ottt-export", tmp_path / "hostile.pt"), 3, "hostile.pt")
    assert not marker.exists()


def test_a_dead_layer_is_4(tmp_path):
    net = mlp((64, 16, 10), input_shape=(8, 8))
    with torch.no_grad():
        net.blocks[0].connection.weight.zero_()
    save(net, tmp_path / "model.pt")
    assert_one_line(run_here("ottt-export", tmp_path / "model.pt"), 4, "hidden 1.weight", "train")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_an_unwritable_folder_is_3(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert_one_line(run_here("ottt-export", model, "-o", tmp_path / "file"), 3, "cannot be written")


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(model):
    """A file size limit of 1 KiB stands for the full disk: every larger write fails with an OSError."""
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = run("ottt-export", model, "-o", model.parent / "out", preexec_fn=limit, env=environment)
    assert_one_line(done, 3, "cannot be written")
    assert not [p for p in (model.parent / "out").iterdir() if p.is_file()]
