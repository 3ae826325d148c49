"""OTTT in SLAYER's own blocks: the same spikes, the same last-layer gradient, constant memory."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("lava.lib.dl.slayer", reason="lava-dl is not installed")
from lava.lib.dl import slayer as lava_slayer
from ottt_loihi.converters.export import Options, export, export_module
from ottt_loihi.converters.frameworks import check
from ottt_loihi.converters.lava.backends import BACKENDS
from ottt_loihi.converters.netx import read as netx_reader
from ottt_loihi.converters.netx import write as netx

import ottt_loihi as ol
from ottt_loihi import sim
from ottt_loihi.data import load_digits, rate_code
from ottt_loihi.errors import ChipError, UsageError
from ottt_loihi.nn.description import construct, describe
from ottt_loihi.nn.models import build
from ottt_loihi.nn.slayer_blocks import blocks_of, from_blocks
from ottt_loihi.rules import BPTT, make_rule
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.checkpoint import load, save
from ottt_loihi.training.run_folder import RunFolder
from ottt_loihi.training.trainer import Trainer

pytestmark = pytest.mark.lava
cuba = lava_slayer.block.cuba
OTTT_A = make_rule("ottt", update="sequence")
NEURON = {"threshold": 1.0, "current_decay": 0.4, "voltage_decay": 0.2}


def dense(delay_shift=False, sizes=(12, 9, 4), **settings):
    torch.manual_seed(0)
    pairs = itertools.pairwise(sizes)
    return torch.nn.ModuleList(
        cuba.Dense(NEURON, n, m, weight_scale=3, delay_shift=delay_shift, **settings) for n, m in pairs
    )


def convolutional(delay_shift=False):
    torch.manual_seed(0)
    common = {"weight_scale": 3, "delay_shift": delay_shift}
    return torch.nn.ModuleList(
        [
            cuba.Conv(NEURON, 1, 4, 3, padding=1, **common),
            cuba.Pool(NEURON, 2, stride=2, delay_shift=delay_shift),
            cuba.Flatten(),
            cuba.Dense(NEURON, 4 * 4 * 4, 4, **common),
        ]
    )


def recurrent():
    torch.manual_seed(0)
    rec = cuba.Recurrent(NEURON, 12, 9, weight_scale=3, weight_norm=False, delay_shift=False)
    return torch.nn.ModuleList([rec, cuba.Dense(NEURON, 9, 4, weight_scale=3, delay_shift=False)])


def spikes(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator) < 0.5).float()


def by_slayer(blocks, x):
    outputs = []
    for block in blocks:
        x = block(x)
        outputs.append(x)
    return outputs


def network(blocks, x=None):
    return from_blocks(blocks, input_shape=None if x is None else x.shape[1:-1])


@torch.no_grad()
def by_steps(net, x):
    """Ours, with time last as SLAYER has it."""
    return [spikes.permute(*range(1, spikes.ndim), 0) for spikes in net.run(x.movedim(-1, 1), "s").states["s"]]


@pytest.mark.parametrize("delay_shift", [False, True])
@pytest.mark.parametrize(
    ("make", "shape"),
    [(dense, (3, 12, 20)), (lambda d: dense(d, weight_norm=True), (3, 12, 20)), (convolutional, (2, 1, 8, 8, 12))],
)
def test_the_spikes_are_slayers(make, shape, delay_shift):
    blocks, x = make(delay_shift), spikes(shape)
    expected = by_slayer(blocks, x)
    found = by_steps(network(blocks, x), x)
    expected = [out for block, out in zip(blocks, expected) if hasattr(block, "neuron")]
    blocks = [block for block in blocks if hasattr(block, "neuron")]
    shift = 0
    for block, ours, theirs in zip(blocks, found, expected, strict=True):
        shift += getattr(block, "delay_shift", False) is True
        steps = x.shape[-1] - shift
        assert torch.equal(ours[..., :steps], theirs[..., shift:])
        assert 0.02 < ours.mean() < 0.98
        assert not theirs[..., :shift].any()


def test_the_spikes_of_a_recurrent_block_are_slayers():
    blocks, x = recurrent(), spikes((3, 12, 20))
    expected = by_slayer(blocks, x)
    for ours, theirs in zip(by_steps(network(blocks), x), expected, strict=True):
        assert torch.equal(ours, theirs)
        assert 0.02 < ours.mean() < 0.98


@pytest.mark.parametrize("make", [dense, lambda: dense(weight_norm=True)])
def test_the_last_layers_gradient_is_autograds(make):
    """v written out by hand: cut at nothing but the resets, which are constants."""
    blocks, x = make(), spikes((3, 12, 20))
    labels = torch.tensor([0, 1, 3])
    by_slayer(blocks, x)
    net = from_blocks(blocks)
    blocks.zero_grad()
    result = OTTT_A.backward(net, x.movedim(-1, 1), labels, SquaredError())
    found = {name: p.grad.clone() for name, p in blocks[-1].named_parameters() if p.grad is not None}

    hidden = by_steps(net, x)[-2]
    blocks.zero_grad()
    block, neuron = blocks[-1], blocks[-1].neuron
    lu, lv = (1 - torch.round(d.detach()) / 4096 for d in (neuron.current_decay, neuron.voltage_decay))
    u = v = 0.0
    states, total = None, 0.0
    for t in range(x.shape[-1]):
        z = block.synapse(hidden[..., t : t + 1])
        u = lu * u + z
        free = lv * v + u
        with torch.no_grad():  # SLAYER's own integer voltage, so that spikes and surrogate are its own
            states = _advance(neuron, z, states)
        voltage = free + (states[2] - free).detach()
        s = neuron.spike(voltage)
        total = total + SquaredError()(s.flatten(1), labels, x.shape[-1])
        v = free  # the reset is a constant: it takes no part in the gradient
    total.backward()
    torch.testing.assert_close(result.loss, total.detach())
    expected = {name: p.grad for name, p in blocks[-1].named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


LEARNT = {"requires_grad": True, "scale_grad": 1000.0}
EACH = {"shared_param": False, "scale_grad": 1000.0, "current_decay": (0.3, 0.6), "voltage_decay": (0.1, 0.4)}


@pytest.mark.parametrize("own", [LEARNT, {**LEARNT, **EACH}, EACH])
@pytest.mark.parametrize("last", [0, 1])
def test_decays_that_learn_and_decays_of_each_neuron_have_autograds_gradient(own, last):
    """The recurrence of one layer kept, and the other's past cut; voltages and resets are SLAYER's own integers."""
    torch.manual_seed(0)
    blocks = [cuba.Dense({**NEURON, **own}, n, m, weight_scale=3, delay_shift=False) for n, m in ((12, 7), (7, 4))]
    blocks, x, labels = torch.nn.ModuleList(blocks), spikes((3, 12, 20)), torch.tensor([0, 1, 3])
    net = from_blocks(blocks)
    for ours, theirs in zip(by_steps(net, x), by_slayer(blocks, x), strict=True):
        assert torch.equal(ours, theirs)
    blocks.zero_grad()
    OTTT_A.backward(net, x.movedim(-1, 1), labels, SquaredError())
    found = {name: p.grad.clone() for name, p in blocks[last].named_parameters() if p.grad is not None}
    assert len(found) == (3 if "requires_grad" in own else 1)

    blocks.zero_grad()
    total, past = 0.0, [(0.0, 0.0, None)] * 2
    for t in range(x.shape[-1]):
        s = x[..., t : t + 1]
        for index, block in enumerate(blocks):
            neuron, z, (u, v, states) = block.neuron, block.synapse(s), past[index]
            decays = [d + (d.round() - d).detach() for d in (neuron.current_decay, neuron.voltage_decay)]
            lu, lv = ((1 - d / 4096)[:, None] for d in decays)
            if index != last and t:
                u, v = u.detach(), v.detach()
            with torch.no_grad():
                states = _advance(neuron, z, states)
            u = lu * u + z
            u = u + (states[0][..., None] - u).detach()
            free = lv * v + u
            free = free + (states[2] - free).detach()
            s = neuron.spike(free)
            past[index] = u, free + (states[1][..., None] - free).detach(), states
        total = total + SquaredError()(s.flatten(1), labels, x.shape[-1])
    total.backward()
    for name, gradient in found.items():
        expected = dict(blocks[last].named_parameters())[name].grad
        assert gradient.abs().max() > 1e-5, name
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def decays_faster(net):
    """Adam, whose steps are 50/4096 for decays."""
    groups = {True: [], False: []}
    for name, parameter in net.named_parameters():
        groups[name.endswith("_decay")].append(parameter)
    return torch.optim.Adam([{"params": groups[True], "lr": 50.0}, {"params": groups[False]}], 0.01)


def test_decays_that_have_learnt_are_the_chips():
    blocks = [cuba.Dense({**NEURON, **LEARNT}, 12, 9, weight_scale=6), cuba.Dense(NEURON, 9, 4, weight_scale=6)]
    x, labels = spikes((3, 12, 20)).movedim(-1, 1), torch.tensor([0, 1, 3])
    net = from_blocks(blocks, time_steps=20)
    before = blocks[0].neuron.cx_current_decay
    OTTT_A.train_batch(net, x, labels, SquaredError(), decays_faster(net))
    chip = netx_reader.from_slayer(net, 20).chip
    assert chip.layers[0].du + 1 == blocks[0].neuron.cx_current_decay != before
    with torch.no_grad():
        expected = net.run(x, "s").states["s"]
    found = sim.run(chip, x.numpy().astype(np.uint8), record=("s",)).states["s"]
    for ours, chips in zip(expected, found, strict=True):
        np.testing.assert_array_equal(chips, ours.numpy() > 0)


def test_decays_of_many_neurons_need_the_mean_and_are_saved_and_resumed(tmp_path):
    blocks = [cuba.Dense({**NEURON, **LEARNT, **EACH}, 12, 9, weight_scale=6), cuba.Dense(NEURON, 9, 4, weight_scale=6)]
    x, labels = spikes((3, 12, 20)), torch.tensor([0, 1, 3])
    net = from_blocks(blocks)
    with pytest.raises(UsageError, match=r"SlayerNeuron: 9 different decays, .* or use trace='mean'"):
        OTTT_A.backward(net, x.movedim(-1, 1), labels, SquaredError())
    net = from_blocks(blocks, trace="mean")
    before = blocks[0].neuron.current_decay.clone()
    OTTT_A.train_batch(net, x.movedim(-1, 1), labels, SquaredError(), decays_faster(net))
    assert 1 < (blocks[0].neuron.current_decay - before).abs().max() <= 51
    save(net, tmp_path / "model.pt")
    again = load(tmp_path / "model.pt")
    assert describe(again) == describe(net)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in net.parameters()]
    for one, two in zip(by_steps(again, x), by_steps(net, x), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ChipError, match=r"iDecay: one number for all neurons was expected, found \(9,\)"):
        netx_reader.from_slayer(net, 20)


def _advance(neuron, z, states):
    zero = torch.zeros_like(z[..., 0])
    neuron.current_state, neuron.voltage_state = (zero, zero) if states is None else states[:2]
    current, voltage = neuron.dynamics(z)
    fired = neuron.spike(voltage)[..., -1] > 0
    return current[..., -1], voltage[..., -1] * ~fired, voltage


def test_memory_does_not_grow_with_the_number_of_steps():
    from torch.profiler import ProfilerActivity, profile

    def peak(steps):
        blocks, x = dense(sizes=(12, 40, 4)), spikes((64, 12, steps))
        net, x, labels = from_blocks(blocks), x.movedim(-1, 1), torch.zeros(64, dtype=torch.int64)
        OTTT_A.backward(net, x[:, :2], labels, SquaredError())
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
            OTTT_A.backward(net, x, labels, SquaredError())
        live = most = 0
        for event in prof.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                most = max(most, live)
        return most

    assert peak(24) <= 1.05 * peak(4)


def digit_spikes(images, seed):
    return torch.from_numpy(rate_code(images.reshape(-1, 64), 10, seed=seed)).float().transpose(1, 2).contiguous()


@pytest.mark.slow
def test_digits_learned_with_ottt_have_the_same_spikes_in_slayer_netx_and_sim(tmp_path):
    digits = load_digits()
    torch.manual_seed(0)
    neuron = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.5}
    sizes = itertools.pairwise((64, 128, 10))
    blocks = [cuba.Dense(neuron, n, m, weight_scale=3, delay_shift=False) for n, m in sizes]
    blocks = torch.nn.ModuleList(blocks)
    net = from_blocks(blocks)
    optimizer = torch.optim.Adam(blocks.parameters(), lr=0.01)
    x, labels = digit_spikes(digits.x_train, 1), torch.from_numpy(np.asarray(digits.y_train))
    for epoch in range(8):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for first in range(0, len(x), 64):
            chosen = order[first : first + 64]
            OTTT_A.train_batch(net, x[chosen].movedim(-1, 1), labels[chosen], SquaredError(), optimizer)
    test = digit_spikes(digits.x_test, 0)
    found = by_steps(net, test)
    accuracy = float((found[-1].sum(-1).argmax(1).numpy() == digits.y_test).mean())
    assert accuracy >= 0.92
    few = test[:20]
    expected = [block.detach() for block in by_slayer(blocks, few)]
    chip = netx_reader.from_slayer(blocks, few.shape[-1]).chip
    netx.write(chip, tmp_path / "slayer.net")
    messages = few.transpose(1, 2).numpy().astype(np.uint8)
    for result in (
        sim.run(chip, messages, record=("s",)),
        netx.run(chip, tmp_path / "slayer.net", messages, record=("s",)),
    ):
        for layer, theirs in enumerate(expected):
            np.testing.assert_array_equal(result.states["s"][layer], theirs.permute(2, 0, 1).numpy() > 0)
            assert torch.equal(found[layer][:20], theirs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [], "expected one or more blocks"),
        (lambda: [torch.nn.Linear(2, 3)], "block 1, Linear: it is of torch.nn"),
        (lambda: dense(delay=True), "block 1, Dense: learned axonal delays"),
        (lambda: dense(count_log=True), "block 1, Dense: count_log=True"),
        (lambda: [cuba.Conv({**NEURON, "shared_param": False}, 3, 2, 1)], "has decays per channel of Dense and Rec"),
        (lambda: [cuba.Dense({**NEURON, "norm": lava_slayer.neuron.norm.MeanOnlyBatchNorm}, 3, 2)], "a norm between"),
        (lambda: [cuba.Input(NEURON, weight=1.0)], "block 1, Input: its weight and bias"),
        (lambda: [lava_slayer.block.alif.Flatten()], "block 1, Flatten: it is of"),
        (lambda: [cuba.Affine(NEURON, 3, 2), cuba.Flatten()], "an Affine block must be the last"),
    ],
)
def test_what_it_cannot_train_is_refused_by_name(make, message):
    with pytest.raises(UsageError, match=message):
        from_blocks(make())


@pytest.mark.parametrize(
    ("rule", "shape", "message"),
    [
        (BPTT(), (3, 6, 12), "BPTT through these blocks is SLAYER's own"),
        (make_rule("ottt", hlop={"rows": [1]}), (3, 6, 12), "expected"),
        (make_rule("ottt", convention="authors"), (3, 6, 12), "the network 'paper'"),
        (OTTT_A, (3, 6, 12, 2), r"expected shape \(batch, time steps, 12\), got \(3, 6, 12, 2\)"),
    ],
)
def test_a_rule_or_an_input_that_does_not_fit_is_refused(rule, shape, message):
    with pytest.raises(UsageError, match=message):
        rule.backward(from_blocks(dense()), spikes(shape), torch.tensor([0, 1, 3]), SquaredError())


def test_every_step_may_change_the_weights():
    blocks = dense()
    before = [p.clone() for p in blocks.parameters()]
    optimizer = torch.optim.SGD(blocks.parameters(), 0.1)
    make_rule("ottt", update="step").train_batch(
        from_blocks(blocks), spikes((3, 6, 12)), torch.tensor([0, 1, 3]), SquaredError(), optimizer
    )
    assert any(not torch.equal(p, q) for p, q in zip(before, blocks.parameters()))


def test_without_the_trace_the_gradient_is_that_of_the_present_input():
    """SLTT of one block: Σ_t of the gradients that each step's own input gives."""
    blocks, x, labels = dense(sizes=(12, 4)), spikes((3, 6, 12)), torch.tensor([0, 1, 3])
    net, found = from_blocks(blocks), {}
    for name in ("ottt", "sltt"):
        blocks.zero_grad()
        rule = make_rule(name, update="sequence") if name == "ottt" else make_rule(name)
        rule.backward(net, x, labels, SquaredError())
        found[name] = [p.grad.clone() for p in blocks.parameters() if p.grad is not None]
    assert found["sltt"]
    assert not any(torch.equal(a, b) for a, b in zip(found["ottt"], found["sltt"], strict=True))


def few_digits():
    digits = load_digits()
    return replace(digits, x_train=digits.x_train[:200], y_train=digits.y_train[:200]).first(200, 30)


def trainer_of(net):
    return Trainer(net, make_rule("ottt", update="sequence"), encoding="rate", learning_rate=0.01, batch_size=50)


@pytest.mark.parametrize("features", ["16F", pytest.param("4C3S2D1-12F", marks=pytest.mark.slow)])
def test_a_named_network_is_trained_saved_resumed_and_exported_like_others(features, tmp_path):
    def made():
        return build("slayer", {"features": features, "input_shape": [1, 8, 8], "num_classes": 10, "time_steps": 5})

    digits, once = few_digits().with_channels(), made()
    trainer_of(once).fit(digits, epochs=2, run=RunFolder(tmp_path / "once"))
    trainer_of(made()).fit(digits, epochs=1, run=RunFolder(tmp_path / "twice"))
    trainer_of(made()).fit(digits, epochs=2, run=RunFolder(tmp_path / "twice"), resume=True)
    net = load(tmp_path / "twice" / "model.pt")
    before = made().state_dict()
    for name, weight in once.state_dict().items():
        assert torch.equal(weight, net.state_dict()[name]), name
        if name.endswith("weight"):
            assert not torch.equal(weight, before[name]), name
    net.provenance["data"] = "digits"
    found = export(net, Options(check=20, allow_dead=True), tmp_path / "twice" / "model.pt")
    assert found.agreement.first is None
    assert found.agreement.predictions == 1
    x = rate_code(digits.x_test[:10], 5, seed=3)
    blocks = blocks_of(net)
    seen = torch.from_numpy(x).float().movedim(1, -1)
    expected = [spikes.detach().movedim(-1, 0).flatten(2).numpy() > 0 for spikes in _through(blocks, seen)]
    netx.write(found.chip, tmp_path / "slayer.net")
    runs = [
        sim.run(found.chip, x, ("s",)),
        BACKENDS["inprocess"].run(found.chip, x, ("s",)),
        netx.run(found.chip, tmp_path / "slayer.net", x, ("s",)),
    ]
    for result in runs:
        for layer, theirs in enumerate(expected):
            np.testing.assert_array_equal(result.states["s"][layer].reshape(theirs.shape), theirs)


def _through(blocks, x):
    """SLAYER's blocks, without the shift of one step a block."""
    for block in blocks:
        x = block.neuron(block.synapse(x if block.synapse.kernel_size[0] > 1 else x.flatten(1, -2)))
        yield x


def test_every_kind_of_block_is_described():
    pool = cuba.Pool(NEURON, 2, stride=2, weight_scale=1.5)
    conv = cuba.Conv(NEURON, 1, 4, (3, 1), padding=(1, 0), stride=2, weight_norm=True, weight_scale=6)
    blocks = [
        cuba.Input({**NEURON, "scale": 32}),
        conv,
        pool,
        cuba.Flatten(),
        cuba.Recurrent(NEURON, 16, 6, weight_scale=6),
    ]
    net = from_blocks([*blocks, cuba.Affine(NEURON, 6, 3, dynamics=False)], input_shape=(1, 8, 8))
    for parameter in net.parameters():  # whatever is drawn, every layer fires
        parameter.data.abs_()
    other = construct(describe(net))
    assert describe(other) == describe(net)
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        one, two = (some.run(spikes((2, 5, 1, 8, 8))).scores for some in (net, other))
    assert torch.equal(one, two)
    assert one.abs().max() > 0


def test_what_no_file_can_hold_is_said(tmp_path):
    net = from_blocks(dense(pre_hook_fx=lambda weight, descale=False: weight))
    with pytest.raises(UsageError, match="a pre_hook_fx of your own is in no file"):
        save(net, tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_weight_bits": 4}, "num_weight_bits: SLAYER's weights are the chip's integers already"),
        ({"calibrate": 10}, "calibrate: SLAYER's weights"),
    ],
)
def test_nothing_is_quantised_twice(settings, message):
    with pytest.raises(UsageError, match=message):
        export(build("slayer", {"features": "4F"}), Options(**settings))


def test_what_has_no_blocks_is_no_slayer_network():
    with pytest.raises(UsageError, match="blocks of lava-dl's SLAYER, got Linear"):
        netx_reader.from_slayer(torch.nn.Linear(2, 3), 5)


class Blocks(torch.nn.Module):
    """As users of lava-dl write it."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = blocks

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def normed(delay_shift):
    """Blocks of lava-dl's tutorials: SLAYER makes their weights anew of a direction and a length at every call."""
    return dense(delay_shift, weight_norm=True)


@pytest.mark.parametrize("delay_shift", [False, True])
@pytest.mark.parametrize(("make", "shape"), [(dense, (12,)), (normed, (12,)), (convolutional, (1, 8, 8))])
def test_a_module_of_blocks_is_read_as_others_are(make, shape, delay_shift):
    net = Blocks(make(delay_shift=delay_shift))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    compared = check.compare(net, shape, 12, samples=6)
    compared.raise_if_different()
    assert compared.predictions == 6
    assert sum(spikes for _, spikes, _ in compared.layers.values()) > 50
    network = ol.from_module(net, shape, 12)
    assert network.provenance["imported"]["framework"] == "slayer"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    if make is not convolutional:  # a pooling is no netx layer
        x = (np.random.default_rng(0).random((3, 12, *shape)) < 0.3).astype(np.uint8)
        chip = export_module(network).chip
        with torch.no_grad():
            scores = network.run(torch.from_numpy(x).float()).scores
        assert np.array_equal(sim.run(chip, x).scores, scores.numpy())


def test_decays_that_are_not_drawn_yet_are_refused_by_name():
    """Every copy of the module draws others, so some spikes differed: SLAYER draws them when a block first runs."""
    net = Blocks(
        torch.nn.ModuleList(cuba.Dense({**NEURON, **EACH}, n, m, weight_scale=3) for n, m in ((12, 7), (7, 4)))
    )
    with pytest.raises(UsageError, match=r"blocks\.0, blocks\.1: with shared_param=False, .* run the module once"):
        ol.from_module(net, (12,), 12)
    with torch.no_grad():
        net(spikes((1, 12, 3)))
    compared = check.compare(net, (12,), 12, samples=6)
    compared.raise_if_different()
    assert compared.predictions == 6


def test_blocks_need_a_number_of_steps_and_are_counted():
    with pytest.raises(UsageError, match="do not say how many time steps"):
        ol.from_module(Blocks(dense()), (12,))
    with pytest.raises(UsageError, match="expected 'spikes'"):
        ol.from_module(Blocks(dense()), (12,), 5, readout="sum")


def test_weights_outside_of_the_blocks_are_not_left_out():
    net = Blocks(dense())
    net.head = torch.nn.Linear(4, 2)
    with pytest.raises(ChipError, match=r"head\.weight, head\.bias: weights outside of SLAYER's blocks"):
        ol.from_module(net, (12,), 5)


class Forward(Blocks):
    """With a forward of its own."""

    def __init__(self, blocks, forward):
        super().__init__(blocks)
        self.own = forward

    def forward(self, x):
        return self.own(self.blocks, x)


@pytest.mark.parametrize("delay_shift", [False, True])
@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda b, x: b[1](b[0](x)), r"blocks\.2: forward does not run this block; the nearest is"),
        (lambda b, x: b[2](b[1](b[1](b[0](x)))), r"blocks\.1: forward gives this block other spikes than the blocks"),
        (lambda b, x: b[2]((first := b[0](x)) + b[1](first)), r"blocks\.2: forward gives this block other spikes"),
        (lambda b, x: b[2](b[1](b[0](1 - x))), r"blocks\.0: forward gives this block other spikes"),
        (lambda b, x: 1 - b[2](b[1](b[0](x))), "output: forward changes what the last block sends"),
        (lambda b, x: b[2](b[1](b[0](x))).flip(1), "output: forward changes what the last block sends"),
    ],
    ids=["left out", "twice", "shortcut", "before", "behind", "classes"],
)
def test_a_forward_that_does_not_run_the_blocks_in_a_row_is_refused(delay_shift, forward, message):
    """5.22: forward was not looked at."""
    with pytest.raises(ChipError, match=message):
        ol.from_module(Forward(dense(delay_shift, (12, 9, 9, 4)), forward), (12,), 12)


@pytest.mark.parametrize(
    "forward",
    [lambda b, x: b[1](b[0](x)), lambda b, x: (b[1](b[0](x)), 0.5), lambda b, x: b[1](b[0](x)).mean(-1)],
    ids=["spikes", "tuple", "mean"],
)
def test_what_users_of_slayer_return_is_read(forward):
    net = Forward(dense(), forward)
    assert check.compare(net, (12,), 12, samples=6).predictions == 6


def test_a_forward_that_fails_is_named_in_one_line():
    with pytest.raises(UsageError, match=r"Forward does not run on inputs of shape \(12,\): no image here"):
        ol.from_module(
            Forward(dense(), lambda b, x: (_ for _ in ()).throw(ValueError("no image here\nat all"))), (12,), 5
        )
    with pytest.raises(UsageError, match="returns no tensor"):
        ol.from_module(Forward(dense(), lambda b, x: b[1](b[0](x)) is None), (12,), 5)


def test_what_recurrent_blocks_keep_of_the_last_call_does_not_count():
    net = Blocks(recurrent())
    with torch.no_grad():
        net(spikes((6, 12, 20)))
    check.compare(net, (12,), 12, samples=6).raise_if_different()
