"""From samples to what a network gets at every time step."""

from __future__ import annotations

import numpy as np
import torch

from ottt_loihi import checks
from ottt_loihi.data.encoding import rate_code
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.inputs import ConstantInput, Input

ENCODINGS = ("rate", "constant", "frames")


def choose_encoding(encoding: str | None, time_axis: bool) -> str:
    """The encoding of a data set: what was asked for, or ``"frames"`` with a time axis and ``"rate"`` without.

    Raises
    ------
    UsageError
        for an unknown name, or one that does not fit the data
    """
    if encoding is None:
        return "frames" if time_axis else "rate"
    checks.one_of(encoding, "encoding", ENCODINGS)
    if time_axis != (encoding == "frames"):
        kind = "frames with a time axis" if time_axis else "images without a time axis"
        allowed = "frames" if time_axis else "rate or constant"
        raise UsageError(f"encoding: the data are {kind}, expected {allowed}, got {encoding!r}")
    return encoding


def encode(x: np.ndarray, encoding: str, num_steps: int, seed: int, indices: np.ndarray) -> Input:
    """``(n, T, *input_shape)`` of samples ``(n, *input_shape)``, or of frames as they are.

    ==============  ==========================================================================================
    encoding        what the network gets
    ==============  ==========================================================================================
    ``"rate"``      spikes, each pixel with its intensity as probability; by seed and the sample's index alone
    ``"constant"``  the image itself at every step, as the paper feeds it (``ConstantInput``)
    ``"frames"``    x as it is, ``(n, T', *input_shape)``: spikes or event counts; T' is the data's own
    ==============  ==========================================================================================
    """
    if encoding == "rate":
        x = rate_code(x, num_steps, seed=seed, indices=indices)
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return ConstantInput(tensor, num_steps) if encoding == "constant" else tensor
