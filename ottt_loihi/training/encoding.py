"""From samples to the input of a network at every time step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ottt_loihi.data.augment import normalize
from ottt_loihi.data.codings import CODINGS, coded_shape, message_value, parse_coding
from ottt_loihi.data.codings import encode as code
from ottt_loihi.data.description import Step
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.inputs import ConstantInput, Input


def choose_encoding(encoding: Any, time_axis: bool) -> Step:
    """Return the coding of a data set: the given one, or ``frames`` with a time axis and ``rate`` without.

    Raises
    ------
    UsageError
        for an unknown name or option, or a coding that does not fit the data
    """
    if encoding is None:
        return Step("frames" if time_axis else "rate")
    step = parse_coding(encoding)
    if CODINGS[step.name].time not in ("any", "axis" if time_axis else "none"):
        kind = "frames with a time axis" if time_axis else "images without a time axis"
        allowed = [n for n, coding in CODINGS.items() if coding.time in ("any", "axis" if time_axis else "none")]
        raise UsageError(f"encoding: the data are {kind}, expected {', '.join(allowed)}, got {step.name!r}")
    return step


def fit_encoding(
    encoding: Any, shape: tuple[int, ...], input_shape: tuple[int, ...], where: str = "data"
) -> tuple[Step, bool]:
    """Return the coding of samples of a shape for a network's input, and whether they have a time axis.

    Raises
    ------
    UsageError
        for samples that the coding does not turn into the network's input
    """
    asked = None if encoding is None else parse_coding(encoding)
    for time_axis in (False, True):
        frame = shape[1 + time_axis :]
        if not frame or 0 in shape:
            continue
        if asked is None or CODINGS[asked.name].time in ("any", "axis" if time_axis else "none"):
            step = choose_encoding(asked, time_axis)
            if coded_shape(step, frame) == input_shape:
                return step, time_axis
    for time_axis in (False, True):  # the shape fits and the coding does not: say so
        if asked is not None and 0 not in shape and shape[1 + time_axis :] == input_shape:
            choose_encoding(asked, time_axis)
    frame = ", ".join(map(str, input_shape))
    coded = "" if asked is None or asked.name in ("rate", "constant", "frames") else f" after the coding {asked}"
    raise UsageError(
        f"{where}: expected images (n, {frame}) or spikes with a time axis after n{coded}, got shape {shape}"
    )


def encode(x: np.ndarray, coding: Step | str, num_steps: int, seed: int, indices: np.ndarray, time_axis: bool) -> Input:
    """Return the input ``(n, T, *input_shape)`` of samples ``(n, *shape)``, or of frames ``(n, T', *shape)``.

    Spikes and messages are those of :func:`ottt_loihi.data.codings.encode`, the messages times their value. Two codings
    are given to the network as they are: ``constant`` (a ``ConstantInput``, as the paper feeds it; with ``mean`` and
    ``std`` of each channel, (x − mean)/std) and ``frames``.
    """
    coding = parse_coding(coding)
    if coding.name in ("constant", "frames"):
        if coding.options:
            x = normalize(x, coding.options["mean"], coding.options["std"])
        tensor = torch.from_numpy(np.ascontiguousarray(x))
        return ConstantInput(tensor, num_steps) if coding.name == "constant" else tensor
    coded = code(x, coding, x.shape[1] if time_axis else num_steps, seed, indices, time_axis=time_axis)
    if CODINGS[coding.name].messages:
        coded = coded.astype(np.float32) * np.float32(message_value(coding))
    return torch.from_numpy(coded)
