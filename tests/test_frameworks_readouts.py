"""What a module's last layer may be read as: every readout of every last layer is exact, or refused in one line."""

import numpy as np
import pytest
import torch
from dialects import example, stand_ins
from ottt_loihi.converters.frameworks import convert
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.sim.inference import reference
from torch import nn

import ottt_loihi as ol
from ottt_loihi import sim
from ottt_loihi.errors import ChipError

F, S, N, B = (stand_ins(name) for name in ("snntorch", "spikingjelly", "norse", "sinabs"))


def integrating():
    """A readout of sinabs whose membrane keeps all of its currents."""
    layer = B.ExpLeak(tau_mem=10.0, norm_input=False)
    layer.train_alphas, layer.alpha_mem = True, torch.tensor(1.0)
    return layer


FIRE, NO_NEURONS, LEAKS = "the last layer's neurons fire", "the last layer has no neurons", "a leaking membrane has no"
LAST_LAYERS = {
    "snntorch": (lambda: [F.Leaky(beta=0.5)], False),
    "spikingjelly": (lambda: [S.LIFNode()], False),
    "norse": (lambda: [N.LIFBoxCell()], False),
    "sinabs": (lambda: [B.IAF(spike_fn=B.SingleSpike())], False),
    "no neurons": (lambda: [], False),
    "norse LI": (lambda: [N.LICell()], False),
    "norse LI, approximated": (lambda: [N.LICell()], True),
    "sinabs ExpLeak": (lambda: [B.ExpLeak(tau_mem=5.0)], False),
    "sinabs ExpLeak, approximated": (lambda: [B.ExpLeak(tau_mem=5.0)], True),
    "without leak": (lambda: [integrating()], False),
    "without leak, approximated": (lambda: [integrating()], True),
}
FIRING = {None: "spikes", "spikes": "spikes", "sum": FIRE, "last": FIRE, "max": FIRE}
LEAKING = {None: LEAKS, "spikes": "these neurons send none", "sum": LEAKS, "last": LEAKS, "max": LEAKS}
WITHOUT = {None: "last", "spikes": "these neurons send none", "sum": "no sum of membranes", "last": "last"}
READ_AS = {
    **dict.fromkeys(("snntorch", "spikingjelly", "norse", "sinabs"), FIRING),
    "no neurons": {None: "sum", "spikes": NO_NEURONS, "sum": "sum", "last": NO_NEURONS, "max": NO_NEURONS},
    **dict.fromkeys(("norse LI", "sinabs ExpLeak"), LEAKING),
    **dict.fromkeys(("norse LI, approximated", "sinabs ExpLeak, approximated"), LEAKING | {None: "sum", "sum": "sum"}),
    "without leak": WITHOUT | {"max": "no largest of membranes"},
    "without leak, approximated": WITHOUT | {"max": "no largest of membranes", "sum": "sum"},
}


@pytest.mark.parametrize("wanted", [None, "spikes", "sum", "last", "max"])
@pytest.mark.parametrize("last", LAST_LAYERS)
def test_every_readout_of_every_last_layer_is_exact_or_refused(last, wanted):
    layers, approximate = LAST_LAYERS[last]
    first = B.IAF(spike_fn=B.SingleSpike()) if {"sinabs", "leak", "leak,"} & {*last.split()} else S.LIFNode()
    net, expected = nn.Sequential(nn.Linear(6, 5), first, nn.Linear(5, 3), *layers()), READ_AS[last][wanted]
    options = {"readout": wanted, "approximate": approximate}
    if expected not in convert.READOUTS:
        with pytest.raises(ChipError, match=expected) as refused:
            ol.from_module(net, (6,), 4, **options)
        assert "the nearest is" in str(refused.value)
        return
    imported = convert.read(net, (6,), 4, **options)
    assert imported.readout == expected
    assert len(imported.network.blocks) == (2 if expected == "spikes" else 1)
    said = ["replaced by the sum" in note for note in imported.notes]
    assert said == ([True] if approximate and expected == "sum" else [])


def test_the_last_membrane_without_leak_goes_the_whole_way_to_the_chip():
    net = nn.Sequential(nn.Linear(6, 5, False), B.IAF(spike_fn=B.SingleSpike()), nn.Linear(5, 3, False), integrating())
    for layer in (net[0], net[2]):  # k/64, the largest 127/64: the chip holds them without rounding
        layer.weight.data = torch.randint(-10, 12, layer.weight.shape, generator=torch.Generator().manual_seed(0)) / 8
        layer.weight.data[0, 0] = 127 / 64
    net.double()
    network = convert.read(net, (6,), 7).network
    x = example((6,), 7)
    run = network.run(torch.from_numpy(x), record="s")
    membrane = torch.zeros(len(x), 3, dtype=torch.float64)
    for spikes in run.states["s"][0]:
        membrane = membrane + net[2](spikes.double())
    assert torch.equal(membrane, run.scores.double())
    assert bool(membrane.any())
    chip = quantize(from_torch(network)).chip
    found, oracle = sim.run(chip, x), reference.run(chip, x)
    assert np.array_equal(found.scores, oracle.scores)
    scale = found.scores[found.scores != 0][0] / membrane.detach().numpy()[found.scores != 0][0]
    assert np.array_equal(found.scores, membrane.detach().numpy() * scale)


@pytest.mark.parametrize("gathers", [lambda out: out.sum(1), lambda out: out.amax(1)], ids=["sum", "max"])
def test_membranes_that_the_module_gathers_are_not_the_last_ones(gathers):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.b = nn.Linear(6, 5), B.IAF(spike_fn=B.SingleSpike()), nn.Linear(5, 3)
            self.m = integrating()

        def forward(self, x):
            return gathers(self.m(self.b(self.n(self.a(x)))))

    with pytest.raises(ChipError, match=r"over time, and the scores would be the last membranes; .* readout='last'"):
        ol.from_module(Whole(), (6,), 4)
    (note,) = convert.read(Whole(), (6,), 4, readout="last").notes
    assert "the scores are the last membranes" in note
