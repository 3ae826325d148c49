"""A user's own samples, on which an imported network is compared, calibrated and replayed."""

from __future__ import annotations

import math

import numpy as np

from ottt_loihi.converters.frameworks.convert import Imported
from ottt_loihi.data.registry import located
from ottt_loihi.errors import UsageError
from ottt_loihi.training.config import Config, override
from ottt_loihi.training.sources import keep_description


def adopt(imported: Imported, data: str | None, encoding: str | None) -> list[str]:
    """Record the data and their coding in an imported network, as ``ottt-train --data --encoding`` does; return notes.

    Raises
    ------
    UsageError
        for samples of another shape, number of steps or classes than the network's, or a coding that the module, which
        shows one frame to every step, does not take
    """
    net, constant = imported.network, imported.form == "constant"
    if constant and encoding is None and data is not None:
        encoding = "constant"
    if constant and encoding not in (None, "constant"):
        raise UsageError(f"--encoding {encoding}: the module shows one frame to every step; expected constant")
    if data is None:
        if encoding is not None:
            raise UsageError("--encoding: says how samples become spikes; give --data with it")
        note = "the module shows one frame to every step, and the chip is sent 0 and 1; --data sends pixels, 0 … 255"
        return [note] if constant else []
    config = override(Config(), {"data.name": data} | ({} if encoding is None else {"data.encoding": encoding}))
    split = config.load_data()
    if len(net.input_shape) == 3:
        split = split.with_channels()
    if split.input_shape != net.input_shape and math.prod(split.input_shape) == math.prod(net.input_shape):
        split = split.reshaped(net.input_shape)
    prepared = config.prepare(split)
    if prepared.input_shape != tuple(net.input_shape):
        raise UsageError(f"--data: the module takes {tuple(net.input_shape)}, these samples are {prepared.input_shape}")
    if prepared.record.time_axis and prepared.record.time_steps != net.time_steps:
        raise UsageError(
            f"--data: the samples have {prepared.record.time_steps} time steps, --time-steps says {net.time_steps}"
        )
    if prepared.split.num_classes > net.num_classes:
        raise UsageError(f"--data: {prepared.split.num_classes} classes, and the module has {net.num_classes} outputs")
    keep_description(net, prepared.record)
    coding = prepared.record.coding
    net.provenance |= {"data": located(data), "encoding": {"name": coding.name, "options": dict(coding.options)}}
    return list(prepared.notes)


def repeated_in_time(x: np.ndarray, num_steps: int) -> np.ndarray:
    """Return samples ``(n, T, …)``; those of one frame, ``(n, 1, …)``, show it at every step."""
    return np.repeat(x, num_steps, axis=1) if x.shape[1] == 1 else x
