"""Samples of a data set as the chip receives them: spikes, or graded messages in 0 … 255."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters.quantize.layer import PIXEL_LEVELS
from ottt_loihi.sim.inference.reference import MESSAGE_MAX, MESSAGE_MIN
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks
from ottt_loihi.data import CODINGS, DataDescription, Split, describe_split, encode, load_like, prepare_like
from ottt_loihi.data.arrays import has_labels, load_unlabelled
from ottt_loihi.data.augment import normalize
from ottt_loihi.data.codings import message_value
from ottt_loihi.data.on_demand import OnDemand
from ottt_loihi.data.registry import located
from ottt_loihi.data.sparse import SampleArray, some
from ottt_loihi.errors import UsageError

if TYPE_CHECKING:
    from ottt_loihi.nn.network import Network

DRAW_SEED = 0
AT_ONCE = 4096  # images whose float64 values are in memory


@dataclass(frozen=True)
class Chosen:
    """Samples drawn over one part of a data set, in its order, in the form that a network was trained on.

    Attributes
    ----------
    x
        ``(n, *sample_shape)``, before the coding; events stay sparse
    labels
        int64 ``(n,)``
    indices
        int64 ``(n,)``, their numbers in the part: the seeds of their spikes
    total
        samples in the part
    record
        of the data
    split
        the whole data set
    notes
        what was found and changed, in sentences
    """

    x: SampleArray
    labels: np.ndarray
    indices: np.ndarray
    total: int
    record: DataDescription
    split: Split
    notes: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """Return the number and origin of the samples: ``"360 of 600 test samples, drawn over all"``."""
        some_of = f"{len(self.x):,} of {self.total:,}, drawn over all,"
        return f"all {self.total:,}" if len(self.x) == self.total else some_of

    def only(self, chosen: slice | np.ndarray) -> Chosen:
        """Return some of them, by their places; their events are expanded."""
        labels = self.labels[chosen] if len(self.labels) else self.labels
        return replace(self, x=self.x[chosen], labels=labels, indices=self.indices[chosen])

    def coded(self, num_steps: int, seed: int = 0, input_form: str = "graded") -> np.ndarray:
        """Return the input of the chip, ``(n, num_steps, *coded_shape)``: spikes, or messages (:func:`as_messages`)."""
        return coded(self.x, self.record, num_steps, seed, self.indices, input_form)


def choose(
    data: str,
    count: int,
    record: DataDescription | None,
    options: Mapping[str, Any] | None = None,
    part: str = "test",
    coding: str = "",
    labelled: bool = True,
) -> Chosen:
    """Return ``count`` samples drawn from all samples of a data set's part; all samples if there are fewer.

    Parameters
    ----------
    data
        of :func:`~ottt_loihi.data.load_data`
    record
        of the data that the network was trained on; None: it is found out from these, with ``coding``
    options
        of the loader
    part
        ``"test"`` or ``"train"``
    coding
        for a network without a record: ``"constant"``, or empty: ``frames`` with a time axis, ``rate`` without
    labelled
        False: an ``.npz`` file of x alone will do; the labels are empty then
    """
    checks.integer(count, "count")
    alone = None if labelled else _unlabelled(data, record)
    if alone is not None:
        split, notes = (alone, ()) if record is None else prepare_like(alone, record)
        split = replace(split, notes=())
    else:
        split, notes = load_like(data, record, options)
    if record is None:
        record = describe_split(split, coding or ("frames" if split.time_axis else "rate"))
    x, y = (split.x_test, split.y_test) if part == "test" else (split.x_train, split.y_train)
    chosen = drawn(len(x), count)
    labels = y[chosen] if alone is None else np.zeros(0, np.int64)
    return Chosen(some(x, chosen), labels, chosen, len(x), record, split, notes)


def _unlabelled(data: str, record: DataDescription | None) -> Split | None:
    """Return the samples of an ``.npz`` file without labels, with class 0 and in both parts; None for other data."""
    path = Path(located(data))
    if path.suffix != ".npz" or not path.is_file() or has_labels(path):
        return None
    x = load_unlabelled(path, None if record is None else record.time_axis)
    y = np.zeros(len(x), np.int64)
    time_axis = x.ndim >= 3 and x.dtype == np.uint8 if record is None else record.time_axis
    return Split(x, y, x, y, time_axis=time_axis, name=path.name)


def coded(
    x: np.ndarray,
    record: DataDescription,
    num_steps: int,
    seed: int = 0,
    indices: np.ndarray | None = None,
    input_form: str = "graded",
) -> np.ndarray:
    """Return samples of a record's kind as the chip gets them, ``(n, num_steps, *coded_shape)``.

    The same bits as in training: the spikes of :func:`ottt_loihi.data.encode` for the same seed and indices.

    Raises
    ------
    UsageError
        for values that the coding does not take, or another number of time steps
    """
    if record.coding.name == "constant":
        return as_messages(x, num_steps, input_form)
    return encode(x, record.coding, num_steps, seed, indices, time_axis=record.time_axis)


def drawn(samples: int, count: int) -> np.ndarray:
    """Return the indices of ``count`` samples, ascending and the same in every call; all if there are fewer."""
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
    """Return ``count`` test (or train) samples of a data set as an exported network takes them, and labels.

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
    found = chip_choice(chip, data, count, part)
    return chip_input(chip, found, seed, input_range), found.labels


def chip_choice(
    chip: ChipNetwork,
    data: str,
    count: int,
    part: str = "test",
    labelled: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Chosen:
    """:func:`choose` for a network: its record, its coding, and the loader's options it was trained with.

    ``options`` stand in place of those of the same names.
    """
    trained_with = chip.data_set.options if chip.data_set is not None else {}
    options = {**trained_with, **(options or {})}
    found = choose(data, count, chip.data, options, part, labelled=labelled)
    graded = chip.input_form != "spikes" or chip.input_transform is not None
    if chip.data is None and graded and not found.record.time_axis:
        return replace(found, record=describe_split(found.split, "constant"))
    return found


def chip_input(
    chip: ChipNetwork, found: Chosen, seed: int = 0, input_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Return the chosen samples as messages ``(n, T, *input_shape)`` for the network, or for its host."""
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
        x = as_scaled(found.x, chip.num_steps, found.record.time_axis, transform, input_range)
    else:
        x = found.coded(chip.num_steps, seed, chip.input_form)
    frame = chip.input_shape if chip.host is None else chip.host.input_shape
    return shaped(x, frame, found.split.name or "of these")


def input_on_demand(
    chip: ChipNetwork, found: Chosen, seed: int = 0, input_range: tuple[float, float] | None = None
) -> OnDemand:
    """Return what :func:`chip_input` does, bit for bit, computed when it is asked for.

    A coding may make hundreds of times more of a data set than it is.
    """
    return OnDemand(lambda places: chip_input(chip, found.only(places), seed, input_range), len(found.x))


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


@dataclass(frozen=True)
class Samples:
    """Test or training samples for the float network and for the chip.

    Attributes
    ----------
    x
        input of the network in torch, ``(n, T, *input_shape)``; one frame where it stays constant
    values
        the same before the normalisation, which a ``FloatNetwork`` has in its weights
    labels
        int64 ``(n,)``
    messages
        input of the chip or its host, ``(n, T, *input_shape)``
    total
        samples that they were drawn from
    """

    x: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    messages: np.ndarray
    total: int


def samples_of(net: Network, count: int, part: str, input_form: str = "graded") -> Samples:
    """Return samples of the network's own data, as it was trained on them."""
    known = net.provenance
    if known.get("data") is None:
        raise UsageError("the checkpoint does not name its data set; export it without --calibrate and with --no-check")
    name = known.get("encoding", {}).get("name")
    found = choose(
        known["data"], count, net.data, known.get("data_options"), part, "constant" if name == "constant" else ""
    )
    shape = tuple(net.input_shape)
    coding = found.record.coding
    messages = shaped(found.coded(net.time_steps, input_form=input_form), shape, found.split.name)
    if coding.name == "constant":
        values = shaped(found.x[:, None], shape, found.split.name)
        x = normalize(values, coding.options["mean"], coding.options["std"]) if coding.options else values
        return Samples(x, values, found.labels, messages, found.total)
    x = messages * np.float32(message_value(coding)) if CODINGS[coding.name].messages else messages
    return Samples(x, x, found.labels, messages, found.total)
