"""``ottt-doctor``: lists what is installed, what is missing, and the remedy."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import requires
from typing import NamedTuple

from rich.markup import escape

from ottt_loihi.cli import command
from ottt_loihi.cli.options import DEBUG, JSON, with_options
from ottt_loihi.converters.lava.backends import has_adapters
from ottt_loihi.converters.lava.installed import installed, lava_dl_problem, lava_problem
from ottt_loihi.errors import FileError
from ottt_loihi.report.report import Table

COLOURS = {"ok": "green", "note": "yellow", "missing": "bold red"}


class Finding(NamedTuple):
    """A row of the table. ``"missing"``: something does not work; ``"note"``: only some uses need it."""

    what: str  # the thing that was looked for
    state: str  # "ok", "missing" or "note"
    detail: str  # what was found, or what to do


@with_options
def doctor(json: bool = JSON, debug: bool = DEBUG) -> None:
    """Check the installation: versions, Lava, accelerator, data, hardware. Exit code 1 if something does not work.

    Example: ottt-doctor
    """
    findings = [check() for check in CHECKS]
    healthy = all(finding.state != "missing" for finding in findings)
    if json:
        command.print_json({"healthy": healthy, "findings": [finding._asdict() for finding in findings]})
    else:
        _show(findings)
    sys.exit(0 if healthy else 1)


main = partial(command.execute, doctor, "ottt-doctor")


def _python() -> Finding:
    return Finding("Python", "ok", platform.python_version())


def _packages() -> Finding:
    missing = [name for name in _needed() if installed(name) is None]
    if missing:
        return Finding("packages", "missing", f"{', '.join(missing)}: pip install -e .")
    shown = ("ottt-loihi", "torch", "numpy", "numba", "h5py", "scikit-learn")
    return Finding("packages", "ok", ", ".join(f"{name} {installed(name)}" for name in shown))


def _lava() -> Finding:
    problem = lava_problem()
    return Finding("Lava", "missing" if problem else "ok", problem or f"lava-nc {installed('lava-nc')}")


def _lava_dl() -> Finding:
    problem = lava_dl_problem()
    return Finding("lava-dl", "note" if problem else "ok", problem or f"lava-dl {installed('lava-dl')}")


def _accelerator() -> Finding:
    if installed("torch") is None:
        return Finding("accelerator", "note", "unknown without torch")
    import torch

    if torch.cuda.is_available():
        return Finding("accelerator", "ok", torch.cuda.get_device_name(0))
    return Finding("accelerator", "note", f"no GPU that torch sees; {os.cpu_count()} CPU cores are used")


def _data() -> Finding:
    folder = os.environ.get("OTTT_DATA_DIR")
    if folder is None:
        return Finding("data", "note", "digits are bundled; for other data sets set OTTT_DATA_DIR (see ottt-data)")
    if not os.path.isdir(folder):
        return Finding("data", "missing", f"OTTT_DATA_DIR={folder} is no folder; correct it or unset it")
    if installed("numpy") is None:
        return Finding("data", "note", f"OTTT_DATA_DIR={folder}, unread without numpy")
    from ottt_loihi.data import DATA_SETS

    found = []
    for data_set in DATA_SETS.values():
        with suppress(FileError):
            data_set.find()
            found.append(data_set.name)
    return Finding("data", "ok", f"{', '.join(found)} in OTTT_DATA_DIR={folder} (ottt-data: what goes where)")


def _hardware() -> Finding:
    if not lava_problem() and has_adapters():
        return Finding("Loihi 2", "ok", "Intel's extension for Lava is installed")
    return Finding("Loihi 2", "note", "no Intel extension for Lava: everything runs in Lava's CPU simulator")


CHECKS: tuple[Callable[[], Finding], ...] = (_python, _packages, _lava, _lava_dl, _accelerator, _data, _hardware)


def _needed() -> list[str]:
    """Return the requirements of the installed package, without those that only some Python versions need."""
    always = [need for need in requires("ottt-loihi") or () if ";" not in need]
    return [re.split(r"[^\w.-]", need)[0] for need in always]


def _show(findings: list[Finding]) -> None:
    rows = [[f.what, f"[{COLOURS[f.state]}]{f.state}[/]", escape(f.detail)] for f in findings]
    command.print_table(Table("ottt-doctor", ["what", "state", "found"], rows))
    if all(finding.state != "missing" for finding in findings):
        lava = all(finding.state == "ok" for finding in findings if finding.what == "Lava")
        first = "make demo" if lava else "ottt-train -o runs/first"
        command.out.print(f"everything that is needed works; try: {first}")
