"""The augmentations of OTTT's experiments, as pure functions: new arrays, all chance from the generator given.

Samples are ``(n, …, height, width)``; what lies between, channels and a time axis, is treated alike: all frames of a
sample are cropped, flipped and cut at the same place. Source: train_cifar.py and train_cifar10dvs.py of the authors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ottt_loihi.errors import UsageError


def random_crop(x: np.ndarray, rng: np.random.Generator, pad: int = 4) -> np.ndarray:
    """Pad with zeros on all sides and crop to the old size, at a place drawn uniformly for each sample.

    Raises
    ------
    UsageError
        for ``pad < 0`` or x without two axes of pixels
    """
    height, width = _pixels("random_crop", x)
    if pad < 0:
        raise UsageError(f"random_crop: expected pad ≥ 0, got {pad}")
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(pad, pad)] * 2)
    corners = rng.integers(0, 2 * pad, size=(len(x), 2), endpoint=True)
    cropped = np.empty_like(x)
    for index, (top, left) in enumerate(corners):
        cropped[index] = padded[index, ..., top : top + height, left : left + width]
    return cropped


def random_flip(x: np.ndarray, rng: np.random.Generator, p: float = 0.5) -> np.ndarray:
    """Mirror each sample left to right with probability p."""
    _pixels("random_flip", x)
    chosen = _chosen("random_flip", x, rng, p)
    flipped = x.copy()
    flipped[chosen] = x[chosen, ..., ::-1]
    return flipped


def cutout(
    x: np.ndarray,
    rng: np.random.Generator,
    p: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    ratio: tuple[float, float] = (0.4, 2.5),
) -> np.ndarray:
    """Overwrite a rectangle with one grey value, in each sample with probability p.

    The rectangle's share s of the image, its height to width ratio r and its grey value in [0, 1) are uniform, its
    size ``⌊√(s·H·W·r)⌋ × ⌊√(s·H·W/r)⌋`` cut to the image's, its place uniform: torchtoolbox's ``Cutout()``, which the
    authors use with these defaults. x: floats in [0, 1].

    Raises
    ------
    UsageError
        for p or area outside [0, 1], bounds in the wrong order, or x that is no float array
    """
    height, width = _pixels("cutout", x)
    if not (0 <= area[0] <= area[1] <= 1 and 0 < ratio[0] <= ratio[1] < np.inf) or x.dtype.kind != "f":
        raise UsageError(
            f"cutout: expected floats, 0 ≤ area ≤ 1 and 0 < ratio in ascending order; got {x.dtype}, {area}, {ratio}"
        )
    cut = x.copy()
    for index in np.flatnonzero(_chosen("cutout", x, rng, p)):
        share, shape, grey = rng.uniform(*area), rng.uniform(*ratio), rng.random()
        rows = min(int(np.sqrt(share * height * width * shape)), height)
        columns = min(int(np.sqrt(share * height * width / shape)), width)
        top, left = rng.integers(0, height - rows, endpoint=True), rng.integers(0, width - columns, endpoint=True)
        cut[index, ..., top : top + rows, left : left + columns] = grey
    return cut


def resize(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, with the triangle as wide as an output pixel when shrinking (as PIL does): float32 ``(…, *size)``.

    Both axes are linear maps: ``out = A·x·Bᵀ``, A and B of rows that sum to 1.
    """
    height, width = _pixels("resize", x)
    if len(size) != 2 or min(size) < 1:
        raise UsageError(f"resize: expected two sizes ≥ 1, got {size}")
    return _weights(height, size[0]) @ x.astype(np.float32) @ _weights(width, size[1]).T


def normalize(x: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """``(x − mean) / std`` per channel: float32 ``(…, channels, height, width)``."""
    _pixels("normalize", x)
    if x.ndim < 3 or not len(mean) == len(std) == x.shape[-3] or not all(s > 0 for s in std):
        raise UsageError(
            f"normalize: expected a mean and a positive std for each channel of {x.shape}, got {mean} and {std}"
        )
    means, stds = (np.asarray(values, np.float32)[:, None, None] for values in (mean, std))
    return (x.astype(np.float32) - means) / stds


AUGMENTATIONS = {"crop": random_crop, "cutout": cutout, "flip": random_flip}


def augment(x: np.ndarray, names: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """The named augmentations one after the other; ``("crop", "cutout", "flip")`` are the paper's for CIFAR.

    Raises
    ------
    UsageError
        for a name that is not in ``AUGMENTATIONS``
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise UsageError(f"augment: expected names of {', '.join(AUGMENTATIONS)}; got {name!r}")
        x = AUGMENTATIONS[name](x, rng)
    return x


def _pixels(function: str, x: np.ndarray) -> tuple[int, int]:
    if x.ndim < 3 or 0 in x.shape[-2:]:
        raise UsageError(f"{function}: expected samples (n, …, height, width), got shape {x.shape}")
    return x.shape[-2], x.shape[-1]


def _chosen(function: str, x: np.ndarray, rng: np.random.Generator, p: float) -> np.ndarray:
    if not 0 <= p <= 1:
        raise UsageError(f"{function}: expected a probability p in [0, 1], got {p}")
    return rng.random(len(x)) < p


def _weights(old: int, new: int) -> np.ndarray:
    """Return float32 ``(new, old)``: row i weighs the input pixels by a triangle around output pixel i's centre."""
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(old)[None, :] + 0.5 - centres) / max(scale, 1.0)
    triangle = np.maximum(1.0 - distance, 0.0)
    return (triangle / triangle.sum(1, keepdims=True)).astype(np.float32)
