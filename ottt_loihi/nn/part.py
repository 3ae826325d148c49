"""The base of connections, readouts and neurons: modules that tell how they were made."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def changed(part: Any) -> str:
    """Return what lets an object compute something else than its class, ``"a hook"`` or a method; empty for nothing."""
    if any(getattr(part, name, None) for name in HOOKS):
        return "a hook"
    own = [
        name
        for name, value in vars(part).items()
        if callable(value) and callable(getattr(type(part), name, None)) and not name.startswith("_")
    ]
    return f"a method {own[0]} of its own" if own else ""


class Part(nn.Module):
    """A module that tells the arguments of its constructor, which is all that a file has of it besides its weights."""

    constants: ClassVar[tuple[str, ...]] = ()  # names of arguments that are attributes

    def settings(self) -> dict[str, Any]:
        """Return the arguments that make such a part, as JSON values: those that ``constants`` names."""
        return {name: getattr(self, name) for name in self.constants}

    def extra_repr(self) -> str:
        """Return the settings that are neither 0 nor empty."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items() if value)
