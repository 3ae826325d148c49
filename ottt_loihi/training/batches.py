"""From training samples to batches of network input: order, augmentation and spikes of every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ottt_loihi.data.augment import augment
from ottt_loihi.data.pixels import intensities
from ottt_loihi.nn.inputs import Input
from ottt_loihi.nn.network import Network
from ottt_loihi.training.distributed import Group
from ottt_loihi.training.encoding import encode
from ottt_loihi.training.samples import Batch, Batches, Samples


@dataclass(frozen=True)
class Feed:
    """The batches of a training. All chance is a function of (seed, epoch, batch, rank).

    Attributes
    ----------
    net, samples
        what is trained, and on what
    batch_size
        of all processes together; a DataLoader and an iterable have their own
    sampling, augmentations, seed, group
        as :class:`~ottt_loihi.training.trainer.Trainer`
    """

    net: Network
    samples: Samples
    batch_size: int
    sampling: str
    augmentations: tuple[str, ...]
    seed: int
    group: Group

    def __len__(self) -> int:
        """Batches of an epoch; 0 where the number is not known."""
        if isinstance(self.samples, Batches):
            return len(self.samples)
        return -(-len(self.samples) // self.batch_size)

    def epoch(self, epoch: int, first: int) -> Iterator[tuple[Batch, Input]]:
        """Give the batches of an epoch from number ``first`` on, each with the network's input."""
        on_gpu = self.net.readout.weight.device.type != "cpu"  # then the CPU is free to prepare the next batch
        return in_turn(self._jobs(epoch, first), ahead=on_gpu and self.samples.ahead)

    def _jobs(self, epoch: int, first: int) -> Iterator[Callable[[], tuple[Batch, Input]]]:
        if isinstance(self.samples, Batches):
            torch.manual_seed(torch_seed(self.seed, epoch))  # a DataLoader shuffles by torch's generator
            for index, batch in enumerate(self.samples.epoch(self.group.rank, self.group.size)):
                yield partial(self._prepared, lambda batch=batch: batch, epoch, index)
            return
        order = self.samples.order([self.seed, epoch], self.sampling)
        parts = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        left = [(self.group.part(part), len(part)) for part in parts[first:]]
        for index, job in enumerate(self.samples.jobs(left, [self.seed, epoch]), first):
            yield partial(self._prepared, job, epoch, index)

    def _prepared(self, job: Callable[[], Batch], epoch: int, index: int) -> tuple[Batch, Input]:
        """Read, augment and encode a batch: with NumPy's generators, so that torch's have no part in it."""
        batch = job()
        x = batch.x if self.samples.time_axis else intensities(batch.x)
        if self.augmentations:
            x = augment(x, self.augmentations, np.random.default_rng([self.seed, epoch, index, self.group.rank]))
        seed = train_encoding_seed(self.seed, epoch)
        return batch, encode(x, self.samples.coding, self.net.time_steps, seed, batch.indices, self.samples.time_axis)


def train_encoding_seed(seed: int, epoch: int) -> int:
    """Return the seed of the spikes of one training epoch: never that of the test, never the same twice in a run."""
    return 1 + seed * 1_000_000 + epoch


def torch_seed(*numbers: int) -> int:
    """Return a seed for torch, a function of (seed, epoch, batch, rank), so that no generator has to be saved."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def in_turn(jobs: Iterable[Callable[[], Any]], ahead: bool) -> Iterator[Any]:
    """Give the jobs' results, in order; with ``ahead`` a thread does each job while the result before is in use."""
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
