"""The GPU's loops, run by Triton's interpreter, give the CPU's values. On a GPU, tests/test_gpu.py compiles them."""

import importlib
import os
import sys

import pytest
import torch
from test_engine import batch, networks

from ottt_loihi.fast import lif, lif_kernels, steps
from ottt_loihi.nn.neurons import LIF
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import SquaredError

pytest.importorskip("triton", reason="Triton comes with torch's builds for GPUs only")
if torch.cuda.is_available():
    pytest.skip("compiled kernels are tested instead", allow_module_level=True)

NEURONS = [
    LIF(0.5, 1.0, reset, surrogate, convention)
    for reset in ("subtract", "zero")
    for surrogate in ("sigmoid", "rectangle", "triangle")
    for convention in ("paper", "authors")
]


@pytest.fixture(scope="module")
def lif_triton():
    """The module, decorated for the interpreter."""
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        yield importlib.import_module("ottt_loihi.fast.triton_kernels")
    finally:
        del os.environ["TRITON_INTERPRET"]
        sys.modules.pop("ottt_loihi.fast.triton_kernels", None)


def quarters(low, high, seed):
    """Many at the threshold: integers over 4."""
    return torch.randint(low, high, (3, 700), generator=torch.Generator().manual_seed(seed)) / 4


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda n: f"{n.reset}-{n.surrogate.name}-{n.convention}")
def test_loops_are_those_of_the_cpu(lif_triton, neuron):
    current, v, g = quarters(-8, 9, 0), quarters(-8, 4, 1), quarters(-9, 9, 2)
    u, v_new, s = current.clone(), v.clone(), torch.full_like(v, torch.nan)
    lif_triton.charge_fire_reset(u, v_new, s, neuron)
    expected = neuron(current, v)
    for found, wanted in ((u, expected.u), (v_new, expected.v), (s, expected.s)):
        assert torch.equal(found, wanted)

    errors = [k.times_surrogate(g, u.clone(), neuron) for k in (lif_triton, lif_kernels)]
    torch.testing.assert_close(*errors, rtol=1e-6, atol=1e-7)


def test_where_they_do_not_run_torchs_operators_are_taken_and_it_is_said(lif_triton, monkeypatch):
    cpu = torch.device("cpu")
    lif._triton_works.cache_clear()
    assert lif._triton_works(cpu)

    def fails(*_):
        raise RuntimeError("Failed to find C compiler.\nSet CC")

    lif._triton_works.cache_clear()
    monkeypatch.setattr(lif_triton, "charge_fire_reset", fails)
    with pytest.warns(UserWarning, match=r"not run on cpu \(RuntimeError: Failed to find C compiler\.\); torch's"):
        assert not lif._triton_works(cpu)
    lif._triton_works.cache_clear()


@pytest.mark.parametrize("rule", ["ottt", "saf-e"])
@pytest.mark.parametrize("kind", ["dense", "sws", "recurrent"])
def test_rules_learn_the_same_with_them(lif_triton, monkeypatch, kind, rule):
    net = networks()[kind].float()
    x, labels = batch(net)
    rule = make_rule(rule, update="sequence")

    def learn():
        net.zero_grad()
        done = steps.OneByOne(rule).accumulate(net, *rule.checked(net, x, labels), SquaredError())
        return {name: p.grad.clone() for name, p in net.named_parameters()}, done

    expected, before = learn()
    monkeypatch.setattr(lif, "kernels", lambda x: lif_triton)
    found, after = learn()
    torch.testing.assert_close(after.scores, before.scores, rtol=1e-5, atol=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
