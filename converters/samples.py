"""Samples of a data set as the chip hears them: spikes, or graded messages in 0 … 255."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters.quantize.layer import PIXEL_LEVELS
from ottt_loihi.sim.inference.host import MESSAGE_MAX, MESSAGE_MIN
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks
from ottt_loihi.data import load_data, rate_code
from ottt_loihi.errors import UsageError

DRAW_SEED = 0
AT_ONCE = 4096  # images whose float64 values are in memory

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
    split, x, y = _part(data, count, options, part)
    if input_form is not None:
        return as_messages(x, num_steps, input_form), y
    return as_spikes(split, x, num_steps, seed), y


def _part(data: str, count: int, options: Mapping[str, Any] | None, part: str) -> tuple[Split, np.ndarray, np.ndarray]:
    """The data set, and ``count`` samples and labels that are drawn over one part of it."""
    split = load_data(data, **(options or {}))
    checks.integer(count, "check")
    x, y = (split.x_test, split.y_test) if part == "test" else (split.x_train, split.y_train)
    chosen = drawn(len(x), count)
    return split, x[chosen], y[chosen]


def drawn(samples: int, count: int) -> np.ndarray:
    """Return the places of ``count`` of so many samples, ascending and the same every time; all if there are fewer."""
    if count >= samples:
        return np.arange(samples)
    return np.sort(np.random.default_rng(DRAW_SEED).permutation(samples)[:count])


def chip_samples(
    chip: ChipNetwork,
    data: str,
    count: int,
    seed: int = 0,
    part: str = "test",
    input_range: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`samples` in the form and shape that an exported network was made for: what ``run`` takes.

    Parameters
    ----------
    input_range
        of a network whose file scales its input (``chip.input_transform``): what the data's 0 and 1 were when it was
        trained

    Raises
    ------
    UsageError
        where such a network gets no ``input_range``, or another one gets it
    """
    options = chip.data_set.options if chip.data_set is not None and data == chip.data_set.name else None
    transform = chip.input_transform
    if transform is None and input_range is not None:
        raise UsageError("--input-range: the network's file describes no scaling of its input")
    if transform is not None:
        if input_range is None:
            weight, bias = transform
            raise UsageError(
                f"the network computes {weight:g}·x + {bias:g} of its input, and its file does not say in which range "
                "x was; give it with --input-range, -1,1 for images that were normalised to −1 … 1, or 0,1"
            )
        split, chosen, y = _part(data, count, options, part)
        x, labels = as_scaled(chosen, chip.num_steps, split.time_axis, transform, input_range), y
    else:
        form = None if chip.input_form == "spikes" else chip.input_form
        x, labels = samples(data, chip.num_steps, count, seed, options, form, part)
    frame = chip.input_shape if chip.host is None else chip.host.input_shape
    return shaped(x, frame, data), labels


def shaped(x: np.ndarray, input_shape: tuple[int, ...], data: str) -> np.ndarray:
    """Samples ``(n, T, …)`` in a network's input shape; grey images get and lose their channel so."""
    if x[0, 0].size != math.prod(input_shape):
        raise UsageError(f"data {data}: its samples are {x.shape[2:]}, the network expects {input_shape}")
    return x.reshape(len(x), x.shape[1], *input_shape)


def as_messages(images: np.ndarray, num_steps: int, input_form: str) -> np.ndarray:
    """Images in 0 … 1 as graded messages 0 … 255, int16 ``(n, num_steps, *shape)``: at every step, or injected once.

    With ``"bias"`` they go to the host's part of the network, which ``run`` applies.
    """
    x = np.zeros((len(images), num_steps, *images.shape[1:]), np.int16)
    for start in range(0, len(images), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        pixels = np.round(np.asarray(images[part], np.float64) * PIXEL_LEVELS)
        if pixels.min() < 0 or pixels.max() > PIXEL_LEVELS:
            raise UsageError(f"images: expected values in 0 … 1, got {images.min():g} … {images.max():g}")
        x[part, : 1 if input_form == "inject" else None] = pixels[:, None]
    return x


def as_scaled(
    x: np.ndarray,
    num_steps: int,
    time_axis: bool,
    transform: tuple[float, float],
    input_range: tuple[float, float],
) -> np.ndarray:
    """Samples in 0 … 1 as messages ``round(weight·(low + (high − low)·x) + bias)``, int16 ``(n, num_steps, *shape)``.

    Raises :class:`UsageError` for messages that the 13 bits of a bias do not hold, or another number of time steps.
    """
    (weight, bias), (low, high) = transform, input_range
    messages = np.round(weight * (low + (high - low) * np.asarray(x, np.float64)) + bias)
    if messages.min() < MESSAGE_MIN or messages.max() > MESSAGE_MAX:
        raise UsageError(
            f"input: messages reach {messages.min():,.0f} … {messages.max():,.0f}, a bias holds {MESSAGE_MIN} … "
            f"{MESSAGE_MAX}; is --input-range {low:g},{high:g} right?"
        )
    if not time_axis:
        return np.repeat(messages[:, None].astype(np.int16), num_steps, axis=1)
    if messages.shape[1] != num_steps:
        raise UsageError(f"input: expected samples of {num_steps} time steps, got {messages.shape[1]}")
    return messages.astype(np.int16)


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
