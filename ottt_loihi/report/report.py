"""One folder, one report: every command adds its section, and ``report.html`` is made anew from all of them.

A section is plain data (``sections/<order>-<name>.json``), so that programs read what people see. The page is
self-contained: no script, no font, no picture from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ottt_loihi.errors import FileError
from ottt_loihi.files import write_text

ACTIVE_TAGS = ("script", "foreignobject", "iframe", "animate", "set", "a", "handler")
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
    """A section of the report, plain data.

    Attributes
    ----------
    name
        a key of ``ORDER`` or any other, which comes last
    summary
        a sentence or two
    facts
        (label, value).
    """

    name: str
    title: str
    summary: str
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = field(default_factory=tuple)


def add(folder: Path, section: Section) -> Path:
    """Store a section, replacing an older one of its name, and make ``folder/report.html``; returns its path."""
    target = folder / "sections" / f"{ORDER.get(section.name, 90)}-{section.name}.json"
    write_text(target, json.dumps(asdict(section), indent=1))
    return render(folder)


def render(folder: Path) -> Path:
    """Make ``report.html`` from all sections of a folder."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    template = files("ottt_loihi.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(folder=folder.name, sections=_sections(folder))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _sections(folder: Path) -> list[dict[str, Any]]:
    sections = []
    for path in sorted((folder / "sections").glob("*.json")):
        try:
            sections.append(_checked(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError, OSError, RecursionError, SyntaxError) as error:
            raise FileError(f"{path}: not a report section ({error}); delete it and run its command again") from error
    return sections


def _checked(section: Any) -> dict[str, Any]:
    """Return a section as it was stored; TypeError or ValueError where a file holds something else."""
    if not isinstance(section, dict):
        raise TypeError(f"expected an object, found {type(section).__name__}")
    tables = [Table(**table) for table in section.get("tables", ())]
    figures = [Figure(**figure) for figure in section.get("figures", ())]
    found = asdict(Section(**{**section, "tables": tables, "figures": figures}))
    texts = [found[key] for key in ("name", "title", "summary")] + [text for fact in found["facts"] for text in fact]
    for table in tables:
        texts += [table.title, table.note, *table.columns, *(cell for row in table.rows for cell in row)]
        if any(len(row) != len(table.columns) for row in table.rows):
            raise ValueError(f"table {table.title!r}: a row of another length than its columns")
    if any(not isinstance(text, str) for text in texts) or any(len(fact) != 2 for fact in found["facts"]):
        raise TypeError("expected texts")
    for figure in figures:
        _check_svg(figure.svg)
    return found


def _check_svg(svg: str) -> None:
    """Refuse a picture that is no SVG or does more than show: scripts, handlers, references to elsewhere."""
    from xml.etree import ElementTree

    for element in ElementTree.fromstring(svg).iter():
        tag = element.tag.rpartition("}")[2]
        if tag.lower() in ACTIVE_TAGS:
            raise ValueError(f"the picture holds <{tag}>")
        for key, value in element.attrib.items():
            name = key.rpartition("}")[2].lower()
            if name.startswith("on") or (name == "href" and not value.startswith(("#", "data:image/png;base64,"))):
                raise ValueError(f"the picture holds the attribute {name}={value[:40]!r}")
