"""Identities of CUBA-OTTT, S-TLLR, TESS, OTPE and pp-prop in float64: loops by hand, autograd, central differences."""

import numpy as np
import pytest
import torch
from ottt_loihi.sim.learning import currents
from test_rules_next import T, batch, equal, gradients, net

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block
from ottt_loihi.nn.connections import Linear, Readout
from ottt_loihi.nn.cuba import CubaLIF, follow_both
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.paths import GradientPaths, ottt_paths
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.eligibility import step
from ottt_loihi.rules.losses import CrossEntropy, SquaredError
from ottt_loihi.rules.tess import signs

LEARN = ("alpha", "beta", "v_threshold")
SIZES = (12, 14, 11, 9, 3)


class Layer:
    """One layer of LIF neurons in NumPy: forwards, and what each rule remembers of it."""

    def __init__(self, block):
        weight, bias = block.connection.weight, block.connection.bias
        self.w, self.b, self.neuron = weight.detach().numpy(), bias.detach().numpy(), block.neuron
        self.v = self.h = self.ratio = self.mean = 0.0
        self.trace = self.a = self.z = np.zeros(self.w.shape[1])
        self.length, self.r = 0.0, np.zeros((len(self.w), self.w.shape[1] + 1))
        self.d = np.zeros(self.w.shape[1] + 1)
        self.gradient = np.zeros_like(self.w), np.zeros_like(self.b)

    def fire(self, x):
        self.x, beta = x, self.neuron.beta
        u = beta * self.v + self.w @ x + self.b
        self.s = (u > 1).astype(float)
        self.v = u - self.s
        self.f = self.neuron.surrogate(torch.from_numpy(u), 1.0).numpy()
        self.a, self.length = beta * self.a + x, beta * self.length + 1
        self.z = beta * self.z + self.a
        self.d = beta * self.d + np.append(x, 1.0)
        self.r = beta * self.r + np.outer(self.f, self.d)
        self.ratio = beta * self.ratio + 1
        self.mean = ((self.ratio - 1) * self.mean + self.f) / self.ratio
        return self.s

    def learn(self, of_weights, of_biases):
        self.gradient[0][:] += of_weights
        self.gradient[1][:] += of_biases

    def stdp(self, delta, rule):
        """Learn as S-TLLR does, from δ; return the factor towards the layer below."""
        self.trace = rule.lambda_pre * self.trace + self.x
        e = rule.alpha_pre * np.outer(self.f, self.trace) + rule.alpha_post * np.outer(self.h + 0 * self.f, self.x)
        self.learn(delta[:, None] * e, delta * self.f)
        self.h = rule.lambda_post * self.h + self.f

    def effects(self, delta, name, last):
        """Learn as OTPE, A-OTPE or in the last layer OTTT; return the factor of δ towards the layer below."""
        if last:
            self.learn(np.outer(delta * self.f, self.a), delta * self.f * self.length)
            return self.f
        if name == "otpe":
            self.learn(delta[:, None] * self.r[:, :-1], delta * self.r[:, -1])
        else:
            self.learn(np.outer(delta * self.mean, self.z), delta * self.mean)
        return self.mean


def softmax(o):
    e = np.exp(o - o.max())
    return e / e.sum()


def by_hand(name, made, x, labels):
    """Return the gradients of one sample, of CE(o[t], y)/T summed over the steps."""
    rule, layers = make_rule(name), [Layer(block) for block in made.blocks]
    w, b = made.readout.weight.detach().numpy(), made.readout.bias.detach().numpy()
    readout = np.zeros_like(w), np.zeros_like(b)
    target = np.eye(len(b))[labels]
    for frame in x:
        out = frame
        for layer in layers:
            out = layer.fire(out)
        error = (softmax(w @ out + b) - target) / len(x)
        readout[0][:] += np.outer(error, out)
        readout[1][:] += error
        delta = w.T @ error
        for layer in reversed(layers):
            factor = layer.f
            if name == "tess":
                signs_of = signs(len(b), len(layer.s)).numpy()
                delta = 0.25 * signs_of.T @ (softmax(0.25 * signs_of @ layer.s) - target) / len(x)
            if name in ("s-tllr", "tess"):
                layer.stdp(delta, rule)
            else:
                factor = layer.effects(delta, name, layer is layers[-1])
            delta = layer.w.T @ (factor * delta)
    found = {f"blocks.{i}.connection.{part}": layer.gradient[k] for i, layer in enumerate(layers) for k, part in NAMES}
    return found | {f"readout.{part}": readout[k] for k, part in NAMES}


NAMES = ((0, "weight"), (1, "bias"))


@pytest.mark.parametrize("name", ["s-tllr", "tess", "a-otpe", "otpe"])
def test_a_loop_in_numpy_has_the_same_gradient(name):
    """Three hidden layers, so that δ below a hidden layer and below the last one are both in it."""
    made = net(SIZES)
    x, labels = batch(made)
    found, hands = (
        gradients(made, make_rule(name), x, labels),
        [by_hand(name, made, frames, int(label)) for frames, label in zip(x.numpy(), labels)],
    )
    assert found.keys() == hands[0].keys()
    for key, gradient in found.items():
        assert gradient.abs().max() > 1e-6, key
        np.testing.assert_allclose(gradient.numpy(), sum(hand[key] for hand in hands) / len(x), rtol=0, atol=1e-14)


def test_tess_sends_the_derivative_of_the_local_loss_by_spikes_taken_as_real():
    made = net()
    x, labels = batch(made, samples=1, steps=1)
    rule = make_rule("tess", kappa=3.0)
    found = gradients(made, rule, x, labels)
    states = made.run(x, "us").states
    for index, block in enumerate(made.blocks):
        s, u = states["s"][index][0], states["u"][index][0]
        psi = block.neuron.surrogate(u, 1.0)[0]
        signal = found[f"blocks.{index}.connection.bias"] / psi

        def loss(s, index=index):
            return float(CrossEntropy(0.0)(rule.local_readout(made, index, s), labels, 1))

        moved = [1e-5 * one for one in torch.eye(s.shape[1], dtype=s.dtype)]
        expected = torch.tensor([(loss(s + one) - loss(s - one)) / 2e-5 for one in moved], dtype=s.dtype)
        torch.testing.assert_close(signal, expected, rtol=0, atol=1e-10)
        assert signal[1:].abs().max() > 0.1


@pytest.mark.parametrize("attached", [False, True])
def test_a_loss_on_filtered_spikes_makes_the_last_layer_exact_too(attached):
    """F-OTPE's output layer: R is BPTT's gradient of a loss on out[t] = λ·out[t−1] + s[t], whichever reset."""
    made = net((12, 5, 3))
    x, labels = batch(made)
    rule = make_rule("otpe", attached_reset=attached)
    block, labels = made.blocks[0], labels % 5

    def loss(out):
        return SquaredError()(out, labels, T)

    made.zero_grad()
    state, filtered = None, 0.0
    for t in range(T):
        layer = lambda block, inputs, known, last: rule.hidden_layer(block, inputs[0], known)  # noqa: E731
        _, state = step(made, x[:, t], state, layer)
        outs = [block.out for block in state.blocks]
        loss(0.5 * filtered + outs[0]).backward()
        filtered = 0.5 * filtered + outs[0].detach()
    found = {key: p.grad.clone() for key, p in block.connection.named_parameters()}
    made.zero_grad()
    state, filtered, total = None, 0.0, 0.0
    for t in range(T):
        s, state = block([x[:, t]], state, GradientPaths(reset=attached))
        filtered = 0.5 * filtered + s
        total = total + loss(filtered)
    total.backward()
    equal(found, {key: p.grad for key, p in block.connection.named_parameters()}, tolerance=1e-12)


def test_pp_prop_on_lif_is_ottt_times_a_number():
    """ε_x = α·ε_x + x and ε_f = α·λ·ε_f + (1 − α), at α = λ: OTTT·(1 + λ^t)/(1 + λ); D-RTRL, hence OTTT, for T = 1."""
    made, beta = net((12, 20, 3)), 0.5
    block = made.blocks[0]
    x, _ = batch(made)
    state, before, after = None, torch.zeros(6, 12).double(), 0.0
    for t in range(1, T + 1):
        made.zero_grad()
        s, state = block([x[:, t - 1]], state, ottt_paths("paper"), first=True)
        s.sum().backward()
        f = block.neuron.surrogate(state.u, 1.0).detach()
        before, after = beta * before + x[:, t - 1], beta * beta * after + (1 - beta)
        found = torch.einsum("bi,bj->ij", f * after / (1 - beta**t), before)
        torch.testing.assert_close(
            found, block.connection.weight.grad * (1 + beta**t) / (1 + beta), rtol=1e-14, atol=1e-14
        )


class TestCuba:
    def test_the_toy_of_one_synapse(self):
        """e 1 1.3 2.29 3.457 for x = 1 0 1 1, α = .5, β = .8."""
        trace, found = None, []
        for value in (1.0, 0.0, 1.0, 1.0):
            trace = follow_both(torch.tensor(value, dtype=torch.float64), trace, 0.5, 0.8)
            found.append(float(trace.value))
        assert found == pytest.approx([1, 1.3, 2.29, 3.457], abs=1e-15)

    @pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.8), (0.8, 0.5), (0.7, 0.7)])
    def test_both_closed_forms_of_the_trace(self, alpha, beta):
        """(β·Σβ^n·x − α·Σα^n·x)/(β − α), and at α = β Σ(n + 1)·α^n·x, which is A-OTPE's ẑ."""
        x, trace = torch.from_numpy(np.random.default_rng(0).random(20)), None
        for t in range(20):
            trace = follow_both(x[t], trace, alpha, beta)
            n = torch.arange(t + 1).double()
            past = x[: t + 1].flip(0)
            kernel = (n + 1) * alpha**n
            if alpha != beta:
                kernel = (beta * beta**n - alpha * alpha**n) / (beta - alpha)
            torch.testing.assert_close(trace.value, (kernel * past).sum(), rtol=1e-13, atol=0)

    def test_the_toy_of_one_synapse_whose_spike_ends_the_past(self):
        """k[t] = β·(1 − s[t−1]): after a spike in the second step e is 1 1.3 1.25 2.625."""
        neuron, trace, found = CubaLIF(0.5, 0.8, reset="zero", trace="synapse"), None, []
        for value, s in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 0.0)):
            trace = neuron.follow(torch.full((1, 1), value, dtype=torch.float64), trace)
            found.append(float(trace.value[0, 0, 0]))
            (trace,) = neuron.after_reset((trace,), torch.full((1, 1), s, dtype=torch.float64))
        assert found == pytest.approx([1, 1.3, 1.25, 2.625], abs=1e-15)

    @pytest.mark.parametrize(
        ("reset", "trace"), [("subtract", "exact"), ("zero", "exact"), ("subtract", "synapse"), ("zero", "synapse")]
    )
    @pytest.mark.parametrize("kept", [0, 1, 2])
    def test_each_layer_is_autograd_with_its_own_recurrence_alone(self, kept, reset, trace):
        """Unequal α, β and θ for every neuron: W, b, α, β, θ of a layer, the other layers' past cut.

        Reset to zero: the whole term is a constant, or with a trace for every synapse the spike alone.
        """
        made = cuba(reset, trace)
        x, labels = batch(made, steps=9)
        found = gradients(made, make_rule("ottt", update="sequence"), x, labels, SquaredError())
        made.zero_grad()
        total, past = 0.0, [(0.0, 0.0)] * len(made.blocks)
        for t in range(9):
            out = x[:, t]
            for index, block in enumerate(made.blocks):
                neuron, (c, v) = block.neuron, past[index]
                if index != kept and t:
                    c, v = c.detach(), v.detach()
                c = neuron.alpha * c + block.connection(out)
                u = neuron.beta * v + c
                linear = neuron.surrogate(u, neuron.v_threshold).detach() * (u - neuron.v_threshold)
                out = (u > neuron.v_threshold).double() + linear - linear.detach()
                taken = (u if trace == "synapse" else u.detach()) * out.detach()
                if reset == "subtract":
                    taken = neuron.v_threshold * out.detach()
                past[index] = c, u - taken
            total = total + SquaredError()(made.readout(out), labels, 9)
        total.backward()
        names = [name for name in found if name.startswith(f"blocks.{kept}.")]
        assert len(names) == 5
        for name in names:
            assert found[name].abs().max() > 1e-4, name
        expected = {name: p.grad for name, p in made.named_parameters()}
        equal(found, expected, names, 1e-13)

    @pytest.mark.parametrize(
        ("reset", "trace"), [("subtract", "exact"), ("delayed", "exact"), ("zero", "exact"), ("zero", "synapse")]
    )
    def test_q_r_and_z_are_central_differences_of_u(self, reset, trace):
        """With the spikes frozen, and for reset to zero the whole term, unless every synapse has its trace."""
        at = np.array([0.4, 0.7, 0.8])
        neuron = CubaLIF(*torch.from_numpy(at), reset, learn=LEARN, trace=trace)
        current = torch.from_numpy(np.random.default_rng(0).normal(0.4, 0.6, (12, 1, 30)))
        online, v, memory, spikes, membranes = GradientPaths(membrane=False), None, None, [], []
        for t in range(12):
            s, u, v, memory = neuron(current[t], v, online, *(() if memory is None else (memory,)))
            spikes.append(s.detach())
            membranes.append(u.detach())
        assert 0.1 < torch.stack(spikes).mean() < 0.9

        def u_of(alpha, beta, threshold):
            c = v = s = torch.zeros(1, 30).double()
            for t in range(12):
                c = alpha * c + current[t]
                u = beta * v + c - (threshold * s if reset == "delayed" else 0)
                s = spikes[t]
                cleared = (u if trace == "synapse" else membranes[t]) * s
                v = u - {"subtract": threshold * s, "zero": cleared, "delayed": 0}[reset]
            return u

        h = 1e-5
        for index, found in enumerate((memory.q, memory.r, memory.z)):
            move = h * np.eye(3)[index]
            expected = (u_of(*(at + move)) - u_of(*(at - move))) / (2 * h)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
            assert (expected.abs().max() > 0.1) == (index < 2 or reset != "zero")

    def test_equal_decays_share_one_trace_bit_for_bit(self):
        same = (torch.full((14,), decay, dtype=torch.float64) for decay in (0.5, 0.7))
        one, each = (
            Network([Block(Linear(12, 14), neuron)], Readout(14, 3), input_shape=(12,), time_steps=T).double()
            for neuron in (CubaLIF(0.5, 0.7), CubaLIF(*same))
        )
        with pytest.raises(UsageError, match=r"neurons with alpha = 0\.5, this network's have"):
            each.load_state_dict(one.state_dict())
        for p, q in zip(each.parameters(), one.parameters(), strict=True):
            p.data = q.data
        x, labels = batch(one)
        found, expected = (gradients(made, make_rule("ottt", update="sequence"), x, labels) for made in (each, one))
        equal(found, expected, tolerance=1e-15)


def cuba(reset, trace="exact"):
    """Three layers of current-based neurons, all constants unequal and learnt."""
    generator, blocks = torch.Generator().manual_seed(5), []
    for inputs, size in zip((12, 8, 7), (8, 7, 6)):
        values = [low + 0.3 * torch.rand(size, generator=generator).double() for low in (0.3, 0.5, 0.4)]
        connection = Linear(inputs, size, True, generator)
        connection.bias.data.uniform_(0, 0.3, generator=generator)
        blocks.append(Block(connection, CubaLIF(*values, reset, learn=LEARN, trace=trace)))
    return Network(blocks, Readout(6, 3, True, generator), input_shape=(12,), time_steps=9).double()


@pytest.mark.parametrize(("decay", "apart", "error"), [(0.5, 0.02, 1.1e-3), (0.8, 0.02, 6.2e-3)])
def test_a_otpes_trace_as_a_difference_of_two_needs_impulses_too_large_for_seven_bits(decay, apart, error):
    """ẑ with λ ∓ ε in the engine's two traces: its kernel is near, its impulses leave 127 nothing to decay in."""
    fast, slow = decay - apart, decay + apart
    first, second = currents.float_impulses(fast, slow, 4, 4)
    n = np.arange(60)
    kernel, wanted = second * slow**n - first * fast**n, (n + 1) * decay**n
    assert np.abs(kernel - wanted).max() < error * wanted.max()
    assert 10 < first < second < 25
