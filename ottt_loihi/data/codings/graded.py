"""Values sent as they are: graded messages of 8 bits, frames of spikes, and images that stay the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

LEVELS = 255  # the largest message


def graded(values: np.ndarray, seed: int, indices: np.ndarray, *, unit: float = 1 / LEVELS) -> np.ndarray:
    """Return messages ``round(x / unit)``, int16 ``(n, T, *shape)`` in 0 … 255, at every time step.

    The float network gets ``unit`` times the message, so it trains on what the chip receives.

    Parameters
    ----------
    values
        ``(n, T, *shape)`` in 0 … 255·unit
    unit
        value of a message of 1, > 0: 1/255 for values in [0, 1], 1 for counts of events

    Raises
    ------
    UsageError
        for a value that no message holds
    """
    checks.number(unit, "graded.unit", 0, above=True)
    messages = np.rint(np.asarray(values, np.float64) / unit)
    if messages.size and not (messages.min() >= 0 and messages.max() <= LEVELS):
        raise UsageError(
            f"encoding: graded messages hold 0 … {LEVELS * unit:g}, got values in "
            f"[{values.min():g}, {values.max():g}]; scale them"
        )
    return messages.astype(np.int16)


def constant(
    values: np.ndarray,
    seed: int,
    indices: np.ndarray,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> np.ndarray:
    """Return messages ``round(255·x)``, the same at every step; values in [0, 1]. Training gets x itself.

    With ``mean`` and ``std``, a number for each channel, training gets (x − mean)/std. A chip is still sent x, and the
    export folds both into the weights and biases of what sees the image.

    Raises
    ------
    UsageError
        for a mean without std, or numbers out of range
    """
    moments = {"mean": mean, "std": std}
    for name, numbers in moments.items() if moments != {"mean": None, "std": None} else ():
        if not isinstance(numbers, (list, tuple)) or not numbers:
            raise UsageError(f"constant.{name}: expected a number for each channel, got {numbers!r:.80}")
        for number in numbers:
            checks.number(number, f"constant.{name}", *((0.0,) if name == "std" else ()), above=True)
    if mean is not None and len(mean) != len(std):
        raise UsageError(f"constant: expected as many means as stds, got {len(mean)} and {len(std)}")
    return graded(values, seed, indices)


def frames(values: np.ndarray, seed: int, indices: np.ndarray) -> np.ndarray:
    """Return spikes as they are, uint8 ``(n, T, *shape)``; UsageError for anything but 0 and 1 in any dtype."""
    spikes = np.asarray(values)
    found = spikes.astype(np.uint8)
    if spikes.size and (found.max() > 1 or (found != spikes).any()):
        raise UsageError(
            f"encoding: frames are spikes, 0 or 1, got values in [{spikes.min():g}, {spikes.max():g}]; "
            "choose --encoding graded for counts and real numbers"
        )
    return found
