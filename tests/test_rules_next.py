"""S-TLLR, TESS, OTPE and A-OTPE: the identities of their papers, in float64."""

import copy

import numpy as np
import pytest
import torch

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block
from ottt_loihi.nn.connections import Linear, Readout
from ottt_loihi.nn.models import conv, dsr, mlp
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.nn.paths import GradientPaths
from ottt_loihi.nn.surrogates import FastSigmoid
from ottt_loihi.rules import RULES, make_rule
from ottt_loihi.rules.eligibility import step
from ottt_loihi.rules.losses import CrossEntropy, SquaredError
from ottt_loihi.rules.tess import signs

T = 8


def batch(net, samples=6, steps=T, rate=0.4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(samples, steps, *net.input_shape, generator=generator) < rate).double()
    return x, torch.arange(samples) % net.num_classes


def gradients(net, rule, x, labels, loss=None):
    net.zero_grad()
    rule.backward(net, x, labels, loss or CrossEntropy(0.0))
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def equal(found, expected, names=None, tolerance=1e-13):
    for name in names or expected:
        torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=tolerance, msg=name)


def net(sizes=(12, 20, 15, 3), **settings):
    settings = {"bias": True, "surrogate": "sigmoid", **settings}
    made = mlp(sizes, **settings).double()
    generator = torch.Generator().manual_seed(3)
    for name, p in made.named_parameters():
        if name.endswith("bias"):
            p.data = 0.2 * torch.rand(p.shape, generator=generator, dtype=torch.float64)
    return made


def firing_conv():
    """Three convolutions that all fire."""
    made = conv("4C3-AP2-6C3-5C3", input_shape=(1, 8, 8), num_classes=3, surrogate="sigmoid").double()
    for block in made.blocks:
        block.connection.weight.data = block.connection.weight.data.abs()
    return made


WEIGHTS = ("blocks.0.connection.weight", "blocks.1.connection.weight", "readout.weight", "readout.bias")
BIASES = ("blocks.0.connection.bias", "blocks.1.connection.bias")


class TestSTLLR:
    def test_causal_and_with_the_membranes_decay_it_is_ottt_and_its_biases_are_sltts(self):
        made = net()
        x, labels = batch(made)
        found = gradients(made, make_rule("s-tllr", alpha_post=0.0, lambda_pre=0.5), x, labels)
        expected = gradients(made, make_rule("ottt", update="sequence"), x, labels)
        for name in WEIGHTS:
            assert (found[name] - expected[name]).norm() <= 5e-16 * expected[name].norm(), name
        equal(found, gradients(made, make_rule("sltt"), x, labels), BIASES)
        without = gradients(made, make_rule("s-tllr", alpha_post=0.0, lambda_pre=0.0), x, labels)
        equal(without, gradients(made, make_rule("sltt"), x, labels))

    def test_a_convolution_and_a_recurrent_network_are_ottts_too(self):
        for made in (
            conv("4C3-AP2-6C3", input_shape=(1, 8, 8), num_classes=3, surrogate="sigmoid").double(),
            mlp((12, 20, 3), recurrent=True, surrogate="sigmoid").double(),
        ):
            x, labels = batch(made)
            found = gradients(made, make_rule("s-tllr", alpha_post=0.0, lambda_pre=0.5), x, labels)
            expected = gradients(made, make_rule("ottt", update="sequence"), x, labels)
            equal(found, expected, [name for name in expected if name.endswith("weight")], 1e-12)

    def test_it_is_affine_in_both_alphas(self):
        made = net()
        x, labels = batch(made)

        def at(pre, post):
            return gradients(made, make_rule("s-tllr", alpha_pre=pre, alpha_post=post), x, labels)

        one, two, both, none = at(1, 0), at(0, 1), at(2.0, -3.0), at(0, 0)
        for name in WEIGHTS[:2]:
            assert two[name].abs().sum() > 0
            torch.testing.assert_close(both[name], 2 * one[name] - 3 * two[name] - 0 * none[name])
            assert not none[name].any()

    def test_the_two_conventions_differ_by_lambda_post(self):
        made = net()
        x, labels = batch(made)
        authors = gradients(made, make_rule("s-tllr", alpha_post=0.7 * 0.2), x, labels)
        paper = gradients(made, make_rule("s-tllr", alpha_post=0.7, convention="paper"), x, labels)
        equal(paper, authors)

    def test_the_last_steps_alone(self):
        """S < T: δ is 0 in the first T − S steps, while the traces run through all of them."""
        made = net()
        x, labels = batch(made)
        rule = make_rule("s-tllr", last_steps=3)
        found = gradients(made, rule, x, labels)

        def late(o, y, steps, seen=[0]):  # noqa: B006 - counts the time steps
            seen[0] += 1
            return CrossEntropy(0.0)(o, y, steps) * (1.0 if seen[0] > T - 3 else 0.0)

        equal(found, gradients(made, make_rule("s-tllr"), x, labels, late))

    def test_the_toy_of_one_synapse(self):
        """x = 1 0 1 1, Ψ = .1 .3 .2 .1, λ_pre = .5, λ_post = .2, α_pre = α_post = 1, δ = 1."""
        expected = {"authors": [0.1, 0.15, 0.57, 0.4265], "paper": [0.1, 0.15, 0.314, 0.2153]}
        for convention, values in expected.items():
            made, rule = _toy([0.1, 0.3, 0.2, 0.1]), make_rule("s-tllr", convention=convention)
            for found, value in zip(_toy_gradients(made, rule.layer), values, strict=True):
                assert found == pytest.approx(value, abs=1e-15)

    def test_with_an_error_of_one_it_is_pair_stdp(self):
        """Σ_t e[t] is the double sum with the window K(n) over all pairs of steps (the paper's convention)."""
        generator = np.random.default_rng(4)
        x, psi = generator.random(T), generator.random(T)
        rule = make_rule("s-tllr", lambda_pre=0.6, lambda_post=0.3, alpha_pre=0.8, alpha_post=-0.7, convention="paper")
        made = _toy(list(psi))
        found = sum(_toy_gradients(made, rule.layer, x))
        window = lambda n: 0.8 * 0.6**n if n >= 0 else -0.7 * 0.3 ** (-n)  # noqa: E731
        assert found == pytest.approx(sum(psi[i] * x[j] * window(i - j) for i in range(T) for j in range(T)), abs=1e-12)

    def test_direct_feedback_reaches_each_layer_alone(self):
        made = net()
        x, labels = batch(made)
        rule = make_rule("s-tllr", signal="direct", seed=3)
        before = gradients(made, rule, x, labels)
        backpropagated = gradients(made, make_rule("s-tllr"), x, labels)
        equal(before, backpropagated, ("readout.weight", "readout.bias"))
        assert not torch.allclose(before["blocks.0.connection.weight"], backpropagated["blocks.0.connection.weight"])
        assert torch.equal(before["blocks.1.connection.weight"], gradients(made, rule, x, labels)[WEIGHTS[1]])

    def test_causal_with_direct_feedback_it_is_opzo_with_the_same_matrices(self):
        made = net()
        x, labels = batch(made)
        found = gradients(made, make_rule("s-tllr", alpha_post=0.0, signal="direct", seed=3), x, labels)
        equal(found, gradients(made, make_rule("opzo", feedback="random", seed=3), x, labels), WEIGHTS)

    def test_step_by_step_with_a_rate_of_nearly_nothing_is_the_sequence(self):
        made = net()
        x, labels = batch(made)
        for name in ("s-tllr", "tess", "a-otpe", "otpe"):
            whole = gradients(made, make_rule(name), x, labels)
            other = copy.deepcopy(made)
            optimizer = torch.optim.SGD(other.parameters(), 1e-7)
            make_rule(name, update="step").train_batch(other, x, labels, CrossEntropy(0.0), optimizer)
            for (key, p), q in zip(made.named_parameters(), other.parameters(), strict=True):
                torch.testing.assert_close((p - q) / 1e-7, whole[key], rtol=1e-4, atol=1e-6)


class TestTESS:
    def test_the_signs_are_those_of_the_paper(self):
        rows = ["0-------", "0-++--++", "0+-+-+-+"]
        assert signs(3, 8).tolist() == [[{"0": 0.0, "-": -1.0, "+": 1.0}[c] for c in row] for row in rows]
        normal = signs(10, 4096) / signs(10, 4096).norm(dim=1, keepdim=True)
        cosines = (normal @ normal.t()).fill_diagonal_(0).abs()
        assert float(cosines.max()) < 0.05

    def test_a_layer_learns_alone(self):
        made = net()
        x, labels = batch(made)
        before = gradients(made, make_rule("tess"), x, labels)
        with torch.no_grad():
            made.blocks[1].connection.weight.mul_(-2)
            made.readout.weight.add_(1)
        after = gradients(made, make_rule("tess"), x, labels)
        assert torch.equal(before["blocks.0.connection.weight"], after["blocks.0.connection.weight"])
        assert not torch.equal(before["blocks.1.connection.weight"], after["blocks.1.connection.weight"])
        with torch.no_grad():
            made.readout.weight.mul_(-3)
        equal(gradients(made, make_rule("tess"), x, labels), after, WEIGHTS[:2], 0)

    def test_causal_it_is_bptt_of_the_sum_of_the_local_losses(self):
        made = net(bias=False)
        x, labels = batch(made)
        rule = make_rule("tess", alpha_post=0.0, lambda_pre=0.5, kappa=3.0)
        found = gradients(made, rule, x, labels)
        made.zero_grad()
        state, total = None, 0
        for t in range(T):
            out, blocks, before = x[:, t], [], state
            for index, block in enumerate(made.blocks):
                known = None if before is None else before[index]
                out, after = block([out.detach()], known, GradientPaths())
                blocks.append(after)
                total = total + CrossEntropy(0.0)(rule.local_readout(made, index, out), labels, T)
            state = blocks
        total.backward()
        equal(found, {name: p.grad for name, p in made.blocks.named_parameters(prefix="blocks")}, WEIGHTS[:2])

    def test_without_its_local_losses_it_is_s_tllr(self):
        """What the released code does after ``--delay-ls``: the readout's error alone, sent back through the blocks."""
        made = net()
        x, labels = batch(made)
        expected = gradients(made, make_rule("s-tllr"), x, labels)
        made.zero_grad()
        rule, state = make_rule("tess"), None
        for t in range(T):
            o, state = step(made, x[:, t], state, rule.layer)
            CrossEntropy(0.0)(o, labels, T).backward()
        equal({name: p.grad for name, p in made.named_parameters()}, expected, tolerance=0)

    def test_images_are_pooled(self):
        made = firing_conv()
        x, labels = batch(made)
        found = gradients(made, make_rule("tess"), x, labels)
        assert all(found[f"blocks.{i}.connection.weight"].abs().sum() > 0 for i in range(3))
        other = gradients(made, make_rule("tess", pooled=[2, 2, 2]), x, labels)
        assert not torch.equal(found["blocks.0.connection.weight"], other["blocks.0.connection.weight"])
        assert not found["blocks.2.connection.weight"][0].any()  # B is 0 for the first channel at p = 1
        with pytest.raises(UsageError, match="pooled: expected a size for each of the 3 blocks"):
            gradients(made, make_rule("tess", pooled=[2]), x, labels)


class TestOTPE:
    @pytest.mark.parametrize("attached", [False, True])
    def test_with_one_hidden_layer_it_is_bptt(self, attached):
        """The output layer's reset is detached, the hidden layer's attached or not."""
        made = net(reset="subtract")
        x, labels = batch(made)
        found = gradients(made, make_rule("otpe", attached_reset=attached), x, labels)
        made.zero_grad()
        states, total = [None, None], 0
        for t in range(T):
            out = x[:, t]
            for index, block in enumerate(made.blocks):
                paths = GradientPaths(reset=attached and index == 0)
                out, states[index] = block([out], states[index], paths)
            total = total + CrossEntropy(0.0)(made.readout(out), labels, T)
        total.backward()
        equal(found, {name: p.grad for name, p in made.named_parameters()}, tolerance=1e-12)

    def test_a_constant_surrogate_makes_the_factors_exact(self):
        made = net(bias=False)
        for block in made.blocks:
            block.neuron.surrogate = lambda u, v_threshold: torch.full_like(u, 0.3)
        x, labels = batch(made)
        equal(gradients(made, make_rule("a-otpe"), x, labels), gradients(made, make_rule("otpe"), x, labels))

    def test_without_memory_it_is_sltt(self):
        made = net(beta=0.0)
        x, labels = batch(made)
        expected = gradients(made, make_rule("sltt"), x, labels)
        equal(gradients(made, make_rule("otpe"), x, labels), expected)
        equal(gradients(made, make_rule("a-otpe"), x, labels), expected)

    def test_the_toy_of_one_synapse(self):
        """R .1 .2 .35 .3375, ẑ 1 1 1.75 2.5, ḡ .1 .233333 .214286 .153333 for x = 1 0 1 1, f = .1 .3 .2 .1, λ = .5."""
        made = _toy([0.1, 0.3, 0.2, 0.1])
        full, factored = make_rule("otpe"), make_rule("a-otpe")
        found = _toy_gradients(made, lambda block, inputs, state, last: full.hidden_layer(block, inputs[0], state))
        assert found == pytest.approx([0.1, 0.2, 0.35, 0.3375], abs=1e-15)
        made = _toy([0.1, 0.3, 0.2, 0.1])
        found = _toy_gradients(made, lambda block, inputs, state, last: factored.hidden_layer(block, inputs[0], state))
        z, g = [1, 1, 1.75, 2.5], [0.1, 0.7 / 3, 1.5 / 7, 0.2875 / 1.875]
        assert found == pytest.approx([a * b for a, b in zip(z, g)], abs=1e-15)

    @pytest.mark.slow
    @pytest.mark.parametrize("depth", [2, 3, 4])
    def test_the_first_layers_gradient_is_nearer_to_bptt_than_ottts(self, depth):
        rules = {"ottt": {"update": "sequence"}, "a-otpe": {}, "otpe": {}, "bptt": {}}
        cosines = dict.fromkeys(rules, 0.0)
        for seed in range(5):
            made = mlp(
                (30, *[40] * (depth + 1), 5), beta=0.881, seed=seed, surrogate={"name": "fast-sigmoid", "slope": 5.0}
            ).double()
            x, labels = batch(made, 8, 20, 0.3, seed)
            found = {
                name: gradients(made, make_rule(name, **more), x, labels)["blocks.0.connection.weight"].flatten()
                for name, more in rules.items()
            }
            for name in rules:
                cosines[name] += float(torch.cosine_similarity(found[name], found["bptt"], 0)) / 5
        assert cosines["bptt"] == pytest.approx(1.0)
        assert cosines["a-otpe"] > cosines["ottt"] + 0.05
        assert cosines["otpe"] > cosines["ottt"] + 0.05


def test_a_convolution_learns_with_a_otpe_and_otpe_says_what_to_use():
    made = firing_conv()
    x, labels = batch(made)
    assert all(g.abs().sum() > 0 for g in gradients(made, make_rule("a-otpe"), x, labels).values())
    with pytest.raises(UsageError, match=r"block 1 is a Conv2d, expected dense layers; a-otpe"):
        gradients(made, make_rule("otpe"), x, labels)


@pytest.mark.parametrize("name", ["s-tllr", "tess", "a-otpe", "otpe"])
def test_what_every_one_of_them_must_do(name):
    made = net()
    x, labels = batch(made)
    whole = gradients(made, make_rule(name), x, labels)
    single = [gradients(made, make_rule(name), x[i : i + 1], labels[i : i + 1]) for i in range(len(x))]
    equal(whole, {key: sum(one[key] for one in single) / len(x) for key in whole}, tolerance=1e-12)
    equal(whole, gradients(copy.deepcopy(made), make_rule(**make_rule(name).describe()), x, labels))
    described = make_rule(name).describe()
    assert described.pop("name") == name
    assert described.items() >= {"update": "sequence"}.items()


@pytest.mark.parametrize(
    ("name", "made", "message"),
    [
        ("otpe", lambda: _unequal(), "expected the same beta in all layers, got 0.5, 0.7"),
        ("a-otpe", lambda: mlp((4, 5, 3), recurrent=True), "expected a row of layers"),
        ("s-tllr", lambda: mlp((4, 5, 3), convention="authors"), 'expected a network with convention="paper"'),
        ("tess", lambda: mlp((4, 5, 3), convention="authors"), 'expected a network with convention="paper"'),
    ],
)
def test_networks_that_do_not_fit_are_refused_by_name(name, made, message):
    made = made().double()
    with pytest.raises(UsageError, match=message):
        gradients(made, make_rule(name), *batch(made))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("s-tllr", {"lambda_pre": 1.5}, "lambda_pre: expected a number"),
        ("s-tllr", {"signal": "loud"}, "signal: expected"),
        ("s-tllr", {"last_steps": 0}, "last_steps: expected"),
        ("tess", {"kappa": 0.0}, "kappa: expected"),
        ("otpe", {"attached_reset": "no"}, "attached_reset: expected true or false"),
    ],
)
def test_settings_are_checked(name, settings, message):
    with pytest.raises(UsageError, match=message):
        make_rule(name, **settings)


def test_more_learning_steps_than_there_are():
    made = net()
    with pytest.raises(UsageError, match="last_steps: expected at most the 8 time steps, got 9"):
        gradients(made, make_rule("s-tllr", last_steps=9), *batch(made))


def _toy(psi):
    """One synapse whose surrogate has these values, one after the other."""
    values = iter(psi)
    neuron = LIF(0.5, 1e9, "subtract", surrogate=lambda u, v_threshold: torch.full_like(u, next(values)))
    made = Network([Block(Linear(1, 1), neuron)], Readout(1, 1), input_shape=(1,), time_steps=len(psi)).double()
    neuron.forward = lambda current, v=None, paths=None: _as_f(neuron, current)
    return made


def _as_f(neuron, current):
    """A neuron that never fires, whose derivative is the surrogate's next value; asked for again, it gives the same."""
    psi = neuron.surrogate(current.detach(), 1.0)
    neuron.surrogate = lambda u, v_threshold, rest=neuron.surrogate: _once(neuron, psi, rest)
    from ottt_loihi.nn.neurons import LIFStep

    s = psi * (current - current.detach())
    return LIFStep(s, current, current.detach())


def _once(neuron, psi, rest):
    neuron.surrogate = rest
    return psi


def _toy_gradients(made, layer, x=(1.0, 0.0, 1.0, 1.0)):
    """Return the gradient of the one weight at each step, for an error of 1."""
    state, found = None, []
    for value in x:
        made.zero_grad()
        _, state = step(made, torch.full((1, 1), float(value), dtype=torch.float64), state, layer)
        outs = [block.out for block in state.blocks]
        outs[0].sum().backward()
        grad = made.blocks[0].connection.weight.grad
        found.append(0.0 if grad is None else float(grad))
    return found


def _unequal():
    blocks = [Block(Linear(4, 5), LIF(0.5)), Block(Linear(5, 6), LIF(0.7))]
    return Network(blocks, Readout(6, 3), input_shape=(4,), time_steps=3)


def test_the_fast_sigmoid():
    u = torch.tensor([0.5, 1.0, 1.2], dtype=torch.float64)
    expected = [1 / (0.5 * 25 + 1) ** 2, 1.0, 1 / (0.2 * 25 + 1) ** 2]
    assert FastSigmoid()(u, 1.0).tolist() == pytest.approx(expected)
    with pytest.raises(UsageError, match="slope: expected a number > 0"):
        FastSigmoid(0.0)


@pytest.mark.parametrize("name", RULES)
def test_frozen_hidden_layers_leave_every_rule_its_readout(name):
    """Frozen parameters get no gradient, whichever way a rule brings its errors to hidden layers."""
    if name == "dsr":
        net = dsr((16, 16), input_shape=(8,), num_classes=3, bias=False, time_steps=6)
    else:
        net = mlp((8, 16, 16, 3), time_steps=6)
    for block in net.blocks:
        block.requires_grad_(False)
    x = (torch.rand(4, 6, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    make_rule(name).backward(net, x, torch.tensor([0, 1, 2, 0]), SquaredError())
    learnt = {part for part, p in net.named_parameters() if p.grad is not None}
    assert learnt == {part for part, p in net.named_parameters() if p.requires_grad}
