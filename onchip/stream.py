"""The samples of a run in the order in which they are learnt, checked and packed, with the rates measured on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ottt_loihi.onchip.network.backbone import packed_spikes, unpacked
from ottt_loihi.onchip.network.scales import learning_network
from ottt_loihi.onchip.network.trainable import CALIBRATION_SAMPLES, Plan, trace_energy
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import INPUT, ChipNetwork

from ottt_loihi.errors import UsageError

Data = tuple[np.ndarray, np.ndarray]


class Pass(NamedTuple):
    """One pass through the data, in the order in which it is learnt.

    Attributes
    ----------
    packed
        spikes that the layers that learn receive, bits of uint8 ``(n, T, ⌈inputs / 8⌉)``
    labels
        int64 ``(n,)``
    x
        spikes or messages ``(n, T, *input_shape)`` as the data gave them
    """

    packed: np.ndarray
    labels: np.ndarray
    x: np.ndarray


class Stream:
    """The samples of a run in the order in which they are learnt, one pass in memory at a time.

    Parameters
    ----------
    plan
        what learns
    data
        ``(x, labels)``, or a function of the pass's number that returns them; every pass has as many samples
    passes
        number of passes ≥ 1
    settings
        seed and order of the samples, rates
    subspaces
        HLOP's, or None

    Attributes
    ----------
    rates
        of each plastic layer, measured on the first samples of the first pass
    per_pass
        samples of a pass

    Raises
    ------
    UsageError
        for wrong data, labels out of range, settings that do not fit HLOP
    """

    def __init__(
        self,
        plan: Plan,
        data: Data | Callable[[int], Data],
        passes: int,
        settings: Settings,
        subspaces: Sequence[Subspace] | None = None,
    ) -> None:
        if isinstance(passes, bool) or not isinstance(passes, (int, np.integer)) or passes < 1:
            raise UsageError(f"passes: expected an integer ≥ 1, got {passes!r}")
        if subspaces is not None:
            _require_protection(settings)
        self.plan, self.passes, self.subspaces = plan, int(passes), subspaces
        self._data, self._settings = data, settings
        self._number, x, labels, packed = 0, *self._load(0)
        self.per_pass = len(labels)
        energy = trace_energy(plan, unpacked(plan.chip, packed[:CALIBRATION_SAMPLES]), subspaces)
        wanted = [settings.hidden_rate] * len(plan.hidden) + [settings.readout_rate]
        self.rates = [part / e for part, e in zip(wanted, energy)]
        self._loaded = x, labels, packed
        self._pass = self._ordered(0)

    @property
    def total(self) -> int:
        """Number of samples of all passes."""
        return self.passes * self.per_pass

    def part(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return packed spikes and labels of samples ``begin`` to ``end`` of the run, of several passes if need be."""
        found = []
        while begin < end:
            number, first = divmod(begin, self.per_pass)
            until = min(self.per_pass, first + end - begin)
            now = self.pass_of(number)
            found.append((now.packed[first:until], now.labels[first:until]))
            begin += until - first
        return found[0] if len(found) == 1 else tuple(map(np.concatenate, zip(*found)))

    def pass_of(self, number: int) -> Pass:
        """Return a pass; the one before is forgotten."""
        if number != self._number:
            if callable(self._data):
                self._loaded = self._load(number)
                if (count := len(self._loaded[1])) != self.per_pass:
                    raise UsageError(
                        f"data: expected {self.per_pass:,} samples in every pass, got {count:,} in {number}"
                    )
            self._number, self._pass = number, self._ordered(number)
        return self._pass

    def everything(self) -> Pass:
        """Return all passes at once: Lava's source takes the messages of a whole run."""
        return Pass(*map(np.concatenate, zip(*(self.pass_of(number) for number in range(self.passes)))))

    def _load(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        data = self._data(number) if callable(self._data) else self._data
        x, labels = check_data(self.plan.whole, *data, what="data")
        return x, labels, packed_spikes(self.plan.front, x)

    def _ordered(self, number: int) -> Pass:
        x, labels, packed = self._loaded
        if not self._settings.shuffle:
            return Pass(packed, labels, x)
        order = np.random.default_rng([self._settings.seed, number]).permutation(len(labels))
        return Pass(packed[order], labels[order], x[order])

    def learner(self, settings: Settings) -> Learner:
        """Return a fresh :class:`~ottt_loihi.sim.learning.learner.Learner`."""
        return Learner(
            learning_network(
                self.plan,
                self.rates,
                settings.feedback,
                settings.seed,
                settings.halve_every,
                settings.rounding,
                self.subspaces,
                settings.options(),
            )
        )

    def build(self, settings: Settings) -> Any:
        """Return a fresh :class:`~ottt_loihi.onchip.lava.graph.LearningGraph`."""
        from ottt_loihi.onchip.lava.graph import build_graph

        whole = self.everything()
        flat = whole.x.reshape(*whole.x.shape[:2], -1)
        return build_graph(
            self.plan,
            flat if self.plan.graded else np.packbits(flat, axis=-1),
            whole.labels,
            self.rates,
            settings.feedback,
            settings.seed,
            halve_every=settings.halve_every,
            rounding=settings.rounding,
            subspaces=self.subspaces,
            options=settings.options(),
        )


def _require_protection(settings: Settings) -> None:
    """Refuse with HLOP what changes a network's answers outside the projected updates."""
    if settings.learn_bias:
        raise UsageError("learn_bias: biases change every answer, whatever is projected; do without them with HLOP")
    if settings.decay_every:
        raise UsageError("decay_every: decay also takes from protected directions; use 0 with HLOP")


def check_data(chip: ChipNetwork, x: np.ndarray, labels: np.ndarray, what: str = "data") -> Data:
    """Validate spikes (as uint8) or graded messages ``(n, T, *input_shape)``, and labels, int64 ``(n,)``."""
    x, labels = np.asarray(x), np.asarray(labels)
    classes = chip.layers[-1].size
    reference.check_input(chip, x[:1])
    if not len(x) or labels.shape != (len(x),):
        raise UsageError(
            f"{what}: expected as many labels as samples and at least one, got {len(x)} and {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise UsageError(f"{what}: expected integer labels, got dtype {labels.dtype}")
    graded = any(c.num_message_bits for c in chip.connections if c.pre == INPUT)
    if graded:
        reference.check_range(chip, x)
    elif x.min() < 0 or x.max() > 1:
        raise UsageError(f"{what}: expected spikes 0 or 1, got [{x.min()}, {x.max()}]; encode them first")
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(bad):
        raise UsageError(f"{what}: expected labels 0 … {classes - 1}, got {labels[bad[0]]} at {bad[0]}")
    return x if graded else x.astype(np.uint8), labels.astype(np.int64)
