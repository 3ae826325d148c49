"""One folder, one report: every command adds its section, and ``report.html`` is made anew from all of them.

A section is plain data (``sections/<order>-<name>.json``), so that programs read what people see. The page is
self-contained: no script, no font, no picture from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from ottt_loihi.errors import FileError
from ottt_loihi.files import atomic_write

# where a section stands on the page, whatever the order in which the commands ran
ORDER = {"export": 10, "run": 20, "learn-scratch": 30, "learn-drift": 40}


@dataclass(frozen=True)
class Table:
    """title, column names (``>`` at the end: right-aligned), rows of texts; note: a line below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """An inline SVG and what to see in it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """name: a key of ``ORDER`` or any other, which comes last · summary: a sentence or two · facts: (label, value)."""

    name: str
    title: str
    summary: str
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = field(default_factory=tuple)


def add(folder: Path, section: Section) -> Path:
    """Store a section, replacing an older one of its name, and make ``folder/report.html``; returns its path."""
    target = folder / "sections" / f"{ORDER.get(section.name, 90)}-{section.name}.json"
    with atomic_write(target) as temporary:
        temporary.write_text(json.dumps(asdict(section), indent=1), encoding="utf-8")
    return render(folder)


def render(folder: Path) -> Path:
    """Make ``report.html`` from all sections of a folder."""
    from jinja2 import Environment, StrictUndefined

    template = files("ottt_loihi.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(folder=folder.name, sections=_sections(folder))
    with atomic_write(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / "report.html"


def _sections(folder: Path) -> list[dict[str, Any]]:
    sections = []
    for path in sorted((folder / "sections").glob("*.json")):
        try:
            sections.append(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, OSError) as error:
            raise FileError(f"{path}: not a report section ({error}); delete it and run its command again") from error
    return sections
