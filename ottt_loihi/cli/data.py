"""``ottt-data``: which data sets are here, and what goes where if not. It never downloads anything."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ottt_loihi.cli import command
from ottt_loihi.cli.options import DEBUG, JSON, LOADER_OPTIONS, TIME_AXIS, argument, option, with_options
from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.report.report import Table

if TYPE_CHECKING:
    from ottt_loihi.data import DataSet, Split

SHOWN = 12  # names of classes
TIME_STEPS = 6  # of samples without a time axis


@with_options
def data(
    name: str | None = argument("The data to load and describe: a name, a file or a folder."),
    folder: Path | None = option("Folder of the data sets, in place of OTTT_DATA_DIR.", None, "--folder", "-f"),
    encoding: str | None = option("Show the spikes of an encoding: delta, regular, population:neurons=4 …"),
    time_steps: int | None = option(
        "Time steps of samples that have no time axis. [6]", None, "--time-steps", "-T", min=1
    ),
    time_axis: bool | None = TIME_AXIS,
    changes: list[str] | None = LOADER_OPTIONS,
    plot: Path | None = option("Draw the spikes of the first training sample (.svg)."),
    json: bool = JSON,
    debug: bool = DEBUG,
) -> None:
    """List the data sets and the files that are missing, or describe one. Nothing is downloaded.

    Examples: ottt-data
    ottt-data mnist
    ottt-data mine.npz --encoding delta:threshold=0.05 --plot delta.svg
    """
    given = {"--encoding": encoding, "--plot": plot, "--time-steps": time_steps, "--time-axis": time_axis}
    idle = [option for option, value in {**given, "--set": changes or None}.items() if value is not None]
    if name is None and idle:
        raise UsageError(f"{idle[0]}: needs a data set; give its name or path, too")
    if name is None:
        result: dict[str, Any] = _listing(folder)
    else:
        from ottt_loihi.data import load_data
        from ottt_loihi.data.registry import chosen_options

        axis = {} if time_axis is None else {"time_axis": time_axis}
        split = load_data(name, folder, **chosen_options(name, changes or (), folder, **axis))
        result = _contents(split)
        if time_steps is not None and split.num_steps not in (None, time_steps):
            raise UsageError(
                f"--time-steps: the samples have {split.num_steps} time steps, got {time_steps}; leave it out"
            )
        if encoding is not None or plot is not None:
            result |= _coded(split, encoding, time_steps or TIME_STEPS, plot)
        elif time_steps is not None:
            raise UsageError(
                "--time-steps: has an effect only with --encoding or --plot; give one of them, or leave it out"
            )
    if json:
        command.print_json(result)
    elif name is None:
        _show_listing(result)
    else:
        _show_contents(result)


main = partial(command.execute, data, "ottt-data")


def _listing(folder: Path | None) -> dict[str, Any]:
    from ottt_loihi.data import DATA_SETS
    from ottt_loihi.data.folder import data_folder

    base = data_folder(folder)
    if folder is not None and not folder.is_dir():
        raise FileError(f"{folder}: no such folder")
    return {
        "folder": None if base is None else str(base),
        "data_sets": [_state(data_set, folder) for data_set in DATA_SETS.values()],
    }


def _state(data_set: DataSet, folder: Path | None) -> dict[str, Any]:
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


def _coded(split: Split, encoding: str | None, time_steps: int, plot: Path | None) -> dict[str, Any]:
    """Return what a coding costs and keeps as JSON values; write a drawing of the spikes to ``plot``."""
    import numpy as np

    from ottt_loihi.data import encode, prepare
    from ottt_loihi.data.kept import kept
    from ottt_loihi.data.prepare import spikes_per_sample
    from ottt_loihi.report import plots

    prepared = prepare(split, encoding)
    record = prepared.record
    steps = record.time_steps or time_steps
    if plot is not None:
        first = prepared.split.x_train[:1]
        sent = encode(first, record.coding, steps, 1, np.array([0]), time_axis=record.time_axis)[0]
        command.write_plot(plot, lambda: plots.raster({str(record.coding): sent.reshape(steps, -1) != 0}))
    keeps = kept(prepared, steps)
    return {
        "encoding": str(record.coding),
        "network_input": list(prepared.input_shape),
        "coded_time_steps": steps,
        "spikes_per_sample": spikes_per_sample(prepared, steps),
        "linear_accuracy": {"values": keeps.values, "coded": keeps.coded, "samples": keeps.samples},
        "largest_number": steps * int(np.prod(prepared.input_shape)),
        "notes": list(prepared.notes),
        "plot": None if plot is None else str(plot),
    }


def _contents(split: Split) -> dict[str, Any]:
    import numpy as np

    from ottt_loihi.data import DATA_SETS

    known = DATA_SETS.get(split.name)
    wide = {"dtype": "float64"} if split.x_train.dtype == "float32" else {}  # their sum may be more than float32 holds
    return {
        "name": split.name,
        "training_samples": len(split.y_train),
        "test_samples": len(split.y_test),
        "input_shape": list(split.input_shape),
        "time_steps": split.num_steps,
        "classes": split.num_classes,
        "class_names": list(split.class_names),
        "samples_per_class": np.bincount(split.y_train, minlength=split.num_classes).tolist(),
        "test_samples_per_class": np.bincount(split.y_test, minlength=split.num_classes).tolist(),
        "dtype": str(split.x_train.dtype),
        "mean": float(split.x_train.mean(**wide)),
        "source": known.source if known else "",
        "licence": known.licence if known else "",
        "notes": list(split.notes),
    }


def _show_contents(result: dict[str, Any]) -> None:
    counts, names = result["samples_per_class"], result["class_names"]
    named = ", ".join(names[:SHOWN]) + (f" … {names[-1]}" if len(names) > SHOWN else "")
    each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    steps = f"{result['time_steps']} frames" if result["time_steps"] else "images (rate coded when used)"
    rows = [
        ("samples", f"{result['training_samples']:,} training, {result['test_samples']:,} test"),
        ("each", f"{steps} of {'×'.join(map(str, result['input_shape']))}, {result['dtype']}"),
        ("classes", f"{result['classes']}, each with {each} training samples"),
        *([("named", named)] if names else []),
        ("mean", f"{result['mean']:.4f}"),
        *((row, result[row]) for row in ("source", "licence") if result[row]),
    ]
    if "encoding" in result:
        sent, most, linear = (result[key] for key in ("spikes_per_sample", "largest_number", "linear_accuracy"))
        found = f"{linear['values']:.1%} on the values, {linear['coded']:.1%} on the spikes or messages "
        rows += [
            ("coding", result["encoding"]),
            ("the network gets", f"{result['coded_time_steps']} × {'×'.join(map(str, result['network_input']))}"),
            ("spikes or messages per sample", f"{sent:,.1f}, {sent / most:.1%} of the possible ones"),
            ("accuracy of a linear classifier", f"{found}({linear['samples']} training samples, cross-validated)"),
            *([("drawn in", result["plot"])] if result["plot"] else []),
        ]
    command.print_table(Table(f"ottt-data · {result['name']}", ("", ""), rows, note="; ".join(result["notes"])))
