"""The frame of all commands: start, errors, output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.box
import rich.table
import typer
from rich.console import Console

from ottt_loihi.cli.help import arguments, command_class
from ottt_loihi.errors import BackendUnavailableError, FileError, OtttError, UsageError
from ottt_loihi.files import write_text
from ottt_loihi.report.report import Table
from ottt_loihi.terminal import THEME

if TYPE_CHECKING:
    from ottt_loihi.metrics import Metrics
    from ottt_loihi.sim.network import ChipNetwork

out = Console(highlight=False, theme=THEME)
err = Console(stderr=True, highlight=False, theme=THEME)  # progress and errors: stdout stays clean for --json
STOPPED = 130  # exit code after Ctrl-C


def execute(function: Callable[..., None], name: str, groups: Mapping[str, str] | None = None) -> None:
    """Run a command line function as a program; each of our errors becomes one line and its exit code.

    Parameters
    ----------
    groups
        title → parameters, separated by blanks, whose options ``--help`` only names (:mod:`ottt_loihi.cli.help`)
    """
    if hasattr(sys.stdout, "reconfigure"):  # None if it is closed; its encoding may lack characters
        sys.stdout.reconfigure(errors="replace")
    app = typer.Typer(name=name, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(name=name, no_args_is_help=False, cls=command_class(groups or {}))(function)
    try:
        app(arguments(sys.argv[1:]), prog_name=name)
    except (OtttError, ModuleNotFoundError) as error:
        if "--debug" in sys.argv:
            raise
        if not isinstance(error, OtttError):
            cure = "ottt-doctor lists what is missing, pip install -e . gets it"
            error = BackendUnavailableError(f"{error.name} is not installed in {sys.prefix}; {cure}")
        err.print(f"[bold red]{name}:[/] ", end="")
        err.print(" ".join(str(error).split()), markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == STOPPED:  # typer ends so after Ctrl-C, without a word
            err.print(f"{name}: stopped")
        raise
    except KeyboardInterrupt:
        err.print(f"{name}: stopped")
        sys.exit(STOPPED)
    except OSError as error:
        if error.filename is None:  # Python writes what is left of it when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # e.g. `ottt-run … | head`
            sys.exit(1)
        if "--debug" in sys.argv:
            raise
        place = "standard output" if error.filename is None else error.filename
        err.print(f"{name}: {place}: {error.strerror or error}", markup=False, soft_wrap=True)
        sys.exit(3)


def say(kind: str, lines: Iterable[str]) -> None:
    """Print each line on stderr, after ``kind``: ``"note"``, ``"warning"``, ``"data"``."""
    for line in lines:
        err.print(f"{kind}: {line}", markup=False, soft_wrap=True)


def begin(message: str, quiet: bool = False) -> None:
    """Print a message on a terminal. No spinner: its thread would be running when Lava forks its processes."""
    if err.is_terminal and not quiet:
        err.print(f"{message} …", style="dim")


def expect_file(path: Path, kind: str, cures: Mapping[str, str]) -> None:
    """Refuse a path that is no file, or a file of another kind, before it is read.

    Parameters
    ----------
    kind
        what is expected, as ``"model.h5"``
    cures
        ending of a file, ``""`` for one that is not there → what to do

    Raises
    ------
    FileError
        with the cure
    """
    if path.is_dir():
        inside = f"give {path / kind}" if (path / kind).exists() else f"expected a {kind}"
        raise FileError(f"{path}: a folder; {inside}")
    if path.suffix in cures and path.suffix:
        raise FileError(f"{path}: expected a {kind}; {cures[path.suffix]}")
    if not path.exists():
        raise FileError(f"{path}: no such file; {cures['']}")


def load_chip(path: Path) -> ChipNetwork:
    """Return the network of a model.h5; another path is a :class:`FileError` that says what to do."""
    from ottt_loihi.sim import storage

    made = "ottt-export makes one"
    expect_file(path, "model.h5", {"": made, ".pt": f"{made} of it", ".net": f"{made} of it"})
    return storage.load(path)


def numbers(text: str, expected: str, kind: type = int) -> list[Any]:
    """Return numbers separated by commas; ``expected``: what a :class:`UsageError` asks for, the option first."""
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"{expected}, got {text!r}") from None


def repeated_samples(asked: int | None, verified: bool) -> int:
    """Return the value of ``--verify-samples``, by default 20; it is refused where nothing is repeated."""
    if asked is not None and not verified:
        raise UsageError("--verify-samples: has no effect without --verify; give both")
    return asked or 20


def write_plot(path: Path, draw: Callable[[], str]) -> None:
    """Write the drawing for ``--plot``, which must be named .svg."""
    if path.suffix != ".svg":
        raise UsageError(f"--plot: expected a file ending in .svg, got {path}")
    write_text(path, draw())


def recall_table(measured: Metrics, note: str = "") -> Table:
    """Return the table of the classes with the lowest recall."""
    from ottt_loihi.metrics import COLUMNS

    return Table("Recall of each class", COLUMNS, measured.worst(), note)


def print_json(result: Any) -> None:
    """Print one JSON document on stdout; arrays are lists in it, and paths texts."""

    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    sys.stdout.write(json.dumps(result, indent=2, default=plain) + "\n")


def print_table(part: Table) -> None:
    """Print a report's table; columns whose name ends in ``>`` are right-aligned."""
    named = any(column.removesuffix(">") for column in part.columns)
    shown = rich.table.Table(
        title=part.title, title_justify="left", title_style="bold", box=rich.box.SIMPLE_HEAD, show_header=named
    )
    for column in part.columns:
        shown.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left")
    for row in part.rows:
        shown.add_row(*row)
    out.print(shown)
    if part.note:
        out.print(part.note, style="dim")


def print_files(files: Mapping[str, str]) -> None:
    """Print where each file is; ``files``: label → path."""
    width = max((len(what) for what in files), default=0) + 1
    for what, path in files.items():
        out.print(f"{what + ':':<{width}} {path}", markup=False, soft_wrap=True)
