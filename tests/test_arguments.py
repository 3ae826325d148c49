"""Wrong types in each argument of the public functions and classes: refused with an error of ours, in one line."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from ottt_loihi.converters import budget, export, torch_integer
from ottt_loihi.converters.lava import script
from ottt_loihi.converters.netx import read as netx_reader
from ottt_loihi.converters.netx import write as netx
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.sim import storage
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.network import ChipNetwork
from torch import nn

import ottt_loihi as ol
from ottt_loihi.errors import OtttError, TrainingError, UsageError
from ottt_loihi.rules.losses import SquaredError

WRONG = [
    None,
    "x",
    "",
    -1,
    0,
    1.5,
    float("nan"),
    True,
    [],
    ["a"],
    {},
    {"a": 1},
    object(),
    b"x",
    1j,
    int,
    nn.Linear(2, 2),
]
X = (np.random.default_rng(0).random((6, 4, 16)) < 0.3).astype(np.uint8)
Y = np.arange(6) % 3


def net(**settings):
    return ol.mlp((16, 12, 3), **{"beta": 0.5, "time_steps": 4, "input_shape": (16,), **settings})


CHIP = export.export(net()).chip
SPIKES = torch.from_numpy(X).float()


def parts(what):
    return {name: getattr(what, name) for name in inspect.signature(type(what)).parameters}


CASES = {  # a function, and arguments that it takes
    "mlp": (ol.mlp, {"sizes": (16, 12, 3)}),
    "conv": (ol.conv, {"features": "2C3-AP2", "input_shape": (1, 6, 6), "num_classes": 3}),
    "CubaLIF": (ol.CubaLIF, {}),
    "Linear": (ol.Linear, {"in_features": 3, "out_features": 2}),
    "Conv2d": (ol.Conv2d, {"in_channels": 3, "out_channels": 2}),
    "Block": (ol.Block, {"connection": ol.Linear(3, 3), "neuron": ol.LIF()}),
    "Network": (
        lambda **k: ol.Network(**k),
        {
            "blocks": [ol.Block(ol.Linear(3, 3), ol.LIF())],
            "readout": ol.Readout(3, 2),
            "input_shape": (3,),
            "time_steps": 2,
        },
    ),
    "backward": (ol.backward, {"net": net(), "rule": ol.OTTT(), "x": SPIKES, "labels": Y, "loss": SquaredError()}),
    "evaluate": (ol.evaluate, {"net": net(), "x": X.astype("f4"), "y": Y}),
    "Trainer": (ol.Trainer, {"net": net(), "rule": ol.OTTT()}),
    "fit": (
        lambda **k: ol.Trainer(net(), ol.OTTT()).fit(X, Y, **k),
        dict.fromkeys(("epochs", "validation", "test", "run", "resume", "checkpoint_every"))
        | {"epochs": 1, "resume": False, "checkpoint_every": 0},
    ),
    "RunFolder": (ol.RunFolder, {"folder": "run"}),
    "save": (ol.save, {"net": net(), "path": "model.pt"}),
    "load": (ol.load, {"path": "model.pt"}),
    "load_data": (ol.load_data, {"name": "digits"}),
    "from_arrays": (ol.from_arrays, {"x": np.random.default_rng(0).random((20, 4)), "y": np.arange(20) % 2}),
    "Split": (ol.Split, {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}),
    "rate_code": (ol.rate_code, {"images": X[:, 0] * 0.5, "num_steps": 3}),
    "export": (ol.export, {"net": net()}),
    "Options": (export.Options, {}),
    "sim.run": (ol.sim.run, {"chip": CHIP, "x": X}),
    "reference.run": (reference.run, {"chip": CHIP, "x": X}),
    "torch_integer.run": (torch_integer.run, {"chip": CHIP, "x": X}),
    "ChipNetwork": (ChipNetwork, parts(CHIP)),
    "storage.save": (storage.save, {"chip": CHIP, "path": "model.h5"}),
    "storage.load": (storage.load, {"path": "model.h5"}),
    "budget": (budget.budget, {"chip": CHIP}),
    "netx.write": (netx.write, {"chip": CHIP, "path": "model.net"}),
    "netx.read": (netx_reader.read, {"path": "model.net", "num_steps": 4}),
    "script.write": (script.write, {"chip": CHIP, "path": Path("model_lava.py")}),
    "fresh_network": (fresh_network, {}),
    "Settings": (Settings, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_types_are_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, good = CASES[name]
    storage.save(CHIP, "model.h5")
    netx.write(CHIP, "model.net")
    ol.save(net(), "model.pt")
    function(**good)
    parameters = inspect.signature(function).parameters.values()
    names = list(good) if any(p.kind is p.VAR_KEYWORD for p in parameters) else [p.name for p in parameters]
    for argument in names:
        for value in WRONG:
            if argument == "progress" and callable(value):
                continue  # the user's own function, whose errors are the user's
            said = ""
            try:
                function(**{**good, argument: value})
            except OtttError as error:
                said = str(error)
            assert "\n" not in said, f"{argument}={value!r}"


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (
            nn.CrossEntropyLoss(),
            "expected a function of .o, labels, time_steps., CrossEntropyLoss takes others; wrap it",
        ),
        (lambda o, labels: o.sum(), "expected a function of"),
        ("crossentropy", "expected one of squared-error, cross-entropy, got 'crossentropy'"),
    ],
)
@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_a_loop_of_ones_own_is_told_what_a_loss_is(loss, says, engine):
    with pytest.raises(UsageError, match=says):
        ol.backward(net(), ol.OTTT(), SPIKES, Y, loss, engine)
    with pytest.raises(UsageError, match=says):
        ol.OTTT().train_batch(net(), SPIKES, Y, loss, torch.optim.SGD(net().parameters(), 0.1))


def test_a_loss_has_a_name_in_a_loop_of_ones_own():
    one, other = net(), net()
    ol.backward(one, ol.OTTT(), SPIKES, Y, "squared-error")
    ol.backward(other, ol.OTTT(), SPIKES, Y, SquaredError())
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_learning_where_gradients_are_turned_off_is_refused(off):
    for engine in ("plain", "fast"):
        mine = net()
        with off(), pytest.raises(UsageError, match="gradients are turned off here"):
            ol.backward(mine, ol.OTTT(), SPIKES, Y, SquaredError(), engine)


def test_numbers_that_the_networks_dtype_cannot_hold_are_refused():
    big = SPIKES.double() * 1e300
    with pytest.raises(UsageError, match=r"1e.300 is more than the network's torch.float32 holds"):
        ol.backward(net(), ol.OTTT(), big, Y, SquaredError())
    with pytest.raises(UsageError, match=r"is more than the network's torch.float16 holds"):
        net().half().run(SPIKES.int() * 70000)
    with pytest.raises(UsageError, match="expected a dense tensor, got a sparse one"):
        net().run(SPIKES.to_sparse())


def test_a_weight_that_is_not_a_number_does_not_go_unnoticed(tmp_path):
    """A neuron whose membrane is NaN never fires, so that every loss stays finite."""
    mine = net()
    with torch.no_grad():
        mine.blocks[0].connection.weight[3, :] = torch.nan
    says = "blocks.0.connection.weight: 16 of 192 values are NaN or infinite"
    with pytest.raises(TrainingError, match=f"epoch 1: {says}; lower the learning rate"):
        ol.Trainer(mine, ol.OTTT()).fit(X, Y, epochs=2)
    with pytest.raises(TrainingError, match=says):
        ol.evaluate(mine, X, Y)
    with pytest.raises(TrainingError, match=f"save: {says}"):
        ol.save(mine, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_class_names_are_names_of_one_class_each():
    with pytest.raises(UsageError, match="class_names: 'a' is there more than once"):
        ol.from_arrays(X[:, 0] * 0.5, Y, class_names=["a", "a", "b"])


def test_a_checkpoint_interval_without_a_folder_is_refused():
    with pytest.raises(UsageError, match="fit: checkpoint_every needs a run folder"):
        ol.Trainer(net(), ol.OTTT()).fit(X, Y, checkpoint_every=5)
