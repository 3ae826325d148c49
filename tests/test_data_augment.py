"""The paper's augmentations: what they do to pixels, and that chance comes from the generator alone."""

import numpy as np
import pytest
from PIL import Image

from ottt_loihi.data.augment import augment, cutout, normalize, random_crop, random_flip, resize
from ottt_loihi.errors import UsageError

X = np.random.default_rng(0).random((50, 3, 12, 10), np.float32)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("function", [random_crop, random_flip, cutout])
def test_pure_and_reproducible(function):
    before = X.copy()
    one = function(X, rng())
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(one, function(X, rng()))
    assert not np.array_equal(one, function(X, rng(1)))
    assert (one.shape, one.dtype) == (X.shape, X.dtype)


def test_crop_is_a_shift_with_zeros():
    cropped, shifts = random_crop(X, rng(), pad=4), set()
    padded = np.pad(X, ((0, 0), (0, 0), (4, 4), (4, 4)))
    for index, image in enumerate(cropped):
        places = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if np.array_equal(image, padded[index, :, top : top + 12, left : left + 10])
        ]
        assert len(places) == 1
        shifts.add(places[0])
    assert {top for top, _ in shifts} == {left for _, left in shifts} == set(range(9))
    np.testing.assert_array_equal(random_crop(X, rng(), pad=0), X)


def test_flip_half_of_them():
    flipped = random_flip(X, rng())
    mirrored = [np.array_equal(image, old[..., ::-1]) for image, old in zip(flipped, X)]
    kept = [np.array_equal(image, old) for image, old in zip(flipped, X)]
    assert all(one != other for one, other in zip(mirrored, kept))
    assert 12 < sum(mirrored) < 38
    np.testing.assert_array_equal(random_flip(X, rng(), p=1), X[..., ::-1])
    np.testing.assert_array_equal(random_flip(X, rng(), p=0), X)


def test_cutout_is_one_grey_rectangle():
    x = rng().random((400, 3, 32, 32), np.float32)
    cut = cutout(x, rng())
    changed = (cut != x).all(1)
    chosen = changed.any((1, 2))
    assert 150 < chosen.sum() < 250
    shares = []
    for image, mask in zip(cut[chosen], changed[chosen]):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        rectangle = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert mask[rectangle].all()
        assert len(np.unique(image[:, rectangle[0], rectangle[1]])) == 1
        shares.append(mask.mean())
    assert 0.01 < min(shares) < 0.05
    assert 0.35 < max(shares) <= 0.4
    assert np.ptp(cutout(x[:3], rng(), p=1, area=(1, 1), ratio=(1, 1)), (1, 2, 3)).max() == 0


def test_all_frames_of_a_sample_alike():
    frames = np.repeat(X[:, None], 4, axis=1)
    for function in (random_crop, random_flip, cutout):
        out = function(frames, rng())
        np.testing.assert_array_equal(out, np.repeat(out[:, :1], 4, axis=1))
    counts = (frames * 9).astype(np.uint8)
    assert random_crop(counts, rng()).dtype == np.uint8


@pytest.mark.parametrize("size", [(48, 48), (5, 7), (12, 10), (24, 33)])
def test_resize_is_pil_s_bilinear(size):
    ours = resize(X[:3], size)
    assert ours.dtype == np.float32
    for image, old in zip(ours.reshape(-1, *size), X[:3].reshape(-1, 12, 10)):
        theirs = Image.fromarray(old).resize(size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_allclose(image, np.asarray(theirs), atol=2e-6)


def test_resize_of_counts_and_frames():
    counts = np.full((2, 3, 2, 128, 128), 7, np.uint8)
    np.testing.assert_allclose(resize(counts, (48, 48)), np.full((2, 3, 2, 48, 48), 7), rtol=1e-6)


def test_normalize():
    out = normalize(X, (0.5, 0, 1), (0.5, 1, 2))
    np.testing.assert_allclose(out[:, 0], X[:, 0] * 2 - 1, atol=1e-6)
    np.testing.assert_allclose(out[:, 2], (X[:, 2] - 1) / 2, atol=1e-6)


def test_by_name():
    generator = rng(5)
    expected = random_flip(cutout(random_crop(X, generator), generator), generator)
    np.testing.assert_array_equal(augment(X, ("crop", "cutout", "flip"), rng(5)), expected)
    assert augment(X, (), rng()) is X
    with pytest.raises(UsageError, match="expected names of crop, cutout, flip; got 'mixup'"):
        augment(X, ("mixup",), rng())


@pytest.mark.parametrize(
    "call",
    [
        lambda: random_crop(X, rng(), pad=-1),
        lambda: random_crop(X[0, 0], rng()),
        lambda: random_flip(X, rng(), p=1.5),
        lambda: cutout(X, rng(), p=float("nan")),
        lambda: cutout(X, rng(), area=(0.5, 0.2)),
        lambda: cutout(X, rng(), ratio=(0, 1)),
        lambda: cutout((X * 255).astype(np.uint8), rng()),
        lambda: resize(X, (0, 3)),
        lambda: resize(X[0, 0, 0], (2, 2)),
        lambda: normalize(X, (0, 0), (1, 1)),
        lambda: normalize(X, (0, 0, 0), (1, 0, 1)),
    ],
)
def test_wrong_arguments(call):
    with pytest.raises(UsageError, match=r"^(random_crop|random_flip|cutout|resize|normalize): expected"):
        call()
