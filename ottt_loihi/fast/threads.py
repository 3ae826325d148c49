"""When a batch uses several threads of the CPU. Network, batch and T alone decide it, so that runs repeat.

Threads that share one product wait for one another at its end, and so does everything else where another process has
one of the cores: then two threads take up to ten times as long as one. So chunks share a batch's samples among threads
of their own, once a batch, and torch has several threads in large products alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ottt_loihi.nn.network import Network

# nanoseconds of one thread, as estimated here, from which on several threads are faster; measured (docs/benchmarks.md)
LONG_BATCH, LONG_PRODUCT = 30e6, 10e6
OF_PRODUCT, OF_NEURON = 0.05, 3.0  # of a weight's product, of a neuron's step with its error


@contextmanager
def one_thread_of_torch() -> Iterator[int]:
    """Set torch to one thread, yield the number that it had, and restore it at the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def is_long_batch(net: Network, samples: int, num_steps: int, constant: bool) -> bool:
    """Return whether threads should share the samples of a batch; ``constant``: the input is constant in time."""
    products = _products(net)[1 if constant else 0 :]
    neurons = sum(math.prod(block.shape) for block in net.blocks)
    return samples * num_steps * (OF_PRODUCT * sum(products) + OF_NEURON * neurons) >= LONG_BATCH


def has_long_products(net: Network, samples: int) -> bool:
    """Return whether several threads should share each product of a time step."""
    products = _products(net)
    return samples * OF_PRODUCT * sum(products) / len(products) >= LONG_PRODUCT


def _products(net: Network) -> list[int]:
    """Of each layer, the products of a weight for one sample and step; the readout last."""
    found = []
    for block in net.blocks:
        places = math.prod(block.shape[1:])  # 1 where the neurons have no image
        weights = [block.connection.weight] + [branch.connection.weight for branch in block.branches]
        found.append(places * sum(weight.numel() for weight in weights))
    return [*found, net.readout.weight.numel()]
