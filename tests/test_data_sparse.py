"""Events are kept as events: few bytes, the same numbers as in an ordinary array, the same training."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from ottt_loihi.data import from_arrays, load_data, load_npz, prepare, to_frames
from ottt_loihi.data.events import EVENT, as_frames
from ottt_loihi.data.sparse import BLOCK, SparseArray, collected, some, sparse
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.models import mlp
from ottt_loihi.rules import OTTT
from ottt_loihi.training.evaluation import evaluate
from ottt_loihi.training.trainer import Trainer

RNG = np.random.default_rng(0)
SHAPES = [(7, 5, 3), (6, 4, 2, 8, 8), (5, 3, 2, 150, 150), (3, BLOCK), (3, BLOCK + 1), (1, 9)]


def few(shape, most=1, share=0.05):
    x = RNG.integers(1, most + 1, shape).astype(np.uint8) * (RNG.random(shape) < share)
    x[-1] = 0  # a sample without events
    return x


@pytest.mark.parametrize("most", [1, 9])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_read_like_the_array(shape, most):
    x = few(shape, most)
    kept = collected(x, x.shape[1:])
    if not isinstance(kept, SparseArray):  # smaller as an array
        assert x.size < 64
        return
    n, events = len(x), np.count_nonzero(x)
    blocks = n * -(-x[0].size // BLOCK)
    assert kept.nbytes == 2 * events + 8 * (blocks + 1) + (events if x.max() > 1 else 0)
    assert (kept.shape, kept.ndim, kept.size, kept.dtype, len(kept)) == (x.shape, x.ndim, x.size, x.dtype, n)
    assert (kept.min(), kept.max(), float(kept.mean())) == (x.min(), x.max(), float(x.mean()))
    chosen = RNG.integers(0, n, 4)
    keys = (0, -1, slice(1, n), slice(None, None, 2), chosen, chosen.tolist(), x[:, 0].reshape(n, -1)[:, 0] == 0)
    for key in (*keys, (0, 1), (slice(0, 2), 1), (..., 0), (chosen, 0), np.zeros(n, bool), slice(0, 0)):
        np.testing.assert_array_equal(kept[key], x[key])
        assert type(kept[key]) is type(x[key])
    for key in keys[2:]:
        part = kept.only(key)
        assert isinstance(part, SparseArray)
        np.testing.assert_array_equal(part, x[key])
        np.testing.assert_array_equal(some(part, slice(1)), x[key][:1])
    with pytest.raises(IndexError):
        kept[n]
    for shape in ((n, -1), (n, 1, *x.shape[1:])):
        assert isinstance(kept.reshape(*shape), SparseArray)
        np.testing.assert_array_equal(kept.reshape(shape), x.reshape(shape))
    np.testing.assert_array_equal(kept.reshape(-1), x.reshape(-1))
    np.testing.assert_array_equal(kept == 1, x == 1)
    np.testing.assert_array_equal(kept.sum(axis=0), x.sum(axis=0))
    np.testing.assert_array_equal(kept.max(axis=0), x.max(axis=0))
    for other in (pickle.loads(pickle.dumps(kept)), copy.deepcopy(kept)):
        np.testing.assert_array_equal(other, x)


def test_what_is_not_sparse_stays_an_array():
    for x in (few((5, 40, 30), share=0.4), few((5, 40, 30)).astype(np.float32), few((50, 4))):
        assert sparse(x) is x
    assert isinstance(collected(few((5, 40, 30), share=0.7), (40, 30)), np.ndarray)
    x = few((5, 40, 30))
    kept = sparse(x)
    assert isinstance(kept, SparseArray)
    assert sparse(kept) is kept


def recording(number, side, events=300):
    rng, found = np.random.default_rng(number), np.zeros(events, EVENT)
    found["t"] = np.sort(rng.integers(0, 10**6, events))
    found["p"] = rng.integers(0, 2, events)
    for axis in "xy":
        found[axis] = rng.integers(0, side, events)
    return found


def test_long_recordings_need_the_memory_of_their_events():
    """100 recordings of 128×128 pixels in 50 steps are 164 MB as frames, and 60 KB as events."""
    n, steps, side = 100, 50, 128
    tracemalloc.start()
    (frames,), notes = as_frames([(recording(i, side) for i in range(n))], steps, side, side, "time", 255)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dense = n * steps * 2 * side * side
    assert frames.size == dense
    assert frames.nbytes <= 3 * 300 * n + 8 * (n * -(-dense // n // BLOCK) + 1)
    assert peak < dense / 4
    assert (int(frames.sum()), notes) == (300 * n, ())
    np.testing.assert_array_equal(frames[7], to_frames(recording(7, side), steps, side, side).counts)
    with pytest.raises(UsageError, match="do not fit into memory"):
        as_frames([], 2**31, side, side)


def test_files_and_folders_are_kept_so(tmp_path):
    for label in ("left", "right"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(5):
            np.save(tmp_path / "set" / label / f"{number}.npy", recording(number, 20))
    split = load_data(str(tmp_path / "set"), width=20, height=20, num_steps=40)
    assert isinstance(split.x_train, SparseArray)
    assert split.x_train.nbytes + split.x_test.nbytes < 10 * 40 * 2 * 20 * 20 / 15
    np.testing.assert_array_equal(
        split.x_test, [to_frames(recording(number, 20), 40, 20, 20, "time", 1).counts for number in _drawn(split)]
    )
    x = few((12, 30, 20))
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(12) % 2)
    found = load_npz(tmp_path / "a.npz")
    assert isinstance(found.x_train, SparseArray)
    given = from_arrays(x, np.arange(12) % 2)
    assert isinstance(given.x_train, np.ndarray)  # as it was given
    for half in ("x_train", "x_test"):
        np.testing.assert_array_equal(getattr(found, half), getattr(given, half))
    assert found.with_channels().x_train.shape == given.with_channels().x_train.shape
    assert isinstance(found.first(3, 2).x_train, SparseArray)
    assert prepare(found).record == prepare(given).record
    assert prepare(found).notes[:-1] == prepare(given).notes[:-1]


def _drawn(split):
    """The recordings' numbers in the test part, found by their frames."""
    all_frames = [to_frames(recording(number, 20), 40, 20, 20, "time", 1).counts for number in range(5)]
    return [next(n for n, f in enumerate(all_frames) if (f == x).all()) for x in split.x_test[:]]


def test_training_is_the_same_bit_for_bit():
    x, y = few((60, 12, 30)), np.arange(60) % 3
    x[np.arange(60), 2, 3 * y] = 1
    found = []
    for data in (x, sparse(x)):
        trainer = Trainer(mlp((30, 16, 3), time_steps=12), OTTT("sequence"), batch_size=16, seed=3)
        trainer.fit(data, y, 2)
        found.append((trainer.net, evaluate(trainer.net, data, y)))
    (dense, first), (kept, second) = found
    for a, b in zip(dense.parameters(), kept.parameters(), strict=True):
        assert torch.equal(a, b)
    np.testing.assert_array_equal(first.predictions, second.predictions)
    assert dense.data == kept.data
