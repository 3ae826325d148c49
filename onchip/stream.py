"""All samples of a run in the order they are learnt from, checked and packed, with the rates measured on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Stream:
    """All samples in the order they are learnt from, and the rates they are learnt with.

    packed: what the layers that learn hear · messages: what the source sends in Lava, the same without a frozen front;
    None where nobody asked for it
    """

    plan: Plan
    packed: np.ndarray
    labels: np.ndarray
    rates: list[float]
    subspaces: Sequence[Subspace] | None
    messages: np.ndarray | None

    def learner(self, settings: Settings) -> Learner:
        """A fresh :class:`~ottt_loihi.sim.learning.learner.Learner`."""
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
        """A fresh :class:`~ottt_loihi.onchip.lava.graph.LearningGraph`."""
        from ottt_loihi.onchip.lava.graph import build_graph

        return build_graph(
            self.plan,
            self.messages,  # type: ignore[arg-type]
            self.labels,
            self.rates,
            settings.feedback,
            settings.seed,
            halve_every=settings.halve_every,
            rounding=settings.rounding,
            subspaces=self.subspaces,
            options=settings.options(),
        )


def make_stream(
    plan: Plan,
    data: Data | Callable[[int], Data],
    passes: int,
    settings: Settings,
    subspaces: Sequence[Subspace] | None = None,
    for_lava: bool = False,
) -> Stream:
    """Order and pack the samples of all passes, and measure the rates on the first of them."""
    if isinstance(passes, bool) or not isinstance(passes, (int, np.integer)) or passes < 1:
        raise UsageError(f"passes: expected an integer ≥ 1, got {passes!r}")
    if subspaces is not None:
        _require_protection(settings)
    packed, labels, messages, rates = [], [], [], None
    for number in range(passes):
        if number == 0 or callable(data):
            x, y = check_data(plan.whole, *(data(number) if callable(data) else data), what="data")
            heard = packed_spikes(plan.front, x)
        if rates is None:
            energy = trace_energy(plan, unpacked(plan.chip, heard[:CALIBRATION_SAMPLES]), subspaces)
            wanted = [settings.hidden_rate] * len(plan.hidden) + [settings.readout_rate]
            rates = [part / e for part, e in zip(wanted, energy)]
        order = np.random.default_rng([settings.seed, number]).permutation(len(x)) if settings.shuffle else slice(None)
        packed.append(heard[order])
        labels.append(y[order])
        if for_lava:
            flat = x.reshape(*x.shape[:2], -1)[order]
            messages.append(flat if plan.graded else np.packbits(flat, axis=-1))
    streamed = np.concatenate(messages) if for_lava else None
    rates_, all_packed = rates or [], np.concatenate(packed)
    return Stream(plan, all_packed, np.concatenate(labels), rates_, subspaces, streamed)


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
