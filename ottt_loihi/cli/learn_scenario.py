"""What ``ottt-learn`` learns from: a network, deployed or fresh, and the data it meets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from ottt_loihi.cli import command

if TYPE_CHECKING:
    import numpy as np

    from ottt_loihi.sim.network import ChipNetwork

WATCHED = 4000  # training samples of the old world that lateral neurons learn from, drawn over all of them
UNIT_SAMPLES = 1000  # training samples that a logit's unit is estimated on, drawn over all of them
STEPS = 12  # T from scratch: with 6 digits lose a point and MNIST 0.3 (docs/onchip.md)
TRAINING_SEEDS = 1_000_000  # training spikes are drawn from here on, test spikes from the seed itself


class Transform(str, Enum):
    none = "none"
    upside_down = "upside-down"


@dataclass(frozen=True)
class Scenario:
    """A network and the data that it meets.

    Attributes
    ----------
    name
        ``scratch``, ``drift`` or ``more``
    chip
        what learns
    training
        pass's number → messages and labels
    test
        messages and labels that it is measured on
    unit
        of the readout, where the network does not know it
    samples
        in one pass
    old_world
        of a given network: test data as they were before anything changed, the very ``test`` where nothing did; and
        training data to watch without labels
    """

    name: str
    chip: ChipNetwork
    training: Callable[[int], tuple[np.ndarray, np.ndarray]]
    test: tuple[np.ndarray, np.ndarray]
    unit: int | None
    samples: int
    old_world: tuple[tuple[np.ndarray, np.ndarray], np.ndarray] | None


def make_scenario(
    model: Path | None,
    transform: Transform,
    hidden: int,
    density: float,
    data: str | None,
    seed: int,
    plastic: int | None,
) -> Scenario:
    import numpy as np

    from ottt_loihi.converters.samples import as_messages, as_spikes
    from ottt_loihi.data import load_data
    from ottt_loihi.errors import UsageError
    from ottt_loihi.onchip.network.fresh import fresh_network
    from ottt_loihi.sim import storage
    from ottt_loihi.sim.learning.freeze import make_plastic

    if model:
        made = "ottt-export makes one"
        command.expect_file(model, "model.h5", {"": made, ".pt": f"{made} of it", ".net": f"{made} of it"})
    given = storage.load(model) if model else None
    split = load_data(data or _data_of(given))
    if given and given.host is not None:
        raise UsageError(
            f"{model}: its first connection is the host's, the rest cannot learn alone; export with --input graded"
        )
    if given and given.input_transform is not None:
        raise UsageError(f"{model}: its input layer scales its input, which ottt-learn does not do; ottt-run does")
    if given:
        count = len(given.layers)
        chip = make_plastic(given, layers=None if plastic is None else range(max(0, count - plastic), count))
    else:
        chip = fresh_network(split.input_shape, (hidden,), num_steps=STEPS, seed=seed, density=density)
    form = chip.input_form

    def encode(images: np.ndarray, spikes_seed: int, turn: bool) -> np.ndarray:
        turned = images[..., ::-1, ::-1] if turn else images
        graded = form in ("graded", "inject")
        coded = (
            as_messages(turned, chip.num_steps, form)
            if graded
            else as_spikes(split, turned, chip.num_steps, spikes_seed)
        )
        return _fitted(coded, chip)

    turn = transform is Transform.upside_down
    unit = old_world = None
    test = encode(split.x_test, seed, turn), split.y_test
    if given:
        before = (encode(split.x_test, seed, False), split.y_test) if turn else test
        drawn = np.random.default_rng(seed).permutation(len(split.y_train))
        few = drawn[:UNIT_SAMPLES]
        unit = _unit(chip, encode(split.x_train[few], TRAINING_SEEDS * (seed + 1) - 2, False), split.y_train[few])
        watched = encode(split.x_train[drawn[:WATCHED]], TRAINING_SEEDS * (seed + 1) - 1, False)
        old_world = before, watched
    return Scenario(
        name="scratch" if not given else "drift" if turn else "more",
        chip=chip,
        training=lambda number: (encode(split.x_train, TRAINING_SEEDS * (seed + 1) + number, turn), split.y_train),
        test=test,
        unit=unit,
        samples=len(split.y_train),
        old_world=old_world,
    )


def _data_of(chip: ChipNetwork | None) -> str:
    return chip.data_set.name if chip and chip.data_set else "digits"


def _unit(chip: ChipNetwork, x: np.ndarray, labels: np.ndarray) -> int | None:
    from ottt_loihi.onchip.network.trainable import estimate_unit, knows_unit

    return None if knows_unit(chip) else estimate_unit(chip, x, labels)


def _fitted(spikes: np.ndarray, chip: ChipNetwork) -> np.ndarray:
    from ottt_loihi.errors import UsageError

    shape = spikes.shape[2:]
    if spikes[0, 0].size != chip.input_size:
        raise UsageError(f"the network takes input of shape {chip.input_shape}, the data has {shape}; choose --data")
    return spikes.reshape(*spikes.shape[:2], *chip.input_shape)
