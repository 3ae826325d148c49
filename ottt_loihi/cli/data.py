"""``ottt-data``: which data sets are here, and what goes where if not. It never downloads anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottt_loihi.cli import command

if TYPE_CHECKING:
    from ottt_loihi.data import DataSet


def data(
    name: Annotated[
        str | None, typer.Argument(help="Load this data set and show what is in it: a name, an .npz file or a folder.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--folder", "-f", help="Instead of OTTT_DATA_DIR.")] = None,
    json: command.Json = False,
    debug: command.Debug = False,
) -> None:
    """List the data sets: where each was found, or which files go where. Nothing is ever downloaded.

    Example: ottt-data, and then ottt-data mnist
    """
    if name is None:
        result: dict[str, Any] = _listing(folder)
    else:
        result = _contents(name, folder)
    if json:
        command.print_json(result)
    elif name is None:
        _show_listing(result)
    else:
        _show_contents(result)


def main() -> None:
    """Entry point of the console script."""
    command.execute(data, "ottt-data")


def _listing(folder: Path | None) -> dict[str, Any]:
    from ottt_loihi.data import DATA_SETS
    from ottt_loihi.data.folder import data_folder
    from ottt_loihi.errors import FileError

    base = data_folder(folder)
    if folder is not None and not folder.is_dir():
        raise FileError(f"{folder}: no such folder")
    return {
        "folder": None if base is None else str(base),
        "data_sets": [_state(data_set, folder) for data_set in DATA_SETS.values()],
    }


def _state(data_set: DataSet, folder: Path | None) -> dict[str, Any]:
    from ottt_loihi.errors import FileError

    state: dict[str, Any] = {"name": data_set.name, "title": data_set.title, "source": data_set.source}
    state["licence"] = data_set.licence
    wanted = [layout.describe("") for layout in data_set.layouts]
    try:
        found = data_set.find(folder)
    except FileError as error:
        return state | {"found": False, "where": None, "problem": str(error), "wanted": wanted}
    where = "scikit-learn" if found is None else str(found.folder)
    return state | {"found": True, "where": where, "format": found.layout.format if found else None, "wanted": wanted}


def _show_listing(result: dict[str, Any]) -> None:
    from ottt_loihi.data.folder import ENVIRONMENT
    from ottt_loihi.report.report import Table

    base = result["folder"]
    title = f"data sets in {base}" if base else f"data sets ({ENVIRONMENT} is not set)"
    rows = [[state["name"], state["title"], _where(state, base)] for state in result["data_sets"]]
    command.print_table(Table(title, ("name", "what", "where"), rows))
    missing = [state for state in result["data_sets"] if not state["found"]]
    if missing and base is None:
        command.out.print(f"Set {ENVIRONMENT} to a folder of data sets and put there (nothing is downloaded):")
    for state in missing:
        line = f"{state['name']}: {'; or '.join(state['wanted'])}" if base is None else state["problem"]
        licence = f"; licence: {state['licence']}" if state["licence"] else ""
        command.out.print(f"{line}; from {state['source']}{licence}", markup=False, soft_wrap=True)


def _where(state: dict[str, Any], base: str | None) -> str:
    if not state["found"]:
        return "missing"
    return os.path.relpath(state["where"], base) if base and state["format"] else state["where"]


def _contents(name: str, folder: Path | None) -> dict[str, Any]:
    from ottt_loihi.data import load_data

    split = load_data(name, folder)
    return {
        "name": split.name,
        "training_samples": len(split.y_train),
        "test_samples": len(split.y_test),
        "input_shape": list(split.input_shape),
        "time_steps": split.num_steps,
        "classes": split.num_classes,
        "class_names": list(split.class_names),
        "samples_per_class": _counts(split.y_train, split.num_classes),
        "test_samples_per_class": _counts(split.y_test, split.num_classes),
        "dtype": str(split.x_train.dtype),
        "mean": float(split.x_train.mean()),
        "notes": list(split.notes),
    }


def _counts(labels: Any, num_classes: int) -> list[int]:
    return [int((labels == label).sum()) for label in range(num_classes)]


def _show_contents(result: dict[str, Any]) -> None:
    from ottt_loihi.report.report import Table

    counts = result["samples_per_class"]
    steps = f"{result['time_steps']} frames" if result["time_steps"] else "images (rate coded when used)"
    rows = [
        ("samples", f"{result['training_samples']:,} training, {result['test_samples']:,} test"),
        ("each", f"{steps} of {'×'.join(map(str, result['input_shape']))}, {result['dtype']}"),
        ("classes", f"{result['classes']}: {min(counts):,} … {max(counts):,} training samples each"),
        ("mean", f"{result['mean']:.4f}"),
    ]
    command.print_table(Table(f"ottt-data · {result['name']}", ("", ""), rows, note=" ".join(result["notes"])))
