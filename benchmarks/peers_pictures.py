"""The pictures of ``benchmarks/peers.py``: one for each part, as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

matplotlib.rcParams["svg.hashsalt"] = "peers"  # the same figures, the same file
OURS, OTHERS = "tab:blue", "tab:gray"


def training(result: dict[str, Any], folder: Path) -> None:
    """Draw how many times our time each contender takes: a panel for each network and T, events, the first threads.

    All panels have the same logarithmic axis. A contender without a time has the reason in place of its bar.
    """
    rows = [r for r in result["rows"] if r["input"] == "events" and r["threads"] == result["rows"][0]["threads"]]
    names = list(dict.fromkeys(r["contender"] for r in rows))
    panels: dict[str, dict[str, float | str | None]] = {}
    for r in rows:
        panel = panels.setdefault(f"{r['network']}, T = {r['steps']}", dict.fromkeys(names))
        panel[r["contender"]] = r.get("wall ratio", r.get("failed"))
    figure, axes = _bars(panels, "time by the clock, ours = 1", "{:.1f}")
    longest = max(r.get("wall ratio", 1) for r in rows)
    for axis in axes:
        axis.set(xscale="log", xlim=(0.5, 4 * longest))
        axis.set_xticks(ticks := [t for t in (1, 2, 5, 10, 20, 50, 100) if t <= longest], [str(t) for t in ticks])
        axis.xaxis.minorticks_off()
        axis.axvline(1, color="black", linewidth=0.8)
    _save(figure, folder / "peers-training.svg")


def memory(result: dict[str, Any], folder: Path) -> None:
    """Draw the peak memory of a batch over T: a panel for each network."""
    rows = result["rows"]
    networks = list(dict.fromkeys(r["network"] for r in rows))
    figure, axes = pyplot.subplots(1, len(networks), figsize=(4.2 * len(networks), 3.6), squeeze=False, sharey=True)
    for axis, network in zip(axes[0], networks):
        for name in dict.fromkeys(r["contender"] for r in rows):
            found = [r for r in rows if (r["network"], r["contender"]) == (network, name)]
            line = ([r["steps"] for r in found], [r["bytes"] / 2**20 for r in found])
            axis.plot(*line, marker="o", label=name, linewidth=2.5 if name == "ours" else 1.2)
        axis.set(xlabel="T", yscale="log", xscale="log", title=network)
        axis.set_xticks(steps := sorted({r["steps"] for r in rows}), [str(t) for t in steps])
        axis.set_yticks(ticks := [10, 20, 50, 100, 200, 500, 1000], [f"{t:,}" for t in ticks])
        axis.minorticks_off()
    axes[0][0].set_ylabel("peak memory of a batch (MiB)")
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, folder / "peers-memory.svg")


def simulation(result: dict[str, Any], folder: Path) -> None:
    """Draw the steps per second of each simulator."""
    rows = result["rows"]
    names = list(dict.fromkeys(r["simulator"] for r in rows))
    panels: dict[str, dict[str, float | str | None]] = {}
    for r in rows:
        panels.setdefault(r["network"], dict.fromkeys(names))[r["simulator"]] = r["rate"]
    figure, axes = _bars(panels, "time steps per second", "{:,.0f}")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xlim(left=1, right=400 * max(r["rate"] for r in rows))  # a bar begins at one step per second
    _save(figure, folder / "peers-simulation.svg")


def accuracy(result: dict[str, Any], folder: Path) -> None:
    """Draw the accuracies of each network in its framework, here and on the chip."""
    figure, axis = pyplot.subplots(figsize=(7.2, 0.8 + 0.6 * len(result["rows"])))
    kinds = {"framework": OTHERS, "here": "tab:cyan", "chip": OURS}
    for offset, (kind, colour) in enumerate(kinds.items()):
        places = [index + 0.25 * (offset - 1) for index in range(len(result["rows"]))]
        axis.barh(places, [100 * r[kind] for r in result["rows"]], height=0.25, color=colour, label=kind)
    axis.set_yticks(range(len(result["rows"])), [r["network"] for r in result["rows"]], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="accuracy (%)", xlim=(0, 100))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, folder / "peers-accuracy.svg")


def _bars(panels: dict[str, dict[str, float | str | None]], label: str, form: str) -> tuple[Any, Any]:
    """Draw a panel of bars for each title, {name: value, or why there is none}; return figure and axes."""
    count = max(map(len, panels.values()))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 1 + 0.27 * count), squeeze=False, sharey=True
    )
    for axis, (title, found) in zip(axes[0], panels.items()):
        colours = [OURS if name.startswith("our") else OTHERS for name in found]
        lengths = [0 if isinstance(value, str) else value or 0 for value in found.values()]
        axis.barh(list(found), lengths, color=colours)
        for place, (length, value) in enumerate(zip(lengths, found.values())):
            said = form.format(length) if length else value or "failed"
            axis.annotate(said, (max(length, 1), place), (3, 0), textcoords="offset points", va="center", fontsize=8)
        axis.margins(x=0.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(label)
    axes[0][0].invert_yaxis()
    return figure, axes[0]


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def draw(result: dict[str, Any], folder: Path) -> None:
    """Draw a picture of each part that was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in (training, memory, simulation, accuracy):
        if result.get(picture.__name__, {}).get("rows"):
            picture(result[picture.__name__], folder)
