"""HLOP in integers: lateral neurons find the subspace of a connection's traces, and remove it from learning.

::

    m = ⌊H·x / 2^8⌋                    responses of all rows; x: the traces x1 at the end of a learning epoch, 0 … 127
    x̂ = ⌊(Hᵀ·m + 2^19) / 2^20⌋         what the rows make of them again
    x' = clip(x − x̂_old, ±127)         Δw = x'·y1 in place of x1·y1; x̂_old: of the first ``fixed`` rows alone. Lava's
                                       engine drops three bits of x1·y1 by flooring; of x'·y1 they are rounded to
                                       nearest: x' is hardly ever 0, and a floor would pull at every synapse
    H += ⌊(m·eᵀ + r) / 2^shift⌋        the other rows, e = clip(x − x̂, ±127), r uniform in [0, 2^shift)

H has 14 bits behind the point in 16 (a row of norm 1 has entries of a few hundred), m has 6; sums are 32 bits wide and
wrap. ``m·xᵀ − m·x̂ᵀ`` is Hebbian and anti-Hebbian: Oja's subspace rule, whose rows become orthonormal. All of it uses H
as it was when the epoch began, and so does the update of the weights. r: ``integers.synapse_hash``.

Where a step's error is closed off by the gate, rows learn all the same: no labels are needed to see what there is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ottt_loihi.sim.learning import integers

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

ROW_BITS = 14  # behind the point
MESSAGE_BITS = 6
ONE = 1 << ROW_BITS
ROW_MAX = (1 << 15) - 1
TO_MESSAGE = ROW_BITS - MESSAGE_BITS
TO_TRACE = ROW_BITS + MESSAGE_BITS


@dataclass(frozen=True)
class Subspace:
    """H of one plastic connection.

    Attributes
    ----------
    rows
        int16 ``(k, inputs)``
    fixed
        rows that protect and never change, 0 … k; the others learn
    shift
        of the learning rows' updates, 0 … 31
    seed
        of their rounding
    """

    rows: np.ndarray
    fixed: int
    shift: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        rows = np.asarray(self.rows)
        if rows.ndim != 2 or rows.dtype.kind not in "iu" or np.abs(rows.astype(np.int64)).max(initial=0) > ROW_MAX:
            raise UsageError(
                f"subspace.rows: expected integers (k, inputs) in ±{ROW_MAX}, got {rows.dtype} {rows.shape}"
            )
        for name, value, high in (("fixed", self.fixed, len(rows)), ("shift", self.shift, integers.MAX_SHIFT)):
            checks.integer(value, f"subspace.{name}", 0, high)
        object.__setattr__(self, "rows", rows.astype(np.int16))

    def settled(self) -> Subspace:
        """The same with all rows fixed: a task has ended."""
        return replace(self, fixed=len(self.rows))

    def grown(self, count: int, energy: float, part: float, seed: int) -> Subspace:
        """Return a subspace with ``count`` more rows that learn, drawn from ``seed``, orthonormal to all others.

        Raises :class:`UsageError` if fewer directions than ``count`` are left, or for a parameter out of range.

        Parameters
        ----------
        energy
            mean ‖x‖² of the traces, in integers
        part
            of what a trace lacks in a row's direction that one update adds, 0 … 1, rounded to a power of two.
        """
        inputs = self.rows.shape[1]
        if not checks.is_integer(count) or not 1 <= count <= inputs - self.fixed:
            raise UsageError(
                f"subspace: expected 1 … {inputs - self.fixed} new rows ({inputs} inputs, {self.fixed} rows fixed), "
                f"got {count!r}"
            )
        if not (0 < part <= 1 and energy > 0):
            raise UsageError(f"subspace: expected a part in (0, 1] and an energy > 0, got {part} and {energy}")
        basis = np.linalg.qr(self.rows[: self.fixed].T / ONE)[0]
        start = np.random.default_rng([seed, count]).standard_normal((inputs, count))
        for _ in range(2):  # once more for what rounding left
            start = np.linalg.qr(start - basis @ (basis.T @ start))[0]
        rows = np.concatenate([self.rows[: self.fixed], np.round(ONE * start.T).astype(np.int16)])
        shift = round(math.log2(max(1.0, energy / part / 2**TO_MESSAGE)))
        return Subspace(rows, self.fixed, min(shift, integers.MAX_SHIFT), seed)

    def deviation(self) -> float:
        """The distance of the rows from orthonormal ones: the largest entry of ``|HHᵀ − 1|``."""
        h = self.rows / ONE
        return float(np.abs(h @ h.T - np.eye(len(h))).max(initial=0))


def empty(inputs: int) -> Subspace:
    """Of a connection that protects nothing yet."""
    return Subspace(np.zeros((0, inputs), np.int16), 0)


def responses(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    """m, int32 ``(k,)``; the sum wraps."""
    return (rows.astype(np.int64) @ x.astype(np.int64)).astype(np.int32) >> TO_MESSAGE


def reconstruction(rows: np.ndarray, messages: np.ndarray) -> np.ndarray:
    """x̂, int32 ``(inputs,)``; the sum wraps."""
    total = rows.T.astype(np.int64) @ messages.astype(np.int64) + (1 << (TO_TRACE - 1))
    return total.astype(np.int32) >> TO_TRACE


def projected(rows: np.ndarray, fixed: int, x: np.ndarray) -> np.ndarray:
    """x', int32 ``(inputs,)``."""
    return _lacking(rows[:fixed], responses(rows[:fixed], x), x)


def moved(rows: np.ndarray, fixed: int, shift: int, x: np.ndarray, random: np.ndarray) -> np.ndarray:
    """The rows after an epoch. random: uint32 ``(k, inputs)``, whose upper ``shift`` bits are r."""
    m = responses(rows, x)
    e = _lacking(rows, m, x)
    r = random[fixed:].astype(np.int64) >> (32 - shift)
    change = (np.outer(m[fixed:].astype(np.int64), e) + r) >> shift
    new = rows.copy()
    new[fixed:] = np.clip(rows[fixed:] + change, -ROW_MAX, ROW_MAX)
    return new


def check_subspaces(subspaces: Sequence[Subspace] | None, inputs: Sequence[int]) -> tuple[Subspace | None, ...]:
    """One for each plastic connection of so many inputs, or a UsageError; None: none anywhere."""
    if subspaces is None:
        return (None,) * len(inputs)
    found = [s.rows.shape[1] for s in subspaces]
    if found != list(inputs):
        raise UsageError(f"subspaces: expected one per plastic connection, of {list(inputs)} inputs, got {found}")
    return tuple(subspaces)


def _lacking(rows: np.ndarray, messages: np.ndarray, x: np.ndarray) -> np.ndarray:
    lacking = x.astype(np.int64) - reconstruction(rows, messages)
    return np.clip(lacking, -integers.TRACE_MAX, integers.TRACE_MAX).astype(np.int32)
