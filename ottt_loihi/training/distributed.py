"""Training in several processes (``torchrun``): each takes a part of every batch, gradients are averaged before a step.

PyTorch's DistributedDataParallel reduces when a backward pass ends. An online rule has T backward passes a batch and
needs the reduced gradient only when the optimiser steps: once per step or once per sequence, as the rule goes. A hook
on the optimiser is exactly that, for every rule, and leaves the network as it is.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import distributed


@dataclass
class Group:
    """The processes that train together; ``size`` is 1 for one process. ``weight``: this one's share of the batch."""

    rank: int = 0
    size: int = 1
    weight: float = field(default=1.0, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def part(self, chosen: np.ndarray) -> np.ndarray:
        """Return the samples of a batch for this process. A process without a share gets one sample of weight 0."""
        mine = chosen[self.rank :: self.size]
        return mine if len(mine) else chosen[:1]

    def begin(self, samples: int) -> None:
        """Begin a batch. The number of samples is that of all processes together."""
        self.weight = len(range(self.rank, samples, self.size)) / samples

    def attach(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Average gradients over processes before each step of the optimiser; return handles that remove the hooks."""
        if self.size == 1:
            return []
        return [optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: self._reduce(optimizer))]

    def share(self, net: torch.nn.Module) -> None:
        """Copy the first process's parameters and buffers to all others, so that all train the same network."""
        if self.size > 1:
            with torch.no_grad():
                for tensor in (*net.parameters(), *net.buffers()):
                    distributed.broadcast(tensor, 0)

    def sum(self, *numbers: float) -> list[float]:
        """Return the sums over all processes."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.tolist()

    def _reduce(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients]).mul_(self.weight)
        distributed.all_reduce(flat)
        for gradient, reduced in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(reduced.view_as(gradient))


ALONE = Group()


def join() -> Group:
    """Return the group that ``torchrun`` started this process in, or a group of one.

    gloo transfers tensors on CPUs, NCCL those on GPUs. Each process of a machine gets its own GPU, which ``"cuda"``
    means from then on.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group()
    if not distributed.is_initialized():
        gpus = torch.cuda.device_count()
        if gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        # Imported later (by the first optimiser), its functions would keep the group as the default of an argument:
        # `leave` could not end its threads, and one that frees a tensor while Python exits aborts the process.
        importlib.import_module("torch.distributed.nn.functional")
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    return Group(distributed.get_rank(), size)


def leave() -> None:
    """End the group and its threads, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
