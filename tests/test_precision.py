"""Products of 16 bits: everything else stays as it is, and errors of any size survive float16."""

import pytest
import torch

from ottt_loihi.data import load_digits
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.models import conv, dsr, mlp
from ottt_loihi.nn.precision import error_for_product, product_dtype
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.engine import choose
from ottt_loihi.training.trainer import Trainer

KINDS = [torch.bfloat16, torch.float16]
RULES = {
    "ottt": make_rule("ottt", update="sequence"),
    "chunks": make_rule("ottt", update="sequence"),
    "steps": make_rule("ottt", update="sequence"),
    "bptt": make_rule("bptt"),
    "saf-e": make_rule("saf-e", update="sequence"),
}


def networks():
    torch.manual_seed(0)
    nets = {
        "dense": mlp((20, 40, 5), bias=True, surrogate="sigmoid"),
        "conv": conv("8C3-AP2-8C3-GAP", input_shape=(2, 8, 8), num_classes=5, standardized=True),
    }
    nets["dense"].blocks[0].connection.weight.data *= 2
    return nets


def learn(net, rule, kind, engine=None):
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(6, 5, *net.input_shape, generator=generator) < 0.4).float()
    net.zero_grad()
    with torch.autocast("cpu", kind, enabled=kind is not None):
        chunk = {"chunks": 3, "steps": 1}.get(engine)
        chosen = choose(net, rule, SquaredError(), 5, "fast" if chunk else "plain", chunk)
        result = chosen.backward(net, rule, x, torch.arange(6) % 5, SquaredError())
    return [result.scores, *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["dense", "conv"])
def test_gradients_agree_within_their_bits(name, rule, kind):
    net = networks()[name]
    exact, found = learn(net, RULES[rule], None, rule), learn(net, RULES[rule], kind, rule)
    assert any(not torch.equal(a, b) for a, b in zip(found, exact))  # it was in effect
    for a, b in zip(found, exact):
        assert a.dtype == torch.float32
        assert float((a - b).norm()) <= 0.25 * float(b.norm())  # a spike at the threshold may come or go


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["sltt", "saf-f", "ide", "spide", "dsr"])
def test_rules_that_run_the_spikes_without_a_graph_learn_too(rule, kind):
    """The 16 bits of weights that were cast there have no graph: nothing may go on with them."""
    torch.manual_seed(0)
    net = dsr((40,), input_shape=(20,), num_classes=5) if rule == "dsr" else mlp((20, 40, 5), bias=True)
    for block in net.blocks:
        block.connection.weight.data *= 0.7
    exact, found = learn(net, make_rule(rule), None), learn(net, make_rule(rule), kind)
    assert any(not torch.equal(a, b) for a, b in zip(found, exact))
    for a, b in zip(found, exact):
        assert a.dtype == torch.float32
        assert float((a - b).norm()) <= 0.25 * float(b.norm())


@pytest.mark.parametrize("rule", ["ottt", "sltt", "saf-e", "opzo"])
@pytest.mark.parametrize("name", ["dense", "conv"])
def test_every_update_is_in_effect_at_the_next_step(name, rule):
    """Autocast's cache must not go on with the weights of before."""

    def weights(cache):
        net, settings = networks()[name], {"feedback": "random"} if rule == "opzo" else {}
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
            for _ in range(2):  # and between batches neither
                x, labels = torch.rand(6, 5, *net.input_shape), torch.arange(6) % 5
                optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
                make_rule(rule, update="step", **settings).train_batch(net, x, labels, SquaredError(), optimizer)
        return list(net.parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(True), weights(False), strict=True))


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_errors_of_any_size_survive_float16(size):
    g = size * torch.tensor([[0.5, -0.25, 0.75]])
    low, factor = error_for_product(g, torch.float16)
    assert low.dtype == torch.float16
    torch.testing.assert_close(low.float() * factor, g, rtol=1e-3, atol=0)
    assert factor == 2.0 ** round(torch.log2(torch.tensor(factor)).item())  # exactly


@pytest.mark.parametrize("g", [torch.zeros(2, 3), torch.zeros(0, 3), torch.tensor([[float("inf")]])])
def test_errors_without_a_size(g):
    low, factor = error_for_product(g, torch.float16)
    assert factor == 1.0
    assert torch.equal(low.float(), g)


def test_outside_autocast_nothing_changes():
    assert product_dtype(torch.zeros(1, dtype=torch.float64)) == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(torch.zeros(1)) == torch.bfloat16


def test_trainer_learns_with_it_and_remembers():
    digits = load_digits()
    trainer = Trainer(mlp((64, 64, 10), surrogate="sigmoid"), RULES["ottt"], autocast="bfloat16")
    history = trainer.fit(digits.x_train.reshape(-1, 64), digits.y_train, epochs=6)
    assert history[-1].train_accuracy > 0.9
    assert trainer.provenance(6, history)["training"]["autocast"] == "bfloat16"


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match="autocast: expected bfloat16, float16 or nothing, got 'int8'"):
        Trainer(mlp((4, 3)), RULES["ottt"], autocast="int8")
