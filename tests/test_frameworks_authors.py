"""A network of the OTTT authors' code, with weights in the names of their checkpoints, has their spikes and scores."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ottt_loihi.converters.frameworks import convert
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.sim.inference import reference
from torch import nn

from ottt_loihi import sim

VECTORS = Path(os.environ.get("OTTT_DATA_DIR", "/nowhere")).parent / "cases" / "dialects" / "ottt.npz"


class ScaledWSConv2d(nn.Conv2d):
    """gain·(W − mean)/√(var·n + 1e-4): computed in forward, so it is read as it is."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        weight = self.gain * (self.weight - mean) / torch.sqrt(variance * math.prod(self.weight.shape[1:]) + 1e-4)
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class OnlineLIFNode(nn.Module):
    """With the attributes of theirs; the converter reads these and runs nothing of it but once, on zeros."""

    def __init__(self):
        super().__init__()
        self.tau, self.decay_input, self.v_threshold, self.v_reset = 2.0, False, 1.0, None

    def forward(self, x, **settings):
        return (x > 1).to(x.dtype)


class Scale(nn.Module):
    def forward(self, x):
        return x * 2.74


class WrapedSNNOp(nn.Module):
    def __init__(self, op):
        super().__init__()
        self.op = op

    def forward(self, x):
        return self.op(x)


class VGG(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            ScaledWSConv2d(2, 6, 3, padding=1),
            OnlineLIFNode(),
            Scale(),
            nn.AvgPool2d(2, 2),
            WrapedSNNOp(ScaledWSConv2d(6, 8, 3, padding=1)),
            OnlineLIFNode(),
            Scale(),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(WrapedSNNOp(nn.Linear(8, 10)))

    def forward(self, x):
        x = torch.flatten(self.avgpool(self.features(x)), 1)
        return self.classifier(x)


@pytest.fixture
def known():
    if not VECTORS.exists():
        pytest.skip(f"{VECTORS} is not here")
    return np.load(VECTORS)


def test_their_spikes_and_scores(known):
    net = VGG().double()
    names = [name for name in known.files if name.startswith("vgg_spikes/state/")]
    net.load_state_dict({name.removeprefix("vgg_spikes/state/"): torch.from_numpy(known[name]) for name in names})
    imported = convert.read(net, (2, 8, 8), 6)
    x = known["vgg_spikes/input"].swapaxes(0, 1).copy()
    run = imported.network.run(torch.from_numpy(x), record="s")
    assert imported.paths == ["features.1", "features.5"]
    for path, found in zip(imported.paths, run.states["s"], strict=True):
        expected = known[f"vgg_spikes/{path}/spikes"]
        assert 0.02 < expected.mean() < 0.98
        assert np.array_equal(found.detach().numpy(), expected)
    np.testing.assert_allclose(run.scores.detach().numpy(), known["vgg_spikes/output"].sum(0), rtol=0, atol=1e-12)
    chip = quantize(from_torch(imported.network)).chip
    result, oracle = sim.run(chip, x, ("s",)), reference.run(chip, x, ("s",))
    assert all(np.array_equal(a, b) for a, b in zip(result.states["s"], oracle.states["s"]))
    expected = known["vgg_spikes/features.1/spikes"]
    assert (result.states["s"][0].reshape(expected.shape) != (expected != 0)).mean() < 0.02
