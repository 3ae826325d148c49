"""What all commands share: how they start, how they fail, how they print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ottt_loihi.errors import OtttError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)  # progress and errors: stdout stays clean for --json

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, nothing else.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result, bit for bit, on one machine.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def execute(function: Callable[..., None], name: str) -> None:
    """Run a command line function as a program: one line and the right exit code for each of our errors."""
    app = typer.Typer(name=name, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(name=name, no_args_is_help=False)(function)
    try:
        app(prog_name=name)
    except OtttError as error:
        if "--debug" in sys.argv:
            raise
        err.print(f"[bold red]{name}:[/] ", end="")
        err.print(" ".join(str(error).split()), markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print(f"{name}: stopped")
        sys.exit(130)
    except BrokenPipeError:  # e.g. `ottt-run … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def print_json(result: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(result, indent=2, default=_plain) + "\n")


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    """A table; columns whose name ends in ``>`` are right-aligned."""
    result = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        result.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left")
    for row in rows:
        result.add_row(*(str(cell) for cell in row))
    return result


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
