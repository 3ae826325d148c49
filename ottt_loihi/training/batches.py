"""From training samples to batches of network input: order, augmentation and spikes of every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ottt_loihi.data.augment import augment
from ottt_loihi.data.pixels import intensities
from ottt_loihi.nn.inputs import Input
from ottt_loihi.training.encoding import encode
from ottt_loihi.training.samples import Batch

if TYPE_CHECKING:
    from ottt_loihi.training.trainer import Trainer


def epoch(trainer: Trainer, number: int, first: int) -> Iterator[tuple[Batch, Input]]:
    """Give the batches of an epoch from batch ``first`` on, each with the network's input.

    All chance is a function of (seed, epoch, batch, rank).
    """
    samples = trainer.data
    reads = samples.epoch((trainer.seed, number), first, trainer.batch_size, trainer.sampling, trainer.group)
    jobs = (partial(_prepared, trainer, read, number, index) for index, read in enumerate(reads, first))
    on_gpu = trainer.net.readout.weight.device.type != "cpu"  # then the CPU is free to prepare the next batch
    return in_turn(jobs, ahead=on_gpu and samples.ahead)


def _prepared(trainer: Trainer, read: Callable[[], Batch], number: int, index: int) -> tuple[Batch, Input]:
    """Read, augment and encode a batch with NumPy's generators, so that torch's have no part in it."""
    batch, samples = read(), trainer.data
    x = batch.x if samples.time_axis else intensities(batch.x)
    if trainer.augmentations:
        x = augment(x, trainer.augmentations, np.random.default_rng([trainer.seed, number, index, trainer.group.rank]))
    seed = train_encoding_seed(trainer.seed, number)
    return batch, encode(x, samples.coding, trainer.net.time_steps, seed, batch.indices, samples.time_axis)


def train_encoding_seed(seed: int, epoch: int) -> int:
    """Return the seed of the spikes of one training epoch; it differs from the test's and from other epochs'."""
    return 1 + seed * 1_000_000 + epoch


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
