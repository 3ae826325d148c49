"""Learning rules. They need torch and are imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_RULES = {  # name: module and class; a new rule is one new file and one line here
    "ottt": ("ottt", "OTTT"),
    "bptt": ("bptt", "BPTT"),
    "sltt": ("sltt", "SLTT"),
    "saf-e": ("saf", "SAFE"),
    "saf-f": ("saf", "SAFF"),
    "dsr": ("dsr", "DSR"),
    "ide": ("ide", "IDE"),
    "spide": ("spide", "SPIDE"),
    "opzo": ("opzo", "OPZO"),
    "s-tllr": ("stllr", "STLLR"),
    "tess": ("tess", "TESS"),
    "a-otpe": ("otpe", "AOTPE"),
    "otpe": ("otpe", "OTPE"),
}
RULES = tuple(_RULES)

_LAZY = {kind: module for module, kind in _RULES.values()} | {
    "Rule": "base",
    "OnlineRule": "base",
    "HLOP": "hlop",
    "BatchResult": "base",
    "three_factors": "factors",
}

__all__ = ["RULES", "make_rule", "rule_class", *_LAZY]


def rule_class(name: str) -> type:
    """The class of a rule of ``RULES``."""
    return __getattr__(_RULES[name][1])


def make_rule(name: str, **settings: Any) -> Any:
    """A rule by its name: ``make_rule("ottt", update="step")``.

    Raises
    ------
    UsageError
        for an unknown name or setting
    """
    from ottt_loihi.errors import UsageError

    if not isinstance(name, str) or name not in _RULES:
        raise UsageError(f"rule: expected one of {', '.join(RULES)}, got {name!r}")
    try:
        return rule_class(name)(**settings)
    except TypeError:
        raise UsageError(f"rule {name}: does not know all of the settings {', '.join(settings)}") from None


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
