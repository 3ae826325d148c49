"""Learning rules. ``reference`` is plain NumPy; the rest needs torch and is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {"OTTT": "ottt", "Rule": "rule", "OnlineRule": "rule", "BatchResult": "rule", "ThreeFactorLoop": "reference"}

__all__ = ["OTTT", "BatchResult", "OnlineRule", "Rule", "ThreeFactorLoop", "make_rule"]

RULES = ("ottt",)


def make_rule(name: str, **settings: Any) -> Any:
    """A rule by its name: ``make_rule("ottt", update="step")``.

    Raises
    ------
    UsageError
        for an unknown name or setting
    """
    from ottt_loihi.errors import UsageError
    from ottt_loihi.rules.ottt import OTTT

    rules = {"ottt": OTTT}
    if name not in rules:
        raise UsageError(f"rule: expected one of {', '.join(RULES)}, got {name!r}")
    try:
        return rules[name](**settings)
    except TypeError:
        raise UsageError(f"rule {name}: does not know all of the settings {', '.join(settings)}") from None


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
