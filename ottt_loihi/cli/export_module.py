"""A user's own module for ``ottt-export``, and the samples on which it is compared, calibrated and replayed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ottt_loihi.cli import command
from ottt_loihi.converters.export import Options
from ottt_loihi.converters.frameworks import check as checking
from ottt_loihi.converters.frameworks import convert, files
from ottt_loihi.converters.frameworks.convert import Imported
from ottt_loihi.converters.samples import samples_of
from ottt_loihi.data.registry import located
from ottt_loihi.errors import UsageError
from ottt_loihi.training.config import Config, override
from ottt_loihi.training.sources import keep_description


def read_module(
    text: str,
    weights: Path | None,
    input_shape: tuple[int, ...] | None,
    time_steps: int | None,
    how: dict[str, Any],
    data: tuple[str | None, str | None],
    options: Options,
) -> Imported:
    """Return the network of a user's own module, after both have run with the same spikes."""
    if input_shape is None:
        raise UsageError(
            f"{text}: a module does not store the shape of its input; give --input-shape, that of a sample at one step"
        )
    module = files.build(text)
    if weights is None:
        command.say("note", ["no --weights; the module's own are taken, as build() leaves them"])
    else:
        command.say("note", files.load_weights(module, weights))
    imported = convert.read(module, input_shape, time_steps, **how)
    command.say("note", [*imported.notes, *_adopt(imported, *data)])
    if options.check:
        net = imported.network
        x = None
        if data[0] is not None:
            x = samples_of(net, options.check, "test").x
            x = np.repeat(x, net.time_steps, axis=1) if x.shape[1] == 1 else x  # every step shows the one frame
        compared = checking.compare(module, input_shape, time_steps, x, **how)
        if not how["approximate"]:
            compared.raise_if_different()
        command.say(text, [f"{compared}; scores: {imported.readout}"])
    return imported


def _adopt(imported: Imported, data: str | None, encoding: str | None) -> list[str]:
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
