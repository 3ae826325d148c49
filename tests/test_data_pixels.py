"""Images of bytes are kept as bytes: a quarter of the memory, the same floats, the same training to the last bit."""

import copy
import gzip
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_idx import idx

from ottt_loihi.data import from_arrays, load_data, load_npz, prepare
from ottt_loihi.data.images import load_image_folder
from ottt_loihi.data.pixels import PixelArray
from ottt_loihi.nn.models import mlp
from ottt_loihi.rules import OTTT
from ottt_loihi.training.callbacks import Callback
from ottt_loihi.training.continual import permuted
from ottt_loihi.training.evaluation import evaluate
from ottt_loihi.training.run_folder import RunFolder
from ottt_loihi.training.trainer import Trainer

RNG = np.random.default_rng(0)


def images(count, *shape):
    return RNG.integers(0, 256, (count, *shape), np.uint8)


def as_floats(split):
    return replace(split, x_train=np.asarray(split.x_train), x_test=np.asarray(split.x_test))


def test_it_is_read_like_the_floats():
    pixels = images(7, 4, 5)
    kept, x = PixelArray(pixels), pixels.astype(np.float32) / np.float32(255)
    assert kept.nbytes * 4 == x.nbytes
    assert (kept.shape, kept.ndim, kept.size, kept.dtype, len(kept)) == (x.shape, x.ndim, x.size, x.dtype, 7)
    assert (kept.min(), kept.max(), kept.mean()) == (x.min(), x.max(), x.mean())
    for key in (0, -1, slice(1, 5), [5, 2], x[:, 0, 0] > 0.5, (0, 1), (slice(0, 2), 1), (..., 0), np.zeros(7, bool)):
        np.testing.assert_array_equal(kept[key], x[key])
        assert (type(kept[key]), kept[key].dtype) == (type(x[key]), np.float32)
    assert isinstance(kept.only([5, 2]), PixelArray)
    np.testing.assert_array_equal(kept.only([5, 2]), x[[5, 2]])
    assert isinstance(kept.reshape(7, -1), PixelArray)
    for shape in ((7, -1), (7, 1, 4, 5), (-1,)):
        np.testing.assert_array_equal(kept.reshape(*shape), x.reshape(shape))
    for axis in (0, 1, None):
        np.testing.assert_array_equal(kept.max(axis=axis), x.max(axis=axis))
        np.testing.assert_array_equal(kept.sum(axis=axis), x.sum(axis=axis))
    np.testing.assert_array_equal(kept * 2 - x, x)
    with pytest.raises(IndexError):
        kept[7]
    for other in (pickle.loads(pickle.dumps(kept)), copy.deepcopy(kept)):
        np.testing.assert_array_equal(other, x)


@pytest.fixture
def mnist(tmp_path):
    """600 and 100 images in MNIST's files."""
    (tmp_path / "mnist").mkdir()
    for part, count in (("train", 600), ("t10k", 100)):
        for kind, values in (("images-idx3", images(count, 28, 28)), ("labels-idx1", np.arange(count) % 10)):
            file = tmp_path / "mnist" / f"{part}-{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(idx(values.astype(np.uint8))))
    return load_data("mnist", tmp_path)


def test_a_byte_a_pixel_from_the_file_to_the_batch(mnist):
    assert mnist.x_train.nbytes + mnist.x_test.nbytes == 700 * 28 * 28
    assert mnist.with_channels().x_train.nbytes == mnist.x_train.nbytes
    assert mnist.first(50, 10).x_train.nbytes == 50 * 28 * 28
    for task, floats in zip(permuted(mnist, 2), permuted(as_floats(mnist), 2)):
        assert task.x_train.nbytes == mnist.x_train.nbytes
        np.testing.assert_array_equal(task.x_train, floats.x_train)
    prepared = prepare(mnist)
    assert prepared.split.x_train.nbytes == mnist.x_train.nbytes
    assert prepared.record == prepare(as_floats(mnist)).record
    trainer = Trainer(mlp((784, 10), time_steps=2), OTTT())
    trainer.open(mnist.x_train.reshape(600, 784), mnist.y_train, validation=0.1)
    assert trainer.data.x.nbytes == trainer.validation.x.nbytes == mnist.x_train.nbytes  # both parts read one array
    assert trainer.data.take(np.arange(5), 5).x.dtype == np.float32


def test_files_and_folders_of_bytes(tmp_path):
    x, y = images(20, 6, 6), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    for split in (from_arrays(x, y), load_npz(tmp_path / "a.npz")):
        assert split.x_train.nbytes + split.x_test.nbytes == x.nbytes
        together = np.concatenate([split.x_train, split.x_test])
        np.testing.assert_array_equal(np.unique(together), np.unique(x.astype(np.float32) / np.float32(255)))
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(images(9, 9, 3)).save(tmp_path / part / "a" / "0.png")
    split = load_image_folder(tmp_path, size=8)
    assert split.x_train.nbytes == 3 * 8 * 8
    assert split.x_train.dtype == split.x_train[0].dtype == np.float32


class Stop(Exception):
    pass


class Stopping(Callback):
    def __init__(self, stops):
        self.stops = stops

    def on_epoch_end(self, fit):
        if self.stops:
            raise Stop


@pytest.mark.parametrize("encoding", ["rate", "constant", "latency"])
def test_training_is_the_same_bit_for_bit(mnist, tmp_path, encoding):
    """Also held-out samples, and the end of a run that floats began: the checksum of its samples is theirs."""
    found, floats = [], as_floats(mnist)
    for number, (begun, ended) in enumerate(((floats, floats), (floats, mnist))):
        run = RunFolder(tmp_path / f"{number}")

        def trainer(stops):
            return Trainer(mlp((784, 16, 10), time_steps=3), OTTT(), encoding=encoding, callbacks=[Stopping(stops)])

        with pytest.raises(Stop):
            fit(trainer(stops=True), begun, run, resume=False)
        last = trainer(stops=False)
        fit(last, ended, run, resume=True)
        x = ended.x_test.reshape(100, 784)
        found.append((last.net, evaluate(last.net, x, mnist.y_test, encoding=encoding).predictions))
    (first, of_floats), (second, of_bytes) = found
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    np.testing.assert_array_equal(of_floats, of_bytes)
    assert first.data == second.data


def fit(trainer, split, run, resume):
    x = split.x_train.reshape(600, 784)
    trainer.fit(x, split.y_train, 2, validation=0.1, run=run, resume=resume, checkpoint_every=5)
