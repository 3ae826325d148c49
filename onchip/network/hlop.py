"""HLOP on the chip: a deployed network watches old data, and later learns new data without changing its old answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from ottt_loihi.onchip.network.backbone import packed_spikes, unpacked
from ottt_loihi.onchip.network.rates import drawn
from ottt_loihi.onchip.network.scales import learning_network, schedule_of
from ottt_loihi.onchip.network.trainable import PENDING, Plan, make_plan, plan_subspaces, trace_energy
from ottt_loihi.onchip.stream import check_data
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.rule import Rule
from ottt_loihi.sim.learning.subspace import Subspace, empty
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks

PART = 0.25  # of what a trace lacks, at the first stage; an eighth of it at the last
STAGES = 4
IRRELEVANT = 0.01  # a learning rate: while it watches the gate is closed


def watch(
    chip: ChipNetwork,
    x: np.ndarray,
    rows: int | Sequence[int],
    *,
    subspaces: Sequence[Subspace] | None = None,
    feedback: str = "kolen-pollack",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Subspace, ...]:
    """Let the lateral neurons of every plastic connection learn the subspace of its traces; no label is needed.

    The network runs with a closed gate, so its weights stay; rows learn with steps that are halved three
    times (``sim/learning/subspace.py``). Give the result to :func:`ottt_loihi.onchip.learn` as ``subspaces``, and to a
    later call of this function to add the subspace of another world's traces.

    Parameters
    ----------
    chip
        a plastic network
    x
        messages ``(n, T, *input_shape)``
    rows
        new rows per plastic connection, or for each
    subspaces
        earlier ones, all of whose rows stay
    feedback
        of the learning to come: its schedule decides how often traces decay
    seed
        of the rows' start and rounding

    Raises
    ------
    UsageError
        for more rows than there are directions left, data that do not fit, or a sparse plastic connection
    ChipError
        for a network that cannot learn here
    """
    plan = make_plan(chip, PENDING)
    inputs = [c.shape[1] for c in plan.dense]
    plan_subspaces(plan, [empty(n) for n in inputs])
    counts = checks.each(rows, "rows", len(inputs), "plastic connections")
    x, _ = check_data(chip, x, np.zeros(len(x), np.int64), what="x")
    packed = packed_spikes(plan.backbone, x)
    old = [empty(n) for n in inputs] if subspaces is None else [s.settled() for s in subspaces]
    rule = Rule(feedback=feedback, seed=seed)
    energies = integer_energies(plan, packed, rule)
    parts = zip(old, counts, energies, strict=True)
    now = tuple(s.grown(n, e, PART, seed + 7919 * layer) for layer, (s, n, e) in enumerate(parts))
    order = np.random.default_rng(seed).permutation(len(packed))
    for stage, chosen in enumerate(np.array_split(order, STAGES)):
        slower = [replace(s, shift=min(s.shift + (stage > 0), integers.MAX_SHIFT)) for s in now]
        network = learning_network(plan, [IRRELEVANT] * len(inputs), rule, slower)
        learner = Learner(network)
        learner.learn(packed[chosen], np.zeros(len(chosen), int), gate=False)
        now = tuple(s for s in learner.subspaces() if s is not None)
        if progress is not None:
            progress(stage + 1, STAGES)
    return tuple(s.settled() for s in now)


def integer_energies(plan: Plan, packed: np.ndarray, rule: Rule) -> list[float]:
    """Return the mean ‖x1‖² at the end of an epoch, for each plastic connection."""
    few = unpacked(plan.chip, packed[drawn(len(packed), 0)])
    schedule, energies = schedule_of(plan, rule), trace_energy(plan, few)
    found = []
    for layer, energy in enumerate(energies):
        decay = plan.trace_decay(layer)
        left = integers.impulse_left(decay, schedule.epoch, schedule.pre_phase(layer))
        found.append(energy * (integers.default_impulse(decay) * left) ** 2)
    return found
