"""The settings of learning: a rule, its rates, and the order of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ottt_loihi.sim.learning.rule import Rule

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

RULES: dict[str, dict[str, Any]] = {  # by name, what a rule chooses; numbers are those of the rules in torch
    "ottt": {},
    "s-tllr": {"lambda_pre": 0.5, "lambda_post": 0.2, "alpha_post": 1.0},
    "tess": {"lambda_pre": 0.5, "lambda_post": 0.2, "alpha_post": 1.0, "feedback": "local", "kappa": None},
}
READOUT_RATE = 0.02  # part of its error that one time step's update takes from the readout
HIDDEN_RATE = 1.0  # the same for a hidden layer, with the error that its feedback delivers


@dataclass(frozen=True)
class Settings(Rule):
    """The settings of learning; the fields of the :class:`~ottt_loihi.sim.learning.rule.Rule` are settings as well.

    Attributes
    ----------
    readout_rate, hidden_rate
        part of a layer's error that one update takes away; default: measured good on digits
    seed
        of the rule; of the order of samples as well
    unit
        the readout's sum for a logit of 1; default: the network's
    shuffle
        whether each pass has an order of its own; else that of the data
    """

    readout_rate: float = READOUT_RATE
    hidden_rate: float = HIDDEN_RATE
    unit: int | None = None
    shuffle: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.readout_rate < 2 and 0 < self.hidden_rate < 100):
            raise UsageError(
                f"rates: expected 0 < readout_rate < 2 and 0 < hidden_rate < 100, "
                f"got {self.readout_rate} and {self.hidden_rate}"
            )

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
