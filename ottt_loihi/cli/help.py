"""``--help`` that fits a screen: common options explained, the others named; ``--help-all`` explains all, in groups."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.box
import rich.table
from rich.markup import escape
from typer.core import TyperCommand

ALL = "--help-all"
RENAMED = {"--passes": "--epochs"}  # options of version 0.1: their names now
SHELL = {"Shell": "install_completion show_completion debug"}


def command_class(groups: Mapping[str, str]) -> type[TyperCommand]:
    """Return a command whose help has these groups.

    Parameters
    ----------
    groups
        title → names of the function's parameters, separated by blanks, whose options are only named; the others are
        explained
    """

    class Command(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            options = {param.name: param for param in self.get_params(ctx)}
            everything = ALL in sys.argv
            for title, names in {**groups, **SHELL}.items():
                for name in names.split():
                    if name in options or title != "Shell":  # without a shell there is no completion
                        options[name].rich_help_panel = title
                        options[name].hidden = not everything
            for param in options.values():
                if getattr(param, "help", None):
                    _put_default_into_text(param)
                    param.help = escape(param.help)  # else "[mlp]", a default, is read as a colour and not shown
                if not everything:
                    _hide_type(param)
            super().format_help(ctx, formatter)
            if not everything:
                _print_names({title: [options[name] for name in names.split()] for title, names in groups.items()})

    return Command


def arguments(given: Sequence[str]) -> list[str]:
    """Return the arguments for typer: ``--help-all`` becomes ``--help``, old names of options the current ones."""
    from ottt_loihi.cli.command import err

    found = []
    for argument in given:
        name, *value = argument.split("=", 1)
        if name in RENAMED:
            err.print(f"note: {name} is now {RENAMED[name]}")
        found.append("--help" if argument == ALL else "=".join([RENAMED.get(name, name), *value]))
    return found


def _put_default_into_text(param: Any) -> None:
    """Append a default as ``[8]``; typer's own ``[default: 8]`` often takes a line of its own."""
    if isinstance(param.default, str | int | float | Path) and not isinstance(param.default, bool):
        param.help += f" [{param.default}]"
        param.show_default = False


def _hide_type(param: Any) -> None:
    """Hide an option's type, which takes a third of 80 columns; typer's versions have different methods for it."""
    for name in ("display_type_rich", "make_metavar", "_get_number_range_help_str"):
        if hasattr(param, name) and param.param_type_name == "option":
            setattr(param, name, lambda *_, **__: "")


def _print_names(groups: Mapping[str, Sequence[Any]]) -> None:
    from ottt_loihi.cli.command import out

    table = rich.table.Table(box=rich.box.ROUNDED, border_style="dim", expand=True, show_header=False)
    table.title = f"More options, which {ALL} explains"
    table.title_style, table.title_justify = "dim", "left"
    table.add_column(no_wrap=True)
    table.add_column(style="bold cyan")
    for title, options in groups.items():
        table.add_row(title, " ".join(option.opts[0] for option in options))
    if groups:
        out.print(table)
