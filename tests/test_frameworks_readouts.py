"""What a module's last layer may be read as: every readout of every last layer is exact, or refused in one line."""

import numpy as np
import pytest
import torch
from dialects import example, stand_ins
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.frameworks import check, convert
from ottt_loihi.converters.lava.backends import BACKENDS
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.sim.inference import reference
from torch import nn

import ottt_loihi as ol
from ottt_loihi import sim
from ottt_loihi.errors import ChipError
from ottt_loihi.training.checkpoint import save

F, S, N, B = (stand_ins(name) for name in ("snntorch", "spikingjelly", "norse", "sinabs"))


def integrating():
    """A readout of sinabs whose membrane keeps all of its currents."""
    layer = B.ExpLeak(tau_mem=10.0, norm_input=False)
    layer.train_alphas, layer.alpha_mem = True, torch.tensor(1.0)
    return layer


FIRE, NO_NEURONS = "these neurons fire", "the last layer has no neurons"
LAST_LAYERS = {
    "snntorch": lambda: [F.Leaky(beta=0.5)],
    "at once": lambda: [F.Leaky(beta=0.5, reset_delay=False)],
    "at once, to zero": lambda: [F.Leaky(beta=0.5, reset_delay=False, reset_mechanism="zero")],
    "soft reset": lambda: [S.LIFNode(v_reset=None)],
    "spikingjelly": lambda: [S.LIFNode()],
    "norse": lambda: [N.LIFBoxCell()],
    "sinabs": lambda: [B.IAF(spike_fn=B.SingleSpike())],
    "no neurons": lambda: [],
    "norse LI": lambda: [N.LICell()],
    "sinabs ExpLeak": lambda: [B.ExpLeak(tau_mem=5.0)],
    "without leak": lambda: [integrating()],
}
OF_ALL = {kind: kind for kind in ("sum", "last", "max")}
FIRING = {None: "spikes", "spikes": "spikes", **dict.fromkeys(OF_ALL, FIRE)}
MEMBRANES = {None: "last", "spikes": "these neurons send none"} | OF_ALL
READ_AS = {
    **dict.fromkeys(("spikingjelly", "norse", "sinabs", "at once, to zero"), FIRING),
    **dict.fromkeys(("snntorch", "at once", "soft reset"), FIRING | OF_ALL),
    "no neurons": {None: "sum", "spikes": NO_NEURONS} | OF_ALL,
    **dict.fromkeys(("norse LI", "sinabs ExpLeak", "without leak"), MEMBRANES),
}


@pytest.mark.parametrize("wanted", [None, "spikes", "sum", "last", "max"])
@pytest.mark.parametrize("last", LAST_LAYERS)
def test_every_readout_of_every_last_layer_is_exact_or_refused(last, wanted):
    first = B.IAF(spike_fn=B.SingleSpike()) if {"sinabs", "leak"} & {*last.split()} else S.LIFNode()
    net, expected = nn.Sequential(nn.Linear(6, 5), first, nn.Linear(5, 3), *LAST_LAYERS[last]()), READ_AS[last][wanted]
    if expected not in convert.READOUTS:
        with pytest.raises(ChipError, match=expected) as refused:
            ol.from_module(net, (6,), 4, readout=wanted)
        assert "the nearest is" in str(refused.value)
        return
    imported = convert.read(net, (6,), 4, readout=wanted)
    assert imported.readout == expected
    as_sum = last == "no neurons" or (last, expected) == ("without leak", "last")
    copied = last in ("at once", "soft reset") and expected != "spikes"
    assert len(imported.network.blocks) == (1 if as_sum else 3 if copied else 2)
    kept = "sum" if expected == "spikes" or (last, expected) == ("without leak", "last") else expected
    assert imported.network.scores == kept
    said = ["membranes of every step; the scores are those of the last" in note for note in imported.notes]
    assert said == ([True] if wanted is None and expected == "last" else [])


class Leaky(nn.Module):
    """snnTorch's Leaky, which returns its membrane too: before a reset one step late, or after one at once."""

    def __init__(self, beta, reset="subtract", threshold=1.0, graded=1.0):
        super().__init__()
        self.reset_delay, self.inhibition, self.state_quant = reset != "at once", False, False
        reset = "subtract" if reset == "at once" else reset
        values = {"beta": beta, "threshold": threshold, "graded_spikes_factor": graded}
        values["reset_mechanism_val"] = ("subtract", "zero", "none").index(reset)
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value))
        self.reset_mem()

    def reset_mem(self):
        self.mem = torch.zeros(1)

    def forward(self, x, mem=None):
        self.mem = self.mem if mem is None else mem
        fired = (self.mem > self.threshold).to(x.dtype)
        kind = int(self.reset_mechanism_val)
        kept = self.beta * self.mem
        self.mem = x + (kept * (1 - fired) if kind == 1 else kept - self.threshold * fired * (kind == 0))
        spikes = (self.mem > self.threshold).to(x.dtype)
        if not self.reset_delay:
            self.mem = self.mem - (spikes - fired) * self.threshold
        return self.graded_spikes_factor * spikes, self.mem


Leaky.__module__ = "snntorch._neurons.leaky"
GATHERS = {"sum": lambda mem: mem.sum(0), "last": lambda mem: mem[-1], "max": lambda mem: mem.max(0).values}


class Whole(nn.Module):
    """A loop over time that gathers the membranes of the last layer."""

    def __init__(self, gathers, reset="subtract", graded=1.0):
        super().__init__()
        self.a, self.n, self.b = nn.Linear(6, 5, False), Leaky(0.5, graded=graded), nn.Linear(5, 3, False)
        self.m, self.gathers = Leaky(0.5, reset), gathers
        for layer in (self.a, self.b):  # k/64, the largest 127/64: the chip holds them without rounding
            drawn = torch.randint(-10, 12, layer.weight.shape, generator=torch.Generator().manual_seed(0))
            layer.weight.data = drawn / 8
            layer.weight.data[0, 0] = 127 / 64
        self.double()

    def forward(self, x):
        return self.gathers(torch.stack([self.m(self.b(self.n(self.a(frame))[0]))[1] for frame in x]))


@pytest.mark.parametrize("graded", [1.0, 0.5])
def test_spikes_that_do_not_count_one_go_into_the_weights(graded):
    """Of the next layer, of a max pooling, of a layer's own feedback, and of the scores."""

    class Graded(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.pool = nn.Linear(6, 8), Leaky(0.5, graded=graded), nn.MaxPool1d(2)
            self.b, self.back, self.m = nn.Linear(4, 3), nn.Linear(3, 3), Leaky(0.5, graded=-graded)
            self.a.weight.data *= 3

        def forward(self, x):
            fed = [torch.zeros(x.shape[1], 3, dtype=x.dtype)]
            for frame in x:
                pooled = self.pool(self.n(self.a(frame))[0])
                fed.append(self.m(self.b(pooled) + self.back(fed[-1]))[0])
            return torch.stack(fed[1:])

    torch.manual_seed(0)
    net, x = Graded().double(), example((6,), 7)
    compared = check.compare(net, (6,), 7, x)
    compared.raise_if_different()
    assert compared.layers["m"][1] > 5
    network = convert.read(net, (6,), 7, dtype=torch.float64).network
    with torch.no_grad():
        scores = net(torch.from_numpy(x).double().transpose(0, 1)).sum(0)
        assert torch.allclose(network(torch.from_numpy(x)), scores, atol=1e-12)


@pytest.mark.parametrize("reset", ["subtract", "none", "at once"])
@pytest.mark.parametrize("kind", GATHERS)
def test_membranes_go_the_whole_way_to_the_chip(kind, reset):
    """Of neurons that fire, too: a copy that does not has their membranes."""
    net, x = Whole(GATHERS[kind], reset), example((6,), 7)
    compared = check.compare(net, (6,), 7, x)
    compared.raise_if_different()
    assert "every membrane of the last layer" in str(compared)
    assert compared.predictions == len(x)
    imported = convert.read(net, (6,), 7)
    assert (imported.readout, imported.notes) == (kind, [])
    theirs = net(torch.from_numpy(x).double().transpose(0, 1)).detach().numpy()
    net.n.reset_mem()
    with torch.no_grad():
        assert np.allclose(imported.network(torch.from_numpy(x)), theirs, atol=1e-12)
    chip = quantize(from_torch(imported.network), scale="power-of-two").chip
    assert (chip.readout, len(chip.layers)) == (f"{kind}_v", 2 if reset == "none" else 3)
    found, oracle, integer = (run(chip, x, ("u", "v", "s")) for run in (sim.run, reference.run, torch_integer.run))
    for other in (oracle, integer):
        assert np.array_equal(found.scores, other.scores)
    scale = np.median(found.scores[theirs != 0] / theirs[theirs != 0])
    assert np.allclose(found.scores, theirs * scale, atol=64)  # one weight unit: decays truncate
    assert len(np.unique(theirs)) > 6


@pytest.mark.lava
def test_lava_has_the_largest_membranes():
    chip = quantize(from_torch(convert.read(Whole(GATHERS["max"]), (6,), 7).network)).chip
    x = example((6,), 7)
    in_lava, in_sim = (BACKENDS[name].run(chip, x, ("v", "s")) for name in ("inprocess", "sim"))
    assert np.array_equal(in_lava.scores, in_sim.scores)
    for name in ("v", "s"):
        for a, b in zip(in_lava.states[name], in_sim.states[name], strict=True):
            assert np.array_equal(a, b)


def test_membranes_that_spikes_set_to_zero_stay_in_float():
    network = ol.from_module(Whole(GATHERS["max"], "zero"), (6,), 7)
    with pytest.raises(ChipError, match=r"are the scores, and are set to zero by spikes.*readout='spikes'"):
        from_torch(network)


@pytest.mark.parametrize("kind", GATHERS)
def test_a_network_that_reads_membranes_learns_and_is_kept(kind, tmp_path):
    """OTTT's gradient of the last layer is that of BPTT, because nothing of it is recurrent but the membrane."""
    network = ol.from_module(Whole(GATHERS[kind], "none"), (6,), 7)
    network.blocks[0].connection.requires_grad_(False)
    x, labels = torch.from_numpy(example((6,), 7)), torch.tensor([0, 1, 2, 0])
    found = []
    for rule in (ol.OTTT(), ol.BPTT()):
        network.zero_grad()
        result = rule.backward(network, x, labels, ol.CrossEntropy())
        found.append(network.blocks[1].connection.weight.grad.clone())
        assert torch.equal(result.scores, network(x).detach())
    assert torch.allclose(*found, atol=1e-10)
    assert bool(found[0].any())
    save(network, tmp_path / "net.pt")
    again = ol.load(tmp_path / "net.pt")
    assert again.scores == kind
    with torch.no_grad():
        assert torch.equal(again(x), network(x))


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
def test_another_readout_than_what_the_module_gathers_is_said(gathers):
    class Gathers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.b = nn.Linear(6, 5), B.IAF(spike_fn=B.SingleSpike()), nn.Linear(5, 3)
            self.m = integrating()

        def forward(self, x):
            return gathers(self.m(self.b(self.n(self.a(x)))))

    assert not convert.read(Gathers(), (6,), 4).notes
    (note,) = convert.read(Gathers(), (6,), 4, readout="last").notes
    assert note.endswith("; the scores are those of the last step")
