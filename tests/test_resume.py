"""A run that is killed and goes on ends in the same bytes; several processes learn what one would."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_here
from torch.utils.data import DataLoader, TensorDataset

from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.nn.models import dsr, mlp
from ottt_loihi.rules import OTTT, make_rule
from ottt_loihi.toml import parse_change
from ottt_loihi.training.callbacks import EarlyStopping
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.config import make_config, override, read_config
from ottt_loihi.training.distributed import Group
from ottt_loihi.training.evaluation import evaluate, evaluate_samples
from ottt_loihi.training.run import run
from ottt_loihi.training.run_folder import RunFolder
from ottt_loihi.training.sources import open_samples
from ottt_loihi.training.trainer import Trainer

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
TRAIN = [sys.executable, "-m", "ottt_loihi.cli.train"]
SMALL = ["--hidden", "24", "--epochs", "3", "--set", "network.dropout=0.2", "--set", "training.checkpoint_every=6"]


def rng_data(n=60):
    rng = np.random.default_rng(0)
    return rng.random((n, 12)).astype(np.float32), rng.integers(0, 3, n)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = [*SMALL, "--optimizer", "adam", "--lr", "0.01", "--json"]
    subprocess.run([*TRAIN, *arguments, "-o", whole], check=True, env=ENVIRONMENT, capture_output=True, timeout=240)
    process = subprocess.Popen([*TRAIN, *arguments, "-o", broken], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (broken / "best.pt").exists():  # the first epoch is done
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "model.pt").exists()
    done = subprocess.run([*TRAIN, *arguments, "-o", broken, "--resume"], env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    for name in ("model.pt", "best.pt"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


class Stop(Exception):
    pass


def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_there(tmp_path, monkeypatch):
    x, y = rng_data()

    def trainer(rule="ottt"):
        return Trainer(mlp((12, 9, 3), dropout=0.3), make_rule(rule), batch_size=8, seed=3)

    whole = trainer()
    whole.fit(x, y, 3, test=(x, y))
    first = trainer()
    batches = []
    learn = Trainer._batch

    def stopping(self, *arguments):
        batches.append(1)
        if len(batches) == 14:  # the sixth batch of the second epoch
            raise Stop
        return learn(self, *arguments)

    monkeypatch.setattr(Trainer, "_batch", stopping)
    with pytest.raises(Stop):
        first.fit(x, y, 3, test=(x, y), run=RunFolder(tmp_path), checkpoint_every=2)
    monkeypatch.undo()
    second = trainer()
    history = second.fit(x, y, 3, test=(x, y), run=RunFolder(tmp_path), resume=True)
    assert len(history) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), second.net.parameters()))
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(rows) == 4
    assert rows[0].startswith("epoch,loss,train_accuracy,test_accuracy")
    with pytest.raises(
        UsageError,
        match=r"this run was started with rule = .*'ottt'.*now it is .*'sltt'.*; use the settings of the start",
    ):
        trainer("sltt").fit(x, y, 3, run=RunFolder(tmp_path), resume=True)


RULES = {
    "dsr": lambda: dsr((9,), input_shape=(12,), num_classes=3, v_threshold=1.0),
    "ide": lambda: mlp((12, 9, 3), recurrent=True, v_threshold=2.0, dropout=0.2),
    "spide": lambda: mlp((12, 9, 3), recurrent=True, v_threshold=2.0, v_init=1.0),
    "opzo": lambda: mlp((12, 9, 8, 3), dropout=0.2),
    "ottt": lambda: mlp((12, 9, 9, 3), binary="channel", shortcuts=True),
    "s-tllr": lambda: mlp((12, 9, 3), recurrent=True, dropout=0.2),
    "tess": lambda: mlp((12, 9, 8, 3)),
    "a-otpe": lambda: mlp((12, 9, 8, 3)),
    "otpe": lambda: mlp((12, 9, 8, 3), dropout=0.2),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_goes_on_bit_for_bit(tmp_path, monkeypatch, rule):
    x, y = rng_data()

    def trainer():
        settings = {"not_converged": "continue"} if rule in ("ide", "spide") else {}
        return Trainer(RULES[rule](), make_rule(rule, **settings), batch_size=8, seed=3, learning_rate=0.01)

    whole, first, second, batches = trainer(), trainer(), trainer(), []
    whole.fit(x, y, 3)
    learn = Trainer._batch

    def stopping(self, *arguments):
        batches.append(1)
        if len(batches) == 14:
            raise Stop
        return learn(self, *arguments)

    monkeypatch.setattr(Trainer, "_batch", stopping)
    with pytest.raises(Stop):
        first.fit(x, y, 3, run=RunFolder(tmp_path), checkpoint_every=2)
    monkeypatch.undo()
    second.fit(x, y, 3, run=RunFolder(tmp_path), resume=True, checkpoint_every=2)
    for a, b in zip(whole.net.parameters(), second.net.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.rule.tensors().values(), second.rule.tensors().values(), strict=True):
        assert torch.equal(a, b)


def test_a_network_of_another_architecture_is_refused(tmp_path):
    x, y = rng_data()
    Trainer(mlp((12, 9, 3)), OTTT()).fit(x, y, 1, run=RunFolder(tmp_path))
    other = mlp((12, 8, 3))
    before = [p.clone() for p in other.parameters()]
    says = r"training\.pt: the network to be filled is another one: .*out_features: expected 9, got 8.*; resume it"
    with pytest.raises(UsageError, match=says):
        Trainer(other, OTTT()).fit(x, y, 1, run=RunFolder(tmp_path), resume=True)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters()))
    stops = Trainer(mlp((12, 9, 3)), OTTT(), callbacks=[EarlyStopping(patience=2)])
    with pytest.raises(
        UsageError, match="callback 1, EarlyStopping: only in this call; resume it with its own settings"
    ):
        stops.fit(x, y, 1, run=RunFolder(tmp_path), validation=(x, y), resume=True)
    again = Trainer(mlp((12, 9, 3)), OTTT())
    again.fit(x, y, 1, run=RunFolder(tmp_path), resume=True)
    assert "nothing is trained: the run has 1 epochs already, and epochs is 1" in again.notes


def test_options_of_training_without_effect_are_refused(tmp_path):
    x, y = rng_data(16)
    with pytest.raises(UsageError, match="workers: processes read a Dataset, and these are arrays or batches"):
        Trainer(mlp((12, 4, 3)), OTTT(), workers=2).fit(x, y)
    with pytest.raises(UsageError, match="chunk: the plain engine takes one time step after the other"):
        Trainer(mlp((12, 4, 3)), OTTT(), engine="plain", chunk=3).fit(x, y)
    with pytest.raises(UsageError, match="--resume continues the run and --force replaces it"):
        run(make_config({}), tmp_path, resume=True, force=True)


def test_a_damaged_state_is_our_error(tmp_path):
    x, y = rng_data(16)
    Trainer(mlp((12, 4, 3)), OTTT(), batch_size=16).fit(x, y, 1, run=RunFolder(tmp_path))
    state = tmp_path / "training.pt"
    content = state.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        place = rng.integers(len(damaged))
        damaged[place] ^= 1 << rng.integers(8)
        if rng.random() < 0.3:
            damaged = damaged[:place]
        state.write_bytes(damaged)
        try:
            Trainer(mlp((12, 4, 3)), OTTT(), batch_size=16).fit(x, y, 1, run=RunFolder(tmp_path), resume=True)
        except (FileError, UsageError):
            continue


@pytest.mark.slow
@pytest.mark.parametrize("update", ["step", "sequence"])
def test_two_processes_learn_what_one_does(tmp_path, update):
    """Gloo on the CPU; the weights are those of one process with the joint batch, within float rounding."""
    common = ["--hidden", "20", "--epochs", "1", "--update", update, "--optimizer", "sgd", "--lr", "0.1", "--json"]
    common += ["--set", "training.batch_size=97"]  # odd: the two parts of a batch differ
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    torchrun += ["--standalone", "-m", "ottt_loihi.cli.train"]
    for command, folder in ((TRAIN, "one"), (torchrun, "two")):
        done = subprocess.run(
            [*command, *common, "-o", tmp_path / folder], env=ENVIRONMENT, capture_output=True, timeout=240
        )
        assert done.returncode == 0, done.stderr.decode()
    one, two = load(tmp_path / "one" / "model.pt"), load(tmp_path / "two" / "model.pt")
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    start = mlp((64, 20, 10))
    assert (one.readout.weight - start.readout.weight).abs().max() > 1e-2


@pytest.mark.slow
def test_no_thread_of_a_group_is_left_when_it_has_ended(tmp_path):
    """A thread of gloo's that lives when Python exits may abort the process."""
    script = tmp_path / "two.py"
    script.write_text(
        "import os\n"
        "from ottt_loihi.training import distributed\n"
        "import torch\n"
        "threads = lambda: [open(f'/proc/self/task/{t}/comm').read() for t in os.listdir('/proc/self/task')]\n"
        "group = distributed.join()\n"
        "p = torch.nn.Parameter(torch.ones(3))\n"
        "optimizer = torch.optim.SGD([p], 0.1)\n"
        "group.attach(optimizer)\n"
        "p.sum().backward()\n"
        "optimizer.step()\n"
        "assert any('gloo' in name for name in threads())\n"
        "distributed.leave()\n"
        "assert not any('gloo' in name for name in threads()), threads()\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", script]
    done = subprocess.run(torchrun, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_evaluation_counts_spikes_and_operations():
    net = mlp((12, 9, 3))
    x = (np.random.default_rng(0).random((5, 4, 12)) < 0.5).astype(np.uint8)
    found = evaluate(net, x, np.zeros(5, np.int64))
    spikes = net.run(torch.from_numpy(x), record=("s",)).states["s"][0].detach()
    np.testing.assert_allclose(found.rates_over_time[0], spikes.mean((1, 2)))
    assert found.synaptic_operations == pytest.approx((x.sum() * 9 + float(spikes.sum()) * 3) / 5)
    assert evaluate(net, x, np.zeros(5, np.int64), time_steps=2).rates_over_time.shape == (1, 2)
    with pytest.raises(UsageError, match="time_steps: expected an integer 1 … 4, got 5"):
        evaluate(net, x, np.zeros(5, np.int64), time_steps=5)


class Share(Group):
    """A process that keeps what it gives to a sum over the processes, in place of a sum."""

    def sum(self, *numbers):
        self.given = np.array(numbers)
        return list(numbers)


@pytest.mark.parametrize("kind", ["arrays", "dataset", "batches"])
def test_processes_share_a_test_set(kind):
    net, (x, y) = mlp((12, 9, 3)), rng_data(23)
    tensors = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    data = {"arrays": (x, y), "dataset": (tensors,), "batches": (DataLoader(tensors, batch_size=4),)}[kind]
    samples = open_samples(*data, *(() if kind == "arrays" else (None,)), net, "test", "rate")
    shares = [Share(rank, 2) for rank in (0, 1)]
    parts = [evaluate_samples(net, samples, 11, group=share) for share in shares]  # 11, 11 and 1 samples
    whole = Share()
    evaluate_samples(net, samples, 11, group=whole)
    np.testing.assert_allclose(shares[0].given + shares[1].given, whole.given)
    assert [len(part.predictions) for part in parts] == ([13, 10] if kind != "batches" else [12, 11])
    assert whole.given[1] == 23


def test_settings_of_a_config(tmp_path):
    (tmp_path / "a.toml").write_text("[training]\nepochs = 'many'\n")
    with pytest.raises(UsageError, match=r"a.toml: training.epochs: expected int, got 'many'"):
        read_config(tmp_path / "a.toml")
    seeds = f"an integer 0 … {2**63 - 1}"
    for name, value, least in (("seed", -1, seeds), ("seed", 2**63, seeds), ("threads", 0, "a positive integer")):
        with pytest.raises(UsageError, match=f"training.{name}: expected {least}, got {value}"):
            make_config({"training": {name: value}})
    (tmp_path / "a.toml").write_text("[trainin]\n")
    with pytest.raises(UsageError, match=r"a.toml: trainin: unknown; did you mean 'training'"):
        read_config(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text("[training\n")
    with pytest.raises(FileError, match=r"a.toml: not a TOML file"):
        read_config(tmp_path / "a.toml")
    config = override(make_config({}), dict([parse_change("network.hidden=[3, 4]"), parse_change("rule.name=sltt")]))
    assert [b.shape for b in config.make_network((5,), 2).blocks] == [(3,), (4,)]
    assert config.make_rule("paper").name == "sltt"
    assert json.dumps(config.tables())


def test_the_results_script_resumes_and_writes_its_table(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import results

    experiments = [
        results.Experiment("digits, ottt", "digits-mlp", {}, (0, 1), 0.5),
        results.Experiment("digits, sltt", "digits-mlp", {"rule": {"name": "sltt"}}),
    ]
    monkeypatch.setattr(results, "EXPERIMENTS", experiments)
    monkeypatch.setattr(
        sys, "argv", ["results.py", "--runs", str(tmp_path / "runs"), "--docs", str(tmp_path), "--epochs", "2"]
    )
    results.main()
    first = (tmp_path / "results.json").read_text()
    rows = json.loads(first)
    assert [row["seeds"] for row in rows] == [2, 1]
    for row in rows:
        assert all(0.2 < last <= best < 1 for last, best in zip(row["accuracies"], row["best_accuracies"]))
    assert load(tmp_path / "runs" / "digits-sltt-0" / "model.pt").provenance["training"]["rule"]["name"] == "sltt"
    (tmp_path / "runs" / "digits-ottt-1" / "result.json").unlink()  # as if it had been killed after training
    results.main()
    again = json.loads((tmp_path / "results.json").read_text())
    assert [row["accuracies"] for row in again] == [row["accuracies"] for row in rows]
    assert "| digits, ottt | 2 |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "results-log.csv").read_text().count("\n") == 1 + 3 * 2  # three runs of two epochs


@pytest.mark.slow
def test_ottt_eval_tests_at_other_numbers_of_steps(tmp_path):
    command = [sys.executable, "-m", "ottt_loihi.cli.train", "--epochs", "1", "-o", tmp_path, "--json"]
    trained = json.loads(subprocess.run(command, capture_output=True, env=ENVIRONMENT, check=True).stdout)
    evaluate_it = [sys.executable, "-c", "from ottt_loihi.cli.eval import main; main()", tmp_path / "model.pt"]
    done = subprocess.run(
        [*evaluate_it, "-T", "2", "-T", "6", "--json", "--plot", tmp_path / "rates.svg"],
        capture_output=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr.decode()
    few, all_steps = json.loads(done.stdout)["runs"]
    assert all_steps["accuracy"] == trained["test_accuracy"]
    assert (len(few["rates_over_time"][0]), len(all_steps["rates_over_time"][0])) == (2, 6)
    assert few["synaptic_operations"] < all_steps["synaptic_operations"]
    assert "<svg" in (tmp_path / "rates.svg").read_text()
    shown = subprocess.run(evaluate_it, capture_output=True, env={**ENVIRONMENT, "COLUMNS": "80"}, text=True)
    assert "Trained with T = 6." in shown.stdout
    refused = run_here("ottt-eval", tmp_path / "model.pt", "--plot", tmp_path / "rates.jpg")
    assert refused.returncode == 2


def test_the_engine_is_chosen_once_for_a_run(tmp_path):
    x, y = rng_data()

    def trainer(**settings):
        return Trainer(mlp((12, 9, 3)), make_rule("ottt", update="sequence"), batch_size=8, seed=3, **settings)

    first = trainer()
    first.fit(x, y, 1, run=RunFolder(tmp_path))
    assert first.chosen.name == "fast"
    assert "engine fast" in first.chosen.why
    with pytest.raises(
        UsageError, match=r"this run was started with engine = \{'chunk': .*'fast'\}, now it is .*'plain'"
    ):
        trainer(engine="plain").fit(x, y, 2, run=RunFolder(tmp_path), resume=True)


REPLICAS = """
import sys, torch
import ottt_loihi as ol
from ottt_loihi.training import distributed
group = distributed.join()
digits = ol.load_data("digits")
net = ol.mlp((64, 8, 10), input_shape=(8, 8), seed=group.rank)
ol.Trainer(net, ol.OTTT("sequence"), group=group).fit(digits.x_train[:128], digits.y_train[:128], 1)
torch.save(net.state_dict(), f"{sys.argv[1]}/{group.rank}.pt")
distributed.leave()
"""


@pytest.mark.slow
def test_processes_that_start_from_different_weights_train_one_network(tmp_path):
    (tmp_path / "replicas.py").write_text(REPLICAS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--standalone", tmp_path / "replicas.py", tmp_path]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
