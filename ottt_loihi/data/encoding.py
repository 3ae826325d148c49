"""Binary rate coding: an image becomes T frames of spikes."""

from __future__ import annotations

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.codings import encode
from ottt_loihi.data.description import Step
from ottt_loihi.errors import UsageError


def rate_code(images: np.ndarray, num_steps: int, seed: int = 0, indices: np.ndarray | None = None) -> np.ndarray:
    """``s_i[t] ~ Bernoulli(x_i)``: a pixel of intensity x fires with probability x at each time step.

    A sample's spikes depend on ``seed`` and its index alone, not on the batch it is in.

    Parameters
    ----------
    images
        floats in [0, 1], ``(n, *shape)``
    num_steps
        time steps T ≥ 1
    seed
        any non-negative integer; another seed gives other spikes
    indices
        ``(n,)`` the samples' numbers in their data set; default 0 … n − 1

    Returns
    -------
    uint8 ``(n, num_steps, *shape)`` of 0 and 1

    Raises
    ------
    UsageError
        for NaN or intensities outside [0, 1], ``num_steps < 1``, a negative seed, or as many indices as not images
    """
    images = np.asarray(images)
    checks.integer(num_steps, "rate_code: num_steps")
    checks.integer(seed, "rate_code: seed", 0)
    if images.dtype.kind not in "biuf" or not images.ndim:
        raise UsageError(f"rate_code: expected an array (n, …) of numbers, got {images.dtype} of shape {images.shape}")
    return encode(images, Step("rate"), num_steps, seed, indices)
