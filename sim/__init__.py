"""The integer network and its exact simulators: ``sim.run``, ``sim.learn``; ``inference.reference`` is the oracle."""

from importlib import import_module
from typing import Any

MODULES = {
    "Simulator": "inference.simulator",
    "explain": "inference.simulator",
    "run": "inference.simulator",
    "Learner": "learning.learner",
    "host_messages": "inference.reference",
    "learn": "learning.learner",
}
__all__ = ["Learner", "Simulator", "explain", "host_messages", "learn", "run"]


def __getattr__(name: str) -> Any:
    """The names of ``__all__``, loaded when they are first used: numba takes half a second to import."""
    if name in MODULES:
        return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
