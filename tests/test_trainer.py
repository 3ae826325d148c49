import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from ottt_loihi.data import from_arrays, load_digits, rate_code
from ottt_loihi.errors import FileError, TrainingError, UsageError
from ottt_loihi.nn.models import mlp
from ottt_loihi.rules import OTTT
from ottt_loihi.training import samples, trainer
from ottt_loihi.training.callbacks import TensorBoard
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.continual import permuted
from ottt_loihi.training.evaluation import TEST_ENCODING_SEED, evaluate
from ottt_loihi.training.optimizers import Steps
from ottt_loihi.training.run_folder import RunFolder
from ottt_loihi.training.samples import in_turn
from ottt_loihi.training.trainer import Trainer, train_encoding_seed

DIGITS = load_digits()
X, Y = DIGITS.x_train[:200], DIGITS.y_train[:200]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def trained(seed=0, epochs=2, update="step", checkpoint=None, **settings):
    net = mlp((64, 32, 10), input_shape=(8, 8), seed=seed)
    trainer = Trainer(net, OTTT(update), seed=seed, **settings)
    history = trainer.fit(X, Y, epochs, test=DIGITS.test, checkpoint=checkpoint)
    return net, history


@pytest.mark.parametrize("update", ["step", "sequence"])
@pytest.mark.parametrize("settings", [dict(), dict(optimizer="sgd", learning_rate=0.05, schedule="constant")])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(update, settings):
    one, history = trained(update=update, **settings)
    torch.rand(5)  # the global generators do not matter
    np.random.rand(5)  # noqa: NPY002
    two, again = trained(update=update, **settings)
    for a, b in zip(one.parameters(), two.parameters()):
        assert torch.equal(a, b)
    assert [(e.loss, e.test_accuracy) for e in history] == [(e.loss, e.test_accuracy) for e in again]
    other, _ = trained(seed=1, update=update, **settings)
    assert not torch.equal(one.readout.weight, other.readout.weight)


def test_equal_runs_give_equal_files(tmp_path):
    trained(checkpoint=tmp_path / "a.pt")
    trained(checkpoint=tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_the_file_says_how_it_was_made(tmp_path):
    _, history = trained(checkpoint=tmp_path / "model.pt", epochs=3)
    provenance = load(tmp_path / "model.pt").provenance
    assert provenance["seed"] == 0
    assert provenance["training"]["rule"] == {
        "name": "ottt",
        "update": "step",
        "convention": "paper",
    }
    assert provenance["training"]["loss"] == {"name": "squared-error"}
    assert provenance["training"]["epochs_done"] == 3
    assert provenance["training"]["last_epoch"]["test_accuracy"] == history[-1].test_accuracy
    assert provenance["encoding"] == {"name": "rate", "test_seed": TEST_ENCODING_SEED}
    assert evaluate(load(tmp_path / "model.pt"), DIGITS.x_test, DIGITS.y_test).accuracy == history[-1].test_accuracy


def test_training_learns():
    _, history = trained(epochs=8)
    assert history[-1].loss < 0.5 * history[0].loss
    assert history[-1].test_accuracy > 0.8


@pytest.mark.slow
def test_digits_reach_their_accuracy_with_the_defaults():
    """Issue 2: the mean of 3 seeds is at least 96.5 % (97.9 % measured); one seed here, one test image is 0.28 %."""
    net = mlp((64, 128, 10), input_shape=(8, 8))
    Trainer(net, OTTT()).fit(DIGITS.x_train, DIGITS.y_train, 60)
    assert evaluate(net, DIGITS.x_test, DIGITS.y_test).accuracy >= 0.965


def test_evaluation_is_the_networks_own_prediction_whatever_the_batch():
    net, _ = trained()
    spikes = rate_code(DIGITS.x_test, 6, seed=TEST_ENCODING_SEED)
    expected = net.predict(torch.from_numpy(spikes)).numpy()
    for batch_size in (7, 360):
        found = evaluate(net, DIGITS.x_test, DIGITS.y_test, batch_size)
        np.testing.assert_array_equal(found.predictions, expected)
        assert found.accuracy == (expected == DIGITS.y_test).mean()
    from_spikes = evaluate(net, spikes, DIGITS.y_test)
    np.testing.assert_array_equal(from_spikes.predictions, expected)
    s = net.run(torch.from_numpy(spikes), record=("s",)).states["s"][0]
    assert found.spike_rates == pytest.approx([float(s.mean())])


def test_each_epoch_has_spikes_of_its_own():
    seeds = {train_encoding_seed(seed, epoch) for seed in range(5) for epoch in range(300)}
    assert len(seeds) == 1500
    assert TEST_ENCODING_SEED not in seeds


def test_a_network_without_hidden_layers_is_trained_and_evaluated():
    net = mlp((64, 10), input_shape=(8, 8))
    Trainer(net, OTTT(), learning_rate=0.02).fit(X, Y, 3, test=DIGITS.test)
    found = evaluate(net, DIGITS.x_test, DIGITS.y_test)
    assert found.accuracy > 0.5
    assert found.spike_rates == []
    assert found.rates_over_time.shape == (0, net.time_steps)
    assert found.synaptic_operations > 0


def test_preparing_a_batch_while_another_is_learnt_from_changes_nothing(monkeypatch):
    def weights():
        net = mlp((64, 32, 10), input_shape=(8, 8), dropout=0.2)
        Trainer(net, OTTT(), augmentations=("crop", "cutout"), seed=3).fit(X, Y, 2)
        return list(net.parameters())

    expected, threads = weights(), set()
    monkeypatch.setattr(trainer, "in_turn", lambda jobs, ahead: in_turn(jobs, ahead=True))  # as on a GPU
    encode = samples.encode
    monkeypatch.setattr(
        samples, "encode", lambda *arguments: threads.add(threading.current_thread().name) or encode(*arguments)
    )
    assert all(torch.equal(a, b) for a, b in zip(weights(), expected, strict=True))
    assert threads
    assert all(name.startswith("ottt-inputs") for name in threads)


@pytest.mark.parametrize("ahead", [False, True])
def test_inputs_come_in_turn_and_at_most_one_early(ahead):
    done = []
    jobs = [lambda i=i: done.append(i) or i for i in range(5)]
    for i, found in enumerate(in_turn(jobs, ahead)):
        time.sleep(0.02)  # so that what may be done is
        assert found == i
        assert done == list(range(min(i + 1 + ahead, 5)))
    assert list(in_turn([], ahead)) == []


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_in_an_input_arrives(ahead):
    def fails():
        raise UsageError("broken")

    inputs = in_turn([lambda: 1, fails, lambda: 2], ahead)
    assert next(inputs) == 1
    with pytest.raises(UsageError, match="broken"):
        next(inputs)


def test_cosine_lets_the_rate_fall_to_nearly_nothing():
    net = mlp((64, 10), input_shape=(8, 8))
    history = Trainer(net, OTTT(), learning_rate=0.2).fit(X[:32], Y[:32], 4)
    rates = [epoch.learning_rate for epoch in history]
    np.testing.assert_allclose(rates, [0.2, 0.1 * (1 + np.sqrt(0.5)), 0.1, 0.1 * (1 - np.sqrt(0.5))])


def test_ctrl_c_leaves_a_usable_checkpoint(tmp_path):
    path = tmp_path / "model.pt"

    class Interrupted(OTTT):
        batches = 0

        def train_batch(self, *arguments):
            self.batches += 1
            if self.batches == 6:  # in the second epoch of four batches
                raise KeyboardInterrupt
            return super().train_batch(*arguments)

    net = mlp((64, 32, 10), input_shape=(8, 8))
    with pytest.raises(KeyboardInterrupt, match=r"the network as it is now is in .*model\.pt"):
        Trainer(net, Interrupted()).fit(X, Y, 10, checkpoint=path)
    again = load(path)
    assert again.provenance["training"]["epochs_done"] == 1
    assert torch.equal(again.readout.weight, net.readout.weight)


def test_ctrl_c_before_the_first_batch_leaves_a_checkpoint_too(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Steps, "begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=tmp_path / "model.pt")
    assert load(tmp_path / "model.pt").provenance["training"]["last_epoch"] is None


def test_a_diverged_training_stops_and_overwrites_nothing(tmp_path):
    path = tmp_path / "model.pt"
    trained(checkpoint=path, epochs=1)
    before = path.read_bytes()
    with pytest.raises(
        TrainingError,
        match=r"epoch 1, batch \d+: time step \d: the loss is (inf|nan); it begins in .*; lower the learning rate",
    ):
        trained(checkpoint=path, optimizer="sgd", learning_rate=1e20)
    assert path.read_bytes() == before


def test_nowhere_to_write_is_a_file_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        trained(checkpoint=tmp_path / "file" / "model.pt", epochs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(optimizer="lion"), "optimizer: expected one of sgd, adam, adamw, got 'lion'"),
        (dict(schedule="step"), "schedule: expected one of cosine, constant"),
        (dict(loss="hinge"), "loss: expected one of squared-error, cross-entropy, got 'hinge'"),
        (dict(learning_rate=0), r"learning_rate: expected a number in \(0, 1e\+30\]"),
        (dict(learning_rate=float("nan")), r"learning_rate: expected a number in \(0, 1e\+30\]"),
        (dict(weight_decay=1e308), r"weight_decay: expected a number in \[0, 1e\+30\]"),
        (dict(augmentations=3), "augmentations: expected a list, each item a text, got 3"),
        (dict(augmentations="crop"), "augmentations: expected a list, each item a text, got 'crop'"),
        (dict(optimizer="sgd", momentum=1.0), r"momentum: expected a number in \[0, 1\)"),
        (dict(batch_size=0), "batch_size: expected a positive integer, got 0"),
        (dict(batch_size="8"), "batch_size: expected a positive integer, got '8'"),
        (dict(seed=1.5), "seed: expected an integer ≥ 0, got 1.5"),
        (dict(epochs=0), "epochs: expected a positive integer, got 0"),
        (dict(epochs=1.5), "epochs: expected a positive integer, got 1.5"),
        (dict(loss=lambda o, labels, steps: o.detach().sum()), r"loss: it carries no gradient of the scores o"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        trained(**settings)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:, :7], Y, "data: expected images"),
        (X[:0], Y[:0], "data: expected images"),
        (X, Y[:-1], "labels: expected 200 integers"),
        (X, Y + 1, "labels: expected 0 … 9, got 10"),
        (X, Y.astype(float), "labels: expected 200 integers"),
        (X * 2, Y, r"intensities in \[0, 1\]"),
        (np.full_like(X, np.nan), Y, "12800 values are NaN or infinite"),
    ],
)
def test_bad_data_are_refused(x, y, message):
    net = mlp((64, 32, 10), input_shape=(8, 8))
    with pytest.raises(UsageError, match=message):
        Trainer(net, OTTT()).fit(x, y, 1)


def test_test_images_need_their_labels():
    with pytest.raises(UsageError, match="test: expected labels beside the samples"):
        Trainer(mlp((64, 10), input_shape=(8, 8)), OTTT()).fit(X, Y, 1, test=DIGITS.x_test)


@pytest.mark.parametrize("seed", [1, 2])
def test_fit_leaves_the_global_generator_as_it_is(seed):
    net = mlp((64, 8, 10), input_shape=(8, 8), dropout=0.5)
    torch.manual_seed(seed)
    expected = torch.rand(3)
    torch.manual_seed(seed)
    Trainer(net, OTTT()).fit(X, Y, 1)
    assert torch.equal(torch.rand(3), expected)


def test_a_split_brings_its_labels_and_its_test_part():
    split = load_digits().first(120, 40)
    given, arrays = (Trainer(mlp((64, 10, 10), input_shape=(8, 8)), OTTT()) for _ in range(2))
    found = given.fit(split, epochs=2)
    expected = arrays.fit(split.x_train, split.y_train, 2, test=split.test)
    assert [epoch.test_accuracy for epoch in found] == [epoch.test_accuracy for epoch in expected]
    with pytest.raises(UsageError, match="a Split brings its labels"):
        given.fit(split, split.y_train)
    with pytest.raises(UsageError, match="expected labels beside the samples"):
        given.fit(split.x_train)


def test_the_progress_bar_needs_no_count_of_memory(monkeypatch, capsys):
    """Windows has no ``resource``."""
    monkeypatch.setitem(sys.modules, "resource", None)
    Trainer(mlp((64, 8, 10), input_shape=(8, 8)), OTTT(), progress=True).fit(X, Y, 1)
    assert "engine" in capsys.readouterr().err


def test_permuted_tasks_keep_everything_but_the_order_of_pixels():
    split = replace(DIGITS.first(20, 10), num_classes=12, class_names=tuple("abcdefghijkl"))
    for task in permuted(split, 2):
        assert (task.num_classes, task.name, task.class_names) == (12, split.name, split.class_names)
        assert np.array_equal(np.sort(task.x_train.reshape(20, -1)), np.sort(split.x_train.reshape(20, -1)))
    spikes = from_arrays(np.zeros((4, 3, 2, 2), np.uint8), np.array([0, 0, 1, 1]), time_axis=True)
    with pytest.raises(UsageError, match="permuted: expected images, got frames with a time axis"):
        permuted(spikes, 2)


def test_a_resumed_run_is_not_drawn_twice(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    folder = tmp_path / "run"
    for epochs, resume in ((2, False), (3, True)):
        board = TensorBoard(folder)
        trainer = Trainer(mlp((64, 8, 10), input_shape=(8, 8)), OTTT(), schedule="constant", callbacks=[board])
        trainer.fit(X, Y, epochs, run=RunFolder(folder), resume=resume)
        assert board.writer is None  # closed
    found = events.EventAccumulator(str(folder)).Reload()
    assert [event.step for event in found.Scalars("loss")] == [1, 2, 3]


def test_threads_without_effect_are_said_once():
    """Two threads took ten times as long beside a process that has one of the cores."""
    net, threads = mlp((4, 5, 3), time_steps=3), torch.get_num_threads()
    trainer = Trainer(net, OTTT(update="sequence"), batch_size=4)
    torch.set_num_threads(2)
    try:
        trainer.fit(torch.rand(12, 4).numpy(), [0, 1, 2] * 4, epochs=2)
    finally:
        torch.set_num_threads(threads)
    assert [note for note in trainer.notes if "threads" in note] == [
        "1 of 2 threads is used: a batch of this network is too little work to share"
    ]


def test_a_note_is_printed_as_it_is(capsys):
    Trainer(mlp((64, 10), input_shape=(8, 8)), OTTT(), progress=True)._say("data: of runs/[b]mine[/b].npz")
    assert "runs/[b]mine[/b].npz" in capsys.readouterr().err
