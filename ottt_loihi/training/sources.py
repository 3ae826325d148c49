"""Opens any kind of data as the samples of a network, with their description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ottt_loihi.data.arrays import ROUNDING
from ottt_loihi.data.description import DataDescription, describe_split
from ottt_loihi.data.images import ImageSplit
from ottt_loihi.data.split import Split
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.network import Network
from ottt_loihi.training.samples import Arrays, Batches, Items, Numbered, Samples, is_array, is_pair, name_of

SEEN = 1000  # samples whose range is looked at
KINDS = "a Split, arrays (x, y), a Dataset, a DataLoader or an iterable of batches (x, y)"


def open_parts(
    train: Any, labels: Any, validation: Any, test: Any, net: Network, encoding: Any, workers: int, seed: int
) -> tuple[Samples, Samples | None, Samples | None]:
    """Return the samples for training, validation and test; of the last two None, if there are none.

    ``validation``: samples, or the share of the training samples that is drawn for it with ``seed``.

    Raises
    ------
    UsageError
        as :func:`open_samples`; for a part with another time axis, or a share or ``workers`` that has no effect
    """
    data = open_samples(train, labels, net, "data", encoding, workers)
    if workers and not isinstance(data, Items):
        raise UsageError("workers: processes read a Dataset, and these are arrays or batches; leave it out")
    parts: dict[str, Samples | None] = {"validation": None, "test": None}
    if isinstance(validation, (int, float)):
        if not isinstance(data, Numbered):
            raise UsageError("validation: no share of a DataLoader or an iterable can be held out; give samples")
        (data, parts["validation"]), validation = data.split(validation, seed), None
    for where, part in (("validation", validation), ("test", test)):
        if part is not None:
            parts[where] = found = open_samples(part, None, net, where, data.coding, workers)
            if found.time_axis != data.time_axis:
                raise UsageError(f"{where}: expected a time axis like the training samples', or none like theirs")
            _require_one_unit(data, found, where)
    return data, parts["validation"], parts["test"]


def _require_one_unit(data: Samples, other: Samples, where: str) -> None:
    """Refuse images of bytes, which are divided by 255, beside floats outside [0, 1]."""
    if data.time_axis or not (isinstance(data, Arrays) and isinstance(other, Arrays)):
        return
    for pixels, floats in ((data, other), (other, data)):
        if pixels.x.dtype != np.uint8 or floats.x.dtype.kind != "f":
            continue
        first = floats.x[:SEEN]
        if not (first.min() >= 0 and first.max() <= 1 + ROUNDING):
            raise UsageError(
                f"{where}: its dtype is {other.x.dtype}, that of the training samples {data.x.dtype}; only uint8 is "
                "divided by 255, so that the two would have different units; give both the same dtype"
            )


def open_samples(
    data: Any, labels: Any, net: Network, where: str = "data", encoding: Any = None, workers: int = 0
) -> Samples:
    """Return the samples of any kind of data, for one network.

    Parameters
    ----------
    data, labels
        arrays and their labels; or with ``labels=None`` anything of ``KINDS`` but a Split
    where
        the name of the data in messages
    encoding
        how samples become spikes (:func:`~ottt_loihi.training.encoding.fit_encoding`)
    workers
        processes that read a Dataset

    Raises
    ------
    UsageError
        for data of another kind or shape, labels that are no integers or outside the classes
    """
    if isinstance(data, (Split, ImageSplit)):
        raise UsageError(f"{where}: a Split has two parts; give one of them, split.train or split.test")
    if labels is not None:
        return Arrays(net, data, labels, where, encoding)
    if is_pair(data) and all(is_array(part) for part in data):
        return Arrays(net, *data, where, encoding)
    if is_array(data):
        raise UsageError(f"{where}: expected labels beside the samples, as in (x, y); got samples alone")
    if isinstance(data, IterableDataset):
        raise UsageError(f"{where}: an IterableDataset gives single samples; put it into a DataLoader(…, batch_size=…)")
    if isinstance(data, (str, bytes, Mapping)) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise UsageError(f"{where}: expected {KINDS}, got {name_of(data)}")
    if isinstance(data, (list, tuple, DataLoader)) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        if isinstance(data, Dataset) or not hasattr(data, "__iter__"):
            raise UsageError(f"{where}: {name_of(data)} has no length; a Dataset needs __len__ and __getitem__")
        return Batches(net, data, where, encoding)
    return Items(net, data, where, encoding, workers)


def describe(samples: Samples, class_names: Sequence[str] = ()) -> DataDescription:
    """Return the description of samples; the range of the values is only known for arrays in memory."""
    net, time_axis = samples.net, samples.time_axis
    names = tuple(class_names) if len(class_names) == net.num_classes else ()
    if isinstance(samples, Arrays) and not isinstance(samples.x, np.memmap):
        x, y = samples.x, samples.labels
        split = Split(x, y, x[:1], y[:1], net.num_classes, time_axis=time_axis, name="data", class_names=names)
        found = describe_split(split, samples.coding)
        if x.dtype == np.uint8 and not time_axis:
            found = replace(found, value_range=tuple(limit / 255 for limit in found.value_range))
        return found
    steps = samples.num_steps if time_axis else None
    shape = samples.sample_shape[1 if time_axis else 0 :]
    return DataDescription(shape, net.num_classes, samples.coding, time_steps=steps, class_names=names)


def keep_description(net: Network, found: DataDescription) -> str:
    """Store the description of the training data in the network; return one line if it had another, else empty.

    dt, names of classes and preprocessing, which samples do not have, are kept if everything else is the same.
    """
    before = net.data
    if before is not None:
        names = ("dt", "class_names", "preprocessing")
        same = {name: getattr(before, name) for name in names if not getattr(found, name)}
        if not (differences := before.differences(replace(found, **same))):
            return ""
    net.data = found
    return "" if before is None else f"others than the network was trained on before ({'; '.join(differences)})"


def balanced(samples: Samples, num_classes: int) -> list[float]:
    """Return n/(classes·n_c) for every class c.

    Raises
    ------
    UsageError
        where the labels are not known, or a class has no sample
    """
    if not isinstance(samples, Numbered):
        raise UsageError("class_weights: the labels of a DataLoader or an iterable are not known; give numbers")
    counts = np.bincount(samples.known_labels("class_weights"), minlength=num_classes)
    if not counts.all():
        missing = ", ".join(map(str, np.flatnonzero(counts == 0)[:8]))
        raise UsageError(f"class_weights: no training sample of the classes {missing}; give numbers")
    return (counts.sum() / (num_classes * counts)).tolist()
