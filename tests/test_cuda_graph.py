"""What no CUDA graph can repeat is refused, by name; what the graphs give is compared on a GPU (tests/test_gpu.py)."""

from dataclasses import replace

import pytest
import torch

from ottt_loihi.errors import UsageError
from ottt_loihi.fast import cuda_graph
from ottt_loihi.fast.cuda_graph import GraphedRule, _key
from ottt_loihi.nn.inputs import ConstantInput
from ottt_loihi.nn.models import mlp
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.base import Accumulated
from ottt_loihi.rules.losses import CrossEntropy, SquaredError
from ottt_loihi.training.engine import choose
from ottt_loihi.training.trainer import Trainer


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


class OnGPU(torch.Tensor):
    """A weight that says it is on a GPU: enough for a choice, which computes nothing."""

    is_cuda, device = True, torch.device("cuda", 0)


def chosen(rule, loss=None, **settings):
    net = mlp((4, 3, 2))
    net.readout.weight = torch.nn.Parameter(net.readout.weight.detach().as_subclass(OnGPU))
    return choose(net, rule, SquaredError() if loss is None else loss, 5, **{"record": True, **settings})


def test_the_engine_records_on_a_gpu_where_it_can():
    rule = make_rule("ottt", update="sequence")
    engine = chosen(rule)
    assert engine.why == "engine fast, the operations of a batch recorded and repeated"
    assert engine.recorder.rule is rule
    assert engine.describe() == chosen(rule, record=False).describe()  # the same operations: a run goes on with either
    assert chosen(rule, engine="fast").recorder is not None
    assert choose(mlp((4, 3, 2)), rule, SquaredError(), 5, record=True).recorder is None  # on the CPU
    for other, settings in (
        (make_rule("ottt"), {}),
        (make_rule("sltt", k=2), {}),
        (make_rule("bptt"), {}),
        (rule, {"engine": "plain"}),
        (rule, {"chunk": 1}),
        (rule, {"record": False}),
        (rule, {"loss": lambda o, labels, steps: o.sum()}),
    ):
        assert chosen(other, **settings).recorder is None


def test_what_is_recorded_gets_the_batches():
    """A stand-in for the recordings: the engine hands it every batch, and adds gradients where nothing steps."""

    class Recorder:
        def train_batch(self, net, x, labels, loss, optimizer):
            calls.append((labels, optimizer))

    calls = []
    net, labels, engine = mlp((4, 3, 2)), torch.tensor([0, 1]), replace(chosen(make_rule("sltt")), recorder=Recorder())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    engine.train_batch(net, None, torch.zeros(2, 5, 4), labels, SquaredError(), optimizer)
    engine.backward(net, None, torch.zeros(2, 5, 4), labels, SquaredError())
    assert [optimizer for _, optimizer in calls] == [optimizer, None]
    assert all(seen is labels for seen, _ in calls)


def test_a_training_asks_for_recordings_but_with_float16(monkeypatch):
    asked = []

    def choose_and_note(*arguments):
        asked.append(arguments[-1])
        return choose(*arguments)

    monkeypatch.setattr("ottt_loihi.training.trainer.choose", choose_and_note)
    for autocast in ("", "bfloat16", "float16"):
        trainer = Trainer(mlp((4, 3, 2)), make_rule("sltt"), autocast=autocast)
        monkeypatch.setattr(trainer, "_epoch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(torch.rand(8, 4).numpy(), torch.zeros(8, dtype=torch.int64).numpy())
    assert asked == [True, True, False]


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


def test_a_recording_gives_its_own_gradients_to_an_optimiser_and_adds_them_without(monkeypatch):
    """A stand-in on the CPU for the graph: it repeats a batch on the recorded memory, and writes the same tensors."""

    def record(engine, net, x, labels, loss, kind, pool):
        x, labels, parameters = x.clone(), labels.clone(), list(net.parameters())
        gradients = [torch.zeros_like(p) for p in parameters]
        done = Accumulated(torch.zeros(5), torch.zeros(len(x), net.num_classes))

        class Graph:
            def replay(self):
                before = [p.grad for p in parameters]
                net.zero_grad()
                now = engine.accumulate(net, x, labels, loss)
                for kept, new in zip((done.losses, done.scores), now):
                    kept.copy_(new)
                for p, gradient, old in zip(parameters, gradients, before, strict=True):
                    gradient.copy_(p.grad)
                    p.grad = old

        return cuda_graph._Recording(Graph(), x, labels, done, gradients)

    def learn(wrap):
        torch.manual_seed(0)
        net, seen = mlp((4, 6, 2)), []
        rule, optimizer = wrap(make_rule("ottt", update="sequence")), torch.optim.SGD(net.parameters(), 0.1)
        for index in range(4):
            x, labels = torch.rand(3, 5, 4), torch.tensor([0, 1, index % 2])
            seen += rule.train_batch(net, x, labels, SquaredError(), optimizer if index < 2 else None)
        return [*seen, *net.parameters(), *(p.grad for p in net.parameters())]

    monkeypatch.setattr(cuda_graph, "_require_fitting", lambda *_: None)
    monkeypatch.setattr(cuda_graph, "_record", record)
    for found, expected in zip(learn(GraphedRule), learn(lambda rule: rule), strict=True):
        torch.testing.assert_close(found, expected)
