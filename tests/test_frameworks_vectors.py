"""The vectors of ../shared/cases/dialects: networks of the frameworks with the spikes that these had."""

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ottt_loihi.converters.frameworks import convert
from ottt_loihi.converters.frameworks.groups import counted
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from torch import nn

from ottt_loihi import sim

VECTORS = Path(os.environ.get("OTTT_DATA_DIR", "/nowhere")).parent / "cases" / "dialects"
NAMES = {  # what the text of a case is written with
    "snntorch": {"snn": "snntorch"},
    "spikingjelly": {f: f"spikingjelly.activation_based.{f}" for f in ("neuron", "layer")},
    "norse": {"*": "norse.torch"},
    "sinabs": {"sl": "sinabs.layers", "*": "sinabs.activation"},
}
EVERY = [
    (framework, case)
    for framework in NAMES
    for case in ("dense", "conv", "conv_bn", "recurrent", "grid", "multispike")
    if (case != "conv_bn" or framework == "spikingjelly") and (case != "conv" or framework != "spikingjelly")
    if case != "multispike" or framework == "sinabs"
]


@pytest.mark.parametrize(("framework", "name"), EVERY)
def test_every_vector_itself(framework, name):
    """With the framework's own classes; the grid has every spike on the chip, too."""
    if not VECTORS.exists():
        pytest.skip(f"{VECTORS} is not here")
    known = {"nn": nn}
    for word, home in NAMES[framework].items():
        module = pytest.importorskip(home)
        known |= vars(module) if word == "*" else {word: importlib.import_module(home)}
    arrays = np.load(VECTORS / f"{framework}.npz")
    case = next(c for c in json.loads(str(arrays["meta"]))["cases"] if c["name"] == name)
    net = eval(case["build"], known)
    for part in net.modules():
        if hasattr(part, "init_hidden"):  # snnTorch's, whose state was the caller's
            part.init_hidden = True
    state, own = f"{name}/state/", net.state_dict()
    for key in arrays.files:
        place = key.removeprefix(state).replace("rec_connect.1.", "rec_connect.")  # a cast stood before the Linear
        if key.startswith(state) and place in own:
            own[place].copy_(torch.from_numpy(arrays[key]))
    x = arrays[f"{name}/input"].swapaxes(0, 1)
    several = {"spikes_per_step": 8} if name == "multispike" else {}
    imported = convert.read(net.double(), x.shape[2:], case["T"], dtype=torch.float64, **several)
    with torch.no_grad():
        sent = imported.network.run(torch.from_numpy(x).double(), record="s").states["s"]
    firing = [path for path in imported.paths if f"{name}/{path}/spikes" in arrays.files]
    assert firing
    for path, block, ours in zip(imported.paths, imported.network.blocks, sent, strict=True):
        if path in firing:
            found = ours if (sends := imported.sends.get(path)) is None else counted(ours, sends, block.shape)
            expected = arrays[f"{name}/{path}/spikes"]
            assert expected.any()
            assert np.allclose(found.numpy().reshape(expected.shape), expected, rtol=0, atol=1e-9), path
    if name == "grid":
        chip = quantize(from_torch(imported.network)).chip
        on_chip = sim.run(chip, x.astype(np.uint8), ("s",)).states["s"]
        for s, ours in zip(on_chip, sent):
            assert np.array_equal(s.reshape(ours.shape) != 0, ours.numpy() != 0)


class Blocks(nn.Module):
    """SLAYER's blocks in a row."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.lava
@pytest.mark.parametrize("name", ["dense", "conv", "recurrent"])
def test_every_vector_of_slayers_blocks(name):
    if not VECTORS.exists():
        pytest.skip(f"{VECTORS} is not here")
    cuba = pytest.importorskip("lava.lib.dl.slayer.block.cuba")
    arrays = np.load(VECTORS / "lava_dl.npz")
    case = next(c for c in json.loads(str(arrays["meta"]))["cases"] if c["name"] == name)
    blocks = []
    for layer in case["layers"]:
        kind, given = getattr(cuba, layer["class"].rpartition(".")[2]), layer["args"]
        params = {key: given[key] for key in ("threshold", "current_decay", "voltage_decay") if key in given}
        more = {key: given[key] for key in ("padding", "delay_shift") if key in given}
        blocks.append(kind(params, *given["args"], **more) if params else kind())
    net, state = Blocks(blocks).eval(), f"{name}/state/"
    own = net.state_dict()
    for key in arrays.files:
        if key.startswith(state):
            own[key.removeprefix(state)].copy_(torch.from_numpy(arrays[key]))
    x = arrays[f"{name}/input"].swapaxes(0, 1)
    imported = convert.read(net, x.shape[2:], case["T"])
    with torch.no_grad():
        sent = imported.network.run(torch.from_numpy(x).float(), record="s").states["s"]
    for path, ours in zip(imported.paths, sent, strict=True):
        expected = arrays[f"{name}/{path}/spikes"]
        assert expected.any()
        assert np.array_equal(ours.numpy().reshape(expected.shape), expected), path
