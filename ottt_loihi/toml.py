"""Settings written as in TOML: the tables of a file, and ``--set table.key=value`` of the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ottt_loihi.errors import FileError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_tables(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the tables of a TOML file, unchecked; :class:`FileError` if it cannot be read."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors begin with a mark
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error}); configs/ has examples") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: not a TOML file ({error})") from None


def parse_change(text: str) -> tuple[str, Any]:
    """Return place and value of ``"network.hidden=[800]"``; values are written as in TOML, a bare word is a text."""
    place, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set: expected table.key=value, got {text!r}")
    try:
        return place.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return place.strip(), value.strip()


def with_changes(given: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Return place → value of a command's options and of its ``--set`` (:func:`parse_change`).

    Raises
    ------
    UsageError
        where two of them give one place different values
    """
    found = dict(given)
    for place, value in map(parse_change, changes):
        if place in found and found[place] != value:
            raise UsageError(f"--set {place}={value}: another option says {found[place]}; give one of the two")
        found[place] = value
    return found
