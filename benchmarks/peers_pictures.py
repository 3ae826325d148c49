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
    """Draw how many times our time each contender takes: a panel for each network and T, events, the first threads."""
    rows = [r for r in result["rows"] if r["input"] == "events" and r["threads"] == result["rows"][0]["threads"]]
    panels = list(dict.fromkeys((r["network"], r["steps"]) for r in rows))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.4), squeeze=False, sharey=True)
    names = list(dict.fromkeys(r["contender"] for r in rows))[::-1]
    colours = [OURS if name.startswith("ours") else OTHERS for name in names]
    for axis, (network, steps) in zip(axes[0], panels):
        found = {r["contender"]: r.get("cpu ratio") for r in rows if (r["network"], r["steps"]) == (network, steps)}
        axis.barh(names, [found.get(name) or 0 for name in names], color=colours)
        for place, name in enumerate(names):
            said = f"{found[name]:.1f}" if found.get(name) else "failed"
            axis.text((found.get(name) or 0) + 0.05, place, said, va="center", fontsize=8)
        axis.margins(x=0.15)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"{network}, T = {steps}", fontsize=10)
        axis.set_xlabel("CPU time, ours = 1")
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
        axis.xaxis.minorticks_off()
    axes[0][0].set_ylabel("peak memory of a batch (MiB)")
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, folder / "peers-memory.svg")


def simulation(result: dict[str, Any], folder: Path) -> None:
    """Draw the steps per second of each simulator."""
    rows = result["rows"]
    networks = list(dict.fromkeys(r["network"] for r in rows))
    figure, axes = pyplot.subplots(1, len(networks), figsize=(3.8 * len(networks), 2.6), squeeze=False, sharey=True)
    for axis, network in zip(axes[0], networks):
        found = [r for r in rows if r["network"] == network][::-1]
        colours = [OURS if r["simulator"].startswith("our") else OTHERS for r in found]
        axis.barh([r["simulator"] for r in found], [r["rate"] for r in found], color=colours)
        axis.set(xscale="log", xlabel="time steps per second", title=network)
        axis.set_xlim(left=1)  # a bar begins at one step per second
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


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def draw(result: dict[str, Any], folder: Path) -> None:
    """Draw a picture of each part that was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in (training, memory, simulation, accuracy):
        if result.get(picture.__name__, {}).get("rows"):
            picture(result[picture.__name__], folder)
