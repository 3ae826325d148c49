"""Trainer.fit: which data it takes and how it checks them; validation, optimisers, schedules, callbacks; resuming."""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ottt_loihi.data import load_digits
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.nn.models import mlp
from ottt_loihi.rules import OTTT, make_rule
from ottt_loihi.rules.losses import CrossEntropy, SquaredError
from ottt_loihi.training.callbacks import Callback, EarlyStopping
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.evaluation import evaluate
from ottt_loihi.training.run_folder import RunFolder
from ottt_loihi.training.sources import open_samples
from ottt_loihi.training.trainer import Trainer

DIGITS = load_digits()
X, Y = DIGITS.x_train[:120], DIGITS.y_train[:120]


def network(**settings):
    return mlp((64, 12, 10), input_shape=(8, 8), **settings)


def trainer(net=None, rule=None, **settings):
    net = network(dropout=0.2) if net is None else net
    return Trainer(net, OTTT("sequence") if rule is None else rule, batch_size=16, seed=2, **settings)


def weights(trainer):
    return [p.detach().clone() for p in trainer.net.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


class Noisy(Dataset):
    """Images with torch's noise, as a random transform of torchvision's would add."""

    def __init__(self, x=X, y=Y):
        self.x, self.targets, self.reads = x, list(map(int, y)), []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.reads.append(index)
        return torch.clamp(torch.tensor(self.x[index]) + 0.1 * torch.rand(8, 8), 0, 1), self.targets[index]


class Stop(Exception):
    pass


class StopsAt(Callback):
    def __init__(self, epoch, batch):
        self.place = (epoch, batch)

    def on_batch_end(self, fit):
        if (fit.progress.epoch, fit.progress.batch) == self.place:
            raise Stop


# ---------------------------------------------------------------------------------------------- what fit takes


def test_arrays_a_pair_and_tensors_are_the_same():
    results = []
    for data in ((X, Y), ((X, Y), None), (torch.tensor(X), torch.tensor(Y))):
        results.append(trainer())
        results[-1].fit(*data, 2)
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_an_array_on_disk_is_read_batch_by_batch(tmp_path):
    np.save(tmp_path / "x.npy", X)
    one, other = trainer(), trainer()
    one.fit(X, Y, 1)
    other.fit(np.load(tmp_path / "x.npy", mmap_mode="r"), Y, 1)
    assert same(one, other)


def test_a_dataset_is_trained_like_the_arrays_it_holds():
    one, other, held = trainer(), trainer(), TensorDataset(torch.tensor(X[:20]), torch.tensor(Y[:20]))
    one.fit(X, Y, 2, validation=(X[:20], Y[:20]))
    history = other.fit(TensorDataset(torch.tensor(X), torch.tensor(Y)), epochs=2, validation=(X[:20], Y[:20]))
    assert same(one, other)
    as_batches = trainer().fit(X, Y, 2, validation=DataLoader(held, batch_size=7))
    assert [e.validation_accuracy for e in history] == [e.validation_accuracy for e in as_batches]


def test_a_dataset_is_read_when_it_is_needed_and_not_kept():
    class Endless(Noisy):
        def __len__(self):
            return 100_000

        def __getitem__(self, index):
            self.reads.append(index)
            return self.x[index % 120], int(Y[index % 120])

    dataset = Endless()
    dataset.targets = None
    with pytest.raises(Stop):
        trainer(callbacks=[StopsAt(0, 3)]).fit(dataset)
    assert len(dataset.reads) == 3 * 16 + 1  # and the one that says what a sample is


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers):
    one, other = trainer(), trainer(workers=workers)
    one.fit(Noisy(), epochs=2)
    torch.rand(3)
    other.fit(Noisy(), epochs=2)
    assert same(one, other)


def test_batches_are_learnt_from_in_their_order():
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
    one, other = trainer(), trainer()
    history = one.fit(batches, epochs=2)
    other.fit((batch for batch in batches), epochs=1)
    assert len(history) == 2
    assert "resumed at the end of an epoch" in one.notes[0]
    with pytest.raises(UsageError, match="data: gave no batches; one epoch takes an iterator, more a list"):
        trainer().fit((batch for batch in batches), epochs=2)
    by_loader = trainer()
    by_loader.fit(DataLoader(TensorDataset(torch.tensor(X[:96]), torch.tensor(Y[:96])), batch_size=16), epochs=1)
    assert same(by_loader, other)


def test_a_loader_that_shuffles_gives_the_same_every_time():
    def loader():
        return DataLoader(Noisy(), batch_size=16, shuffle=True)

    one, other = trainer(), trainer()
    one.fit(loader(), epochs=2)
    torch.rand(7)
    before = torch.get_rng_state()
    other.fit(loader(), epochs=2)
    assert same(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_of_uint8_are_divided_by_255_everywhere():
    pixels = np.round(X * 255).astype(np.uint8)
    floats = pixels.astype(np.float32) / np.float32(255)
    for encoding in ("constant", "rate"):
        one, other = trainer(encoding=encoding), trainer(encoding=encoding)
        one.fit(pixels, Y, 1, validation=(pixels, Y))
        other.fit(floats, Y, 1, validation=(floats, Y))
        assert same(one, other)
        assert one.net.data == other.net.data
        assert evaluate(one.net, pixels, Y).accuracy == evaluate(other.net, floats, Y).accuracy


def item(value):
    """A Dataset whose fifth sample is something else."""

    class Odd(Noisy):
        def __getitem__(self, index):
            return value if index == 5 else (self.x[index], self.targets[index])

    return Odd()


class Single(IterableDataset):
    def __iter__(self):
        return iter([(X[0], 1)])


class NoLength(Dataset):
    def __getitem__(self, index):
        return X[0], 1


WRONG = {
    "a dict": (item({"x": 1}), r"data, sample 5: expected a pair \(sample, label\), got dict"),
    "three": (item((X[0], 1, 2)), r"sample 5: expected a pair \(sample, label\), got tuple of 3"),
    "a text": (item(("x", 1)), "sample 5: expected an array or tensor, got str; a transform makes one"),
    "complex": (item((X[0] * 1j, 1)), "sample 5: expected an array of numbers, got ndarray of complex64"),
    "another shape": (item((X[0][:4], 1)), r"sample 5: expected float32 \(8, 8\) like sample 0, got float32 \(4, 8\)"),
    "another dtype": (item((X[0].astype(np.float64), 1)), "sample 5: expected float32 .* got float64"),
    "a float label": (item((X[0], 1.0)), "sample 5: expected an integer as label, got 1.0"),
    "a class too many": (item((X[0], 10)), r"sample 5: expected a label in 0 … 9, got 10"),
    "another label": (item((X[5], (Y[5] + 1) % 10)), "sample 5: its label is .*, but the Dataset's targets say"),
    "nothing": (TensorDataset(torch.zeros(0, 8, 8), torch.zeros(0)), "data: the Dataset is empty"),
    "single samples": (Single(), r"IterableDataset gives single samples; put it into a DataLoader"),
    "no length": (NoLength(), "NoLength has no length; a Dataset needs __len__ and __getitem__"),
    "a number": (3, "data: expected a Split, arrays .* got int"),
    "a dict of arrays": ({"x": X}, "data: expected a Split, arrays .* got dict"),
    "no batches": ([], r"data: expected at least one batch \(x, y\), got none"),
    "a sparse tensor": ((torch.tensor(X).to_sparse(), Y), "data: expected a dense tensor, got Tensor of torch.float32"),
    "samples alone": (X, "data: expected labels beside the samples"),
    "another batch": ([(X, Y), (X[:, :4], Y)], r"data, batch 2: expected samples \(8, 8\) like batch 1, got \(4, 8\)"),
    "labels of a batch": ([(X, Y.astype(float))], "data, batch 1: labels: expected 120 integers"),
    "no pair": ([X], r"data, batch 1: expected a pair \(x, y\), got ndarray of float32"),
    "integers": ((np.ones((8, 8, 8), np.int64), Y[:8]), "expected images as floats, or as uint8 0 … 255, got int64"),
    "spikes": ((np.ones((8, 8, 8), np.uint8), Y[:8]), "uint8 images are 0 … 255, these end at 1"),
    "no images": ((np.ones((8, 4, 8)), Y[:8]), r"data: expected images \(n, 8, 8\)"),
}


def test_what_would_have_no_effect_on_these_data_is_refused():
    with pytest.raises(UsageError, match="sampling: a DataLoader or an iterable draws its samples itself"):
        trainer(sampling="balanced").fit([(X, Y)])
    series = trainer(mlp((8, 5, 10)), augmentations=["crop"])
    with pytest.raises(UsageError, match=r"augmentations: they change images, .* shape \(8, 8\) with a time axis"):
        series.fit(X, Y)


def test_class_weights_are_any_numbers():
    fitted = []
    for weights in ([1, 2] * 5, np.array([1, 2] * 5), torch.tensor([1, 2] * 5)):
        fitted.append(trainer(class_weights=weights))
        fitted[-1].fit(X, Y)
        assert same(fitted[0], fitted[-1])
    for wrong in ([1, -2], {0: 1}):
        with pytest.raises(UsageError, match="class_weights: expected a number"):
            SquaredError(wrong)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_are_one_line(case):
    data, message = WRONG[case]
    with pytest.raises(UsageError, match=message) as raised:
        trainer().fit(data)
    assert "\n" not in str(raised.value)


def test_a_worker_hands_on_one_line():
    with pytest.raises(UsageError, match=r"^data, sample 5: expected a pair"):
        trainer(workers=1).fit(item(3))


# ---------------------------------------------------------------------------------------------- validation


def test_a_share_is_held_out_of_every_class_and_never_trained_on():
    one = trainer()
    one.fit(X, Y, 1, validation=0.2)
    held, kept = one.validation.chosen, one.data.chosen
    assert sorted([*held, *kept]) == list(range(120))
    counts, of = Counter(Y[held].tolist()), Counter(Y.tolist())
    assert all(counts[label] == int(np.ceil(0.2 * of[label])) for label in of)
    again = trainer()
    again.fit(X, Y, 1, validation=0.2)
    assert np.array_equal(again.validation.chosen, held)
    changed = X.copy()
    changed[held] = 0.5  # samples that are held out teach nothing
    third = trainer()
    third.fit(changed, Y, 1, validation=0.2)
    assert same(one, third)


def test_the_best_network_is_chosen_by_validation_and_not_by_the_test(tmp_path):
    validation, test = (DIGITS.x_test[:60], DIGITS.y_test[:60]), (DIGITS.x_test[60:], DIGITS.y_test[60:])
    history = trainer(learning_rate=0.02, schedule="constant").fit(
        X, Y, 6, validation=validation, test=test, run=RunFolder(tmp_path)
    )
    best = max(history, key=lambda epoch: epoch.validation_accuracy)
    found = load(tmp_path / "best.pt").provenance["training"]
    assert found["epochs_done"] == best.epoch
    assert evaluate(load(tmp_path / "best.pt"), *validation).accuracy == best.validation_accuracy
    for name in ("metrics.csv", "model.pt"):
        assert (tmp_path / name).exists()


def test_without_validation_no_network_is_called_the_best(tmp_path):
    trainer().fit(X, Y, 1, test=(X, Y), run=RunFolder(tmp_path))
    assert not (tmp_path / "best.pt").exists()


def test_training_ends_by_validation_and_stays_ended(tmp_path):
    one = trainer(callbacks=[EarlyStopping(stop_at=0.2)])
    history = one.fit(X, Y, 30, validation=(X, Y), test=(X, Y), run=RunFolder(tmp_path))
    assert 1 <= len(history) < 30
    assert history[-1].validation_accuracy >= 0.2
    again = trainer(callbacks=[EarlyStopping(stop_at=0.2)])
    assert len(again.fit(X, Y, 30, validation=(X, Y), run=RunFolder(tmp_path), resume=True)) == len(history)
    waiting = trainer(learning_rate=1e-12, schedule="constant", callbacks=[EarlyStopping(patience=2)])
    assert len(waiting.fit(X, Y, 30, validation=(X, Y))) == 3
    with pytest.raises(UsageError, match="expected validation samples, which say when to stop"):
        trainer(callbacks=[EarlyStopping(patience=2)]).fit(X, Y, 2, test=(X, Y))


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (1.0, "validation: expected a number in"),
        (DIGITS, "validation: a Split has two parts; give one of them"),
        ((np.zeros((4, 6, 8, 8)), Y[:4]), "validation: expected a time axis like the training samples'"),
    ],
)
def test_wrong_validation(validation, message):
    with pytest.raises(UsageError, match=message):
        trainer().fit(X, Y, 1, validation=validation)
    with pytest.raises(UsageError, match="no share of a DataLoader or an iterable"):
        trainer().fit([(X, Y)], validation=0.1)


# ---------------------------------------------------------------------------------------------- classes


def test_balanced_sampling_draws_every_class_as_often():
    net = network()
    x, y = np.zeros((200, 8, 8), np.float32), np.array([0] * 180 + [1] * 20)
    samples = open_samples(x, y, net, "data")
    order = samples.order([3, 0], "balanced")
    assert len(order) == 200
    assert 70 < (y[order] == 1).sum() < 130
    assert np.array_equal(order, samples.order([3, 0], "balanced"))
    assert not np.array_equal(order, samples.order([3, 1], "balanced"))
    with pytest.raises(UsageError, match="sampling: the Dataset does not tell its labels"):
        trainer(sampling="balanced").fit(TensorDataset(torch.tensor(X), torch.tensor(Y)))


@pytest.mark.parametrize("loss", [SquaredError(), CrossEntropy(0.1, 0.05)])
def test_class_weights_are_factors_of_each_samples_loss(loss):
    o, y = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 0])
    factors = (0.5, 2.0, 0.25)
    found = replace(loss, class_weights=factors)(o, y, 4)
    expected = sum(factors[label] * loss(o[i : i + 1], y[i : i + 1], 4) for i, label in enumerate(y)) / 5
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    ones = replace(loss, class_weights=(1.0, 1.0, 1.0))(o, y, 4)
    torch.testing.assert_close(ones, loss(o, y, 4), rtol=1e-12, atol=0)


def test_class_weights_in_a_training():
    counts = np.bincount(Y, minlength=10)
    one, other = trainer(class_weights="balanced"), trainer(class_weights=(120 / (10 * counts)).tolist())
    plain = trainer(class_weights="balanced", engine="plain")
    for each in (one, other, plain):
        each.fit(X, Y, 1)
    assert same(one, other)
    for a, b in zip(weights(one), weights(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    with pytest.raises(UsageError, match="expected 10 numbers, one per class"):
        trainer(class_weights=[1.0]).fit(X, Y)
    with pytest.raises(UsageError, match="no training sample of the classes 0"):
        trainer(class_weights="balanced").fit(X[Y != 0], Y[Y != 0])
    with pytest.raises(UsageError, match="a loss of your own has to weigh the classes itself"):
        trainer(class_weights="balanced", loss=lambda o, y, steps: o.sum()).fit(X, Y)


# ---------------------------------------------------------------------------------------------- optimisers


def test_the_same_optimiser_by_name_function_and_object():
    net = network(dropout=0.2)
    made = [
        trainer(optimizer="adamw", learning_rate=0.01, weight_decay=0.1),
        trainer(optimizer=lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
        trainer(net, optimizer=torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)),
    ]
    for each in made:
        each.fit(X, Y, 2)
    assert same(made[0], made[1])
    assert same(made[0], made[2])


def test_wrong_optimisers_and_losses_are_one_line():
    cases = [
        (
            dict(optimizer=torch.optim.SGD(network().parameters(), lr=1)),
            "2 of its tensors .* are no parameters of the network",
        ),
        (dict(optimizer=torch.optim.LBFGS), "optimizer: LBFGS.step needs closure"),
        (dict(optimizer=lambda p: torch.optim.SparseAdam(list(p))), "optimizer: SparseAdam takes sparse gradients"),
        (dict(optimizer=torch.nn.Linear), "optimizer: .*missing 1 required .*; give a function of one argument"),
        (dict(schedule=torch.optim.lr_scheduler.ExponentialLR), "schedule: .*gamma.*; give a function of one"),
        (
            dict(schedule=torch.optim.lr_scheduler.ReduceLROnPlateau, schedule_every="batch"),
            "schedule_every: .*ReduceLROnPlateau goes by epochs",
        ),
        (
            dict(schedule=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=2), schedule_every="batch"),
            "schedule: Tried to step 3 times. The specified number of total steps is 2",
        ),
        (dict(loss=torch.nn.functional.cross_entropy), "loss: expected a function of .*, cross_entropy takes others"),
        (dict(loss=partial(torch.nn.functional.mse_loss, reduction="sum")), "loss: .*, mse_loss takes others"),
        (dict(loss=SquaredError((1.0,) * 10), class_weights="balanced"), "class_weights: the loss has its own"),
        (dict(loss=CrossEntropy(class_weights=[1, 2])), r"class_weights: expected 10 numbers, .* got \(1.0, 2.0\)"),
        (dict(optimizer=lambda p: 3), "expected a function that returns a torch.optim.Optimizer, got 3"),
        (dict(optimizer=torch.optim.Adagrad, learning_rate=0.1), "learning_rate: the optimiser is an object"),
        (dict(optimizer="adam", momentum=0.9), "momentum: only the optimiser sgd has one"),
        (dict(schedule=lambda o: 3), "expected a function that returns a scheduler"),
        (dict(schedule_every="batch"), "schedule_every: cosine goes by epochs"),
        (dict(clip_norm=0), "clip_norm: expected a number > 0"),
        (dict(kappa=0.1), "kappa, temperature: .*give a teacher"),
        (dict(callbacks=[3]), "callbacks: expected a Callback, got 3"),
        (
            dict(loss=torch.nn.CrossEntropyLoss()),
            r"loss: expected a function of \(o, labels, time_steps\), CrossEntropyLoss",
        ),
        (dict(loss=lambda o, y, steps: o), "loss: expected a scalar tensor, got \\(16, 10\\)"),
        (dict(loss=lambda o, y, steps: 1.0), "loss: expected a scalar tensor, got float"),
        (dict(encoding={"name": "constant", "mean": [0]}), "constant.std: expected a number for each channel"),
    ]
    for settings, message in cases:
        with pytest.raises(UsageError, match=message):
            trainer(**settings).fit(X, Y)


def test_parameters_that_the_optimiser_leaves_out_are_said_and_stay():
    net = network()
    one = trainer(net, optimizer=torch.optim.SGD([net.readout.weight], lr=0.1))
    before = net.blocks[0].connection.weight.clone()
    one.fit(X, Y)
    assert torch.equal(net.blocks[0].connection.weight, before)
    assert any("it does not step blocks.0.connection.weight" in note for note in one.notes)


def test_any_scheduler_of_torch():
    schedule = torch.optim.lr_scheduler.MultiStepLR
    one = trainer(optimizer="sgd", learning_rate=0.1, schedule=lambda o: schedule(o, [1, 2], gamma=0.1))
    assert [round(e.learning_rate, 6) for e in one.fit(X, Y, 3)] == [0.1, 0.01, 0.001]
    per_batch = trainer(schedule=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9), schedule_every="batch")
    assert per_batch.fit(X, Y, 1)[0].learning_rate == pytest.approx(0.005 * 0.9**8)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    slow = trainer(learning_rate=1e-12, schedule=lambda o: plateau(o, mode="max", patience=0, factor=0.5, eps=0))
    rates = [e.learning_rate for e in slow.fit(X, Y, 3, validation=(X, Y))]
    assert rates == [1e-12, 1e-12, 0.5e-12]
    with pytest.raises(UsageError, match="follows the validation accuracy; there is none"):
        trainer(schedule=lambda o: plateau(o, mode="max")).fit(X, Y, 1)


@pytest.mark.parametrize("update", ["step", "sequence"])
def test_gradients_are_clipped_before_every_step(update):
    norms = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]))))
            return super().step(closure)

    net = network()
    optimizer = Watched(net.parameters(), lr=0.5)
    trainer(net, OTTT(update), optimizer=optimizer, clip_norm=1e-3).fit(X, Y)
    assert len(norms) == 8 * (6 if update == "step" else 1)
    assert max(norms) <= 1e-3 * 1.001
    assert not optimizer._optimizer_step_pre_hooks  # the object is as it was
    one = trainer(optimizer="sgd", learning_rate=1.0, momentum=0.0, schedule="constant", clip_value=1e-4)
    before = weights(one)
    one.fit(X[:16], Y[:16])
    assert max(float((a - b).abs().max()) for a, b in zip(before, weights(one))) <= 1.001e-4


def test_a_gradient_that_is_not_finite_cannot_be_clipped():
    class Explodes(Callback):
        def on_start(self, fit):
            fit.optimizer.param_groups[0]["params"][0].register_hook(lambda g: g * float("inf"))

    with pytest.raises(TrainingError, match="the gradient is NaN or infinite"):
        trainer(clip_norm=1.0, engine="plain", callbacks=[Explodes()]).fit(X, Y)


def test_clipping_values_would_leave_what_hlop_has_projected_on():
    with pytest.raises(UsageError, match="clip_value: it would turn the gradients that HLOP"):
        trainer(rule=make_rule("ottt", hlop={"rows": [3, 3], "learning_rate": 0.1}), optimizer="sgd", clip_value=0.1)


# ---------------------------------------------------------------------------------------------- callbacks and resuming


class Average(Callback):
    """An average of the weights, and what has been called."""

    def __init__(self):
        self.mean, self.calls = None, []

    def on_start(self, fit):
        self.calls.append("start")

    def on_batch_end(self, fit):
        now = fit.trainer.net.readout.weight.detach()
        self.mean = now.clone() if self.mean is None else 0.9 * self.mean + 0.1 * now

    def on_epoch_end(self, fit):
        self.calls.append(len(fit.progress.history))

    def on_end(self, fit):
        self.calls.append("end")

    def state_dict(self):
        return {"mean": self.mean, "calls": self.calls, "shape": (1, 2), "by number": {3: np.float32(0.5)}}

    def load_state_dict(self, state):
        assert (state["shape"], state["by number"]) == ((1, 2), {3: 0.5})
        self.mean = state["mean"]


SETTINGS = {
    "plain": dict(),
    "step": dict(rule=OTTT("step"), optimizer="sgd", learning_rate=0.05),
    "one cycle": dict(
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        schedule=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.2, total_steps=40),
        schedule_every="batch",
    ),
    "milestones": dict(
        optimizer=torch.optim.RMSprop, schedule=lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 2])
    ),
    "clipped": dict(optimizer="adamw", clip_norm=0.1, class_weights="balanced", sampling="balanced"),
}


@pytest.mark.parametrize("data", ["arrays", "dataset"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_goes_on_inside_an_epoch_bit_for_bit(tmp_path, name, data):
    def train():
        return Noisy() if data == "dataset" else (X, Y)

    def fit(one, **settings):
        return one.fit(train(), epochs=3, validation=0.2, checkpoint_every=2, **settings)

    whole = trainer(callbacks=[Average()], **SETTINGS[name])
    expected = fit(whole, run=RunFolder(tmp_path / "whole"))
    broken = trainer(callbacks=[Average(), StopsAt(1, 5)], **SETTINGS[name])
    with pytest.raises(Stop):
        fit(broken, run=RunFolder(tmp_path / "broken"))
    assert broken.callbacks[0].calls == ["start", 1, "end"]
    again = trainer(callbacks=[Average(), StopsAt(9, 9)], **SETTINGS[name])
    history = fit(again, run=RunFolder(tmp_path / "broken"), resume=True)
    assert same(whole, again)
    assert torch.equal(whole.callbacks[0].mean, again.callbacks[0].mean)
    keys = ("loss", "train_accuracy", "validation_accuracy", "learning_rate")
    assert [[getattr(e, k) for k in keys] for e in history] == [[getattr(e, k) for k in keys] for e in expected]
    assert (tmp_path / "whole" / "best.pt").read_bytes() == (tmp_path / "broken" / "best.pt").read_bytes()


@pytest.mark.parametrize("own", [False, True])
def test_a_loader_goes_on_between_epochs_bit_for_bit(tmp_path, own):
    def loader():
        generator = torch.Generator().manual_seed(7) if own else None
        return DataLoader(Noisy(), batch_size=16, shuffle=True, generator=generator)

    whole, broken, again = trainer(), trainer(callbacks=[StopsAt(2, 1)]), trainer(callbacks=[StopsAt(9, 9)])
    whole.fit(loader(), epochs=4)
    with pytest.raises(Stop):
        broken.fit(loader(), epochs=4, run=RunFolder(tmp_path))
    again.fit(loader(), epochs=4, run=RunFolder(tmp_path), resume=True)
    assert same(whole, again)
    with pytest.raises(UsageError, match=r"checkpoint_every: batches .* are resumed between epochs only"):
        trainer().fit(loader(), run=RunFolder(tmp_path), checkpoint_every=2)


def test_a_run_is_not_resumed_with_something_else(tmp_path):
    trainer(callbacks=[Average()]).fit(X, Y, 1, run=RunFolder(tmp_path))
    cases = [
        (dict(callbacks=[]), X, Y, UsageError, "callback 1, Average: only in it; resume it with its own settings"),
        (
            dict(callbacks=[Average()], optimizer="adamw"),
            X,
            Y,
            UsageError,
            "this run was started with optimizer = 'adam'",
        ),
        (
            dict(callbacks=[Average()], schedule="constant"),
            X,
            Y,
            UsageError,
            "this run was started with schedule = 'cosine'",
        ),
        (dict(callbacks=[Average()], clip_norm=1.0), X, Y, UsageError, "this run was started with clip_norm = None"),
        (dict(callbacks=[Average()]), X[:100], Y[:100], UsageError, "this run was started with samples = "),
        (dict(callbacks=[Average()]), 0.5 * X, Y, UsageError, "this run was started with samples = "),
        (dict(callbacks=[Average()], encoding="constant"), X, Y, UsageError, "this run was started with encoding"),
    ]
    for settings, x, y, error, message in cases:
        with pytest.raises(error, match=message):
            trainer(**settings).fit(x, y, 2, run=RunFolder(tmp_path), resume=True)


def test_a_run_with_more_epochs_follows_the_new_schedule(tmp_path):
    trainer().fit(X, Y, 2, run=RunFolder(tmp_path))
    history = trainer().fit(X, Y, 4, run=RunFolder(tmp_path), resume=True)
    assert history[2].learning_rate == pytest.approx(0.005 * 0.5)


def test_a_state_that_no_file_holds_is_refused(tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"file": object()}

    with pytest.raises(UsageError, match="a state holds numbers, texts, lists, dicts and tensors, got object"):
        trainer(callbacks=[Odd()]).fit(X, Y, 1, run=RunFolder(tmp_path))


def test_other_data_than_before_are_said():
    one = trainer()
    one.fit(X, Y)
    assert not [note for note in one.notes if "before" in note]
    other = trainer(one.net, encoding="constant")
    other.fit(X, Y)
    assert "data: others than the network was trained on before (coding: expected rate, got constant)" in other.notes
    assert one.net.data.coding.name == "constant"


def test_normalised_images_are_what_the_network_sees():
    moments = {"mean": [0.3], "std": [0.5]}
    net = mlp((64, 12, 10), input_shape=(1, 8, 8))
    settings = dict(batch_size=16, seed=2)
    one = Trainer(net, OTTT("sequence"), encoding={"name": "constant", **moments}, **settings)
    x = X[:, None]
    one.fit(x, Y, 1, validation=(x, Y))
    other = mlp((64, 12, 10), input_shape=(1, 8, 8))
    plain = Trainer(other, OTTT("sequence"), encoding="constant", **settings)
    plain.fit((x - np.float32(0.3)) / np.float32(0.5), Y, 1)
    assert same(one, plain)
    assert evaluate(net, x, Y).accuracy == evaluate(plain.net, (x - np.float32(0.3)) / np.float32(0.5), Y).accuracy
    assert net.data.coding.to_json() == {"name": "constant", "options": moments}


class Rows(torch.optim.Optimizer):
    """An optimiser whose state has other shapes than the parameters, as Adafactor's (since torch 2.5)."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                rows = self.state[p].setdefault("rows", torch.zeros(len(p), 1))
                rows.add_(p.grad.square().mean(1, keepdim=True))
                p.data.sub_(group["lr"] * p.grad / (rows.sqrt() + 1e-3))


def test_an_optimiser_whose_state_has_shapes_of_its_own_goes_on(tmp_path):
    again = trainer(optimizer=Rows, schedule="constant")
    whole = trainer(optimizer=Rows, schedule="constant")
    whole.fit(X, Y, 2)
    trainer(optimizer=Rows, schedule="constant").fit(X, Y, 1, run=RunFolder(tmp_path))
    again.fit(X, Y, 2, run=RunFolder(tmp_path), resume=True)
    assert same(whole, again)


def test_a_run_that_replaces_another_leaves_no_best_network_of_it(tmp_path):
    trainer().fit(X, Y, 1, validation=0.2, run=RunFolder(tmp_path))
    assert (tmp_path / "best.pt").exists()
    trainer().fit(X, Y, 1, run=RunFolder(tmp_path))
    assert not (tmp_path / "best.pt").exists()


def test_training_and_test_images_have_one_unit():
    pixels = (X * 255).astype(np.uint8)
    for train, test in ((pixels, pixels.astype(np.float32)), (pixels.astype(np.float32), pixels)):
        with pytest.raises(UsageError, match=r"test: its dtype is .*; only uint8 is divided by 255"):
            trainer(encoding="constant").fit(train, Y, epochs=1, test=(test, Y))
    trainer(encoding="constant").fit(pixels, Y, epochs=1, test=(X, Y))
