"""The samples of a run in the order in which they are learnt, checked and packed, with the rates measured on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ottt_loihi.onchip.network.backbone import packed_spikes, unpacked
from ottt_loihi.onchip.network.rates import drawn, fitted
from ottt_loihi.onchip.network.scales import learning_network, schedule_of
from ottt_loihi.onchip.network.trainable import Plan
from ottt_loihi.onchip.result import LearningResult
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.network import LearningNetwork
from ottt_loihi.sim.learning.rule import Rule
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks
from ottt_loihi.data.on_demand import Array, OnDemand
from ottt_loihi.errors import UsageError

Data = tuple[Array, np.ndarray]
UNLABELLED = -1  # label of a sample that is answered only
AHEAD = 256  # samples that go through a frozen backbone together
POINTS, APART = 32, 16  # of the running mean of weights in an epoch, and samples between two at least


class Received:
    """The input of the layers that learn in one epoch, computed when it is asked for, a block of samples at a time.

    Behind a frozen backbone a sample takes milliseconds, an epoch minutes: learning begins before all of it is there.
    All that was computed is kept, but of samples that come on demand only the last block: packed they may fill the
    memory.

    Parameters
    ----------
    backbone
        the frozen layers, or None
    x
        spikes or messages ``(n, T, *input_shape)``
    """

    def __init__(self, backbone: ChipNetwork | None, x: Array) -> None:
        self._backbone, self._x = backbone, x
        self._block = np.zeros(0, np.int64)  # the samples in _packed, ascending
        if isinstance(x, OnDemand):
            return
        if backbone is None:
            self._packed, self._known = packed_spikes(None, x), np.ones(len(x), bool)
        else:
            width = -(-backbone.layers[-1].size // 8)
            self._packed, self._known = np.empty((len(x), x.shape[1], width), np.uint8), np.zeros(len(x), bool)

    def of(self, indices: np.ndarray, ahead: np.ndarray | None = None) -> np.ndarray:
        """Return packed spikes uint8 ``(len(indices), T, ⌈size / 8⌉)`` of these samples.

        Where one of them is not known yet, those of ``ahead`` are computed with it.
        """
        if isinstance(self._x, OnDemand):
            if not np.isin(indices, self._block).all():
                self._block = np.unique(indices) if ahead is None else np.union1d(indices, ahead)
                self._packed = packed_spikes(self._backbone, self._x.only(self._block))
            return self._packed[np.searchsorted(self._block, indices)]
        if not self._known[indices].all():
            wanted = indices if ahead is None else np.union1d(indices, ahead)
            missing = wanted[~self._known[wanted]]
            self._packed[missing] = packed_spikes(self._backbone, self._x[missing])
            self._known[missing] = True
        return self._packed[indices]


class Stream:
    """The samples of a run in the order in which they are learnt, one epoch in memory at a time.

    Parameters
    ----------
    plan
        the network
    data
        ``(x, labels)``, or a function of the epoch's number that returns them; every epoch has as many samples
    epochs
        number of epochs ≥ 1
    settings
        seed and order of the samples, rates
    subspaces
        HLOP's, or None
    known
        ``(x, labels)`` of the world that the network has learnt, or None
    after
        the learning that this stream goes on from; None: the first one

    Attributes
    ----------
    plan, settings
        the given ones, with what they left open: logit scale, rates, when to learn
    rates
        η of each plastic layer, measured on samples drawn over the first epoch; in the data's order on the known world
    per_epoch
        samples of an epoch
    presented
        how often each sample is presented: twice where it is tested first, then learnt from
    before
        samples that earlier calls have learnt from

    Raises
    ------
    UsageError
        for wrong data, labels out of range, settings that do not fit HLOP
    """

    def __init__(
        self,
        plan: Plan,
        data: Data | Callable[[int], Data],
        epochs: int,
        settings: Settings,
        subspaces: Sequence[Subspace] | None = None,
        known: Data | None = None,
        after: LearningResult | None = None,
    ) -> None:
        if subspaces is not None:
            _require_protection(settings)
        self.plan, self.subspaces, self.settings = plan, subspaces, settings
        self.epochs, self._data = checks.integer(epochs, "epochs"), data
        self._came = np.zeros(plan.classes, np.int64) if after is None else np.array(after.came, np.int64)
        self._load(0)
        self.per_epoch = len(self._labels)
        if after is None:
            old = self._known(known)
            future = settings.shuffle or old is None  # a stream in its order is not looked at before it comes
            x = unpacked(plan.chip, self._received.of(drawn(self.per_epoch, settings.seed))) if future else old[0]
            self.plan, self.settings, self.rates = fitted(plan, settings, x, subspaces, old)
        else:
            self.rates = list(after.rates)
        if self.settings.average_every is None:
            self.settings = replace(self.settings, average_every=max(APART, self.per_epoch // POINTS))
        self.presented = 2 if self.settings.tested or self.settings.learn_when == "mistaken" else 1
        self.before = 0 if after is None else after.learner.samples // self.presented

    def first(self, count: int) -> np.ndarray:
        """Return spikes of the first samples of the first epoch in the data's order, as the layers that learn get them.

        0 or 1 ``(min(count, per_epoch), T, *plan.chip.input_shape)``
        """
        self._turn_to(0)
        return unpacked(self.plan.chip, self._received.of(np.arange(min(count, self.per_epoch))))

    def _known(self, known: Data | None) -> Data | None:
        """Return samples drawn over the known world, as the layers that learn receive them."""
        if known is None:
            return None
        x, labels = check_data(self.plan.whole, *known, what="known")
        few = drawn(len(labels), self.settings.seed)
        return unpacked(self.plan.chip, packed_spikes(self.plan.backbone, x[few])), labels[few]

    @property
    def rule(self) -> Rule:
        """Return the rule that counts presentations; the settings count samples."""
        rule = self.settings.rule()
        return replace(rule, halve_every=rule.halve_every * self.presented)

    @property
    def steps_per_sample(self) -> int:
        """Return the number of Lava steps of a sample, all its presentations together."""
        return self.presented * schedule_of(self.plan, self.rule).period(self.plan.chip.num_steps)

    @property
    def total(self) -> int:
        """Return the number of samples of all epochs together."""
        return self.epochs * self.per_epoch

    def presentations(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return packed spikes, labels and gate of the presentations of samples ``begin`` to ``end``."""
        packed, labels = (np.repeat(part, self.presented, axis=0) for part in self.part(begin, end))
        return packed, np.maximum(labels, 0), self.gate(labels)

    def gate(self, labels: np.ndarray) -> np.ndarray:
        """Return which presentations are learnt from, bool: the last of each sample's that has a label."""
        return (np.arange(len(labels)) % self.presented == self.presented - 1) & (labels != UNLABELLED)

    def part(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return packed spikes and labels of samples ``begin`` to ``end`` of the run, of several epochs if need be."""
        found = []
        while begin < end:
            number, first = divmod(begin, self.per_epoch)
            until = min(self.per_epoch, first + end - begin)
            order = self._turn_to(number)
            chosen = order[first:until]
            found.append((self._received.of(chosen, order[first : first + AHEAD]), self._labels[chosen]))
            begin += until - first
        return found[0] if len(found) == 1 else tuple(map(np.concatenate, zip(*found)))

    def came(self, done: int) -> np.ndarray:
        """Return how many labels of each class have come, int64 ``(classes,)``, in the epoch of sample ``done``."""
        number = max(0, done - 1) // self.per_epoch
        order = self._turn_to(number)[: done - number * self.per_epoch]
        labels = self._given[order]
        earlier = self._came if number == 0 else 0
        return earlier + np.bincount(labels[labels != UNLABELLED], minlength=self.plan.classes)

    def everything(self) -> Data:
        """Return spikes or messages and labels of all epochs, in order: Lava's source takes those of a whole run."""
        orders = (self._turn_to(number) for number in range(self.epochs))
        epochs = ((self._x[order], self._labels[order]) for order in orders)
        return tuple(map(np.concatenate, zip(*epochs)))  # type: ignore[return-value]

    def _turn_to(self, number: int) -> np.ndarray:
        """Return the order of an epoch, int64 ``(per_epoch,)``; its data take the place of the epoch before."""
        if number != self._number:
            begin = self._load if callable(self._data) else self._begin
            begin(number)
        return self._order

    def _begin(self, number: int) -> None:
        """Put the samples of an epoch in their order, and choose those that are learnt from."""
        self._number, self._order, self._labels = number, np.arange(len(self._given)), self._given
        if self.settings.shuffle:
            self._order = np.random.default_rng([self.settings.seed, number]).permutation(len(self._given))
        if self.settings.balanced:
            came = self._came if number == 0 else np.zeros_like(self._came)
            self._labels = self._given.copy()
            self._labels[self._order] = balanced(self._given[self._order], came, (self.settings.seed, number))

    def _load(self, number: int) -> None:
        data = self._data(number) if callable(self._data) else self._data
        x, labels = check_data(self.plan.whole, *data, what="data", lowest=UNLABELLED)
        if number and len(labels) != self.per_epoch:
            raise UsageError(
                f"data: expected {self.per_epoch:,} samples in every epoch, got {len(labels):,} in {number}"
            )
        self._x, self._given, self._received = x, labels, Received(self.plan.backbone, x)
        self._begin(number)

    def network(self) -> LearningNetwork:
        """Return the network of ``sim.learn``."""
        return learning_network(self.plan, self.rates, self.rule, self.subspaces)

    def learner(self) -> Learner:
        """Return a fresh :class:`~ottt_loihi.sim.learning.learner.Learner`."""
        return Learner(self.network())

    def build(self, backend: Any = None) -> Any:
        """Return a fresh :class:`~ottt_loihi.onchip.lava.graph.LearningGraph` for a backend."""
        from ottt_loihi.onchip.lava.graph import build_graph

        x, labels = (np.repeat(part, self.presented, axis=0) for part in self.everything())
        flat = x.reshape(*x.shape[:2], -1)
        packed = flat if self.plan.graded else np.packbits(flat, axis=-1)
        earlier = self.before * self.presented  # a source finds a sample by the number of Lava steps
        packed, labels = (np.concatenate([part[:1].repeat(earlier, axis=0), part]) for part in (packed, labels))
        more = {"learn": self.gate(labels), "subspaces": self.subspaces, "backend": backend}
        return build_graph(self.plan, packed, np.maximum(labels, 0), self.rates, self.rule, **more)


def balanced(labels: np.ndarray, came: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Return labels in the order of a stream, with −1 for those that are not learnt from, so that classes come alike.

    A label of class c is kept with probability ``n_min / n_c``, where n counts the labels that have come, this one
    included, and n_min is that of the rarest class that has come. So nothing looks ahead.

    Parameters
    ----------
    labels
        int64 ``(n,)``, −1 for none
    came
        int64 ``(classes,)``, labels that came earlier
    seed
        of the draw: a stream that is cut draws the same numbers
    """
    places = np.flatnonzero(labels != UNLABELLED)
    chances = np.random.default_rng(seed).random(int(came.sum()) + len(places))[int(came.sum()) :]
    counts, found = came.copy(), labels.copy()
    for place, chance in zip(places, chances):
        counts[labels[place]] += 1
        if chance * counts[labels[place]] >= counts[counts > 0].min():
            found[place] = UNLABELLED
    return found


def _require_protection(settings: Settings) -> None:
    """Refuse with HLOP what changes a network's answers outside the projected updates."""
    if settings.learn_bias:
        raise UsageError("learn_bias: biases change every answer, whatever is projected; do without them with HLOP")
    if settings.silent_epochs:
        raise UsageError("silent_epochs: HLOP's connections clear their traces themselves; use 0")
    if settings.of_stllr:
        raise UsageError(
            "lambda_pre, alpha_post: HLOP watches and projects OTTT's traces, of the neurons' own λ; use rule ottt"
        )


def check_data(chip: ChipNetwork, x: Array, labels: np.ndarray, what: str = "data", lowest: int = 0) -> Data:
    """Validate spikes (as uint8) or graded messages ``(n, T, *input_shape)``, and labels, int64 ``(n,)``.

    ``lowest`` −1 allows samples without a label. Samples on demand are validated when they are computed.
    """
    x, labels = as_samples(x), np.asarray(labels)
    classes = chip.layers[-1].size
    reference.check_input(chip, x[:1])
    if not len(x) or labels.shape != (len(x),):
        raise UsageError(
            f"{what}: expected as many labels as samples and at least one, got {len(x)} and {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise UsageError(f"{what}: expected integer labels, got dtype {labels.dtype}")
    bad = np.flatnonzero((labels < lowest) | (labels >= classes))
    if len(bad):
        raise UsageError(f"{what}: expected labels 0 … {classes - 1}, got {labels[bad[0]]} at {bad[0]}")
    if isinstance(x, OnDemand):
        return OnDemand(lambda places: check_messages(chip, x[places], what), len(x)), labels.astype(np.int64)
    return check_messages(chip, x, what), labels.astype(np.int64)


def as_samples(x: Array) -> Array:
    """Return samples as an array, those on demand as they are."""
    return x if isinstance(x, OnDemand) else np.asarray(x)


def check_messages(chip: ChipNetwork, x: np.ndarray, what: str) -> np.ndarray:
    """Return spikes as uint8, or graded messages, in the range that the network takes."""
    if chip.message_bits:
        reference.check_range(chip, x)
        return x
    if x.min() < 0 or x.max() > 1:
        raise UsageError(f"{what}: expected spikes 0 or 1, got [{x.min()}, {x.max()}]; encode them first")
    return x.astype(np.uint8)
