"""The samples for training and testing: arrays, a ``Dataset``, or batches of a ``DataLoader`` or any iterable.

Everything becomes one of three classes, which give one :class:`Batch` after another. Arrays and a Dataset are read by
the numbers of the samples, so the trainer chooses their order, and a run can resume inside an epoch. A DataLoader or
an iterable chooses its own order, so a run can resume between epochs only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from ottt_loihi.data.compact import CompactArray
from ottt_loihi.data.split import held_out
from ottt_loihi.errors import OtttError, UsageError
from ottt_loihi.nn.network import Network
from ottt_loihi.training.distributed import ALONE, Group
from ottt_loihi.training.encoding import fit_encoding


class Batch(NamedTuple):
    """Some samples.

    Attributes
    ----------
    x
        ``(n, *input_shape)`` or ``(n, T, *input_shape)``
    y
        int64 ``(n,)``
    indices
        int64 ``(n,)``, the samples' numbers in their data set, or in their epoch
    size
        of the joint batch, of which other processes may have other samples
    """

    x: np.ndarray
    y: np.ndarray
    indices: np.ndarray
    size: int


Job = Callable[[], Batch]


class Samples(ABC):
    """Samples of one network: all of one shape, with or without a time axis (``time_axis``).

    The attribute ``coding`` is the step that makes spikes of a sample.

    Attributes
    ----------
    sample_shape
        ``(T, *input_shape)`` with a time axis, else ``input_shape``
    labels
        int64 ``(n,)``, where they are known without reading the samples; else None
    ahead
        whether a thread may read the next batch while one is learnt from
    """

    inside_epochs: ClassVar[bool] = True  # whether a run can go on there
    ahead: ClassVar[bool] = False

    def __init__(self, net: Network, where: str, sample_shape: tuple[int, ...], encoding: Any, n: Any = "n") -> None:
        self.net, self.where, self.sample_shape = net, where, sample_shape
        self.labels: np.ndarray | None = None
        self.coding, self.time_axis = fit_encoding(encoding, (n, *sample_shape), net.input_shape, where)

    @property
    def num_steps(self) -> int:
        """Return T of a sample with a time axis, otherwise T of the network."""
        return self.sample_shape[0] if self.time_axis else self.net.time_steps

    @abstractmethod
    def in_order(self, batch_size: int, group: Group = ALONE) -> Iterator[Batch]:
        """Give all samples once, as a test needs them: of each batch the part of one process of the group."""

    def fingerprint(self) -> str:
        """Return a text that is another one for other samples, as far as that is found out without reading them all."""
        return "batches"

    def state_dict(self) -> dict[str, Any]:
        """Return the state on which the next epoch depends, apart from its number."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the state to :meth:`state_dict` of an earlier run."""
        if state:
            raise ValueError(f"{self.where} has no state, found {', '.join(map(str, state))}")


class Numbered(Samples):
    """Samples that can be read by their numbers, ``chosen`` of them."""

    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    @abstractmethod
    def take(self, indices: np.ndarray, size: int) -> Batch:
        """Read samples by their numbers."""

    @abstractmethod
    def jobs(self, batches: Sequence[tuple[np.ndarray, int]], seed: Sequence[int]) -> Iterator[Job]:
        """Give one function for each batch (numbers, size of the joint batch), to be called in order."""

    def subset(self, places: np.ndarray) -> Numbered:
        """Return some of the samples, which keep their numbers."""
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"chosen": self.chosen[places]}
        return other

    def order(self, seed: Sequence[int], sampling: str) -> np.ndarray:
        """Return the numbers of the samples of one epoch: each once, or with ``"balanced"`` drawn, classes alike."""
        rng = np.random.default_rng(seed)
        if sampling != "balanced":
            return self.chosen[rng.permutation(len(self.chosen))]
        labels = self.known_labels("sampling")
        by_class = [self.chosen[labels == label] for label in np.unique(labels)]
        classes = rng.integers(len(by_class), size=len(self.chosen))
        draws = rng.random(len(self.chosen))
        return np.array([by_class[c][int(r * len(by_class[c]))] for c, r in zip(classes, draws)])

    def known_labels(self, wanted_for: str) -> np.ndarray:
        """Return the label of every chosen sample."""
        if self.labels is None:
            raise UsageError(f"{wanted_for}: the Dataset does not tell its labels; give it an attribute targets")
        return self.labels[self.chosen]

    def split(self, share: float, seed: int) -> tuple[Numbered, Numbered]:
        """Return a training part and a part of ``⌈share · n⌉`` samples, of each class where the labels are known.

        The same seed draws the same samples.
        """
        labels = np.zeros(len(self), np.int64) if self.labels is None else self.labels[self.chosen]
        held = held_out(labels, share, seed)
        return self.subset(~held), self.subset(held)

    def in_order(self, batch_size: int, group: Group = ALONE) -> Iterator[Batch]:
        for first in range(0, len(self), batch_size):
            indices = self.chosen[first : first + batch_size]
            if len(mine := indices[group.rank :: group.size]):
                yield self.take(mine, len(indices))


class Arrays(Numbered):
    """Arrays in memory; an ``np.memmap`` is read, and a ``CompactArray`` expanded, batch by batch."""

    ahead = True

    def __init__(self, net: Network, x: Any, y: Any, where: str, encoding: Any) -> None:
        self.x = as_array(x, where)
        super().__init__(net, where, self.x.shape[1:], encoding, len(self.x) if self.x.ndim else 0)
        if not self.time_axis:
            check_images(self.x if self.x.dtype == np.uint8 else self.x[:1], where)
        self.labels = net.check_labels(y, len(self.x)).cpu().numpy()
        self.chosen = np.arange(len(self.x))

    def fingerprint(self) -> str:
        """Return the number of samples, and a checksum of the labels and of 1,000 samples drawn evenly."""
        some = self.x[:: -(-len(self.x) // 1000)]
        return f"{len(self.x)}, checksum {crc32(np.ascontiguousarray(some), crc32(self.labels)):08x}"

    def take(self, indices: np.ndarray, size: int) -> Batch:
        return Batch(self.x[indices], self.labels[indices], indices, size)

    def jobs(self, batches: Sequence[tuple[np.ndarray, int]], seed: Sequence[int]) -> Iterator[Job]:
        for indices, size in batches:
            yield lambda indices=indices, size=size: self.take(indices, size)


class Items(Numbered):
    """A Dataset: ``dataset[i]`` is a sample and its label, for i in 0 … len(dataset) − 1.

    Before sample i of an epoch is read, torch's generator for the CPU is seeded by (seed, epoch, i): what the Dataset
    draws from it is the same in every run, whichever process reads it. A Dataset may have ``draw(i, rng)`` in place of
    that, which gets a generator of NumPy's seeded so.
    """

    def __init__(self, net: Network, dataset: Any, where: str, encoding: Any, workers: int) -> None:
        self.dataset, self.workers = dataset, workers
        if len(dataset) < 1:
            raise UsageError(f"{where}: the Dataset is empty")
        self.chosen = np.arange(len(dataset))
        self.first = _as_item(dataset[0], f"{where}, sample 0")[0]
        super().__init__(net, where, self.first.shape, encoding)
        self.labels = self._known_labels()

    def _known_labels(self) -> np.ndarray | None:
        for name in ("targets", "labels"):
            found = getattr(self.dataset, name, None)
            if found is not None and np.ndim(found) == 1 and len(found) == len(self.dataset):
                return self.net.check_labels(found, len(self.dataset)).cpu().numpy()
        return None

    def fingerprint(self) -> str:
        """Return the number of samples, and a checksum of the labels where they are known."""
        return f"{len(self.dataset)}" + ("" if self.labels is None else f", checksum {crc32(self.labels):08x}")

    def take(self, indices: np.ndarray, size: int) -> Batch:
        return self._checked([self.dataset[int(i)] for i in indices], indices, size)

    def jobs(self, batches: Sequence[tuple[np.ndarray, int]], seed: Sequence[int]) -> Iterator[Job]:
        reader = _Reader(self.dataset, tuple(seed))
        if not self.workers:
            for indices, size in batches:
                yield lambda i=indices, n=size: self._checked([reader[k] for k in i], i, n)
            return
        loader = DataLoader(
            reader,
            batch_sampler=[indices.tolist() for indices, _ in batches],
            num_workers=self.workers,
            collate_fn=_arrays,
            generator=torch.Generator(),
        )
        read = iter(loader)
        for indices, size in batches:
            yield lambda i=indices, n=size: self._checked(next(read), i, n)

    def _checked(self, items: Sequence[Any], indices: np.ndarray, size: int) -> Batch:
        """A batch of what the Dataset gave: one line for each wrong thing."""
        samples, labels = [], []
        for index, item in zip(indices, items, strict=True):
            where = f"{self.where}, sample {index}"
            if isinstance(item, OtttError):
                raise item
            x, y = _as_item(item, where)
            if x.shape != self.sample_shape or x.dtype != self.first.dtype:
                raise UsageError(
                    f"{where}: expected {self.first.dtype} {self.sample_shape} like sample 0, got {x.dtype} {x.shape}"
                )
            if not 0 <= y < self.net.num_classes:
                raise UsageError(f"{where}: expected a label in 0 … {self.net.num_classes - 1}, got {y}")
            if self.labels is not None and y != self.labels[index]:
                raise UsageError(f"{where}: its label is {y}, but the Dataset's targets say {self.labels[index]}")
            samples.append(x)
            labels.append(y)
        x = np.stack(samples)
        if not self.time_axis:
            check_images(x, self.where)
        return Batch(x, np.array(labels, np.int64), np.asarray(indices), size)


class Batches(Samples):
    """Batches (x, y) of a DataLoader, or of anything that can be iterated once for each epoch."""

    inside_epochs = False

    def __init__(self, net: Network, source: Any, where: str, encoding: Any) -> None:
        if isinstance(getattr(source, "sampler", None), DistributedSampler):
            raise UsageError(
                f"{where}: every process takes its part of each batch itself; leave DistributedSampler out"
            )
        self.source, self.once = source, None
        with torch.random.fork_rng([]):
            batches = iter(source)
            first = next(batches, None)
        if batches is source:  # an iterator ends after one epoch
            self.once = chain([] if first is None else [first], batches)
        if first is None:
            raise UsageError(f"{where}: expected at least one batch (x, y), got none")
        x, _ = self._pair(first, f"{where}, batch 1")
        super().__init__(net, where, x.shape[1:], encoding)

    def __len__(self) -> int:
        """Return the number of batches; 0 if it is unknown."""
        try:
            return len(self.source)
        except TypeError:
            return 0

    @staticmethod
    def _pair(item: Any, where: str) -> tuple[np.ndarray, Any]:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise UsageError(f"{where}: expected a pair (x, y), got {name_of(item)}")
        x = as_array(item[0], where)
        if x.ndim < 2 or len(x) == 0:
            raise UsageError(f"{where}: expected samples (n, …), got shape {x.shape}")
        return x, item[1]

    def epoch(self, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Give the batches of one epoch; of each the part of one process."""
        if self.once is not None:
            source, self.once = self.once, iter(())
        else:
            source = iter(self.source)
        seen = 0
        for number, item in enumerate(source, 1):
            where = f"{self.where}, batch {number}"
            x, labels = self._pair(item, where)
            if x.shape[1:] != self.sample_shape:
                raise UsageError(f"{where}: expected samples {self.sample_shape} like batch 1, got {x.shape[1:]}")
            if not self.time_axis:
                check_images(x, where)
            try:
                y = self.net.check_labels(labels, len(x)).cpu().numpy()
            except UsageError as error:
                raise UsageError(f"{where}: {error}") from None
            mine = slice(rank, None, processes) if rank < len(x) else slice(1)
            yield Batch(x[mine], y[mine], np.arange(seen, seen + len(x))[mine], len(x))
            seen += len(x)
        if not seen:
            raise UsageError(f"{self.where}: gave no batches; one epoch takes an iterator, more a list or a DataLoader")

    def in_order(self, batch_size: int, group: Group = ALONE) -> Iterator[Batch]:
        with torch.random.fork_rng([]):  # a share that another process has, too, counts once
            yield from (batch for batch in self.epoch(group.rank, group.size) if group.rank < batch.size)

    def state_dict(self) -> dict[str, Any]:
        generator = getattr(self.source, "generator", None)
        return {} if generator is None else {"generator": generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            self.source.generator.set_state(state["generator"])


class _Reader(Dataset):
    """A Dataset whose chance is seeded for every sample."""

    def __init__(self, dataset: Any, seed: tuple[int, ...]) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        chance = np.random.SeedSequence([*self.seed, int(index)])
        try:
            if hasattr(self.dataset, "draw"):
                return self.dataset.draw(int(index), np.random.default_rng(chance))
            torch.default_generator.manual_seed(int(chance.generate_state(1, np.uint64)[0] >> np.uint64(1)))
            return self.dataset[int(index)]
        except OtttError as error:  # a worker would hand it on with its traceback
            return error


def _arrays(items: list[Any]) -> list[Any]:
    """Samples as arrays: a worker hands tensors on by open files, of which there are few."""
    return [tuple(map(_as_numpy, item)) if is_pair(item) else item for item in items]


def _as_numpy(part: Any) -> Any:
    return as_array(part, "sample") if isinstance(part, Tensor) and not part.is_complex() else part


def as_array(values: Any, where: str) -> np.ndarray:
    """Return numbers as an array, without a copy where they are in this machine's memory.

    Raises
    ------
    UsageError
        for anything but an array or tensor of real numbers
    """
    if isinstance(values, CompactArray):
        return values  # type: ignore[return-value]
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # the same numbers; NumPy lacks the type
    if not is_array(values) or (array := np.asarray(values)).dtype.kind not in "biuf":
        raise UsageError(f"{where}: expected an array of numbers, got {name_of(values)}")
    return array


def check_images(x: np.ndarray, where: str) -> None:
    """Refuse samples without a time axis that are neither floats nor uint8: nothing says what their numbers mean."""
    if x.dtype.kind != "f" and x.dtype != np.uint8:
        raise UsageError(f"{where}: expected images as floats, or as uint8 0 … 255, got {x.dtype}")
    if x.dtype == np.uint8 and x.max(initial=0) == 1:
        raise UsageError(f"{where}: uint8 images are 0 … 255, these end at 1; give floats, or a time axis to spikes")


def _as_item(item: Any, where: str) -> tuple[np.ndarray, int]:
    if not is_pair(item):
        raise UsageError(f"{where}: expected a pair (sample, label), got {name_of(item)}")
    x, y = item
    if not is_array(x):
        raise UsageError(f"{where}: expected an array or tensor, got {name_of(x)}; a transform makes one")
    label = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if label.shape != () or label.dtype.kind not in "iu":
        raise UsageError(f"{where}: expected an integer as label, got {y!r:.40}")
    return as_array(x, where), int(label)


def is_pair(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and len(item) == 2


def is_array(values: Any) -> bool:
    return isinstance(values, Tensor) or (hasattr(values, "__array__") and hasattr(values, "shape"))


def name_of(values: Any) -> str:
    kind = type(values).__name__
    if isinstance(values, np.ndarray):
        return f"{kind} of {values.dtype}"
    return f"{kind} of {len(values)}" if isinstance(values, (tuple, list)) else kind
