"""The result of learning, and its warnings: sentences with numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ottt_loihi.onchip.settings import Settings
from ottt_loihi.sim.learning.integers import MESSAGE_MAX
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.subspace import Subspace
from ottt_loihi.sim.learning.trial import halvings
from ottt_loihi.sim.network import ChipNetwork

# parts of a layer's messages or weights that are a warning: more at their limits, or fewer changed
SATURATED, RAILS, MOVED = 0.1, 0.1, 0.01
WORSE = 0.02  # of accuracy, from before learning to after it


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy on the test data with frozen weights, after a number of learnt samples."""

    samples: int
    accuracy: float


@dataclass(frozen=True)
class LearningResult:
    """The result of learning.

    ==============  ==============================================================================================
    field           meaning
    ==============  ==============================================================================================
    chip            the network with the learnt weights (``learning9``; ``weight_formats.to_inference`` for inference)
    averaged        the same with the running mean of the weights, whose noise is less; None where there is none
                    (``Settings.average_every``)
    curve           accuracy over samples seen, before the first sample included; empty without test data
    samples         samples learnt from
    steps           Lava steps
    rates           η per plastic connection, ``Δw = −η·â·f(u)·δ`` with δ_out = o − y (torch's η is this times T)
    rails           per plastic connection the part of the weights at −256 or 255
    moved           per plastic connection the part of the weights that are others than at the start
    seconds         time spent stepping, since it was resumed
    interrupted     stopped by Ctrl-C; everything above is as of the last point of the curve
    settings        backend, feedback, seed and all else that makes the run repeatable
    answers         the class answered to each sample before it was learnt from; None where samples are not answered
                    first (``Settings.tested``, or learning when mistaken), or the state of a resumed run lacks them
    came            labels of each class that have come, in the last epoch; a stream that goes on counts on
    learner         the state: ``learn(…, after=result)`` goes on from it
    ==============  ==============================================================================================
    """

    chip: ChipNetwork
    curve: tuple[CurvePoint, ...]
    samples: int
    steps: int
    rates: tuple[float, ...]
    rails: tuple[float, ...]
    moved: tuple[float, ...]
    seconds: float
    interrupted: bool
    settings: dict[str, Any]
    learner: Learner = field(compare=False, repr=False)
    answers: tuple[int, ...] | None = None
    came: tuple[int, ...] = ()
    averaged: ChipNetwork | None = None

    @property
    def counters(self) -> dict[str, int]:
        """Return the numbers of saturated y1 and error messages, as ``neuron[0].y1_saturated``, out of ``messages``."""
        counts = self.learner.variables(("y1_saturated", "error_saturated"))
        return {name.replace("readout[0]", "readout"): int(value[0]) for name, value in counts.items()}

    @property
    def messages(self) -> int:
        """Return the learning epochs: how often each neuron sent a y1, calls before this one included."""
        return self.learner.samples * self.chip.num_steps

    @property
    def subspaces(self) -> tuple[Subspace, ...] | None:
        """Return HLOP's, as they are now: rows that were not fixed have learnt."""
        return tuple(s for s in self.learner.subspaces() if s is not None) or None

    @property
    def inference_chip(self) -> ChipNetwork:
        """Return the network to deploy, with learning weights: their running mean, if there is one."""
        return self.chip if self.averaged is None else self.averaged

    def chosen(self) -> Settings:
        """Return the settings of the run, with the values that it computed."""
        return Settings(**{f.name: self.settings[f.name] for f in fields(Settings)})

    @property
    def accuracy(self) -> float | None:
        """The last point of the curve."""
        return self.curve[-1].accuracy if self.curve else None

    @property
    def warnings(self) -> list[str]:
        """Return sentences about rates that do not fit, lost accuracy, and settings taken from a resumed state."""
        found, last = [], len(self.rates) - 1
        for layer, rate in enumerate(self.rates):
            name = "the readout" if layer == last else f"hidden layer {layer + 1}"
            sent = self.counters["readout.y1_saturated" if layer == last else f"neuron[{layer}].y1_saturated"]
            saturated = sent / max(1, self.messages * self.chip.layers[layer - last - 1].size)
            for part, wrong, what in (
                (saturated, saturated > SATURATED, f"of the messages y1 saturate at ±{MESSAGE_MAX}; lower its rate"),
                (self.rails[layer], self.rails[layer] > RAILS, "of the weights are at −256 or 255; lower its rate"),
                (
                    self.moved[layer],
                    self.samples > 0 and self.moved[layer] < MOVED and not self._is_right,
                    "of the weights have changed, other updates were rounded to nothing; raise its rate",
                ),
            ):
                if wrong:
                    found.append(f"{name}, η = {rate:.3g}: {part:.1%} {what}")
        if len(self.curve) > 1 and self.curve[0].accuracy - self.curve[-1].accuracy > WORSE:
            before, after = self.curve[0], self.curve[-1]
            found.append(
                f"learning made the network worse: {before.accuracy:.1%} before, {after.accuracy:.1%} after "
                f"{after.samples:,} samples; lower the rates"
            )
        if kept := self.settings.get("kept_by_state"):
            chosen = ", ".join(f"{name} {self.settings[name]}" for name in kept)
            found.append(f"the resumed state is of version 0.1 and continues with its {chosen}")
        return found

    @property
    def _is_right(self) -> bool:
        """Whether it learns from mistakes, and makes hardly more than usual: then its weights need not move."""
        if self.settings["learn_when"] != "mistaken":
            return False
        average = self.learner.variables(("trial",))["readout[0].trial"][1]
        return halvings(average, self.learner.network.rule.usual_mistakes) > 0

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.seconds else 0.0
