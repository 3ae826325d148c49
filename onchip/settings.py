"""The settings of learning: a rule, its rates, and the order of samples."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ottt_loihi.sim.learning.rule import LIMITS, Rule

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

RULES: dict[str, dict[str, Any]] = {  # by name, what a rule chooses; numbers are those of the rules in torch
    "ottt": {},
    "s-tllr": {"lambda_pre": 0.5, "lambda_post": 0.2, "alpha_post": 1.0},
    "tess": {"lambda_pre": 0.5, "lambda_post": 0.2, "alpha_post": 1.0, "feedback": "local", "kappa": None},
}
MOST = 10_000  # of a hidden rate
OPEN = ("loss", "learn_when", "usual_mistakes")  # choices of the rule that are found out where they are None


@dataclass(frozen=True)
class Settings(Rule):
    """The settings of learning; the fields of the :class:`~ottt_loihi.sim.learning.rule.Rule` are settings as well.

    Attributes
    ----------
    feedback
        how the error reaches hidden layers, of :data:`FEEDBACKS`
    readout_rate
        part of its error that one time step takes from the readout, 0 … 2; None: found out
    hidden_rate
        the same for hidden layers, with the error that their feedback delivers, > 0, one for all or one for each; None:
        found out
    loss
        of the rule; None: ``softmax`` from scratch, ``mse`` in a network that has learnt
    learn_when
        of the rule; None: ``always`` from scratch, ``mistaken`` in a network that has learnt
    usual_mistakes
        of the rule; None: measured on ``known`` data where they are given, else 0
    seed
        of the rule; of the order of samples as well
    logit_scale
        the readout's sum for a logit of 1; None: found out
    shuffle
        whether each epoch has an order of its own; else that of the data
    tested
        whether each sample is answered before it is learnt from, also where ``learn_when`` is not ``mistaken``
    balanced
        whether classes are learnt from alike: samples of a class that is more frequent than the rarest one so far are
        left out by chance (:func:`~ottt_loihi.onchip.stream.balanced`)
    average_every
        samples between two points of the running mean of the weights (``sim/learning/learner.py: RunningMean``), ≥ 0,
        0: none; None: a 32nd of an epoch, at least 16 samples

    :func:`ottt_loihi.onchip.network.rates.fitted` finds them out from the network and samples that are drawn.
    """

    feedback: str = "kolen-pollack"
    loss: str | None = None  # type: ignore[assignment]
    learn_when: str | None = None  # type: ignore[assignment]
    usual_mistakes: int | None = None  # type: ignore[assignment]
    readout_rate: float | None = None
    hidden_rate: float | tuple[float, ...] | None = None
    logit_scale: int | None = None
    shuffle: bool = True
    tested: bool = False
    balanced: bool = False
    average_every: int | None = None

    def __post_init__(self) -> None:
        chosen = self.rule()
        for name in LIMITS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, getattr(chosen, name))
        hidden: Any = self.hidden_rate
        if isinstance(hidden, (list, tuple)):
            hidden = tuple(_rate(rate, f"hidden_rate[{layer}]", MOST) for layer, rate in enumerate(hidden))
        else:
            hidden = _rate(hidden, "hidden_rate", MOST)
        object.__setattr__(self, "hidden_rate", hidden)
        object.__setattr__(self, "readout_rate", _rate(self.readout_rate, "readout_rate", 2))
        for name in ("shuffle", "tested", "balanced"):
            checks.flag(getattr(self, name), name)
        if self.logit_scale is not None:
            checks.integer(self.logit_scale, "logit_scale")
        if self.average_every is not None:
            object.__setattr__(self, "average_every", checks.integer(self.average_every, "average_every", 0))

    @classmethod
    def of_rule(cls, rule: str, **choices: Any) -> Settings:
        """Return the settings of ``ottt``, ``s-tllr`` or ``tess``; choices of None are left to the rule.

        Raises
        ------
        UsageError
            for an unknown name, and for a choice that the rule does not have
        """
        own = RULES[checks.one_of(rule, "rule", tuple(RULES))]
        given = {name: value for name, value in choices.items() if value is not None}
        if given.get("feedback", own.get("feedback")) != own.get("feedback") and "feedback" in own:
            raise UsageError(f"feedback: rule {rule} has feedback {own['feedback']}, got {given['feedback']}")
        foreign = [name for known in RULES.values() for name in known if name in given and name not in own]
        foreign = [name for name in foreign if name != "feedback"]
        if foreign:
            others = " or ".join(name for name, known in RULES.items() if foreign[0] in known)
            raise UsageError(f"{foreign[0]}: rule {rule} has none; choose rule {others}, or leave it out")
        return cls(**own | given)

    def rule(self) -> Rule:
        """Return the rule alone, with its default where a choice is still open."""
        mine = {f.name: getattr(self, f.name) for f in fields(Rule)}
        return Rule(**{name: value for name, value in mine.items() if name not in OPEN or value is not None})

    def rates(self, hidden_layers: int) -> list[float]:
        """Return the part of its error that one time step takes from each layer, the readout last.

        Raises
        ------
        UsageError
            for another number of hidden rates than hidden layers
        """
        return [*checks.each(self.hidden_rate, "hidden_rate", hidden_layers, "hidden layers"), self.readout_rate]


def _rate(value: Any, where: str, most: float) -> float | None:
    return None if value is None else checks.number(value, where, 0, most, above=True, below=True)
