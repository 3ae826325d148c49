"""The states that a run keeps, and the memory that they need."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ottt_loihi.sim import checks as sim_checks
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi.errors import UsageError

DTYPES = {"u": np.int32, "v": np.int32, "s": np.bool_}
SHARE = 0.8  # of the free memory a recording may take


def selection(
    chip: ChipNetwork, record: Sequence[str] | Mapping[str, Sequence[int | str]]
) -> dict[str, tuple[int, ...]]:
    """Return layer indices by variable, from names of variables (all layers) or a mapping to layers' indices or names.

    Raises :class:`UsageError` for a variable or layer that does not exist.
    """
    names = sim_checks.variables(record)
    if not isinstance(record, Mapping):
        return {name: tuple(range(len(chip.layers))) for name in names}
    return {name: tuple(sorted({chip.place(layer, "record") for layer in layers})) for name, layers in record.items()}


class Recording:
    """Arrays ``(steps, batch, *layer.shape)`` for the selected states; ``shifted``: layer l starts at row l + 1.

    Raises :class:`UsageError`, with the size, when they would take more than ``SHARE`` of the free memory.
    """

    def __init__(
        self, chip: ChipNetwork, recorded: dict[str, tuple[int, ...]], batch: int, steps: int, shifted: bool
    ) -> None:
        self.recorded, self.shifted, self.steps = recorded, shifted, steps
        sizes = {
            (name, index): steps * batch * chip.layers[index].size * np.dtype(DTYPES[name]).itemsize
            for name, layers in recorded.items()
            for index in layers
        }
        if sizes:
            _check_memory(chip, sizes)
        self.states: dict[str, list[Any]] = {
            name: [
                np.zeros((steps, batch, *layer.shape), DTYPES[name]) if index in layers else None
                for index, layer in enumerate(chip.layers)
            ]
            for name, layers in recorded.items()
        }

    def wants(self, name: str, layer: int) -> bool:
        """Whether a variable of a layer is recorded."""
        return layer in self.recorded.get(name, ())

    def add(self, name: str, layer: int, states: np.ndarray, order: np.ndarray | None, begin: int, part: slice) -> None:
        """Store states ``(samples, steps, neurons)`` of samples ``part`` from step ``begin``; neurons in ``order``."""
        target = self.states[name][layer]
        row = begin + (layer + 1 if self.shifted else 0)
        count = min(states.shape[1], self.steps - row)
        if count > 0:
            flat = target.reshape(self.steps, target.shape[1], -1)
            neurons = slice(None) if order is None else order
            flat[row : row + count, part, neurons] = states[:, :count].transpose(1, 0, 2)


def _check_memory(chip: ChipNetwork, sizes: dict[tuple[str, int], int]) -> None:
    needed, free = sum(sizes.values()), free_memory()
    if free is None or needed <= SHARE * free:
        return
    (name, index), largest = max(sizes.items(), key=lambda item: item[1])
    raise UsageError(
        f"record: needs {_gigabytes(needed)} of memory, {_gigabytes(free)} are free; record fewer layers or variables "
        f"({name!r} of layer {index}, {chip.layers[index].name}, alone takes {_gigabytes(largest)}) or fewer samples"
    )


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB"


def free_memory() -> int | None:
    """Return the bytes that can still be allocated, within the limit of the container; None if unknown."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    except OSError:
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            limits.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no limit, or no cgroup
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(limits, default=None)
