"""ottt-compare: what it reads, runs, keeps and shows."""

import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.training.compare import read_comparison, run

SMALL = """
seeds = [3, 4]
[data]
name = "digits"
encoding = "constant"
[network]
hidden = [16]
[training]
epochs = 1
[[rules]]
name = "sltt"
[[rules]]
label = "DSR, biases"
name = "dsr"
network = { name = "dsr", hidden = [12] }
training = { epochs = 2 }
"""


def written(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return path


def compare(path, folder, *more):
    command = [sys.executable, "-m", "ottt_loihi.cli.compare", str(path), "-o", str(folder), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def test_a_rule_changes_tables_for_itself_alone(tmp_path):
    found = read_comparison(written(tmp_path, SMALL))
    first, second = found.contenders
    assert found.seeds == (3, 4)
    assert (first.label, first.folder, second.folder) == ("sltt", "sltt", "dsr-biases")
    assert first.config.network == {"hidden": [16]}
    assert second.config.network == {"name": "dsr", "hidden": [12]}
    assert (first.config.training.epochs, second.config.training.epochs) == (1, 2)


@pytest.mark.slow
def test_table_plot_and_numbers_and_finished_runs_are_kept(tmp_path):
    lost = '[[rules]]\nlabel = "lost"\nname = "sltt"\nnetwork = { hidden = [16], v_threshold = 1e-7 }\n'
    path, folder = written(tmp_path, SMALL.replace("[3, 4]", "[3]") + lost), tmp_path / "out"
    done = compare(path, folder, "--json", "--check", "50", "--processes", "2")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rules"]
    assert [row["rule"] for row in rows] == ["sltt", "DSR, biases", "lost"]
    assert all(row["seeds"] == [3] and row["seconds"] > 0 and row["memory"] > 10**7 for row in rows)
    assert all(0 < row["accuracy_chip"] <= 1 for row in rows[:2])
    assert 0 < rows[0]["cosines"][0] < 1
    assert rows[1]["cosines"] == []  # DSR's neurons have no membrane that BPTT goes through
    assert rows[2]["accuracy_chip"] is None  # its threshold is far below a step of its weights
    assert "threshold" in rows[2]["reason"]
    assert "DSR, biases" in (folder / "comparison.md").read_text()
    assert (folder / "comparison.svg").read_text().startswith("<svg")
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/model.pt")}
    assert len(before) == 3
    again = compare(path, folder, "--check", "50")
    assert again.returncode == 0, again.stderr
    assert "8 bits" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/model.pt")} == before


def test_a_finished_run_of_other_data_is_run_again(tmp_path, monkeypatch):
    """In this process: a pool has nothing to do with what is known."""
    rng, found = np.random.default_rng(0), []

    class Pool:
        def __init__(self, *arguments, **settings):
            found.append("pool")

        def __enter__(self):
            return self

        def __exit__(self, *arguments):
            pass

        def imap_unordered(self, function, jobs):
            return map(function, jobs)

    monkeypatch.setattr(multiprocessing.get_context("spawn").__class__, "Pool", lambda self, *a, **s: Pool(*a, **s))
    data = {"x": rng.random((40, 4, 4)).astype(np.float32), "y": np.arange(40) % 2}
    np.savez(tmp_path / "mine.npz", **data)
    text = SMALL.replace('"digits"', f'"{tmp_path}/mine.npz"').replace("[3, 4]", "[3]").partition("[[rules]]\nlabel")[0]
    comparison = read_comparison(written(tmp_path, text))
    first = list(run(comparison, tmp_path / "out", 1, 0))
    assert found == ["pool"]
    assert list(run(comparison, tmp_path / "out", 1, 0)) == first
    assert found == ["pool"]  # nothing to do: none is made
    np.savez(tmp_path / "mine.npz", x=1 - data["x"], y=data["y"])
    (again,) = run(comparison, tmp_path / "out", 1, 0)
    assert found == ["pool", "pool"]
    assert again["data"] != first[0]["data"]


def test_runs_that_fail_do_not_end_the_others(tmp_path, monkeypatch):
    comparison = read_comparison(written(tmp_path, SMALL.replace("[3, 4]", "[3]")))
    done = []

    def finish(job):
        done.append(job["label"])
        return {"label": job["label"], "seed": 3, **({"error": "broken"} if len(done) == 1 else {"accuracy": 1.0})}

    class Pool:
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *arguments: None  # noqa: E731
        imap_unordered = staticmethod(lambda function, jobs: map(finish, jobs))

    monkeypatch.setattr(multiprocessing.get_context("spawn").__class__, "Pool", lambda self, *a, **s: Pool())
    results = []
    with pytest.raises(UsageError, match="sltt, seed 3: broken"):
        results.extend(run(comparison, tmp_path / "out", 1, 0))
    assert done == ["sltt", "DSR, biases"]


def test_a_killed_comparison_leaves_no_run_behind(tmp_path):
    """Started again, it would train in the same folder beside the run that was left."""
    program = tmp_path / "killed.py"
    program.write_text(
        "import multiprocessing, os, time\n"
        "from ottt_loihi.training.compare import end_with_parent\n"
        "def work(path):\n"
        "    open(path, 'w').write(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1, end_with_parent, (), 1) as pool:\n"
        f"        pool.map(work, [{str(tmp_path / 'child')!r}])\n"
    )
    child = tmp_path / "child"
    with subprocess.Popen([sys.executable, program]) as parent:
        _wait(lambda: child.exists() and child.read_text())
        parent.kill()
    _wait(lambda: not _runs(child.read_text()))


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def _wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds = [3, 4]", "seeds = []"), "seeds: expected a list of integers"),
        (("seeds = [3, 4]", "seeds = [1, 1]"), "expected different integers"),
        (('name = "sltt"', 'label = "dsr BIASES"'), "expected different labels"),
        (('name = "sltt"', 'name = "stlt"'), "rule.name: expected one of"),
        (('name = "sltt"', 'name = "sltt"\nk = "x"'), "k: expected a positive integer"),
        (("[training]", "[rule]\nname = 'ottt'\n[training]"), r"as \[\[rules\]\]"),
        (("epochs = 1", "epohcs = 1"), "epohcs"),
    ],
)
def test_a_wrong_file_is_told_before_anything_runs(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        read_comparison(written(tmp_path, SMALL.replace(*change)))


def test_no_file_and_no_toml(tmp_path):
    with pytest.raises(FileError, match="cannot be read"):
        read_comparison(tmp_path / "none.toml")
    found = compare(written(tmp_path, "[["), tmp_path / "out")
    assert found.returncode == 3
    assert "not a TOML file" in found.stderr
    assert "Traceback" not in found.stderr


def cosines(**tables):
    from ottt_loihi.training.compare import _cosines
    from ottt_loihi.training.config import make_config

    data, network = {"name": "digits", "encoding": "rate"}, {"hidden": [24, 20], "time_steps": 5}
    if "init" not in tables.get("training", {}):
        tables = {"network": network | tables.pop("network", {}), **tables}
    found = _cosines(make_config({"data": data, **tables}))
    assert bool(found["cosines"]) != bool(found["no_cosines"])
    return found["cosines"]


def test_cosines_with_bptt_layer_by_layer():
    """OTTT's top hidden layer and readout have BPTT's gradient; the first has another; BPTT's own cosines are 1."""
    first, *others = cosines(rule={"name": "ottt", "update": "sequence"})
    assert 0.1 < first < 0.9999
    assert others == pytest.approx([1.0, 1.0], abs=1e-12)
    assert cosines(rule={"name": "bptt"}) == pytest.approx([1.0] * 3, abs=1e-12)
    assert cosines(rule={"name": "tess"})[0] < 0.9
    assert cosines(rule={"name": "bptt"}, network={"hidden": [16, 12], "dropout": 0.5}) == pytest.approx([1.0] * 3)


def test_cosines_are_of_the_network_and_the_loss_that_are_trained(tmp_path):
    from ottt_loihi.nn.models import mlp
    from ottt_loihi.training.checkpoint import save

    save(mlp((64, 24, 20, 10), time_steps=5, input_shape=(8, 8), seed=4), tmp_path / "other.pt")
    plain = cosines(rule={"name": "sltt"})
    for training in (
        {"quantize": 2},
        {"class_weights": [0.01] * 9 + [5.0]},
        {"class_weights": "balanced", "validation": 0.3},
        {"teacher": str(tmp_path / "other.pt"), "kappa": 0.9},
        {"init": str(tmp_path / "other.pt")},
        {"seed": 1},
    ):
        found = cosines(rule={"name": "sltt"}, training=training)
        assert found[0] != pytest.approx(plain[0], abs=1e-6), training
        assert cosines(rule={"name": "bptt"}, training=training) == pytest.approx([1.0] * 3, abs=1e-12), training


def test_no_cosines_have_a_reason_and_old_results_get_theirs_without_training(tmp_path, monkeypatch):
    from ottt_loihi.cli.compare import _note
    from ottt_loihi.training import compare as module
    from ottt_loihi.training.compare import _finish, summarise

    comparison = read_comparison(written(tmp_path, SMALL.replace("[3, 4]", "[3]")))
    monkeypatch.setattr(module, "_train", lambda job: pytest.fail("it was trained again"))
    rows = []
    for contender in comparison.contenders:
        place = tmp_path / contender.folder
        job = {"label": contender.label, "tables": contender.config.tables(), "data": "d", "seed": 3, "check": 0}
        values = dict.fromkeys(("accuracy", "seconds", "spikes", "synaptic_operations", "memory"), 1.0)
        old = {**job, **values, "accuracy_chip": None, "reason": "", "checked": 0}
        place.mkdir()
        (place / "compared.json").write_text(json.dumps(old))
        found = _finish(job | {"place": str(place)})
        assert {name: found[name] for name in old} == old
        assert json.loads((place / "compared.json").read_text()) == found
        rows.append(summarise(contender.label, [found]))
    assert 0 < rows[0]["cosines"][0] < 1
    assert rows[1]["cosines"] == []
    assert "DSR, biases, cosines: none, because DSR neurons have no surrogate gradient;" in _note(rows)


def test_the_controls_learn_in_the_readout_alone(tmp_path):
    """Hidden layers frozen at random, and no hidden layers at all."""
    import torch

    from ottt_loihi.training.checkpoint import load
    from ottt_loihi.training.config import make_config
    from ottt_loihi.training.run import run as train

    tables = {
        "data": {"name": "digits"},
        "network": {"hidden": [16, 12]},
        "training": {"epochs": 1, "freeze": "hidden"},
    }
    assert cosines(rule={"name": "ottt"}, training=tables["training"]) == [None, None, pytest.approx(1.0)]
    config = make_config(tables)
    train(config, tmp_path / "frozen")
    start, found = config.make_network((8, 8), 10), load(tmp_path / "frozen" / "model.pt")
    for name, p in start.named_parameters():
        assert torch.equal(p, dict(found.named_parameters())[name]) == name.startswith("blocks"), name
    alone = make_config({"data": {"name": "digits"}, "network": {"hidden": []}, "training": {"epochs": 1}})
    assert train(alone, tmp_path / "alone")["test_accuracy"] > 0.3  # chance is 0.1
    with pytest.raises(UsageError, match=r"training\.freeze: expected one of"):
        train(make_config(tables | {"training": {"freeze": "all"}}), tmp_path / "none")


def test_fine_tuning_names_the_parameters_that_stay_frozen(tmp_path, capsys):
    from ottt_loihi.training.config import make_config
    from ottt_loihi.training.run import run as train

    tables = {"data": {"name": "digits"}, "network": {"hidden": [16]}, "training": {"epochs": 1, "freeze": "hidden"}}
    train(make_config(tables), tmp_path / "first")
    again = {"training": {"epochs": 1, "init": str(tmp_path / "first" / "model.pt")}}
    train(make_config(again), tmp_path / "second", progress=True)
    assert "init: blocks.0.connection.weight are frozen in" in capsys.readouterr().err
