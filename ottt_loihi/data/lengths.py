"""Recordings of unequal length in one array, as asked: refused, padded, or stretched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

LENGTHS = ("refuse", "pad", "stretch")
MAX_VALUES = 1 << 30


def same_length(
    recordings: Sequence[np.ndarray], lengths: str, where: str, num_steps: int | None = None, fill: float = 0.0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return recordings ``(T_i, channels)`` as float32 ``(n, T, channels)``, and a sentence about what was changed.

    Parameters
    ----------
    lengths
        ``"refuse"`` recordings of unequal length; ``"pad"``: with ``fill`` behind, longer ones are cut; ``"stretch"``:
        every recording is resampled to T steps by linear interpolation
    where
        what the message calls them
    num_steps
        T; None: the longest recording's

    Raises
    ------
    UsageError
        for unequal lengths where they are refused, recordings without a step or of other channels, or too many values
    """
    checks.one_of(lengths, "lengths", LENGTHS)
    if not recordings:
        raise UsageError(f"{where}: expected recordings, got none")
    sizes = np.array([len(r) for r in recordings])
    channels = recordings[0].shape[1]
    for index, recording in enumerate(recordings):
        if not len(recording) or recording.shape[1] != channels:
            raise UsageError(
                f"{where}: recording {index}: expected steps of {channels} channels, got {recording.shape}"
            )
    steps = int(sizes.max()) if num_steps is None else checks.integer(num_steps, "num_steps")
    if len(recordings) * steps * channels > MAX_VALUES:
        raise UsageError(f"{where}: {len(recordings):,} recordings of {steps:,} steps do not fit into memory")
    other = int((sizes != steps).sum())
    if other and lengths == "refuse":
        raise UsageError(
            f"{where}: {other} of {len(sizes)} recordings have not {steps} steps but {sizes.min()} … {sizes.max()}; "
            "choose lengths=pad or lengths=stretch"
        )
    found = np.full((len(recordings), steps, channels), fill, np.float32)
    for of_one, recording in zip(found, recordings):
        if lengths == "stretch" and len(recording) != steps:
            of_one[...] = stretched(recording, steps)
        else:
            of_one[: len(recording)] = recording[:steps]
    if not other:
        return found, ()
    longer = int((sizes > steps).sum())
    did = (
        "stretched" if lengths == "stretch" else f"padded with {fill:g}" + (f", {longer} of them cut" if longer else "")
    )
    said = f"{where}: {other} of {len(sizes)} recordings of {sizes.min()} … {sizes.max()} steps were {did} to {steps}"
    return found, (said,)


def stretched(recording: np.ndarray, steps: int) -> np.ndarray:
    """Return a recording ``(T, channels)`` at ``steps`` evenly spaced times, linearly interpolated, float64."""
    places = np.linspace(0, len(recording) - 1, steps)
    low = np.minimum(places.astype(np.int64), len(recording) - 1)
    high = np.minimum(low + 1, len(recording) - 1)
    part = (places - low)[:, None]
    values = np.asarray(recording, np.float64)
    return values[low] * (1 - part) + values[high] * part
