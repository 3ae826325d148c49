"""Products of few events against the library's products, one thread: where ``products.FEW_OF_…`` come from.

    python benchmarks/events.py [--rows 32] [--json out.json]

For each connection and part of its inputs that is not 0: milliseconds of the forward product and of the weight's
gradient, as a product and as a sum over events, and how many times faster the sums are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ottt_loihi.fast.products import Products
from ottt_loihi.nn.connections import Conv2d, Linear

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def connections() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """A synapse and the shape of one input."""
    convolutions = {
        f"conv {n}→{m}, {size}×{size}": (Conv2d(n, m, 3, padding=1), (n, size, size))
        for n, m, size in ((16, 32, 16), (32, 64, 8), (64, 128, 16))
    }
    return {"linear 784→800": (Linear(784, 800), (784,)), **convolutions}


def milliseconds(run: Callable[[], Any], repeats: int = 11) -> float:
    """Median after two runs to warm up."""
    found = []
    for turn in range(repeats + 2):
        start = time.perf_counter()
        run()
        if turn > 1:
            found.append(time.perf_counter() - start)
    return 1e3 * statistics.median(found)


def measure(synapse: Any, shape: tuple[int, ...], rows: int, density: float) -> list[float]:
    """Forward as a product and as events, gradient as a product and as events."""
    generator = torch.Generator().manual_seed(0)
    connection = Products(synapse, synapse.effective())
    x = (torch.rand(rows, *shape, generator=generator) < density).float()
    x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    g = torch.randn(connection.product(x, few=False).shape, generator=generator)
    g = g.contiguous(memory_format=torch.channels_last) if g.ndim == 4 else g
    sums = torch.zeros_like(connection.rows)
    with torch.no_grad():
        return [
            milliseconds(lambda: connection.product(x, few=False)),
            milliseconds(lambda: connection.product(x, few=True)),
            milliseconds(lambda: connection.gradients(g, x, (False, True))),
            milliseconds(lambda: connection.add_events(g, x, sums)),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=32, help="samples × steps of a call, 16 times as many for the linear one"
    )
    parser.add_argument("--json", help="write the figures here too")
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.rows = 2
    torch.set_num_threads(1)
    table = Table("connection", "not 0", "forward: product, events (ms)", "×", "gradient: product, events (ms)", "×")
    found = []
    with torch.no_grad():
        for name, (synapse, shape) in connections().items():
            rows = arguments.rows * (16 if len(shape) == 1 else 1)
            for density in DENSITIES:
                a, b, c, d = measure(synapse, shape, rows, density)
                found.append({"connection": name, "density": density, "forward": [a, b], "gradient": [c, d]})
                cells = (f"{a:.2f}, {b:.2f}", f"{a / b:.1f}", f"{c:.2f}, {d:.2f}", f"{c / d:.1f}")
                table.add_row(name, f"{density:.0%}", *cells)
    Console(width=120).print(table)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
