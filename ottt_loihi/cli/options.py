"""Options of the commands, declared once: the default of a function's parameter is its declaration for ``--help``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from ottt_loihi.checks import LARGEST_SEED

F = TypeVar("F", bound=Callable[..., None])


def option(text: str, default: Any = None, *names: str, **limits: float) -> Any:
    """Return the declaration of an option: its line in ``--help``, default, names, ``min`` and ``max`` of a number.

    Without names it has the parameter's. A default of False makes a flag, which has no ``--no-`` form.
    """
    return typer.Option(default, *names, help=text, **limits)


def argument(text: str, default: Any = None) -> Any:
    """Return the declaration of an argument; with ``...`` as its default it is required."""
    return typer.Argument(default, help=text)


def with_options(function: F) -> F:
    """Return a function whose signature has declarations, for typer, and whose calls from Python get the defaults."""
    signature = inspect.signature(function)
    declared = {name: parameter.default for name, parameter in signature.parameters.items()}
    for name, found in declared.items():
        if found.default is False and not found.param_decls:
            found.param_decls = (f"--{name.replace('_', '-')}",)
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__defaults__ = tuple(found.default for found in declared.values() if found.default is not ...)
    return function


# of several commands
JSON = option("Print the result as JSON, nothing else.", False)
SEED = option("The same seed gives the same result, bit for bit, on one machine.", 0, min=0, max=LARGEST_SEED)
DEBUG = option("Show the traceback of an error.", False)
TIME_AXIS = option("Whether the first axis of a sample is time. [as the file says]", None, "--time-axis/--no-time-axis")
LOADER_OPTIONS = option("An option of the data's loader: data.window=40, data.test=[5] …", None, "--set")
VERIFY = option("Repeat samples in lava, inprocess, loihi2 or netx, and compare every state. Repeatable.")
