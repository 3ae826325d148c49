"""Samples of a data set as the chip hears them: spikes, or graded messages in 0 … 255."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters.quantize.layer import PIXEL_LEVELS
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import sim
from ottt_loihi.data import load_data, rate_code
from ottt_loihi.errors import UsageError

DRAW_SEED = 0

if TYPE_CHECKING:
    from ottt_loihi.data import Split


def samples(
    data: str,
    num_steps: int,
    count: int,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    input_form: str | None = None,
    part: str = "test",
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``count`` test (or train) samples of a data set as messages ``(n, num_steps, *shape)``, and labels.

    They are drawn over the whole part, in its order: a file may be sorted by class.
    Images are rate coded, uint8, or with an ``input_form`` graded (:func:`as_messages`); frames with a time axis are
    taken as they are; ``options``: of the data set's loader.
    """
    split = load_data(data, **(options or {}))
    if count < 1:
        raise UsageError(f"check: expected at least 1 sample, got {count}")
    x, y = (split.x_test, split.y_test) if part == "test" else (split.x_train, split.y_train)
    chosen = drawn(len(x), count)
    if input_form is not None:
        return as_messages(x[chosen], num_steps, input_form), y[chosen]
    return as_spikes(split, x[chosen], num_steps, seed), y[chosen]


def drawn(samples: int, count: int) -> np.ndarray:
    """Return the places of ``count`` of so many samples, ascending and the same every time; all if there are fewer."""
    if count >= samples:
        return np.arange(samples)
    return np.sort(np.random.default_rng(DRAW_SEED).permutation(samples)[:count])


def chip_samples(
    chip: ChipNetwork, data: str, count: int, seed: int = 0, part: str = "test"
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`samples` in the form and shape that an exported network was made for."""
    same = data == chip.recorded("training", "data", kind=str)
    options = chip.recorded("training", "data_options") if same else None
    x, labels = samples(data, chip.num_steps, count, seed, options, chip.recorded("input_form", kind=str), part)
    frame = chip.input_shape if chip.host is None else chip.host.input_shape
    return sim.host_messages(chip, shaped(x, frame, data)), labels


def shaped(x: np.ndarray, input_shape: tuple[int, ...], data: str) -> np.ndarray:
    """Samples ``(n, T, …)`` in a network's input shape; grey images get and lose their channel so."""
    if x[0, 0].size != math.prod(input_shape):
        raise UsageError(f"data {data}: its samples are {x.shape[2:]}, the network expects {input_shape}")
    return x.reshape(len(x), x.shape[1], *input_shape)


def as_messages(images: np.ndarray, num_steps: int, input_form: str) -> np.ndarray:
    """Images in 0 … 1 as graded messages 0 … 255, int16 ``(n, num_steps, *shape)``: at every step, or injected once.

    With ``"bias"`` they go to the host's part of the network (:func:`ottt_loihi.sim.host_messages`).
    """
    pixels = np.round(np.asarray(images, np.float64) * PIXEL_LEVELS)
    if pixels.min() < 0 or pixels.max() > PIXEL_LEVELS:
        raise UsageError(f"images: expected values in 0 … 1, got {images.min():g} … {images.max():g}")
    x = np.zeros((len(images), num_steps, *images.shape[1:]), np.int16)
    if input_form == "inject":
        x[:, 0] = pixels
    else:
        x[:] = pixels[:, None]
    return x


def as_spikes(split: Split, images: np.ndarray, num_steps: int, seed: int) -> np.ndarray:
    """Samples of ``split`` as spikes: images rate coded, frames with a time axis as they are, if they are spikes."""
    if not split.time_axis:
        return rate_code(images, num_steps, seed)
    if images.shape[1] != num_steps or images.max() > 1 or images.dtype.kind not in "ub":
        raise UsageError(
            f"data {split.name}: expected frames of spikes, 0 or 1, with {num_steps} steps; got {images.dtype} up to "
            f"{images.max()} with {images.shape[1]}; load them with ceiling=1 and num_steps={num_steps}"
        )
    return images.astype(np.uint8)
