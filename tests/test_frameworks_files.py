"""ottt-export of a user's own module: his Python makes it, its weights are read as data."""

import json
import pickle
import textwrap

import numpy as np
import pytest
import torch
from commands import assert_one_line, run_here
from ottt_loihi.sim import storage

import ottt_loihi as ol
from ottt_loihi import sim

SOURCE = """
import sys
sys.path.insert(0, {tests!r})
from dialects import stand_ins
from torch import nn

parts = stand_ins("snntorch")

def build():
    return nn.Sequential(nn.Linear(12, 10, bias=False), parts.Leaky(beta=0.5), nn.Linear(10, 3))

def needs(size):
    return nn.Linear(size, 3)

def number():
    return 3

def fails():
    raise SystemExit("no")

class Net(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.first, self.neurons, self.what = nn.Linear(12, 3), parts.Leaky(beta=0.5), what

    def forward(self, x):
        self.what()
        return self.neurons(self.first(x))

def leaves():
    return Net(lambda: sys.exit(0))

def prints():
    print("the user's own words")
    return Net(lambda: print("and more of them"))
"""


@pytest.fixture
def project(tmp_path, request):
    (tmp_path / "mynet.py").write_text(textwrap.dedent(SOURCE.format(tests=str(request.path.parent))), encoding="utf-8")
    from ottt_loihi.converters.frameworks import files

    net = files.build(f"{tmp_path / 'mynet.py'}:build")
    generator = torch.Generator().manual_seed(0)
    for value in net.parameters():
        value.data = torch.randint(-60, 90, value.shape, generator=generator) / 64
    torch.save({"net": net.state_dict(), "epoch": 3, "losses": [0.5, 0.25]}, tmp_path / "net.pth")
    return tmp_path, net


def export(folder, *more, function="build"):
    line = (f"{folder / 'mynet.py'}:{function}", "--input-shape", "12", "--time-steps", "7", "--no-check")
    return run_here("ottt-export", *line, "-o", folder / "out", *more)


def test_from_a_python_file_to_the_chip_and_back_to_training(project):
    folder, net = project
    done = export(folder, "--weights", folder / "net.pth")
    assert done.returncode == 0, done.stderr
    assert "weights of its entry 'net'" in done.stderr
    network = ol.load(folder / "out" / "imported.pt")
    assert torch.equal(network.blocks[0].connection.weight, net[0].weight)
    assert network.provenance["imported"]["framework"] == "snntorch"
    x = (np.random.default_rng(0).random((5, 7, 12)) < 0.4).astype(np.uint8)
    chip = storage.load(folder / "out" / "model.h5")
    found = sim.run(chip, x, ("s",)).states["s"][0]
    expected = network.run(torch.from_numpy(x), "s").states["s"][0].detach().numpy() != 0
    assert 0.05 < expected.mean() < 0.95
    assert (found != expected).mean() < 0.03  # weights in eight bits


def test_samples_of_the_user_are_compared_and_kept(project):
    """On the user's data: float and chip, and what ottt-train --init goes on with."""
    folder, net = project
    torch.save(net.state_dict(), folder / "net.pth")
    rng = np.random.default_rng(0)
    x, y = (rng.random((30, 7, 12)) < 0.4).astype(np.uint8), np.arange(30) % 3
    np.savez(folder / "mine.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:], time_axis=True)
    line = ("--weights", folder / "net.pth", "--data", folder / "mine.npz", "--encoding", "frames")
    done = export(folder, *line)
    assert done.returncode == 0, done.stderr
    assert "30 samples" not in done.stderr
    network = ol.load(folder / "out" / "imported.pt")
    assert network.data.coding.name == "frames"
    assert network.provenance["data"].endswith("mine.npz")
    chip = storage.load(folder / "out" / "model.h5")
    assert chip.data == network.data
    trained = run_here(
        *("ottt-train", "--init", folder / "out" / "imported.pt", "--epochs", 1, "--quantize", 4, "-o", folder / "more")
    )
    assert trained.returncode == 0, trained.stderr
    more = ol.load(folder / "more" / "model.pt")
    assert (more.provenance["weight_bits"], more.data) == (4, network.data)
    assert not torch.equal(more.blocks[0].connection.weight, network.blocks[0].connection.weight)
    with_other_steps = run_here(
        "ottt-export", f"{folder / 'mynet.py'}:build", "--input-shape", 12, "--time-steps", 6, *line[2:], "--no-check"
    )
    assert_one_line(with_other_steps, 2, "the samples have 7 time steps, --time-steps says 6")
    assert_one_line(export(folder, "--encoding", "rate"), 2, "give --data with it")
    assert_one_line(run_here("ottt-export", folder / "net.pth", "--data", "digits"), 2, "--data: for a module")


def test_without_no_check_the_module_and_the_network_are_run(project):
    folder, _ = project
    line = (f"{folder / 'mynet.py'}:build", "--weights", folder / "net.pth", "--input-shape", "12", "--time-steps", "7")
    assert_one_line(
        run_here("ottt-export", *line, "--dry-run"), 1, "the module and our network differ, first in 1, time step"
    )  # the stand-in only looks like a neuron


@pytest.mark.lava
def test_without_data_random_spikes_are_replayed_in_lava(project):
    done = export(project[0], "--weights", project[0] / "net.pth", "--verify", "inprocess", "--verify-samples", 3)
    assert done.returncode == 0, done.stderr
    assert "inprocess: 0 of " in done.stdout
    assert "3 random samples" in done.stdout
    again = run_here("ottt-export", project[0] / "out" / "imported.pt", "--dry-run")
    assert again.returncode == 0, again.stderr
    assert "trained" not in again.stderr


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda state: {"net": {k: v for k, v in state.items() if k != "2.bias"}}, 3, "2.bias: not in the file"),
        (lambda state: state | {"3.weight": torch.ones(2)}, 3, "3.weight: not in the module"),
        (lambda state: state | {"0.weight": torch.ones(10, 11)}, 3, "0.weight: (10, 11) in the file, (10, 12) in"),
        (lambda state: state | {"0.weight": torch.full((10, 12), torch.nan)}, 3, "0.weight: not finite"),
        (lambda state: {"epoch": 3}, 3, "holds no state_dict"),
        (lambda state: torch.nn.Linear(2, 2), 3, "such a file pickles a module"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_listed(project, change, code, says):
    folder, net = project
    torch.save(change(net.state_dict()), folder / "net.pth")
    done = export(folder, "--weights", folder / "net.pth")
    assert_one_line(done, code, says)
    assert not (folder / "out").exists()


class Evil:
    def __reduce__(self):
        return (print, ("it ran",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps(Evil()), "damaged or not a model.pt"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a pointer of Git LFS"),
        (b"", "damaged or not a model.pt"),
    ],
)
def test_files_that_are_no_weights_never_run(project, content, says):
    folder, _ = project
    (folder / "net.pth").write_bytes(content)
    done = export(folder, "--weights", folder / "net.pth")
    assert_one_line(done, 3, says)
    assert "it ran" not in done.stdout


def test_a_hostile_checkpoint_never_runs(project):
    folder, net = project
    torch.save({"net": net.state_dict(), "extra": Evil()}, folder / "net.pth")
    done = export(folder, "--weights", folder / "net.pth")
    assert_one_line(done, 3, "nothing of it was run", "torch.save(net.state_dict(), 'net.pth')")
    assert "it ran" not in done.stdout


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("missing", "has no 'missing'"),
        ("needs", "must work without arguments"),
        ("number", "expected it to return a torch.nn.Module, got int"),
        ("fails", "does not run (SystemExit: no)"),
    ],
)
def test_functions_that_make_no_module_are_refused(project, function, says):
    assert_one_line(export(project[0], function=function), 2, says)


def test_a_forward_that_ends_the_program_is_no_success(project):
    assert_one_line(export(project[0], function="leaves"), 2, "Net does not run on inputs of shape (12,)")
    assert not (project[0] / "out").exists()


def test_what_the_users_code_prints_is_no_output_of_ours(project):
    done = export(project[0], "--json", "--allow-dead", function="prints")
    assert done.returncode == 0, done.stderr
    assert "layers" in json.loads(done.stdout)


def test_a_module_needs_a_shape_and_steps(project):
    text = f"{project[0] / 'mynet.py'}:build"
    assert_one_line(run_here("ottt-export", text, "--time-steps", 3), 2, "give --input-shape")
    assert_one_line(run_here("ottt-export", text, "--input-shape", "12"), 2, "num_steps: the module does not say")
    assert_one_line(run_here("ottt-export", f"{project[0] / 'none.py'}:build", "--input-shape", 3), 3, "no such file")
    assert_one_line(
        export(project[0], "--weights", "none.pth"), 3, "none.pth: no such file; torch.save(net.state_dict()"
    )


@pytest.mark.parametrize("content", ["state", "dictionary", "module"])
def test_a_file_of_another_framework_alone_is_told_how_it_is_read(project, content):
    folder, net = project
    state = net.state_dict()
    torch.save(
        {"state": state, "dictionary": dict(state), "module": torch.nn.Linear(2, 3)}[content], folder / "net.pth"
    )
    done = run_here("ottt-export", folder / "net.pth")
    assert_one_line(done, 3, "for another framework's weights: ottt-export mynet.py:build --weights net.pth")


def test_a_layer_that_cannot_fire_is_named_before_anything_is_written(project):
    folder, net = project
    state = net.state_dict()
    torch.save(state | {"0.weight": state["0.weight"] / 1000}, folder / "net.pth")
    done = export(folder, "--weights", folder / "net.pth")
    assert_one_line(done, 4, "hidden 1: no input of 0 and 1 can make it fire: in 7 steps its membranes reach")
    assert not (folder / "out").exists()
