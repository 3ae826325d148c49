"""Preparation of a data set for training: scaling, coding, and the record of both.

The range of each channel is fitted on the training samples alone, without those held out for validation.
The record goes with the network, and :func:`prepare_like` brings other data into the same form with the same numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.codings import CODINGS, coded_shape, encode, message_value, parse_coding
from ottt_loihi.data.codings.graded import LEVELS
from ottt_loihi.data.description import DataDescription, Step, describe_split
from ottt_loihi.data.registry import load_data, loader_options
from ottt_loihi.data.sparse import pieces, some
from ottt_loihi.data.split import Split
from ottt_loihi.errors import UsageError

SCALES = ("auto", "channel", "all", "none")
SHOWN = 6  # channels in a message
NOT_LOADERS = ("name", "encoding", "augmentations", "scale", "quantile")  # keys of [data] that no loader gets


@dataclass(frozen=True)
class Prepared:
    """Data as a network is trained on them.

    Attributes
    ----------
    split
        values in the range that the coding needs
    record
        what a sample is, what was done to it, and its coding
    notes
        sentences for people: what was found and decided
    """

    split: Split
    record: DataDescription
    notes: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of a time step of the network's input."""
        return coded_shape(self.record.coding, self.record.shape)


def prepare(
    split: Split,
    encoding: Any = None,
    scale: str = "auto",
    quantile: float = 0.0,
    held: np.ndarray | None = None,
) -> Prepared:
    """Bring a data set into the range of its coding, and describe it.

    Parameters
    ----------
    split
        the data set
    encoding
        a coding (:func:`~ottt_loihi.data.codings.parse_coding`). None: ``frames`` for spikes, ``graded`` for counts and
        analog values with a time axis, ``rate`` without one. ``frames`` of counts and of analog values ≥ 0 are graded
        messages, whose unit is taken from the largest training value
    scale
        ``"channel"``: each channel to [0, 1] by its lowest and highest training value; ``"all"``: all channels by one
        pair; ``"none"``; ``"auto"``: where the coding needs [0, 1] and the training values are elsewhere, channels of
        a sensor ``(C,)`` each by its own range, other samples by one for all
    quantile
        share of the training values below the low end, and above the high end, in [0, 0.5): they are clipped
    held
        bool ``(n,)``, training samples that are held out to choose the best network
        (:func:`~ottt_loihi.data.split.held_out`): no range is fitted on them

    Raises
    ------
    UsageError
        for a coding that does not fit the data, or values that are not finite
    """
    checks.one_of(scale, "data.scale", SCALES)
    checks.number(quantile, "data.quantile", 0, 0.5, below=True)
    where = split.name or "data"
    found = describe_split(split, "frames")
    asked = None if encoding is None else parse_coding(encoding)
    coding = _chosen(found, asked, where)
    notes: list[str] = list(_constant_channels(split))
    step = None
    scaled, fitted = _needs_scale(found, coding, scale), split.x_train
    if held is not None and found.values == "analog" and (scaled or "unit" in coding.options):
        fitted = some(split.x_train, ~held)
        coding = _chosen(replace(found, value_range=(float(fitted.min()), float(fitted.max()))), asked, where)
    if scaled:
        per_channel = scale == "channel" or (scale == "auto" and len(split.input_shape) == 1)
        step = fit_scale(fitted, per_channel, quantile, split.time_axis)
    elif found.values == "analog" and "unit" in coding.options:
        step = Step("clip", {"low": 0.0, "high": coding.options["unit"] * LEVELS})
    split = split if step is None else _changed(split, step, notes)
    record = replace(describe_split(split, coding), preprocessing=() if step is None else (step,))
    if scaled:  # whatever the numbers look like
        record = replace(record, values="analog", value_range=(0.0, 1.0))
    split = _as_floats(split, coding)
    _try(split, record, where)
    return Prepared(split, record, (*split.notes, *notes, _said(where, record, asked)))


def prepare_like(split: Split, record: DataDescription) -> tuple[Split, tuple[str, ...]]:
    """Return other data in the form that a network was trained on, and sentences about what was changed.

    Raises
    ------
    UsageError
        for samples of another shape, number of time steps or kind, or labels outside the network's classes
    """
    where = split.name or "data"
    if split.time_axis != record.time_axis:
        has, needs = ("a", "none") if split.time_axis else ("no", "one")
        raise UsageError(f"{where}: its samples have {has} time axis, the network was trained on data with {needs}")
    if split.input_shape != record.shape and math.prod(split.input_shape) == math.prod(record.shape):
        split = split.reshaped(record.shape)
    if split.num_steps != record.time_steps:
        raise UsageError(f"{where}: expected samples of {record.time_steps} time steps, got {split.num_steps}")
    if split.input_shape != record.shape:
        raise UsageError(f"{where}: expected samples of shape {record.shape}, got {split.input_shape}")
    if split.dt is not None and record.dt is not None and not np.isclose(split.dt, record.dt, rtol=1e-6):
        raise UsageError(f"{where}: expected time steps of {record.dt:g} s, got {split.dt:g} s")
    notes: list[str] = list(split.notes)
    split = _same_classes(split, record, where, notes)
    for step in record.preprocessing:
        split = _changed(split, step, notes)
    split = _as_floats(split, record.coding)
    for part in ("x_train", "x_test"):
        record.check(getattr(split, part), f"{where}: {part}")
    return split, tuple(notes)


def load_like(
    name: str,
    record: DataDescription | None,
    options: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> tuple[Split, tuple[str, ...]]:
    """Return a data set in the form that a network was trained on, and sentences about what was changed.

    Parameters
    ----------
    name
        of a data set, or a path (:func:`~ottt_loihi.data.load_data`)
    record
        the network's; None: the data are taken as they are
    options
        of the loader in the training; those that this loader does not have are left out, which matters only for
        another data set
    """
    known = loader_options(name, folder)
    chosen = {key: value for key, value in (options or {}).items() if key in known}
    if record is None:
        return load_data(name, folder, **chosen), ()
    if "time_axis" in known:
        chosen.setdefault("time_axis", record.time_axis)
    if "num_steps" in known and record.time_axis:
        chosen.setdefault("num_steps", record.time_steps)
    return prepare_like(load_data(name, folder, **chosen), record)


def fit_scale(x: np.ndarray, per_channel: bool, quantile: float, time_axis: bool) -> Step:
    """Return the step that brings training samples to [0, 1], with the numbers found on them."""
    axes = (0, 1) if time_axis else (0,)
    if not per_channel:
        axes = tuple(range(x.ndim))
    if quantile:
        low, high = np.quantile(x, (quantile, 1 - quantile), axis=axes)
    else:
        low, high = x.min(axis=axes), x.max(axis=axes)
    return Step("scale", {"low": np.asarray(low, np.float64), "high": np.asarray(high, np.float64)})


def apply_scale(x: np.ndarray, step: Step) -> tuple[np.ndarray, int]:
    """Return ``(x − low) / (high − low)``, float32 in [0, 1], and how many values were clipped to it.

    A channel whose low and high are equal becomes 0.
    """
    low, high = (np.asarray(step.options[name], np.float64) for name in ("low", "high"))
    width = np.where(high > low, high - low, 1.0)
    scaled, clipped = np.empty(x.shape, np.float32), 0
    for chosen in pieces(x):
        part = (x[chosen].astype(np.float64) - low) / width
        inside = np.clip(part, 0.0, 1.0)
        clipped += int((inside != part).sum())
        scaled[chosen] = np.where(high > low, inside, 0.0)
    return scaled, clipped


def apply_clip(x: np.ndarray, step: Step) -> tuple[np.ndarray, int]:
    """Return x, float32, within the step's low and high, and how many values were outside."""
    low, high = np.float32(step.options["low"]), np.float32(step.options["high"])
    return np.clip(x, low, high).astype(np.float32), int(((x < low) | (x > high)).sum())


PREPROCESSING = {"scale": apply_scale, "clip": apply_clip}


def spikes_per_sample(prepared: Prepared, num_steps: int, count: int = 200) -> float:
    """Return the mean number of input spikes, or of messages that are not 0, of training samples drawn over all."""
    split, record = prepared.split, prepared.record
    chosen = np.random.default_rng(0).permutation(len(split.x_train))[:count]
    total = 0
    for index in chosen:
        x = split.x_train[index : index + 1]
        total += int((encode(x, record.coding, num_steps, 1, np.array([index]), time_axis=record.time_axis) != 0).sum())
    return total / len(chosen)


def _chosen(found: DataDescription, asked: Step | None, where: str) -> Step:
    """Return the coding that was asked for, or the default of such data, with the unit of graded messages."""
    if asked is None:
        asked = Step("frames" if found.time_axis else "rate")
        if found.values == "analog" and found.time_axis:
            return Step("graded")
    if not CODINGS[asked.name].takes(found.time_axis):
        names = [name for name, other in CODINGS.items() if other.takes(found.time_axis)]
        have = "frames with a time axis", "samples without a time axis (--time-axis if they have)"
        what = have[not found.time_axis]
        raise UsageError(f"{where}: encoding: the data are {what}, expected {', '.join(names)}, got {asked.name!r}")
    if asked.name not in ("frames", "delays", "slots") or found.values == "spikes":
        return asked
    if asked.name != "frames":
        raise UsageError(f"{where}: encoding: {asked.name} needs spikes, the data are {found.values}; choose another")
    low, high = found.value_range or (0.0, 1.0)
    if low < 0:
        raise UsageError(
            f"{where}: frames of values in [{low:g}, {high:g}] are no spikes, and messages cannot be negative here; "
            "choose --encoding graded, regular or delta, which scale them first"
        )
    return Step("graded", {"unit": 1.0 if found.values == "counts" and high <= LEVELS else (high or 1.0) / LEVELS})


def _needs_scale(found: DataDescription, coding: Step, scale: str) -> bool:
    if scale == "none" or (found.values == "spikes" and scale == "auto"):
        return False
    if scale != "auto":
        return True
    if coding.name == "graded" and "unit" in coding.options:
        return False
    low, high = found.value_range or (0.0, 1.0)
    ranged = CODINGS[coding.name].unit_range or coding.name in ("graded", "delta")
    return ranged and not (low >= 0 and high <= 1)


def _changed(split: Split, step: Step, notes: list[str]) -> Split:
    """Return the data after one step of preprocessing; ``notes`` gets the number of clipped values."""
    if step.name not in PREPROCESSING:
        raise UsageError(f"preprocessing: {step.name!r:.40} is unknown; a newer ottt-loihi may have it")
    halves = {}
    for part in ("x_train", "x_test"):
        x = getattr(split, part)
        halves[part], clipped = PREPROCESSING[step.name](x, step)
        if clipped:
            notes.append(
                f"{clipped:,} of {x.size:,} values of {part} are outside the range that was fitted, and were clipped"
            )
    return replace(split, **halves)


def _constant_channels(split: Split) -> list[str]:
    """Return a sentence if channels of a sensor never change. Images are exempt: their edges never change."""
    x = split.x_train
    if len(split.input_shape) > 1 or len(x) < 2:
        return []
    axes = (0, 1) if split.time_axis else (0,)
    low, high = (
        reduced([getattr(x[part], name)(axis=axes) for part in pieces(x)], axis=0)
        for name, reduced in (("min", np.min), ("max", np.max))
    )
    still = np.flatnonzero(low == high)
    if not len(still):
        return []
    named = ", ".join(map(str, still[:SHOWN])) + ("…" if len(still) > SHOWN else "")
    return [f"{len(still)} of {x.shape[-1]} channels never change in the training samples and say nothing: {named}"]


def _same_classes(split: Split, record: DataDescription, where: str, notes: list[str]) -> Split:
    """Return the data with the network's labels: classes are matched by name, numbers without names by their digits.

    ``notes`` gets a sentence where names and numbers are matched by their order.
    """
    labels = np.concatenate([split.y_train, split.y_test])
    mine, theirs = (each.class_names or tuple(map(str, range(each.num_classes))) for each in (split, record))
    named = split.class_names or record.class_names
    both = split.class_names and record.class_names
    if both or (named and all(name.isdecimal() for name in named)):
        place = {name: index for index, name in enumerate(theirs)}
        used = mine if split.class_names else [mine[label] for label in np.unique(labels)]
        if unknown := [name for name in used if name not in place]:
            known = ", ".join(theirs[:8])
            raise UsageError(f"{where}: the network knows no class {unknown[0]!r:.40}; it has {known}")
        table = np.array([place.get(name, -1) for name in mine], np.int64)
        labels = {"y_train": table[split.y_train], "y_test": table[split.y_test]}
        return replace(split, **labels, num_classes=record.num_classes, class_names=record.class_names)
    if int(labels.max()) >= record.num_classes:
        hint = "; they begin at 1, subtract 1" if labels.min() == 1 and labels.max() == record.num_classes else ""
        raise UsageError(
            f"{where}: expected labels 0 … {record.num_classes - 1}, got {labels.min()} … {labels.max()}{hint}"
        )
    if named:
        first = ", ".join(f"{number} is {name}" for number, name in enumerate(named[:8]))
        notes.append(f"{where}: only one side has names of classes; they are matched by their order: {first}")
    return replace(split, num_classes=record.num_classes, class_names=record.class_names)


def _try(split: Split, record: DataDescription, where: str) -> None:
    """Refuse before training what the coding refuses later; nothing is fitted on the test samples."""
    record.check(split.x_test, f"{where}: x_test")
    kind = CODINGS[record.coding.name]
    for part, x in (("x_train", split.x_train), ("x_test", split.x_test)):
        top = 1.0 if kind.unit_range else message_value(record.coding) * LEVELS if kind.messages else np.inf
        low, high = float(x.min()), float(x.max())
        if (kind.unit_range or kind.messages) and (low < 0 or high > top * (1 + 1e-6)):
            raise UsageError(
                f"{where}: {part}: {record.coding.name} needs values in [0, {top:g}], got [{low:g}, {high:g}]; leave "
                "data.scale to auto, or scale them first"
            )
    encode(split.x_train[:1], record.coding, record.time_steps or 1, time_axis=record.time_axis)


def _as_floats(split: Split, coding: Step) -> Split:
    """Return the data as float32 where the coding needs intensities."""
    if not CODINGS[coding.name].unit_range or split.x_train.dtype == np.float32:
        return split
    return split.with_samples(lambda x: x.astype(np.float32))


def _said(where: str, record: DataDescription, asked: Step | None) -> str:
    why = "" if asked is not None else "; --encoding chooses another"
    fitted = "" if not record.preprocessing else ", scaled to [0, 1] by the training samples"
    return f"{where}: {record.values}, {record.form}{fitted}; sent as {record.coding}{why}"


def options_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a ``[data]`` table that are the loader's own."""
    return {key: value for key, value in table.items() if key not in NOT_LOADERS}
