"""Forms of a user's ``forward``: the network that is read sends equal spikes, or a message names the problem."""

import pytest
import torch
from dialects import real, stand_ins
from ottt_loihi.converters.frameworks import check, convert
from test_frameworks_readouts import Leaky
from test_frameworks_users import SEES_INDICES
from torch import nn
from torch.nn import functional

import ottt_loihi as ol
from ottt_loihi.errors import ChipError, UsageError, VerificationError

S, B = stand_ins("spikingjelly"), stand_ins("sinabs")


class IFNode(nn.Module):
    """SpikingJelly's IFNode(v_reset=None) in its multi-step mode."""

    tau, v_threshold, v_reset, step_mode = 2.0, 1.0, None, "m"

    def forward(self, x):
        v, sent = torch.zeros_like(x[0]), []
        for frame in x:
            v = v + frame
            sent.append((v >= 1).to(x.dtype))
            v = v - sent[-1]
        return torch.stack(sent)


IFNode.__module__ = "spikingjelly.activation_based.neuron"


def filled(net):
    torch.manual_seed(0)
    for value in net.parameters():
        value.data = torch.randn_like(value) / value[0].numel() ** 0.5 + 0.2
    return net


class Loop(nn.Module):
    """snnTorch's tutorial, with something of the user's at a place of it."""

    def __init__(self, size=20, frame=lambda x, t: x[t], current=lambda x, t: x, start=0.0, kept=lambda v: v):
        super().__init__()
        self.a, self.n, self.b, self.m = nn.Linear(size, 10), Leaky(0.8), nn.Linear(10, 4), Leaky(0.5)
        self.frame, self.current, self.start, self.kept = frame, current, start, kept
        filled(self)

    def forward(self, x):
        v, w, sent = torch.full((x.shape[1], 10), self.start, dtype=x.dtype), None, []
        for t in range(len(x)):
            spikes, v = self.n(self.current(self.a(self.frame(x, t)), t), v)
            v = self.kept(v)
            spikes, w = self.m(self.b(spikes), w)
            sent.append(spikes)
        return torch.stack(sent)


def equal(net, shape, steps=8, **options):
    compared = check.compare(net, shape, steps, **options)
    compared.raise_if_different()
    assert compared.predictions in (None, compared.samples)
    assert sum(spikes for _, spikes, _ in compared.layers.values()) > 20


@pytest.mark.parametrize(
    "net",
    [
        lambda: Loop(current=lambda x, t: x * 2 if t < 2 else x),
        lambda: Loop(current=lambda x, t: x * 2 if x.abs().max() > 1.5 else x),
        lambda: Loop(start=0.5),
        lambda: Loop(kept=lambda v: v / 2),
        lambda: Loop(kept=lambda v: v.clamp(min=0)),
        lambda: Loop(kept=lambda v: torch.zeros_like(v)),
    ],
    ids=["other weights", "a condition", "membranes begin elsewhere", "they are halved", "clipped", "and forgotten"],
)
def test_what_zeros_do_not_show_is_found_by_from_module(net):
    with pytest.raises(VerificationError, match=r"first in n, time step .*; expected a forward that does the same at"):
        ol.from_module(net(), (20,), 8)
    assert ol.from_module(Loop(), (20,), 8).num_classes == 4


@pytest.mark.parametrize(
    ("shape", "frame"),
    [
        ((4, 5), lambda x, t: x[t].flatten(1)),
        ((1, 4, 5), lambda x, t: x[t].view(x.shape[1], -1)),
        ((4, 5), lambda x, t: x[t, :, :, :].reshape(-1, 20)),
        ((4, 5), lambda x, t: x.flatten(2)[t]),
        ((4, 5), lambda x, t: x[t].transpose(1, 2).flatten(1)),
        ((2, 2, 5), lambda x, t: x[t].permute(0, 2, 1, 3).flatten(1)),
        ((20,), lambda x, t: x[t].mul_(2).sub_(1)),
    ],
)
def test_a_step_of_images_is_taken_out_and_flattened_in_any_way(shape, frame):
    equal(Loop(frame=frame), shape)


class Filling(Loop):
    """Norse's tutorial fills in its outputs."""

    def forward(self, x):
        out, v, w = torch.zeros(*x.shape[:2], 4, dtype=x.dtype), None, None
        for t in range(len(x)):
            spikes, v = self.n(self.a(x[t, :]), v)
            spikes, w = self.m(self.b(spikes), w)
            out[t, :, :] = spikes
        return out


@pytest.mark.skipif(not SEES_INDICES, reason="this torch does not show x[t] = y")
def test_outputs_are_filled_in_with_every_axis_written():
    equal(Filling(), (20,))
    assert convert.read(Filling(), (20,), 8).readout == "spikes"


class Pooled(nn.Module):
    """Two functional poolings in one module, as in Norse's tutorial."""

    def __init__(self, inner):
        super().__init__()
        self.a, self.n, self.b, self.m, self.c, self.o = (
            *(nn.Conv2d(1, 3, 3, padding=1), Leaky(0.8), nn.Conv2d(3, 3, 3, padding=1), Leaky(0.5)),
            *(nn.Linear(12, 4), Leaky(0.5)),
        )
        self.net = self if inner is None else inner
        filled(self)

    def forward(self, x):
        states, sent = [None] * 3, []
        for frame in x:
            s, states[0] = self.n(self.a(frame), states[0])
            s, states[1] = self.m(self.b(functional.max_pool2d(s, 2)), states[1])
            s, states[2] = self.o(self.c(functional.max_pool2d(input=s, kernel_size=2).flatten(1)), states[2])
            sent.append(s)
        return torch.stack(sent)


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_two_functional_poolings_of_one_module_are_two():
    net = Around(Pooled(False))
    equal(net, (1, 8, 8))
    poolings = [path for path in convert.read(net, (1, 8, 8), 8).paths if "max pooling" in path]
    assert poolings == ["inner (max pooling)", "inner.m (max pooling 2)"]


REPEATS = {
    "repeat": lambda x: x.unsqueeze(0).repeat(5, 1, 1, 1, 1),
    "repeat alone": lambda x: x.repeat(5, 1, 1, 1, 1),
    "expand": lambda x: x.expand(5, *x.shape),
    "stack": lambda x: torch.stack([x] * 5),
}


class Repeating(nn.Module):
    """SpikingJelly's convolutional tutorial."""

    def __init__(self, repeat):
        super().__init__()
        self.repeat, self.a, self.n, self.b, self.m = repeat, nn.Conv2d(1, 3, 3), IFNode(), nn.Linear(108, 4), IFNode()
        filled(self)

    def forward(self, x):
        x = self.n(self.a(self.repeat(x).flatten(0, 1)).unflatten(0, (5, -1)))
        return self.m(self.b(x.flatten(2))).mean(0)


@pytest.mark.parametrize("repeat", REPEATS)
def test_one_frame_that_forward_repeats_is_a_constant_input(repeat):
    net = Repeating(REPEATS[repeat])
    for steps in (None, 5):
        equal(net, (1, 8, 8), steps)
    imported = convert.read(net, (1, 8, 8))
    assert (imported.form, imported.network.time_steps, imported.readout) == ("constant", 5, "spikes")
    with pytest.raises(UsageError, match="num_steps: forward runs 5 steps by itself, got 6"):
        ol.from_module(net, (1, 8, 8), 6)


class Gathering(Loop):
    def __init__(self, gather):
        super().__init__()
        self.gather = gather

    def forward(self, x):
        return self.gather(super().forward(x))


@pytest.mark.parametrize("gather", [lambda out: out[-3:].sum(0), lambda out: sum(out.unbind(0)[-3:])])
def test_scores_of_the_last_steps_alone_are_found_where_a_short_run_has_no_more(gather):
    with pytest.raises(VerificationError, match=r"other scores than our network, sample .*; expected the sum"):
        ol.from_module(Gathering(gather), (20,), 9)
    assert ol.from_module(Gathering(lambda out: out.mean(0)), (20,), 9).num_classes == 4


def test_the_steps_of_the_largest_are_no_scores():
    with pytest.raises(ChipError, match=r"output \(argmax\): it belongs behind the scores"):
        ol.from_module(Gathering(lambda out: out.max(0)[1]), (20,), 8)


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding", "kept"),
    [(3, 1, "same", 1), ((5, 3), (1, 2), "same", 2), (2, 1, "same", None), (3, 1, "valid", 0)],
)
def test_padding_by_name_stays_a_convolution_where_both_sides_are_alike(kernel, dilation, padding, kept):
    net = nn.Sequential(nn.Conv2d(1, 2, kernel, padding=padding, dilation=dilation), Leaky(0.5))
    connection = convert.read(filled(net), (1, 7, 8), 5).network.blocks[0].connection
    assert getattr(connection, "padding", None) == kept
    x = torch.rand(3, 1, 7, 8)
    assert torch.allclose(connection(x).flatten(1), net[0](x).flatten(1), atol=1e-6)


class Lifting(nn.Module):
    """Norse's Lift: layers that take one step, in a loop between neurons that take a sequence."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.b, self.m = nn.Conv2d(1, 3, 3), IFNode(), nn.Linear(27, 4), IFNode()
        filled(self)

    def forward(self, x):
        x = self.n(torch.stack([self.a(frame) for frame in x]))
        pooled = torch.stack([functional.avg_pool2d(x[t], 2) for t in range(len(x))])
        return self.m(self.b(pooled.flatten(2)))


def test_layers_in_a_loop_between_neurons_that_take_a_sequence():
    equal(Lifting(), (1, 8, 8))


class PerStep(nn.Module):
    """A factor for each step, as in temporal batch normalisation."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.factor = nn.Linear(6, 5), IFNode(), nn.Parameter(torch.rand(5, 1, 1) + 1)

    def forward(self, x):
        return self.n(self.a(x) * self.factor)


def test_factors_for_each_step_are_refused_in_one_line():
    with pytest.raises(ChipError, match=r"n: linear → mul does not (do the same at every|run on one) step"):
        ol.from_module(PerStep(), (6,), 5)


class Between(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.div(x * 3, 2, rounding_mode="floor"), r"1 \(div\): it rounds; the nearest is to divide"),
        (lambda x: (x * 2.7).to(torch.int32).to(x.dtype), r"1 \(int\): it rounds; take it out of forward"),
        (lambda x: (x * 2.7).long().to(x.dtype), r"1 \(int\): it rounds; take it out of forward"),
        (lambda x: functional.lp_pool2d(x, 2, 2), r"1 \(lp_pool2d\): a root of powers is not linear"),
    ],
)
def test_what_rounds_or_takes_roots_is_refused_by_name(function, message):
    with pytest.raises(ChipError, match=message):
        ol.from_module(nn.Sequential(nn.Conv2d(1, 2, 3), Between(function), Leaky(0.5)), (1, 6, 6), 5)


def test_pooling_of_one_axis_and_arguments_by_name_are_read():
    pools = Between(lambda x: functional.adaptive_avg_pool2d(input=x, output_size=(None, 1)))
    net = nn.Sequential(pools, nn.Flatten(), nn.Linear(8, 5), Leaky(0.5))
    network = convert.read(filled(net), (2, 4, 4), 5).network
    x = torch.rand(3, 2, 4, 4)
    assert torch.allclose(network.blocks[0].connection(x), net[:3](x), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: net.a.weight.data[0].fill_(float("nan")), "a.weight: NaN or infinity; expected finite weights"),
        (lambda net: net.b.bias.data[0].fill_(float("inf")), "b.bias: NaN or infinity; expected finite weights"),
        (lambda net: setattr(net, "a", nn.LazyLinear(10)), "a.weight, a.bias: lazy weights without values; run the"),
    ],
)
def test_weights_that_are_no_numbers_are_refused_by_name(change, message):
    net = Loop()
    change(net)
    with pytest.raises(UsageError, match=message):
        ol.from_module(net, (20,), 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_become_float32_with_the_same_values(dtype):
    net = Loop().to(dtype)
    network = ol.from_module(net, (20,), 8)
    assert network.blocks[0].connection.weight.dtype is torch.float32
    assert torch.equal(network.blocks[0].connection.weight, net.a.weight.float())
    assert network.run(torch.rand(2, 8, 20)).scores.dtype is torch.float32


@pytest.mark.parametrize(
    "current",
    [
        lambda x, t: x.float(),
        lambda x, t: functional.linear(x, torch.eye(10, dtype=torch.float32) * 2),
        lambda x, t: x.to(torch.float32) @ torch.eye(10).float(),
    ],
)
def test_a_forward_that_asks_for_float32_is_compared_in_float64(current):
    equal(Loop(current=current), (20,))


class Logging(Leaky):
    """A user's own class, made of snnTorch's."""

    def forward(self, x, mem=None):
        spikes, self.mem = super().forward(x, mem)
        self.rate = spikes.mean()
        return spikes, self.mem


class Doubling(Leaky):
    def forward(self, x, mem=None):
        return super().forward(2 * x, mem)


def test_a_class_of_the_users_is_read_as_the_one_it_is_made_of_and_compared():
    net = Loop()
    net.n = Logging(0.8)
    equal(net, (20,))
    net.n = Doubling(0.8)
    with pytest.raises(VerificationError, match="first in n, time step 1"):
        ol.from_module(net, (20,), 8)


class Compiled(nn.Module):
    """What torch.compile makes of a module, of which nothing may be compiled when it is read."""

    def __init__(self, net):
        super().__init__()
        self._orig_mod = net

    def forward(self, x):
        raise AssertionError("compiled")


def test_what_was_compiled_is_read_as_it_was():
    net = Loop()
    net.a = Compiled(net.a)
    net.b._compiled_call_impl = Compiled(None).forward
    equal(Compiled(net), (20,))
    assert isinstance(net.a, Compiled)


def test_layers_that_send_no_spike_are_said():
    net = Loop()
    net.b.weight.data, net.b.bias.data = net.b.weight * 0, net.b.bias * 0
    compared = check.compare(net, (20,), 8)
    assert str(compared).endswith("; no spike of m, so their resets were not compared")


def test_neurons_without_counterpart_are_named_where_the_module_does_not_run_either():
    node = S.PSN()
    node.forward = lambda x: x.view(-1, 99, 7)
    with pytest.raises(ChipError, match=r"no counterpart here: 1 \(PSN\): it computes no leaky"):
        ol.from_module(nn.Sequential(nn.Linear(6, 5), node, nn.Linear(5, 3)), (6,), 4)


def test_decays_of_sinabs_that_are_trained_without_a_synapse():
    node = B.LIF(tau_mem=10.0, norm_input=False, spike_fn=B.SingleSpike())
    node.train_alphas, node.alpha_mem, node.alpha_syn = True, torch.tensor(0.75), None
    network = convert.read(nn.Sequential(nn.Linear(6, 5), node), (6,), 5).network
    assert (network.blocks[0].neuron.beta, network.blocks[0].neuron.alpha) == (0.75, 0.0)


def test_layers_of_sinabs_that_know_the_number_of_samples():
    try:
        f = real("sinabs")
    except ImportError:
        pytest.skip("sinabs is not installed")
    layers = (f.FlattenTime(), nn.Linear(12, 10), nn.BatchNorm1d(10), f.UnflattenTime(batch_size=6))
    net = nn.Sequential(*layers, f.IAF(spike_fn=f.SingleSpike), nn.Linear(10, 4), f.IAF(spike_fn=f.SingleSpike))
    for layer in (net[1], net[5]):
        filled(layer)
    equal(net, (12,))


class Batches(Loop):
    """A loop over the steps of samples that come first; ``take`` returns the steps of an input."""

    def __init__(self, take=lambda x: x.unbind(1), give=lambda out: out, size=20):
        super().__init__(size)
        self.take, self.give = take, give
        self.a.weight.data *= 2

    def forward(self, x):
        v, w, sent = None, None, []
        for frame in self.take(x):
            spikes, v = self.n(self.a(frame), v)
            spikes, w = self.m(self.b(spikes), w)
            sent.append(spikes)
        return self.give(torch.stack(sent))


@pytest.mark.parametrize("give", [lambda out: out, lambda out: out.transpose(0, 1)], ids=["time first", "samples"])
@pytest.mark.parametrize("samples", [5, 8])
def test_samples_come_first_and_steps_are_returned_along_any_axis(give, samples):
    """The scores were read as (samples, steps), because the input was so: right modules were refused."""
    equal(Batches(give=give), (20,), 8, samples=samples, rate=0.6)
    assert ol.from_module(Batches(give=give), (20,), 8).num_classes == 4


@pytest.mark.parametrize("take", [lambda x: x.unbind(-1), lambda x: [x[..., t] for t in range(x.shape[-1])]])
def test_time_as_the_last_axis_is_named_with_what_to_do(take):
    class Moved(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x.movedim(1, -1))

    with pytest.raises(
        UsageError, match=r"takes time as the last axis, \(samples, 20, T\).*self\.net\(x\.movedim\(1, -1"
    ):
        ol.from_module(Batches(take), (20,), 8)
    equal(Moved(Batches(take)), (20,))


class Part(nn.Module):
    """One step; ``take`` returns a part of its input."""

    def __init__(self, take):
        super().__init__()
        self.take, self.a, self.n = take, nn.Linear(20, 10), Leaky(0.8)
        filled(self)

    def forward(self, x):
        return self.n(self.a(self.take(x).flatten(1)))[0]


@pytest.mark.skipif(not SEES_INDICES, reason="this torch does not show x[:, 0]")
@pytest.mark.parametrize(
    "take",
    [
        lambda x: x[:, 0],
        lambda x: x[:, 1],
        lambda x: x.select(1, 1),
        lambda x: x.unbind(1)[1],
        lambda x: x.chunk(2, 1)[1],
        lambda x: x.split(1, 1)[0],
        lambda x: x.narrow(1, 1, 1),
    ],
)
def test_a_channel_of_a_step_is_read(take):
    """``x[:, 0]`` was taken for the first step of a sequence."""
    equal(Part(take), (2, 4, 5))


def test_a_part_of_a_step_and_the_step_in_one_index_are_refused_with_the_nearest():
    def both(x):
        return [x[:, t, 0] for t in range(x.shape[1])]

    with pytest.raises(ChipError, match=r"the nearest is x\[:, t\] first, and then a part of it"):
        ol.from_module(Batches(both), (2, 20), 8)


def test_a_layer_at_two_places_is_two_copies_and_a_note_says_so():
    layer = nn.Linear(12, 12)
    net = filled(nn.Sequential(layer, S.IFNode(v_reset=None), layer, S.IFNode(v_reset=None)))
    notes = convert.read(net, (12,), 8).notes
    assert notes == ["0.weight, 0.bias: shared by 1 and 3; here each has a copy, and the copies learn separately"]
    assert not convert.read(Loop(), (20,), 8).notes


class OwnSteps(Loop):
    """A ``forward`` that takes so many steps out of (samples, T, features), whatever T is."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def forward(self, x):
        v, w, sent = None, None, []
        for t in range(self.steps):
            spikes, v = self.n(self.a(x[:, t]), v)
            spikes, w = self.m(self.b(spikes), w)
            sent.append(spikes)
        return torch.stack(sent)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_a_forward_that_takes_its_own_number_of_steps(steps):
    """With 2 steps, which two samples have as well, x[:, t] was taken for sample t."""
    net = ol.from_module(OwnSteps(steps), (20,), steps)
    assert net.time_steps == steps
    with pytest.raises(UsageError, match=f"always takes {steps} steps, give num_steps={steps}"):
        ol.from_module(OwnSteps(steps), (20,), 11)
