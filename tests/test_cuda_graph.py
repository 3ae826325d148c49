"""What no CUDA graph can repeat is refused, by name; what the graphs give is compared on a GPU (tests/test_gpu.py)."""

import pytest
import torch

from ottt_loihi.errors import UsageError
from ottt_loihi.fast.cuda_graph import GraphedRule, _key
from ottt_loihi.nn.inputs import ConstantInput
from ottt_loihi.nn.models import mlp
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import CrossEntropy, SquaredError


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ottt", {"update": "step"}, "the optimiser steps after every time step; use update='sequence'"),
        ("sltt", {"k": 2}, "SLTT-K draws its steps anew for every batch"),
        ("sltt", {"hlop": {"rows": [4, 6]}}, "HLOP projects with what it has learnt so far"),
        ("opzo", {}, "rule opzo looks at values between its steps"),
        ("saf-f", {}, "rule saf-f looks at values between its steps"),
    ],
)
def test_rules_whose_operations_differ_from_batch_to_batch(name, settings, message):
    with pytest.raises(UsageError, match=f"cuda_graph: {message}"):
        GraphedRule(make_rule(name, **settings))


def test_a_network_on_the_cpu():
    rule = GraphedRule(make_rule("ottt", update="sequence"))
    with pytest.raises(UsageError, match="cuda_graph: is for GPUs, the network is on cpu; use training"):
        rule.train_batch(mlp((4, 3)), torch.zeros(2, 5, 4), torch.tensor([0, 1]), SquaredError(), None)


def test_it_describes_itself_as_the_rule_it_repeats():
    rule = make_rule("sltt")
    assert GraphedRule(rule).describe() == rule.describe()  # a run goes on with or without it
    assert GraphedRule(rule).name == "sltt"


def test_a_recording_is_repeated_for_the_same_operations_only():
    net, x, loss = mlp((4, 3)), torch.zeros(2, 5, 4), SquaredError()
    constant, others = ConstantInput(torch.zeros(2, 4), 5), []
    key = _key(net, x, loss, torch.float32)
    assert _key(net, x + 1, SquaredError(), torch.float32) == key
    others.append(_key(net, x[:1], loss, torch.float32))
    others.append(_key(net, constant, loss, torch.float32))
    others.append(_key(net, x, CrossEntropy(), torch.float32))
    others.append(_key(net, x, loss, torch.bfloat16))
    others.append(_key(mlp((4, 3)), x, loss, torch.float32))
    others.append(_key(net.eval(), x, loss, torch.float32))
    net.train().quantize(4)
    others.append(_key(net, x, loss, torch.float32))
    assert len({key, *others}) == 8
