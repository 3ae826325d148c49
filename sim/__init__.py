"""The integer network and its chip-exact simulators: ``sim.run`` (fast) and ``sim.reference.run`` (the oracle)."""

from typing import Any

__all__ = ["Simulator", "explain", "run"]


def __getattr__(name: str) -> Any:
    """``run``, ``Simulator`` and ``explain``, loaded when they are first used: numba takes half a second to import."""
    if name in __all__:
        from ottt_loihi.sim import simulator

        return getattr(simulator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
