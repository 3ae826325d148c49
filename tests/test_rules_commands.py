"""The rules after OTTT are trained, stopped, resumed, exported and compared by the commands, as OTTT is."""

import json
import multiprocessing

import numpy as np
import pytest
import torch
from commands import assert_one_line, run_here

from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.trainer import Trainer

CUBA = 'alpha = 0.4\nbeta = 0.7\nreset = "{}"\nlearn = ["alpha", "beta", "v_threshold"]'
CASES = {name: (name, "") for name in ("ottt", "s-tllr", "tess", "a-otpe", "otpe")}
CASES |= {f"cuba, {reset}": ("ottt", CUBA.format(reset)) for reset in ("zero", "subtract")}
CASES["cuba, a trace for every synapse"] = ("ottt", CUBA.format("zero") + '\ntrace = "synapse"')


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(72) % 3
    x = np.clip(0.35 * rng.random((72, 4, 4)) + 0.5 * np.eye(4)[y][:, :, None], 0, 1)
    np.savez(tmp_path / "data.npz", x=x.astype(np.float32), y=y)
    return tmp_path / "data.npz"


def tables(data, case):
    """The text of the tables, and of the rule alone."""
    name, network = CASES[case]
    training = "epochs = 2\nbatch_size = 8\nvalidation = 0.0\nlearning_rate = 0.01"
    head = f'[data]\nname = "{data.as_posix()}"\nencoding = "constant"\n[training]\n{training}\n'
    return head, f"[network]\nhidden = [12, 10]\ntime_steps = 5\n{network}\n", f'name = "{name}"\n'


def stopping_after(batches, monkeypatch):
    done, learn = [], Trainer._batch

    def counted(self, *arguments):
        done.append(1)
        if len(done) > batches:
            raise KeyboardInterrupt
        return learn(self, *arguments)

    monkeypatch.setattr(Trainer, "_batch", counted)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_trained_stopped_resumed_and_exported(data, tmp_path, monkeypatch, case):
    head, network, rule = tables(data, case)
    config = tmp_path / "one.toml"
    config.write_text(f"{head}{network}[rule]\n{rule}")
    whole = run_here("ottt-train", config, "-o", tmp_path / "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    with monkeypatch.context() as patch:
        stopping_after(10, patch)
        assert run_here("ottt-train", config, "-o", tmp_path / "run").returncode == 130
    resumed = run_here("ottt-train", config, "-o", tmp_path / "run", "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    nets = [load(tmp_path / name / "model.pt") for name in ("whole", "run")]
    assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in nets), strict=True))
    assert json.loads(resumed.stdout)["rule"] == CASES[case][0]
    done = run_here("ottt-export", tmp_path / "run" / "model.pt", "--json", "--allow-dead")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.h5").exists()
    if case.startswith("cuba"):
        assert [float(nets[1].blocks[0].neuron.alpha), float(nets[1].blocks[1].neuron.beta)] != [0.4, 0.7]


class Here:
    """A pool without processes, which would import torch once for each run."""

    def __init__(self, *arguments, **settings):
        pass

    __enter__ = lambda self: self  # noqa: E731
    __exit__ = lambda self, *arguments: None  # noqa: E731
    imap_unordered = staticmethod(map)


@pytest.mark.slow
def test_all_compared(data, tmp_path, monkeypatch):
    text = f"seeds = [1]\n{tables(data, 'ottt')[0]}"
    for case in CASES:
        _, network, rule = tables(data, case)
        changed = network.replace("[network]", "[rules.network]")
        text += f'[[rules]]\nlabel = "{case}"\n{rule}{changed}'
    config = tmp_path / "all.toml"
    config.write_text(text)
    monkeypatch.setattr(multiprocessing.get_context("spawn").__class__, "Pool", Here)
    done = run_here("ottt-compare", config, "-o", tmp_path / "out", "--check", "20", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rules"]
    assert [row["rule"] for row in rows] == list(CASES)
    for row in rows:
        assert row["accuracy_chip"] is not None, row
        assert len(row["cosines"]) == 3, row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('learn = "beta"', "learn: expected a list of names, got 'beta'; write ['beta']"),
        ('learn = ["theta"]', "learn: expected one of alpha, beta, v_threshold"),
        ("alpha = 1.5", "alpha: expected a number"),
        ('trace = "all"', "trace: expected one of exact, mean, synapse"),
        ('alpha = 0.5\n[rule]\nname = "s-tllr"', "s-tllr: expected LIF neurons"),
        ('alpha = 0.5\n[rule]\nname = "otpe"', "otpe: expected LIF neurons"),
    ],
)
def test_a_wrong_current_ends_in_one_line(data, tmp_path, change, message):
    config = tmp_path / "one.toml"
    config.write_text(f"{tables(data, 'ottt')[0]}[network]\n{change}\n")
    assert_one_line(run_here("ottt-train", config, "-o", tmp_path / "run"), 2, message)
