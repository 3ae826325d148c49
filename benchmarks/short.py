"""The short form of the benchmarks, ``--short``: the same code on few samples, in seconds. ``make bench`` runs it."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ottt_loihi import data
from ottt_loihi.data import Split
from ottt_loihi.errors import FileError

TRAIN, TEST = 240, 60
_load = data.load_data


def load_data(*arguments: Any, **options: Any) -> Split:
    """Return few samples, spread over a data set; end the program with one line where the set is not here."""
    try:
        split = _load(*arguments, **options)
    except FileError as error:
        print(f"skipped, the data are not here: {error}")
        sys.exit(0)
    train, test = (_spread(len(y), n) for y, n in ((split.y_train, TRAIN), (split.y_test, TEST)))
    return replace(
        split,
        x_train=split.x_train[train],
        y_train=split.y_train[train],
        x_test=split.x_test[test],
        y_test=split.y_test[test],
    )


def _spread(available: int, wanted: int) -> np.ndarray:
    """The places of so many samples: a file may be in order of its classes."""
    return np.linspace(0, available - 1, min(available, wanted)).astype(int)


def use() -> None:
    """Let every module load few samples, those that have imported ``load_data`` by name as well."""
    for module in (data, *sys.modules.values()):
        if vars(module).get("load_data") is _load:
            module.load_data = load_data  # type: ignore[attr-defined]


def folder() -> Path:
    """Return a temporary folder for what the short form writes: its figures are no measurement."""
    return Path(tempfile.mkdtemp(prefix="ottt-short-"))
