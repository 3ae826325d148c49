"""The samples for training and testing: arrays, a ``Dataset``, or batches of a ``DataLoader`` or any iterable.

Everything becomes one of three classes, which give one :class:`Batch` after another. Arrays and a Dataset are read by
the numbers of the samples, so the trainer chooses their order, and a run can resume inside an epoch. A DataLoader or
an iterable chooses its own order, so a run can resume between epochs only.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, ClassVar, NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from ottt_loihi.data.compact import CompactArray
from ottt_loihi.data.pixels import intensities
from ottt_loihi.data.split import held_out
from ottt_loihi.errors import OtttError, UsageError
from ottt_loihi.nn.inputs import Input
from ottt_loihi.nn.network import Network
from ottt_loihi.training.distributed import ALONE, Group
from ottt_loihi.training.encoding import encode, fit_encoding


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


Reads = Iterator[Callable[[], Batch]]  # one function for each batch, to be called in order


class Samples(ABC):
    """Samples of one network, all of one shape.

    Attributes
    ----------
    sample_shape
        ``(T, *shape)`` with a time axis (``time_axis``), else ``shape``
    coding
        the step that makes spikes of a sample
    labels
        int64 ``(n,)``, if they are known without reading the samples; else None
    """

    inside_epochs: ClassVar[bool] = True  # whether a run can be resumed inside an epoch
    ahead: ClassVar[bool] = False  # whether a thread may read the next batch during a training step

    def __init__(self, net: Network, where: str, sample_shape: tuple[int, ...], encoding: Any, n: Any = "n") -> None:
        self.net, self.where, self.sample_shape = net, where, sample_shape
        self.labels: np.ndarray | None = None
        self.generator: torch.Generator | None = None  # of a DataLoader
        self.coding, self.time_axis = fit_encoding(encoding, (n, *sample_shape), net.input_shape, where)

    @property
    def num_steps(self) -> int:
        """Return T of a sample with a time axis, otherwise T of the network."""
        return self.sample_shape[0] if self.time_axis else self.net.time_steps

    def check_images(self, x: np.ndarray, where: str) -> None:
        """Refuse images that are neither floats nor uint8 0 … 255: the range of their values is unknown."""
        if self.time_axis:
            return
        if x.dtype.kind != "f" and x.dtype != np.uint8:
            raise UsageError(f"{where}: expected images as floats, or as uint8 0 … 255, got {x.dtype}")
        if x.dtype == np.uint8 and x.max(initial=0) == 1:
            raise UsageError(
                f"{where}: uint8 images are 0 … 255, these end at 1; give floats, or a time axis to spikes"
            )

    def encoded(
        self, batch: Batch, num_steps: int, seed: int, change: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Input:
        """Return a batch as the network's input, of ``num_steps`` time steps, or of as many frames as there are.

        ``change`` is applied to frames, or to images in [0, 1]; ``seed``: of random spikes.
        """
        x = batch.x[:, :num_steps] if self.time_axis else intensities(batch.x)
        x = x if change is None else change(x)
        return encode(x, self.coding, num_steps, seed, batch.indices, self.time_axis)

    @abstractmethod
    def batches(self, batch_size: int) -> int:
        """Return the number of batches in an epoch; 0 if it is unknown."""

    @abstractmethod
    def epoch(self, seed: tuple[int, int], first: int, batch_size: int, sampling: str, group: Group) -> Reads:
        """Give a function for each batch of an epoch from number ``first`` on, which reads one process's part of it.

        seed: (seed, epoch), which determine the order and the draws; a DataLoader has its own batches and sampling
        """

    @abstractmethod
    def in_order(self, batch_size: int, group: Group = ALONE) -> Iterator[Batch]:
        """Give all samples once, for a test: of each batch the part of one process."""

    def fingerprint(self) -> str:
        """Return a text that differs for other samples, as far as that is known without reading all of them."""
        return "batches"

    def state_dict(self) -> dict[str, Any]:
        """Return the state on which the next epoch depends, apart from its number."""
        return {} if self.generator is None else {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the state to :meth:`state_dict` of an earlier run."""
        if state and self.generator is None:
            raise ValueError(f"{self.where} has no state, found {', '.join(map(str, state))}")
        if state:
            self.generator.set_state(state["generator"])


class Numbered(Samples):
    """Samples that can be read by their numbers, ``chosen`` of them."""

    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    @abstractmethod
    def take(self, indices: np.ndarray, size: int, seed: tuple[int, ...] | None = None) -> Batch:
        """Read samples by their numbers; ``seed``: of what a Dataset draws in training."""

    def batches(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)

    def epoch(self, seed: tuple[int, int], first: int, batch_size: int, sampling: str, group: Group) -> Reads:
        order = self.order(seed, sampling)
        parts = [order[start : start + batch_size] for start in range(first * batch_size, len(order), batch_size)]
        return self.reads([(group.part(part), len(part)) for part in parts], seed)

    def reads(self, parts: Sequence[tuple[np.ndarray, int]], seed: tuple[int, ...]) -> Reads:
        """Give a function for each part (numbers, size of the joint batch)."""
        return (partial(self.take, indices, size, seed) for indices, size in parts)

    def order(self, seed: Sequence[int], sampling: str) -> np.ndarray:
        """Return the numbers of an epoch's samples: each once, or ``"balanced"``: drawn, all classes equally often."""
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
        """Return a training and a validation part, drawn from each class (:func:`held_out`) if the labels are known."""
        labels = np.zeros(len(self), np.int64) if self.labels is None else self.labels[self.chosen]
        held, train, validation = held_out(labels, share, seed), copy.copy(self), copy.copy(self)
        train.chosen, validation.chosen = self.chosen[~held], self.chosen[held]
        return train, validation

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
        self.check_images(self.x if self.x.dtype == np.uint8 else self.x[:1], where)
        self.labels = net.check_labels(y, len(self.x)).cpu().numpy()
        self.chosen = np.arange(len(self.x))

    def fingerprint(self) -> str:
        """Return the number of samples, and a checksum of the labels and of 1,000 evenly spaced samples."""
        some = self.x[:: -(-len(self.x) // 1000)]
        return f"{len(self.x)}, checksum {crc32(np.ascontiguousarray(some), crc32(self.labels)):08x}"

    def take(self, indices: np.ndarray, size: int, seed: tuple[int, ...] | None = None) -> Batch:
        return Batch(self.x[indices], self.labels[indices], indices, size)


class Items(Numbered):
    """A Dataset: ``dataset[i]`` is a sample and its label, for i in 0 … len(dataset) − 1.

    Before sample i of an epoch is read, torch's CPU generator is seeded by (seed, epoch, i). So random transforms give
    the same in every run and in every process. If the Dataset has a method ``draw(i, rng)``, it is called instead, with
    a NumPy generator that is seeded in the same way.
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
        """Return the Dataset's ``targets`` or ``labels``, if it has one for each sample."""
        for name in ("targets", "labels"):
            found = getattr(self.dataset, name, None)
            if found is not None and np.ndim(found) == 1 and len(found) == len(self.dataset):
                return self.net.check_labels(found, len(self.dataset)).cpu().numpy()
        return None

    def fingerprint(self) -> str:
        """Return the number of samples, and a checksum of the labels where they are known."""
        return f"{len(self.dataset)}" + ("" if self.labels is None else f", checksum {crc32(self.labels):08x}")

    def take(self, indices: np.ndarray, size: int, seed: tuple[int, ...] | None = None) -> Batch:
        source = self.dataset if seed is None else _Reader(self.dataset, seed)
        return self._checked([source[int(i)] for i in indices], indices, size)

    def reads(self, parts: Sequence[tuple[np.ndarray, int]], seed: tuple[int, ...]) -> Reads:
        if not self.workers:
            return super().reads(parts, seed)
        loader = DataLoader(
            _Reader(self.dataset, seed),
            batch_sampler=[indices.tolist() for indices, _ in parts],
            num_workers=self.workers,
            collate_fn=_arrays,
            generator=torch.Generator(),
        )
        read = iter(loader)
        return (lambda i=indices, n=size: self._checked(next(read), i, n) for indices, size in parts)

    def _checked(self, items: Sequence[Any], indices: np.ndarray, size: int) -> Batch:
        """Return a batch of the Dataset's items, or raise a UsageError that names the first wrong one."""
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
        self.check_images(x, self.where)
        return Batch(x, np.array(labels, np.int64), np.asarray(indices), size)


class Batches(Samples):
    """Batches (x, y) of a DataLoader, or of anything that can be iterated once for each epoch."""

    inside_epochs = False

    def __init__(self, net: Network, source: Any, where: str, encoding: Any) -> None:
        if isinstance(getattr(source, "sampler", None), DistributedSampler):
            raise UsageError(f"{where}: each process takes its part of a batch itself; leave DistributedSampler out")
        self.source, self.once = source, None  # `once`: an iterator, which ends after one epoch
        with torch.random.fork_rng([]):
            batches = iter(source)
            first = next(batches, None)
        if first is None:
            raise UsageError(f"{where}: expected at least one batch (x, y), got none")
        if batches is source:
            self.once = chain([first], batches)
        x, _ = self._pair(first, f"{where}, batch 1")
        super().__init__(net, where, x.shape[1:], encoding)
        self.generator = getattr(source, "generator", None)

    def batches(self, batch_size: int) -> int:
        try:
            return len(self.source)
        except TypeError:
            return 0

    @staticmethod
    def _pair(item: Any, where: str) -> tuple[np.ndarray, Any]:
        if not is_pair(item):
            raise UsageError(f"{where}: expected a pair (x, y), got {name_of(item)}")
        x = as_array(item[0], where)
        if x.ndim < 2 or len(x) == 0:
            raise UsageError(f"{where}: expected samples (n, …), got shape {x.shape}")
        return x, item[1]

    def epoch(self, seed: tuple[int, int], first: int, batch_size: int, sampling: str, group: Group) -> Reads:
        torch.manual_seed(torch_seed(*seed))  # a DataLoader shuffles by torch's generator
        return (lambda batch=batch: batch for batch in self._parts(group))

    def _parts(self, group: Group) -> Iterator[Batch]:
        """Give one process's part of each batch of one epoch."""
        source, seen = iter(self.source if self.once is None else self.once), 0
        for number, item in enumerate(source, 1):
            where = f"{self.where}, batch {number}"
            x, labels = self._pair(item, where)
            if x.shape[1:] != self.sample_shape:
                raise UsageError(f"{where}: expected samples {self.sample_shape} like batch 1, got {x.shape[1:]}")
            self.check_images(x, where)
            try:
                y = self.net.check_labels(labels, len(x)).cpu().numpy()
            except UsageError as error:
                raise UsageError(f"{where}: {error}") from None
            mine = group.part(np.arange(len(x)))
            yield Batch(x[mine], y[mine], seen + mine, len(x))
            seen += len(x)
        if not seen:
            raise UsageError(f"{self.where}: gave no batches; one epoch takes an iterator, more a list or a DataLoader")

    def in_order(self, batch_size: int, group: Group = ALONE) -> Iterator[Batch]:
        with torch.random.fork_rng([]):  # a share that another process has, too, counts once
            yield from (batch for batch in self._parts(group) if group.rank < batch.size)


class _Reader(Dataset):
    """A Dataset whose random draws are seeded for every sample."""

    def __init__(self, dataset: Any, seed: tuple[int, ...]) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, index: int) -> Any:
        try:
            if hasattr(self.dataset, "draw"):
                return self.dataset.draw(int(index), np.random.default_rng([*self.seed, int(index)]))
            torch.default_generator.manual_seed(torch_seed(*self.seed, int(index)))
            return self.dataset[int(index)]
        except OtttError as error:  # a worker would hand it on with its traceback
            return error


def in_turn(jobs: Iterable[Callable[[], Any]], ahead: bool) -> Iterator[Any]:
    """Give the jobs' results in order; with ``ahead`` a thread does the next job while a result is in use."""
    if not ahead:
        yield from (job() for job in jobs)
        return
    with ThreadPoolExecutor(1, "ottt-inputs") as pool:
        waiting: list[Future[Any]] = []
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) == 2:
                yield waiting.pop(0).result()
        yield from (future.result() for future in waiting)


def torch_seed(*numbers: int) -> int:
    """Return a seed for torch, a function of (seed, epoch, batch, rank), so that no generator has to be saved."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _arrays(items: list[Any]) -> list[Any]:
    """Replace tensors by arrays: worker processes pass tensors through open files, whose number is limited."""

    def as_numpy(part: Any) -> Any:
        return as_array(part, "sample") if isinstance(part, Tensor) and not part.is_complex() else part

    return [tuple(map(as_numpy, item)) if is_pair(item) else item for item in items]


def as_array(values: Any, where: str) -> np.ndarray:
    """Return an array or tensor of real numbers as an array, without a copy if possible; else raise a UsageError."""
    if isinstance(values, CompactArray):
        return values  # type: ignore[return-value]
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_quantized:
            raise UsageError(f"{where}: expected a dense tensor, got {name_of(values)}; use to_dense() or dequantize()")
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # the same numbers; NumPy lacks the type
    if not is_array(values) or (array := np.asarray(values)).dtype.kind not in "biuf":
        raise UsageError(f"{where}: expected an array of numbers, got {name_of(values)}")
    return array


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
    if isinstance(values, Tensor):
        return f"{kind} of {values.dtype}, {values.layout}"
    return f"{kind} of {len(values)}" if isinstance(values, (tuple, list)) else kind
