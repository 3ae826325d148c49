"""HLOP: what the lateral neurons find, what it protects, what it refuses; tasks one after the other."""

import numpy as np
import pytest
import torch

from ottt_loihi.data import load_data
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, TrainingError, UsageError
from ottt_loihi.nn.models import conv, mlp
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.hlop import HLOP, Subspace
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.config import make_config
from ottt_loihi.training.continual import Retention, learn_tasks, permuted
from ottt_loihi.training.trainer import Trainer

N, K = 50, 5
ROWS = {"rows": [4, 6], "learning_rate": 0.02}


def inputs(seed=0, samples=200):
    """Few strong directions, many weak ones: float64 ``(samples, N)``, and the principal directions."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.cat([torch.linspace(3, 2, K), torch.full((N - K,), 0.2)]).double()
    basis = torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64)).Q
    x = torch.randn(samples, N, generator=generator, dtype=torch.float64) * scales @ basis.t()
    _, vectors = torch.linalg.eigh(x.t() @ x)
    return x, vectors[:, -K:]


def trained(x, updates=3000, spikes=0, rate=0.02):
    subspace = Subspace(N, rate, 0.9, 1, spikes)
    subspace.grow(K, x, torch.Generator().manual_seed(1))
    for _ in range(updates):
        subspace(x)
    return subspace


def batch(steps=4, n=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, steps, 12, generator=generator) < 0.4).double(), torch.arange(n) % 3


def quantized(net):
    net.quantize(4)
    return net


class TestSubspace:
    def test_new_rows_are_orthonormal_to_all(self):
        x, _ = inputs()
        subspace = trained(x, 100)
        subspace.fixed = len(subspace.rows)
        old = subspace.rows[:K].clone()
        subspace.grow(7, x, torch.Generator().manual_seed(2))
        torch.testing.assert_close(subspace.rows[K:] @ subspace.rows[K:].t(), torch.eye(7).double(), rtol=0, atol=1e-14)
        assert (subspace.rows[K:] @ old.t()).abs().max() < 1e-14

    def test_hebbian_learning_finds_the_principal_subspace(self):
        x, principal = inputs()
        h = trained(x).rows
        assert (h @ h.t() - torch.eye(K)).abs().max() < 1e-13
        torch.testing.assert_close(h.t() @ h, principal @ principal.t(), rtol=0, atol=1e-11)

    def test_old_rows_stay_and_new_ones_find_what_they_leave(self):
        x, _ = inputs()
        subspace = trained(x)
        subspace.fixed, subspace.velocity = K, subspace.velocity[:0]
        old = subspace.rows.clone()
        other, principal = inputs(seed=9)
        subspace.grow(K, other, torch.Generator().manual_seed(3))
        for _ in range(6000):
            subspace(other)
        assert torch.equal(subspace.rows[:K], old)
        assert (subspace.rows @ subspace.rows.t() - torch.eye(2 * K)).abs().max() < 1e-12
        left = principal - subspace.rows.t() @ (subspace.rows @ principal)
        assert left.norm() < 0.1 * principal.norm()

    def test_a_projected_update_leaves_old_responses_unchanged(self):
        x, _ = inputs()
        subspace = trained(x)
        subspace.fixed = K
        seen = x @ subspace.rows.t() @ subspace.rows  # old inputs, as far as the rows hold them
        delta = torch.randn(20, len(x), dtype=torch.float64)
        new, _ = inputs(seed=5)
        assert (delta @ subspace.project(new) @ seen.t()).abs().max() < 1e-11
        assert (delta @ new @ seen.t()).abs().max() > 1

    def test_spiking_responses_are_signed_counts(self):
        x, principal = inputs()
        subspace = trained(x, 400, spikes=40)
        y = subspace._respond(x, subspace.rows)
        assert ((y / 0.5) % 1 == 0).all()
        assert y.abs().max() <= 20
        h = subspace.rows
        assert (h.t() @ h - principal @ principal.t()).norm() < 0.3 * principal.norm()
        subspace.fixed = K
        torch.testing.assert_close(subspace.project(x), x - y @ h)


class TestRule:
    @pytest.mark.parametrize("update", ["step", "sequence"])
    @pytest.mark.parametrize("name", ["ottt", "sltt"])
    @pytest.mark.parametrize("constant", [False, True])
    def test_old_responses_stay_to_1e_12(self, name, update, constant):
        """The rows span the old inputs; after learning another task with noise their responses are what they were."""
        net, (x, labels) = mlp((12, 20, 3), bias=True, surrogate="sigmoid", time_steps=4).double(), batch()
        if constant:
            x = (torch.rand(len(x), 1, 12, dtype=torch.float64) * 4).expand(-1, 4, -1)
        rule = make_rule(name, update=update, hlop=ROWS)
        learn = lambda optimizer: rule.train_batch(net, x, labels, SquaredError(), optimizer)  # noqa: E731
        learn(torch.optim.SGD(net.parameters(), 0.05, momentum=0.9))
        for subspace in rule.hlop.subspaces:  # an exact basis in place of one that is still learning
            subspace.rows = torch.linalg.qr(subspace.rows.t()).Q.t()
        rule.hlop.end_task()
        before = [(s.weight.detach().clone(), s.bias.detach().clone()) for s in net.connections()]
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
        for _ in range(5):
            learn(optimizer)
        for connection, subspace, (weight, bias) in zip(net.connections(), rule.hlop.subspaces, before, strict=True):
            change = connection.weight.detach() - weight
            old = subspace.rows[: subspace.fixed]
            assert change.norm() > 1e-3
            assert (change @ old.t()).abs().max() < 1e-12
            assert torch.equal(connection.bias.detach(), bias)
            assert len(subspace.rows) == 2 * subspace.fixed

    def test_without_an_end_of_task_the_gradients_are_ottts(self):
        x, labels = batch()
        grads = []
        for hlop in (None, ROWS):
            net = mlp((12, 20, 3), bias=True, surrogate="sigmoid").double()
            make_rule("ottt", update="sequence", hlop=hlop).train_batch(net, x, labels, SquaredError(), None)
            grads.append([p.grad for p in net.parameters()])
        for a, b in zip(*grads, strict=True):
            assert torch.equal(a, b)

    def test_a_subspace_that_diverges_is_named(self):
        net, (x, labels) = mlp((12, 20, 3)).double(), batch()
        rule = make_rule("ottt", hlop={**ROWS, "learning_rate": [1e3, 0.01], "iterations": 60})
        with pytest.raises(TrainingError, match=r"hlop: the subspace of connection 1 has diverged.*1000"):
            rule.train_batch(net, x, labels, SquaredError(), None)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda p: torch.optim.Adam(p), "hlop: expected the optimiser sgd, got adam"),
            (lambda p: torch.optim.SGD(p, 0.1, weight_decay=1e-4), "hlop: expected no weight decay"),
        ],
    )
    def test_optimisers_that_break_the_protection(self, make, message):
        net = mlp((12, 20, 3)).double()
        with pytest.raises(UsageError, match=message):
            make_rule("ottt", hlop=ROWS).train_batch(net, *batch(), SquaredError(), make(net.parameters()))

    def test_momentum_of_the_task_before(self):
        net, rule = mlp((12, 20, 3)).double(), make_rule("ottt", hlop=ROWS)
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        rule.train_batch(net, *batch(), SquaredError(), optimizer)
        rule.hlop.end_task()
        with pytest.raises(UsageError, match="carries momentum of the task before"):
            rule.train_batch(net, *batch(), SquaredError(), optimizer)

    @pytest.mark.parametrize(
        ("net", "message"),
        [
            (mlp((12, 20, 3), recurrent=True), "a row of layers"),
            (conv("4C3-GAP", input_shape=(1, 8, 8), num_classes=3), "connection 1: expected a fully connected one"),
            (mlp((12, 20, 15, 3)), "one number for each of 3 connections"),
            (quantized(mlp((12, 20, 3))), "rounded weights"),
        ],
    )
    def test_networks_it_cannot_protect(self, net, message):
        x = torch.rand(6, 4, *net.input_shape)
        with pytest.raises(UsageError, match=message):
            make_rule("ottt", hlop=ROWS).train_batch(net, x, torch.arange(6) % 3, SquaredError(), None)

    def test_rows_that_have_no_room(self):
        net = mlp((12, 20, 3)).double()
        rule = make_rule("ottt", hlop={**ROWS, "rows": [10, 5]})
        rule.train_batch(net, *batch(), SquaredError(), None)
        rule.hlop.end_task()
        with pytest.raises(UsageError, match="has 12 inputs, 10 directions are taken and task 2 wants 10 more"):
            rule.train_batch(net, *batch(), SquaredError(), None)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "hlop: expected rows"),
            ({"rows": 5}, "hlop.rows: expected 1 or more positive integers"),
            ({"rows": [5, 0]}, "hlop.rows: expected"),
            ({**ROWS, "learning_rate": 0}, "hlop.learning_rate: expected a number > 0"),
            ({**ROWS, "learning_rate": [0.1]}, "for each of 2 connections"),
            ({**ROWS, "momentum": 1.0}, "hlop.momentum"),
            ({**ROWS, "iterations": 0}, "hlop.iterations"),
            ({**ROWS, "spikes": -1}, "hlop.spikes"),
            ({**ROWS, "row": 3}, "hlop: expected rows"),
            (5, "hlop: expected a table"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises(UsageError, match=message):
            make_rule("ottt", hlop=settings)

    def test_as_a_table_of_a_configuration(self):
        config = make_config({"rule": {"name": "sltt", "hlop": {"rows": [3, 4], "spikes": 20}}})
        rule = config.make_rule("paper")
        assert rule.hlop.spikes == 20
        assert make_rule("sltt", hlop=rule.describe()["hlop"]).describe() == rule.describe()


def digits(count=300):
    split = load_data("digits")
    return Split(split.x_train[:count], split.y_train[:count], split.x_test[:100], split.y_test[:100])


def trainer(hlop=None, **changes):
    net = mlp((64, 60, 10), surrogate="sigmoid", input_shape=(8, 8), time_steps=4)
    settings = dict(optimizer="sgd", learning_rate=0.1, schedule="constant", batch_size=32, encoding="constant")
    return Trainer(net, make_rule("ottt", update="sequence", hlop=hlop), **{**settings, **changes})


PERMUTED = {"rows": [12, 12], "learning_rate": [0.002, 0.01]}


class TestTasks:
    def test_permuted_digits_are_the_same_digits(self):
        first, second, third = permuted(digits(), 3)
        np.testing.assert_array_equal(first.x_train, digits().x_train)
        np.testing.assert_array_equal(np.sort(second.x_test, axis=None), np.sort(first.x_test, axis=None))
        assert not np.array_equal(second.x_train, third.x_train)

    def test_numbers_of_retention(self):
        found = Retention(np.array([[0.9, np.nan], [0.7, 0.8]]))
        assert found.average == pytest.approx(0.75)
        assert found.backward_transfer == pytest.approx(-0.2)

    @pytest.mark.slow
    def test_hlop_forgets_less(self):
        tasks = permuted(digits(600), 3)
        plain, protected = (learn_tasks(trainer(h), tasks, 8) for h in (None, PERMUTED))
        assert plain.accuracy[0, 0] > 0.8
        assert protected.backward_transfer > plain.backward_transfer + 0.03
        assert protected.average > plain.average

    def test_a_stopped_run_goes_on_bit_for_bit(self, tmp_path):
        tasks = permuted(digits(100), 3)
        whole = trainer(PERMUTED)
        expected = learn_tasks(whole, tasks, 2, tmp_path / "whole")
        learn_tasks(trainer(PERMUTED), tasks[:1], 2, tmp_path / "parts")
        half = trainer(PERMUTED)

        def stop(*arguments):
            raise KeyboardInterrupt

        half._end_epoch = stop  # in the middle of the second task's first epoch nothing is kept: it begins again
        with pytest.raises(KeyboardInterrupt):
            learn_tasks(half, tasks[:2], 2, tmp_path / "parts")
        rest = trainer(PERMUTED)
        found = learn_tasks(rest, tasks, 2, tmp_path / "parts")
        np.testing.assert_array_equal(found.accuracy, expected.accuracy)
        for a, b in zip(whole.net.parameters(), rest.net.parameters(), strict=True):
            assert torch.equal(a, b)
        for a, b in zip(whole.rule.hlop.subspaces, rest.rule.hlop.subspaces, strict=True):
            assert torch.equal(a.rows, b.rows)
            assert a.fixed == b.fixed
        with pytest.raises(UsageError, match="this run was started with rule"):
            learn_tasks(trainer({**PERMUTED, "rows": [9, 9]}), tasks, 2, tmp_path / "parts")

    def test_what_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="tasks: expected at least one"):
            learn_tasks(trainer(), [], 1)
        with pytest.raises(UsageError, match="tasks: expected a positive integer"):
            permuted(digits(), 0)
        (tmp_path / "accuracy.json").write_text("[[1, 2]]")
        with pytest.raises(FileError, match="no accuracies of ours, or damaged"):
            learn_tasks(trainer(), permuted(digits(), 1), 1, tmp_path)
        with pytest.raises(ValueError, match="its subspaces are damaged"):
            HLOP([4, 6]).restore({})
