"""Modules of other frameworks become networks of ours with the same spikes, or are refused by name."""

import numpy as np
import pytest
import torch
from dialects import CASES, FIXTURE, STEPS, build, example, real, stand_ins
from ottt_loihi.converters.frameworks import check, convert
from ottt_loihi.converters.frameworks.groups import counted
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.sim.inference import reference
from torch import nn

import ottt_loihi as ol
from ottt_loihi import sim
from ottt_loihi.errors import ChipError, UsageError, VerificationError

EVERY = [(framework, name) for framework, cases in CASES.items() for name in cases]


def spikes_of(imported, x):
    found = {}
    for path, block, s in zip(
        imported.paths, imported.network.blocks, imported.network.run(torch.from_numpy(x), record="s").states["s"]
    ):
        sends = imported.sends.get(path)
        found[path] = (s if sends is None else counted(s, sends, block.shape)).detach().numpy()
    return found


@pytest.mark.parametrize(("framework", "name"), EVERY)
def test_every_spike_is_the_frameworks_own(framework, name):
    """The spikes were recorded in the framework itself; dialects.py says how."""
    net, shape = build(framework, name, stand_ins(framework))
    ours = spikes_of(convert.read(net, shape, STEPS), example(shape))
    golden = np.load(FIXTURE)
    recorded = [key for key in golden.files if key.startswith(f"{framework}/{name}/")]
    assert recorded
    for key in recorded:
        found = ours[key.split("/", 2)[2]]
        packed = golden[key].ndim == 1  # spikes of 0 and 1
        expected = (np.unpackbits(golden[key], count=found.size) if packed else golden[key]).reshape(found.shape)
        assert 0.01 < (expected != 0).mean() < 0.99
        assert np.array_equal(found, expected), key


@pytest.mark.parametrize(("framework", "name"), EVERY)
def test_the_framework_itself_agrees(framework, name):
    try:
        parts = real(framework)
    except ImportError:
        pytest.skip(f"{framework} is not installed")
    net, shape = build(framework, name, parts)
    compared = check.compare(net, shape, STEPS)
    compared.raise_if_different()
    assert sum(spikes for _, spikes, _ in compared.layers.values()) > 100


def snn(*layers):
    return nn.Sequential(*layers)


F = stand_ins("snntorch")
S = stand_ins("spikingjelly")


def on_the_grid(net, seed=0):
    """Weights k/64 with the largest 127/64: the chip holds them without rounding."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = torch.randint(-10, 12, module.weight.shape, generator=generator) / 8
            module.weight.data[0, 0] = 127 / 64
    return net.double()


@pytest.mark.parametrize(
    "net",
    [
        lambda: snn(
            nn.Linear(10, 9, False),
            F.Leaky(beta=0.5),
            nn.Linear(9, 6, False),
            F.Leaky(beta=0.5, reset_mechanism="zero"),
        ),
        lambda: snn(nn.Linear(10, 9, False), F.Leaky(beta=0.5, reset_mechanism="none")),
        lambda: snn(
            nn.Linear(10, 9, False),
            S.LIFNode(tau=2.0, decay_input=False, v_reset=None),
            nn.Linear(9, 6, False),
            S.IFNode(),
        ),
        lambda: snn(
            nn.Linear(10, 9, False),
            S.LIFNode(tau=2.0, decay_input=False),
            nn.Linear(9, 6, False),
            S.IFNode(v_reset=None),
        ),
    ],
)
def test_on_a_grid_the_chip_has_every_spike(net):
    """Nothing is rounded, and membranes meet their thresholds: above and at them are two things."""
    imported = convert.read(on_the_grid(net()), (10,), 7)
    x = example((10,), 7)
    chip = quantize(from_torch(imported.network)).chip
    ours = list(spikes_of(imported, x).values())
    result, oracle = sim.run(chip, x, ("s",)), reference.run(chip, x, ("s",))
    u = imported.network.run(torch.from_numpy(x), record="u").states["u"][0]
    assert bool((u == 1).any()), "no membrane meets the threshold"
    for layer, expected in enumerate(ours):
        assert 0.01 < expected.mean() < 0.99
        assert np.array_equal(result.states["s"][layer], expected != 0)
        assert np.array_equal(oracle.states["s"][layer], expected != 0)


class Loop(nn.Module):
    """snnTorch's tutorial: a loop over time inside forward."""

    def __init__(self, index):
        super().__init__()
        self.first, self.hidden, self.second, self.last = (
            nn.Linear(6, 5),
            F.Leaky(beta=0.9),
            nn.Linear(5, 3),
            F.Leaky(beta=0.5),
        )
        self.back, self.index = nn.Linear(5, 5), index

    def forward(self, x):
        frames = {"time first": lambda t: x[t], "batch first": lambda t: x[:, t], "constant": lambda t: x}[self.index]
        steps = {"time first": x.shape[0], "batch first": x.shape[1], "constant": 9}[self.index]
        out, spikes = [], torch.zeros(frames(0).shape[0], 5, dtype=x.dtype)
        for t in range(steps):
            spikes = self.hidden(self.first(frames(t)) + self.back(spikes))
            out.append(self.last(self.second(nn.functional.dropout(spikes, 0.5, self.training))))
        return torch.stack(out)


@pytest.mark.parametrize("form", ["time first", "batch first", "constant"])
def test_a_loop_over_time_is_read_with_its_recurrence(form):
    net = Loop(form)
    imported = convert.read(net, (6,), None if form == "constant" else 9)
    assert (imported.form, imported.network.time_steps) == (form, 9)
    first, second = imported.network.blocks
    assert [(branch.source, branch.delay) for branch in first.branches] == [(0, 1)]
    assert not len(second.branches)
    assert torch.equal(first.branches[0].connection.weight, net.back.weight)
    assert torch.equal(first.branches[0].connection.bias, net.back.bias)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n1, self.b, self.n2, self.c = (
            nn.Linear(8, 8),
            S.LIFNode(),
            nn.Linear(8, 8),
            S.LIFNode(),
            nn.Linear(16, 3),
        )
        self.n3 = S.LIFNode()

    def forward(self, x):
        one = self.n1(self.a(x))
        two = self.n2(self.b(one))
        return self.n3(self.c(torch.cat([one, two + one], 1)))


def test_sums_and_concatenations_of_spikes_are_connections_from_each():
    net = Residual()
    network = convert.read(net, (8,), 5).network
    weight = net.c.weight
    last = network.blocks[2]
    branch_weights = sum(b.connection.weight for b in last.branches if b.source == 0)
    assert torch.allclose(last.connection.weight, weight[:, 8:] / 2)
    assert torch.allclose(branch_weights, (weight[:, :8] + weight[:, 8:]) / 2)
    biases = [c.bias for c in last.connections if c.bias is not None]
    assert torch.allclose(sum(biases), net.c.bias / 2)


def test_a_chain_that_is_no_convolution_is_written_out():
    net = snn(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), S.IFNode(), nn.Flatten(), nn.Linear(48, 4), S.IFNode()
    )
    network = convert.read(net, (2, 4, 4), 3).network
    assert type(network.blocks[0].connection) is ol.Linear
    x = torch.rand(2, 2, 4, 4)
    assert torch.allclose(network.blocks[0].connection(x), net[0](x).flatten(1), atol=1e-6)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)],
        lambda: [nn.AvgPool2d((2, 1)), nn.Conv2d(2, 3, 2)],
        lambda: [nn.AvgPool2d((1, 2))],
        lambda: [nn.Conv2d(2, 3, 3), nn.AvgPool2d(2, 1), nn.BatchNorm2d(3)],
    ],
)
def test_kernels_of_two_sizes_stay_kernels(layers):
    net = snn(*layers(), S.IFNode()).eval()
    for value in net.buffers():
        value.data = torch.rand_like(value, dtype=torch.float32) + 0.5 if value.is_floating_point() else value
    network = convert.read(net, (2, 6, 7), 3).network
    assert type(network.blocks[0].connection) is ol.Conv2d
    x = torch.rand(2, 2, 6, 7)
    assert torch.allclose(network.blocks[0].connection(x), net[:-1](x), atol=1e-6)


def test_it_goes_on_learning_with_ottt():
    net = snn(nn.Linear(12, 10), S.LIFNode(), nn.Linear(10, 3))
    network = convert.read(net, (12,), 4).network
    before = network.blocks[0].connection.weight.clone()
    x = torch.from_numpy(example((12,), 4)).float()
    loss = ol.OTTT()
    optimizer = torch.optim.SGD(network.parameters(), 0.5)
    loss.train_batch(network, x, torch.tensor([0, 1, 2, 0]), ol.CrossEntropy(), optimizer)
    assert not torch.equal(before, network.blocks[0].connection.weight)
    assert network.provenance["imported"]["framework"] == "spikingjelly"


def test_the_module_stays_as_it_is():
    net = snn(nn.Linear(4, 3), nn.BatchNorm1d(3), S.LIFNode()).train()
    net[0].weight.data.zero_()  # so that the stand-in fires as seldom as a LIFNode
    before = {key: value.clone() for key, value in net.state_dict().items()}
    ol.from_module(net, (4,), 3)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_difference_is_found_and_named():
    net = snn(nn.Linear(6, 4), S.LIFNode()).double()
    net[0].weight.data *= 8
    imported = convert.read(net, (6,), 5, dtype=torch.float64)
    x = torch.from_numpy(example((6,), 5)).double()
    theirs = check.spikes_of(net, imported, x)  # the stand-in computes something else than a LIFNode
    run = imported.network.run(x, record="su")
    found = check._compared(imported, theirs, run.states["s"], run.states["u"], len(x), 5, False)
    with pytest.raises(
        VerificationError, match=r"first in 1, time step \d, sample \d, neuron \(\d,\): the module sends"
    ):
        found.raise_if_different()
    assert found.different == sum(count for count, _, _ in found.layers.values()) > 0


class Coded(nn.Module):
    """Spikes are drawn inside of forward."""

    def __init__(self):
        super().__init__()
        self.a, self.n = nn.Linear(6, 3), S.LIFNode()

    def forward(self, x):
        return self.n(self.a(torch.bernoulli(x)))


class Heads(nn.Module):
    """Two layers of neurons, and an output that ``gathers`` them."""

    def __init__(self, gathers):
        super().__init__()
        self.a, self.n, self.b, self.m, self.gathers = (
            nn.Linear(6, 5),
            S.LIFNode(),
            nn.Linear(5, 5),
            S.LIFNode(),
            gathers,
        )

    def forward(self, x):
        first = self.n(self.a(x))
        return self.gathers(first, self.m(self.b(1 - first) - 0.5 * first))


@pytest.mark.parametrize(
    ("gathers", "message"),
    [
        (lambda a, b: torch.cat([a, b], 1), "it gathers several layers; the nearest is the last alone"),
        (lambda a, b: b[:, :4], r"output: \(4,\) of the last layer's \(5,\); the nearest is all of it"),
        (lambda a, b: b.amax(1), "output .* it is not linear"),
        (lambda a, b: a * b, "a product of spikes is not linear"),
        (lambda a, b: torch.stack([0.3 * a, 0.7 * b]).sum(0), r"output \(stack\): it gathers several layers"),
    ],
)
def test_an_output_that_is_not_the_last_layers_is_refused(gathers, message):
    with pytest.raises(ChipError, match=message):
        ol.from_module(Heads(gathers), (6,), 4)


def test_differences_and_means_over_a_sample_are_connections():
    net = Heads(lambda a, b: b.mean(1, True))
    network = convert.read(net, (6,), 4).network
    last = network.blocks[1]
    branch = sum(b.connection.weight for b in last.branches)
    total = last.connection.weight + branch
    assert torch.allclose(total, (-net.b.weight - 0.5 * torch.eye(5)) / 2, atol=1e-6)
    assert torch.allclose(
        sum(c.bias for c in last.connections if c.bias is not None), (net.b.bias + net.b.weight.sum(1)) / 2
    )
    assert torch.allclose(network.readout.weight, torch.full((1, 5), 0.2))


class Counting(nn.Module):
    """snnTorch's tutorial: as many steps as it was made for, of an input with the time in front."""

    def __init__(self, steps, which):
        super().__init__()
        self.a, self.n, self.steps, self.which = nn.Linear(6, 5), F.Leaky(beta=0.9), steps, which

    def forward(self, x):
        spikes = torch.stack([self.n(self.a(x[t])) for t in range(self.steps)])
        return (spikes, spikes)[self.which]


def test_a_loop_of_a_fixed_number_of_steps_is_read_with_that_number():
    imported = convert.read(Counting(9, 0), (6,), 9)
    assert (imported.form, imported.network.time_steps) == ("time first", 9)
    with pytest.raises(UsageError, match="does not run on inputs of shape"):
        ol.from_module(Counting(9, 0), (6,), 4)


class AddedUp(Counting):
    """Scores are added up by hand, of a frame that stays the same."""

    def forward(self, x):
        total = 0
        for _ in range(self.steps):
            total = total + self.n(self.a(x))
        return total / self.steps


def test_scores_that_are_added_up_by_hand_are_counted_spikes():
    imported = convert.read(AddedUp(6, 0), (6,))
    assert (imported.form, imported.network.time_steps, imported.readout) == ("constant", 6, "spikes")
    assert (len(imported.network.blocks), imported.notes) == (1, [])


class ByHand(Counting):
    """Six steps of a frame that stays the same; ``which`` makes the next scores of the last ones, spikes and step."""

    def forward(self, x):
        scores = torch.zeros(len(x), 5)
        for step in range(self.steps):
            scores = self.which(scores, self.n(self.a(x)), step)
        return scores


@pytest.mark.parametrize(
    "which",
    [
        lambda scores, s, step: scores + (step + 1.0) * s,
        lambda scores, s, step: scores + s + torch.arange(5.0),
        lambda scores, s, step: torch.add(scores, s, alpha=0.5),
    ],
    ids=["weights by step", "a constant", "alpha"],
)
def test_scores_that_are_no_count_of_spikes_are_refused(which):
    with pytest.raises(ChipError, match=r"several layers, or steps with different weights|alpha other than 1"):
        ol.from_module(ByHand(6, which), (6,))


def test_scores_in_place_begin_at_zero_and_the_last_step_alone_is_noted():
    net = ByHand(6, lambda scores, s, step: scores.add_(s))
    net.a.bias.data[:] = 3  # so that the scores are not 0 when the trace is over
    imported = convert.read(net, (6,))
    assert (imported.readout, imported.notes) == ("spikes", [])
    (note,) = convert.read(ByHand(6, lambda scores, s, step: s), (6,)).notes
    assert note == "the module returns the last step alone; the scores are spikes of all steps, counted"


class Gathered(nn.Module):
    """Two layers over all steps, one layer after the other; the last is a Linear, or neurons."""

    def __init__(self, gathers, fires, several=False):
        super().__init__()
        self.a, self.n, self.b, self.gathers, self.several = nn.Linear(6, 5), F.Leaky(beta=0.9), None, gathers, several
        self.b, self.m = nn.Linear(5, 3), F.Leaky(beta=0.5) if fires else nn.Identity()
        if several:  # neurons that take all steps at once
            self.n, self.m = S.LIFNode(), S.LIFNode() if fires else nn.Identity()
            self.n.step_mode = self.m.step_mode = "m"

    def forward(self, x):
        if self.several:
            return self.gathers(self.m(self.b(self.n(self.a(x)))))
        hidden = torch.stack([self.n(self.a(frame)) for frame in x], 1)
        return self.gathers(torch.stack([self.m(self.b(hidden[:, t])) for t in range(len(x))]))


LAST, SOME = "returns the last step alone; the scores are spikes of all", "output: it holds some of the time steps"


@pytest.mark.parametrize("several", [False, True], ids=["a loop", "all steps at once"])
@pytest.mark.parametrize("fires", [True, False], ids=["neurons", "Linear"])
@pytest.mark.parametrize(
    ("gathers", "said"),
    [
        (lambda out: out, None),
        (lambda out: out.sum(0), None),
        (lambda out: out[-1], LAST),
        (lambda out: out[-1:], LAST),
        (lambda out: out.transpose(0, 1)[:, -1], LAST),
        (lambda out: out.select(0, -1), LAST),
        (lambda out: out.unbind(0)[-1], LAST),
        (lambda out: out.max(0).values, "takes the largest over time"),
        (lambda out: out[0], SOME),
        (lambda out: out[2:], SOME),
        (lambda out: out[2:].sum(0), SOME),
        (lambda out: out[-2] + out[-1], SOME),
        (lambda out: sum(out[t] for t in range(len(out))), None),
    ],
    ids=[
        "all",
        "sum",
        "[-1]",
        "[-1:]",
        "[:, -1]",
        "select",
        "unbind",
        "max",
        "[0]",
        "[2:]",
        "[2:].sum",
        "two",
        "by hand",
    ],
)
def test_the_steps_that_a_module_returns_are_read_or_said(gathers, said, fires, several):
    net = Gathered(gathers, fires, several)
    if said == SOME:
        with pytest.raises(ChipError, match=SOME):
            ol.from_module(net, (6,), 7)
        return
    imported = convert.read(net, (6,), 7)
    kind = {None: "sum", LAST: "last"}.get(said, "max")
    assert (imported.readout, len(imported.network.blocks)) == (("spikes", 2) if fires else (kind, 1))
    assert not any(len(block.branches) for block in imported.network.blocks)
    assert [said in note for note in imported.notes] == [True] if said and fires else not imported.notes


@pytest.mark.parametrize(
    ("pre", "order", "message"),
    [
        (lambda x: x, lambda n: reversed(range(n)), "n: at step 7 it gets the input of step 1; .* forward in time"),
        (lambda x: x, lambda n: [0] * n, "n: at step 7 it gets the input of step 1"),
        (lambda x: x.unbind(0)[::-1], range, "n: at step 7 it gets the input of step 1"),
        (lambda x: x.flip(0), range, r"n \(reordered\): it puts time steps or samples in another order"),
        (lambda x: x.roll(1, 0), range, r"n \(reordered\): it puts time steps or samples in another order"),
        (lambda x: x.sort(0).values, range, r"n \(sort\): it is not linear"),
    ],
    ids=["backwards", "one frame", "unbind", "flip", "roll", "sort"],
)
def test_steps_in_another_order_are_refused(pre, order, message):
    class Ordered(Gathered):
        def forward(self, x):
            return torch.stack([self.m(self.b(self.n(self.a(pre(x)[t])))) for t in order(len(x))])

    net = Ordered(None, True)
    with pytest.raises(ChipError, match=message):
        ol.from_module(net, (6,), 7)


@pytest.mark.parametrize("axis", [0, 1], ids=["time first", "batch first"])
@pytest.mark.parametrize(
    "each", [lambda h, axis: h.unbind(axis), lambda h, axis: [h.select(axis, t) for t in range(h.shape[axis])]]
)
def test_a_loop_over_what_was_computed_of_all_steps_is_read(each, axis):
    """The Linear of all steps before the loop was refused, or samples were taken for steps."""

    class Before(Gathered):
        def forward(self, x):
            hidden = torch.stack([self.n(frame) for frame in each(self.a(2 * x), axis)], axis)
            return torch.stack([self.m(frame) for frame in each(self.b(hidden), axis)], axis)

    net = Before(None, True)
    for layer in (net.a, net.b):
        layer.weight.data *= 4
    network = convert.read(net, (6,), 7).network
    plain = convert.read(Gathered(lambda out: out, True), (6,), 7).network
    assert [len(block.branches) for block in network.blocks] == [0, 0]
    assert torch.equal(network.blocks[0].connection.weight, 2 * net.a.weight)
    assert torch.equal(network.blocks[1].connection.weight, net.b.weight)
    assert [block.shape for block in network.blocks] == [block.shape for block in plain.blocks]


@pytest.mark.parametrize(
    ("gathers", "kind"), [(lambda s: s.mean(0), "sum"), (lambda s: s[-1], "last"), (lambda s: s[3:].mean(0), None)]
)
def test_a_linear_layer_behind_the_mean_over_time_is_that_of_each_step(gathers, kind):
    class Behind(Gathered):
        def forward(self, x):
            return self.b(self.gathers(torch.stack([self.n(self.a(frame)) for frame in x])))

    net = Behind(gathers, False)
    if kind is None:
        with pytest.raises(ChipError, match=r"stack|some of the time steps|does not run on one step"):
            ol.from_module(net, (6,), 7)
        return
    imported = convert.read(net, (6,), 7)
    assert (imported.readout, imported.notes) == (kind, [])


def test_a_layer_behind_one_step_of_a_sequence_is_refused():
    net = Gathered(lambda out: out, False, True)
    net.m = nn.Sequential(S.LIFNode(), nn.Linear(3, 3))
    net.m[0].step_mode = "m"
    net.b.register_forward_pre_hook(lambda _, inputs: inputs[0][-1])
    with pytest.raises(ChipError, match="an index takes one step of a sequence; the nearest is to run the layers"):
        ol.from_module(net, (6,), 7)


@pytest.mark.parametrize("kind", ["counts", "random"])
def test_a_forward_that_does_not_repeat_itself_is_called_so(kind):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.calls = nn.Linear(6, 5), S.LIFNode(), 0

        def forward(self, x):
            self.calls += 1
            return self.n(self.a(x * (self.calls % 2 if kind == "counts" else 2 * torch.rand(1).item())))

    net = Other()
    net.a.weight.data *= 15
    with pytest.raises(UsageError, match="Other: it returns something else when it runs again on the same samples"):
        check.compare(net, (6,), 7)


def test_predictions_are_compared_as_well():
    net = on_the_grid(AddedUp(6, 0))
    compared = check.compare(net, (6,), samples=5)
    imported = convert.read(net, (6,), dtype=torch.float64)
    x = torch.from_numpy(example((6,), 6)).double()[:, :1].expand(-1, 6, 6)
    theirs = check.run_module(net, imported, x)[1][0]
    scores = check._scores([theirs], theirs, imported, 6)
    assert check._same_predictions(scores, theirs * 2) == len(x)
    assert check._same_predictions(scores, -theirs) < len(x)
    assert check._scores([theirs[:, :2]], theirs, imported, 6) is None
    assert f"the same prediction on {compared.predictions} of 5" in str(compared)


def test_several_spikes_in_a_step_need_a_number():
    sinabs = stand_ins("sinabs")
    net = snn(nn.Linear(6, 5), sinabs.IAF(spike_fn=type("MultiSpike", (), {})))
    with pytest.raises(ChipError, match=r"say how many at most \(spikes_per_step=4 or --spikes-per-step 4\)"):
        ol.from_module(net, (6,), 4)
    network = convert.read(net, (6,), 4, spikes_per_step=3).network
    assert network.blocks[0].shape == (15,)
    assert network.num_classes == 5
    with pytest.raises(UsageError, match="spikes_per_step"):
        ol.from_module(net, (6,), 4, spikes_per_step=0)
    with pytest.raises(UsageError, match="every neuron of the module has a limit of its own"):
        ol.from_module(snn(nn.Linear(6, 5), S.LIFNode()), (6,), 4, spikes_per_step=3)


def test_what_is_not_exact_is_asked_for_and_noted():
    sinabs = stand_ins("sinabs")
    net = snn(nn.Linear(6, 5), sinabs.IAF(spike_fn=sinabs.SingleSpike()))
    net[1].min_v_mem = torch.tensor(-1.0)
    with pytest.raises(ChipError, match=r"1 part has .*1 \(IAF\): min_v_mem = -1 clips membranes.*--approximate"):
        ol.from_module(net, (6,), 4)
    network = ol.from_module(net, (6,), 4, approximate=True)
    assert "min_v_mem = -1 clips membranes" in network.provenance["imported"]["notes"][0]


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = S.LIFNode()

    def forward(self, x, y):
        return self.n(x + y)


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [
        (lambda: snn(nn.Linear(6, 3)), UsageError, "found no spiking neurons"),
        (lambda: TwoInputs(), UsageError, "forward takes x, y; expected one input"),
        (lambda: snn(nn.Linear(5, 3), S.LIFNode()), UsageError, "does not run on inputs of shape"),
        (
            lambda: snn(nn.Linear(6, 5), F.Alpha(0.5), nn.ReLU(), nn.Linear(5, 4), S.PSN(), nn.LayerNorm(4)),
            ChipError,
            r"3 parts have no counterpart here: 1 \(Alpha\): .*; 4 \(PSN\): .*; 5 \(layer_norm\)",
        ),
        (lambda: snn(nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), S.LIFNode()), UsageError, "does not run"),
        (lambda: snn(nn.Linear(6, 3), F.Leaky(beta=0.5, threshold=0.0)), ChipError, "v_threshold: expected"),
        (lambda: Coded(), ChipError, r"bernoulli\): forward makes spikes itself"),
        (lambda: object(), UsageError, "expected a torch.nn.Module"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_all_at_once(net, error, message):
    with pytest.raises(error, match=message):
        ol.from_module(net(), (6,), 4)


def test_neurons_that_lose_an_input_go_to_the_chip_and_learn():
    """Their helping connections stay as they are."""
    net = snn(nn.Linear(6, 5), F.RLeaky(0.5, reset_mechanism="zero", linear_features=5), nn.Linear(5, 3), F.Leaky(0.5))
    imported = convert.read(net, (6,), 7)
    assert imported.paths == ["1 (with second spikes)", "1", "3"]
    assert imported.notes == ["1: its reset loses the input of the next step; as many helping neurons do that"]
    chip, x = quantize(from_torch(imported.network)).chip, example((6,), 7)
    assert np.array_equal(sim.run(chip, x).scores, reference.run(chip, x).scores)
    network = imported.network
    before = [branch.connection.weight.clone() for block in network.blocks for branch in block.branches]
    ol.Trainer(network, ol.OTTT(), learning_rate=0.1, encoding="frames").fit(x.astype(np.float32), np.arange(4) % 3, 1)
    after = [branch.connection.weight for block in network.blocks for branch in block.branches]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, True, True, False, True]


def test_feedback_from_neurons_that_lose_an_input_is_refused():
    class Fed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.b, self.back = nn.Linear(6, 5), S.LIFNode(), nn.Linear(5, 3), nn.Linear(3, 5)
            self.m = F.Lapicque(0.5, reset_mechanism="zero")

        def forward(self, x):
            sent = [torch.zeros(x.shape[1], 3)]
            for frame in x:
                sent.append(self.m(self.b(self.n(self.a(frame) + self.back(sent[-1])))))
            return torch.stack(sent[1:])

    with pytest.raises(ChipError, match="feedback from m, whose reset loses the input of the next step; the nearest"):
        ol.from_module(Fed(), (6,), 7)


def test_max_pooling_of_currents_is_refused_by_name():
    with pytest.raises(ChipError, match=r"1 \(max_pool2d\): the largest of real currents is not linear"):
        ol.from_module(snn(nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), S.LIFNode()), (2, 5, 5), 4)


def test_a_class_that_has_changed_is_named():
    neuron = S.LIFNode()
    del neuron.decay_input
    with pytest.raises(UsageError, match="LIFNode has no 'decay_input' here; its class has changed since SpikingJelly"):
        ol.from_module(snn(nn.Linear(6, 3), neuron), (6,), 4)


NORSE, SINABS = stand_ins("norse"), stand_ins("sinabs")
FIVE = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])


def with_(neuron, **values):
    """Return the neuron with these attributes, whatever kind they were of."""
    for name, value in values.items():
        neuron._parameters.pop(name, None)
        neuron._buffers.pop(name, None)
        object.__setattr__(neuron, name, value)
    return neuron


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (
            lambda: with_(SINABS.LIF(tau_mem=8.0, spike_fn=SINABS.SingleSpike()), min_v_mem=-FIVE),
            r"= -0\.5 … -0\.1 clips",
        ),
        (lambda: SINABS.LIF(tau_mem=8.0, spike_fn=SINABS.MaxSpike(FIVE)), "has values that differ, 0.1 … 0.5"),
        (lambda: SINABS.LIF(tau_mem=8.0, spike_fn=SINABS.MaxSpike(float("nan"))), "is not finite"),
        (lambda: SINABS.LIF(tau_mem=8.0, spike_fn=SINABS.MaxSpike(1.5)), "expected a whole number of 1 or more"),
        (lambda: with_(SINABS.LIF(spike_fn=SINABS.SingleSpike()), tau_mem=torch.zeros(0)), "tau_mem has no values"),
        (lambda: with_(F.Leaky(beta=0.5), threshold="high"), "threshold = 'high' is no number"),
        (lambda: with_(F.Leaky(beta=0.5), threshold=-1.0), r"1 \(?|1: "),
        (lambda: with_(F.Leaky(beta=0.5), threshold=torch.ones(2) * FIVE[:2]), "do not fit"),
        (lambda: with_(F.Leaky(beta=0.5), reset_mechanism_val=FIVE), "reset_mechanism_val has values that differ"),
        (lambda: with_(F.Leaky(beta=0.5), reset_mechanism_val=7), "expected 0 .subtract., 1 .zero. or 2 .none."),
        (
            lambda: with_(F.Leaky(beta=0.5), graded_spikes_factor=FIVE),
            "graded_spikes_factor has values that differ",
        ),
        (lambda: with_(S.LIFNode(), tau=0.0), "τ = 0 is below 1"),
        (lambda: with_(S.LIFNode(), tau=FIVE), r"τ = 0\.1 … 0\.5 is below 1"),
        (lambda: with_(S.LIFNode(), v_reset="none"), "v_reset = 'none' is no number"),
    ],
)
def test_odd_parameters_are_refused_by_name(neuron, message):
    """5.22: float() of a tensor with several values, and others of the kind, were tracebacks."""
    with pytest.raises(ChipError, match=message):
        ol.from_module(snn(nn.Linear(6, 5, bias=False), neuron()), (6,), 4)


@pytest.mark.parametrize("framework", ["norse", "spikingjelly", "sinabs"])
def test_parameters_of_each_neuron_are_the_frameworks_own(framework):
    try:
        parts = real(framework)
    except ImportError:
        pytest.skip(f"{framework} is not installed")
    if framework == "norse":
        values = {"tau_mem_inv": 1000 * FIVE, "v_leak": FIVE, "v_reset": -FIVE}
        neuron = parts.LIFBoxCell(parts.LIFBoxParameters()._replace(**values))
    elif framework == "spikingjelly":
        neuron = with_(parts.ParametricLIFNode(), w=FIVE)
    else:
        reset = parts.MembraneReset(FIVE - 0.5)
        neuron = parts.IAF(spike_fn=parts.SingleSpike, spike_threshold=1 + FIVE, reset_fn=reset)
    torch.manual_seed(0)
    net = parts.Sequential(nn.Linear(6, 5), neuron)
    net[0].weight.data *= 15
    compared = check.compare(net.double(), (6,), 9)
    compared.raise_if_different()
    assert sum(spikes for _, spikes, _ in compared.layers.values()) > 20
