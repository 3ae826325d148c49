"""The scenario of ``ottt-learn``: a network, deployed or fresh, and its data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.cli import command
from ottt_loihi.converters.samples import Chosen, chip_choice, chip_input
from ottt_loihi.data import Step, load_data, prepare
from ottt_loihi.data.arrays import repeated
from ottt_loihi.data.on_demand import Array, OnDemand, joined
from ottt_loihi.data.registry import chosen_options, loader_options, located
from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.onchip import watch
from ottt_loihi.onchip.lava import stock
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.rates import logit_scale_for
from ottt_loihi.onchip.network.schedule import Schedule
from ottt_loihi.onchip.network.trainable import estimate_logit_scale, has_logit_scale, make_plan
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.learning.currents import impulses
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.learning.weight_formats import make_plastic
from ottt_loihi.sim.network import INPUT, ChipNetwork, Dense

EVERYTHING = 2**31 - 1  # samples
WATCHED = 4000  # training samples of the old world that lateral neurons learn from, drawn over all of them
SCALE_SAMPLES = 1000  # training samples that the logit scale is estimated on, drawn over all of them
INPUTS_PER_128 = 98  # from scratch: 128 hidden neurons for 64 inputs, 1024 for 784
STEPS = 12  # T from scratch: with 6 digits lose a point and MNIST 0.3 (docs/onchip.md)
CURRENT_BASED = 0.8  # default decay of the membrane of current-based neurons: another than most currents have
REPLAY = 0.25  # old samples for each new one, with --changed: one for every four (docs/onchip.md)
KEPT = 10  # of so many training samples one is kept for --stop-at
TRAINING_SEEDS = 1_000_000  # training spikes are drawn from here on, test spikes from the seed itself


Coded = tuple[Array, np.ndarray]  # messages and labels
Decays = tuple[float, float]  # of current and membrane


@dataclass(frozen=True)
class Scenario:
    """A network and the data that it learns from.

    Attributes
    ----------
    name
        ``scratch``, ``drift`` or ``more``
    chip
        the network that learns
    training
        epoch's number → messages and labels
    test
        messages and labels for the accuracy
    logit_scale
        of a trained readout, measured on its old data; None if it is unknown
    samples
        number of samples in an epoch
    old_world
        of a given network: test data before the change (the same object as ``test`` if nothing changed), and training
        data for HLOP, without labels; else None
    known
        old training samples with their labels, a random choice, on which the network is measured; or None
    stuck
        bool ``(samples,)``: analog training samples that repeat the previous one, value by value
    validation
        training samples that are not learnt from, with their labels; or None
    old_training
        epoch's number and a count → so many old training samples, drawn, and their labels; None if nothing changed, or
        the old data are unknown
    replayed
        number of old samples in an epoch
    notes
        what was found in the data and changed
    """

    name: str
    chip: ChipNetwork
    training: Callable[[int], Coded]
    test: Coded
    logit_scale: int | None
    samples: int
    old_world: tuple[Coded, Array] | None
    known: Coded | None = None
    stuck: np.ndarray | None = None
    validation: Coded | None = None
    old_training: Callable[[int, int], Coded] | None = None
    replayed: int = 0
    notes: tuple[str, ...] = ()


def scenario_name(model: Path | None, transform: str) -> str:
    """Return the name of a scenario, which its files begin with."""
    return "scratch" if model is None else "more" if transform == "none" else "drift"


def make_scenario(
    model: Path | None,
    transform: str,
    hidden: int | None,
    density: float,
    data: str | None,
    seed: int,
    plastic: int | None,
    decays: tuple[float, float | None] = (0.0, None),
    loss: str = "mse",
    of_first: bool = False,
    changes: tuple[str, ...] = (),
    validate: bool = False,
) -> Scenario:
    """Return the scenario of the options; ``of_first``: of a resumed run of version 0.1.

    ``changes`` are texts as ``"data.train=[2]"``: options of the loader, in place of those of the training.
    ``validate``: a tenth of the training samples, drawn, is kept for validation.
    """
    given = command.load_chip(model) if model else None
    if given is None:
        if plastic is not None:
            raise UsageError(
                "--plastic: every layer of a network from scratch learns; give a model.h5, or leave it out"
            )
        usable, name = _decays(*decays), data or "digits"
        chip, found = _fresh(name, _options(name, changes), hidden, density, seed, usable, of_first)
    else:
        if (hidden, density, *decays) != (None, 1.0, 0.0, None):
            raise UsageError(
                "--hidden, --density, --current-decay, --membrane-decay: of networks from scratch; a model.h5 has its "
                "own, leave them out"
            )
        _require_able(given, model)
        name = data or (given.data_set.name if given.data_set else "digits")
        found = chip_choice(given, name, EVERYTHING, options=_options(name, changes))
        chip = _plastic(given, plastic)
    split = found.split
    command.say("data", found.notes)
    turn = transform == "upside-down"
    if turn and len(split.input_shape) < 2:
        raise UsageError(f"--transform: {split.name} has no images, its samples are {split.input_shape}; leave it out")

    def train(source: Chosen, places: np.ndarray, number: int, turned: bool) -> Coded:
        """Return training samples; ``number``: the epoch's, or a negative one for other purposes."""
        spikes_seed = TRAINING_SEEDS * (seed + 1) + number
        return encode(source, source.split.x_train, source.split.y_train, places, spikes_seed, turned)

    def test(source: Chosen, turned: bool) -> Coded:
        labels = source.split.y_test
        return encode(source, source.split.x_test, labels, np.arange(len(labels)), seed, turned)

    def encode(source: Chosen, x: Any, labels: np.ndarray, places: np.ndarray, spikes: int, turned: bool) -> Coded:
        def of(numbers: np.ndarray) -> np.ndarray:
            few = x[places[numbers]]
            few = few[..., ::-1, ::-1] if turned else few
            return chip_input(chip, replace(source, x=few, indices=places[numbers]), spikes)

        return OnDemand(of, len(places)).kept(), labels[places]

    count = len(split.y_train)
    kept = np.random.default_rng([seed, KEPT]).permutation(count)[: -(-count // KEPT) if validate else 0]
    learnt = np.setdiff1d(np.arange(count), kept)
    logit_scale = old_world = known = validation = old_training = None
    if validate:
        if not len(learnt):
            raise UsageError(f"--stop-at: needs two training samples, one of them to stop by; got {count}")
        validation = train(found, kept, -3, turn)
        command.say("--stop-at", [f"{len(kept):,} of {count:,} training samples are kept for it, not learnt from"])
    tested = test(found, turn)
    old = _trained_on(given, data, changes, found) if given else None
    if old is not None:
        drawn = np.random.default_rng(seed).permutation(len(old.split.y_train))
        known = train(old, drawn[:SCALE_SAMPLES], -2, False)
        logit_scale = _logit_scale(chip, *known, loss)
        watched, _ = train(old, drawn[:WATCHED], -1, False)
        old_world = tested, watched
        if turn or old is not found:
            old_world = test(old, False), watched

            def old_training(number: int, size: int) -> Coded:
                from_all = learnt if old is found else np.arange(len(old.split.y_train))  # none kept for --stop-at
                draws = np.random.default_rng([seed, number, size]).integers(len(from_all), size=size)
                return train(old, from_all[draws], number, False)

    if given and of_first:
        # version 0.1 measures on test samples what the network does not know
        before = test(found, False) if turn else tested
        logit_scale = None if has_logit_scale(chip) else estimate_logit_scale(chip, *before)
    return Scenario(
        name=scenario_name(model, transform),
        chip=chip,
        training=lambda number: train(found, learnt, number, turn),
        test=tested,
        logit_scale=logit_scale,
        samples=len(learnt),
        old_world=old_world,
        known=known,
        stuck=repeated(split.x_train) if found.record.values == "analog" else None,
        validation=validation,
        old_training=old_training,
        notes=found.notes,
    )


def with_replay(scenario: Scenario, share: float) -> Scenario:
    """Return the scenario with ``share`` old samples for each new one, drawn anew in every epoch."""
    if not share:
        return scenario
    if scenario.old_training is None:
        why = {
            "scratch": "a network that starts from scratch has learnt nothing before; give a deployed model.h5",
            "more": "these are the data that the network was trained on, or those are not here; use --replay 0",
        }
        raise UsageError(f"--changed, --replay: {why.get(scenario.name, why['more'])}")
    count = max(1, round(share * scenario.samples))

    def training(number: int) -> Coded:
        (x, labels), (old_x, old_labels) = scenario.training(number), scenario.old_training(number, count)
        return joined(x, old_x), np.concatenate([labels, old_labels])

    return replace(scenario, training=training, samples=scenario.samples + count, replayed=count)


def watched(scenario: Scenario, rows: int, settings: Settings, quiet: bool) -> tuple[Subspace, ...] | None:
    """Return the subspace of the deployed network's traces on its old data, at most ``rows`` directions."""
    if not rows:
        return None
    if scenario.old_world is None:
        raise UsageError("--hlop: a network that starts from scratch has nothing to protect; give a deployed model.h5")
    counts = [min(rows, c.shape[1] // 2) for c in make_plan(scenario.chip, 1).dense]
    with command.err.status("HLOP watches the old data …") if not quiet else nullcontext():
        return watch(scenario.chip, scenario.old_world[1], counts, feedback=settings.feedback, seed=settings.seed)


def evened(scenario: Scenario, settings: Settings) -> Scenario:
    """Return the scenario; for Lava's own LearningDense with even weights, because its weights begin even."""
    if not stock.is_chosen(settings):
        return scenario
    chip, changed = stock.even_weights(scenario.chip)
    if changed:
        command.say("note", [f"{changed:,} odd weights are lowered by 1: Lava's LearningDense begins with even ones"])
    return replace(scenario, chip=chip)


def _require_able(given: ChipNetwork, model: Path | None) -> None:
    if given.host is not None:
        raise UsageError(
            f"{model}: its first connection is the host's, the rest cannot learn alone; export with --input graded"
        )
    if given.input_transform is not None:
        raise UsageError(f"{model}: its input layer scales its input, which ottt-learn does not do; ottt-run does")


def _plastic(given: ChipNetwork, plastic: int | None) -> ChipNetwork:
    """Return the network with plastic last layers; a first layer that receives graded messages stays frozen."""
    count = len(given.layers)
    if plastic is not None and plastic > count:
        raise UsageError(
            f"--plastic: the network has {count} layers, got {plastic}; leave it out, and all dense ones learn"
        )
    dense = [c for c in given.connections if c.pre == INPUT and isinstance(c, Dense)]  # others stay as they are anyway
    graded = any(c.num_message_bits for c in dense)
    if graded and (count == 1 or (plastic or 0) >= count):
        advice = f"--plastic {count - 1}, or " if count > 1 else ""
        raise UsageError(
            f"the first layer receives graded messages, with which no layer can learn; {advice}train with spikes "
            "(ottt-train --encoding rate, or regular)"
        )
    if graded and plastic is None:
        plastic = count - 1
        command.err.print("the first layer receives graded messages and stays as it is; the layers behind it learn")
    return make_plastic(given, layers=None if plastic is None else range(count - plastic, count))


def _decays(current: float, membrane: float | None) -> Decays:
    """Return the decays of current and membrane from scratch; refuse values with which a network cannot learn."""
    membrane = (CURRENT_BASED if current else 0.5) if membrane is None else membrane
    for name, decay in (("current", current), ("membrane", membrane)):
        kept = round(checks.number(decay, f"--{name}-decay", 0, 1) * arithmetic.DECAY_UNITY)
        if kept == arithmetic.DECAY_UNITY or (not kept and (decay or name == "membrane")):
            low = "0 (no current), or 0.001" if name == "current" else "0.001"
            raise UsageError(f"--{name}-decay: expected {low} … 0.999, got {decay}")
    if current:
        schedule = Schedule(1)
        try:
            impulses(*sorted((current, membrane)), schedule.epoch, schedule.pre_phase(0))
        except UsageError as error:
            raise UsageError(f"--current-decay, --membrane-decay: {error}") from None
    return current, membrane


def _options(data: str, changes: tuple[str, ...]) -> dict[str, Any]:
    """Return options of the loader. If it can, it skips samples with gaps, which a failing sensor leaves."""
    gaps = {"gaps": "skip"} if "gaps" in loader_options(data) else {}
    return gaps | chosen_options(data, changes)


def _fresh(
    data: str, options: dict[str, Any], hidden: int | None, density: float, seed: int, decays: Decays, of_first: bool
) -> tuple[ChipNetwork, Chosen]:
    """Return an untrained network for a data set, and its samples coded as spikes, from which a layer can learn."""
    loaded = load_data(data, **options)
    prepared = prepare(loaded)
    unfit = ("graded",) if of_first else ("graded", "rate")  # no layer learns from messages, and noise costs accuracy
    if prepared.record.coding.name in unfit:
        prepared = prepare(loaded, "regular")
    split, record = prepared.split, prepared.record
    inputs = int(np.prod(prepared.input_shape))
    chip = fresh_network(
        prepared.input_shape,
        (hidden or (128 if of_first else min(1024, 128 * max(1, inputs // INPUTS_PER_128))),),
        split.num_classes,
        num_steps=record.time_steps or STEPS,
        seed=seed,
        density=density,
        current_decay=decays[0],
        reset="zero" if decays[0] else "subtract",
        decay=decays[1],
    )
    chip = replace(chip, data=record, data_set=Step(located(data), options))
    notes = prepared.notes if data != "digits" else ()
    count = len(split.y_test)
    return chip, Chosen(split.x_test, split.y_test, np.arange(count), count, record, split, notes)


def _trained_on(given: ChipNetwork, data: str | None, changes: tuple[str, ...], found: Chosen) -> Chosen | None:
    """Return the data that the network was trained on; None, with a note, if they are not here."""
    same = data is None or given.data_set is None or located(data) == located(given.data_set.name)
    if same and (given.data_set is None or not changes):
        return found
    try:
        return chip_choice(given, given.data_set.name, EVERYTHING)
    except (FileError, UsageError) as error:
        command.say(
            "note", [f"the network's training data cannot be loaded ({error}); its accuracy on them is not measured"]
        )
        return None


def _logit_scale(chip: ChipNetwork, x: Array, labels: np.ndarray, loss: str) -> int | None:
    """Return how far the right class leads in the old world; None if it does not lead: it is measured later."""
    try:
        return logit_scale_for(loss, estimate_logit_scale(chip, x, labels))
    except UsageError:
        return None
