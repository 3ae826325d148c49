"""Figures of the reports, as self-contained SVG: one colour scheme, axes labelled with units."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

BLUE, ORANGE, GREEN, RED, GREY = "#3b6ea8", "#d9822b", "#4a9b5f", "#b8453f", "#8a8f98"
PURPLE = "#7d5fa6"
BARS = (BLUE, ORANGE, GREEN, GREY, PURPLE)  # red is the limit
MAX_CLASSES = 20  # that a confusion matrix writes numbers for
MAX_RASTER = 500  # neurons of a layer in a raster
MAX_ACROSS = 3  # panels side by side
WIDTH = 9.6  # inches, of a figure as wide as the report's page
STYLE = {
    "text.parse_math": False,  # names of layers come from files and may hold a $
    "figure.figsize": (6.4, 3.2),
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#e3e5e8",
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', ['{BLUE}', '{ORANGE}', '{GREEN}', '{RED}', '{PURPLE}'])",
    "svg.fonttype": "path",
    "svg.hashsalt": "ottt-loihi",  # the same data give the same bytes
    "legend.frameon": False,
}


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, percent: bool = False
) -> str:
    """Draw lines over one x axis, from y = 0 on: name → (x, y ≥ 0)."""
    with _axes() as (figure, axes):
        _draw_curves(axes, series, x_label, y_label, percent)
        return _svg(figure)


def save_curves(
    path: str | os.PathLike[str],
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    percent: bool = False,
) -> None:
    """Write the figure of :func:`curves` as a PNG file."""
    with _axes() as (figure, axes):
        _draw_curves(axes, series, x_label, y_label, percent)
        _save_png(figure, path)


def save_panels(
    path: str | os.PathLike[str],
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    x_label: str,
) -> None:
    """Write several such figures side by side, each from 0 on, as a PNG file: label of the y axis → lines."""
    with _axes(len(panels)) as (figure, axes):
        for ax, (y_label, series) in zip(np.ravel(axes), panels.items()):
            _draw_curves(ax, series, x_label, y_label, percent=False)
        _save_png(figure, path)


def _draw_curves(axes: Any, series: Mapping[str, Any], x_label: str, y_label: str, percent: bool) -> None:
    for name, (x, y) in series.items():
        axes.plot(x, np.asarray(y, float) * (100 if percent else 1), marker="o", markersize=3, label=name)
    axes.set(xlabel=x_label, ylabel=y_label)
    top = 102 if percent else 1.1 * axes.dataLim.ymax  # the same axis for every accuracy, to compare two curves
    axes.set_ylim(0, top or 1)
    axes.legend()


def weight_histograms(
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: tuple[str, str] = ("trained", "on the chip"),
    unit: str = "float units",
) -> str:
    """Draw histograms of the weights of each layer before and after a change, in the same units: name → the two."""
    with _axes(columns=len(weights)) as (figure, axes):
        for ax, (name, (before, after)) in zip(np.ravel(axes), weights.items()):
            edges = np.histogram_bin_edges(np.concatenate([before.ravel(), after.ravel()]), 60)
            ax.hist(before.ravel(), edges, color=BLUE, alpha=0.55, label=labels[0])
            ax.hist(after.ravel(), edges, histtype="step", color=ORANGE, linewidth=1.4, label=labels[1])
            ax.set(title=name, xlabel=f"weight ({unit})", ylabel="weights per bin", yscale="log")
            # the default labels, powers of ten, need the mathtext that STYLE turns off
            ax.yaxis.set_major_formatter("{x:,.0f}")
            ax.yaxis.set_minor_formatter("")
            ax.legend()
        return _svg(figure)


def raster(spikes: Mapping[str, np.ndarray]) -> str:
    """Draw the spikes of one sample, by layer: name → bool ``(num_steps, neurons)``."""
    from matplotlib.ticker import MaxNLocator

    with _axes(columns=len(spikes)) as (figure, axes):
        for ax, (name, s) in zip(np.ravel(axes), spikes.items()):
            s = s.reshape(len(s), -1)
            every = -(-s.shape[1] // MAX_RASTER)  # of a large layer every n-th neuron, or the page grows by megabytes
            t, neuron = np.nonzero(s[:, ::every])
            ax.scatter(t + 1, neuron * every, s=9, marker="|", linewidths=1.4, color=BLUE)
            shown = "neuron" if every == 1 else f"neuron (one in {every} shown)"
            ax.set(
                title=name, xlabel="time step", ylabel=shown, xlim=(0.5, len(s) + 0.5), ylim=(-0.5, s.shape[1] - 0.5)
            )
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure)


def confusion(matrix: Sequence[Sequence[int]]) -> str:
    """Draw the counts of predictions, float network (rows) by chip (columns); equal ones are not coloured."""
    counts = np.asarray(matrix)
    with _axes() as (figure, axes):
        figure.set_size_inches(max(4.2, 0.42 * len(counts)), max(3.6, 0.36 * len(counts)))
        differing = np.where(np.eye(len(counts), dtype=bool), 0, counts)
        axes.imshow(differing, cmap="Oranges", vmin=0, vmax=max(1, 1.8 * differing.max()))
        if len(counts) <= MAX_CLASSES:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    axes.text(column, row, str(count), ha="center", va="center", fontsize=8)
            axes.set(xticks=range(len(counts)), yticks=range(len(counts)))
        axes.set(xlabel="class predicted on the chip", ylabel="class predicted in float")
        axes.grid(False)
        return _svg(figure)


def bars(names: Sequence[str], series: Mapping[str, Sequence[float]], x_label: str, full: float | None = None) -> str:
    """Draw horizontal bars, a group for each name: label → a value of each name; ``full``: where a red line stands.

    Names without values, such as a readout without spikes, are left out.
    """
    count = min(len(values) for values in series.values())
    with _axes() as (figure, axes):
        height = 0.8 / len(series)
        figure.set_size_inches(WIDTH, 1.0 + (0.22 + 0.1 * len(series)) * count)
        for place, (label, values) in enumerate(series.items()):
            y = np.arange(count) + (place - (len(series) - 1) / 2) * height
            axes.barh(y, values[:count], height, label=label, color=BARS[place % len(BARS)])
        if full is not None:
            axes.axvline(full, color=RED, linewidth=1.2)
        axes.set(xlabel=x_label, yticks=range(count), yticklabels=list(names[:count]))
        axes.set_xlim(left=0)
        axes.invert_yaxis()
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _svg(figure)


def drawing(layers: Sequence[tuple[str, str]], arrows: Sequence[tuple[int, int, str]]) -> str:
    """Draw layers (name, shape) in a row, the input first; arrows (from, to, label) that skip or go back are arcs."""
    with _axes() as (figure, axes):
        reach = max((abs(end - start) for start, end, _ in arrows if end not in (start, start + 1)), default=0)
        height = 0.9 + 0.35 * reach  # inches above and below the row
        figure.set_size_inches(max(WIDTH, 1.35 * len(layers)), 2 * height)
        figure.set_layout_engine("none")
        axes.set_position((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, figure.get_figwidth()), ylim=(-height, height))  # all of the picture is measured in inches
        at = np.linspace(0.65, figure.get_figwidth() - 0.65, len(layers))
        box = {"boxstyle": "round,pad=0.45", "facecolor": "#eef3f9", "edgecolor": BLUE}
        where = {"ha": "center", "va": "center", "fontsize": 10}
        boxes = [axes.text(x, 0, f"{name}\n{shape}", bbox=box, **where) for x, (name, shape) in zip(at, layers)]
        for start, end, label in arrows:
            if start == end:
                axes.text(at[start], 0.42, f"↻ {label}", ha="right", fontsize=9, color=ORANGE)
                continue
            straight = end == start + 1
            middle = (at[start] + at[end]) / 2
            if straight:
                ends = {"patchA": boxes[start].get_bbox_patch(), "patchB": boxes[end].get_bbox_patch()}
                style = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 3, "shrinkB": 3, **ends}
                axes.annotate("", (at[end], 0), (at[start], 0), arrowprops=style)
                below = -0.22 if at[1] - at[0] > 1.6 else -0.45  # under the boxes where no room is between them
                axes.text(middle, below, label, ha="center", va="center", fontsize=9, color=GREY)
                continue
            side, rise = (1 if end > start else -1), 0.35 + 0.3 * abs(end - start)
            bend = -side * rise / abs(at[end] - at[start]) * 1.6 * (1 if end > start else -1)
            style = {"arrowstyle": "-|>", "color": ORANGE, "connectionstyle": f"arc3,rad={bend}"}
            axes.annotate("", (at[end], 0.34 * side), (at[start], 0.34 * side), arrowprops=style)
            axes.text(middle, side * (0.48 + 0.8 * rise), label, ha="center", va="center", fontsize=9, color=GREY)
        return _svg(figure)


def intervals(names: Sequence[str], series: Mapping[str, Sequence[tuple[float, float] | None]], x_label: str) -> str:
    """Draw points with error bars, a row for each name: series → (mean, standard deviation), None for no point."""
    apart = min(0.32, 0.64 / len(series))  # so that all points of a name are nearer to it than to the next one
    with _axes() as (figure, axes):
        for place, (label, points) in enumerate(series.items()):
            rows = [(i, p) for i, p in enumerate(points) if p is not None]
            y = [i + apart * (place - (len(series) - 1) / 2) for i, _ in rows]
            x, spread = [100 * p[0] for _, p in rows], [100 * p[1] for _, p in rows]
            bars = {"xerr": spread, "capsize": 3} if any(spread) else {}  # bars of no length look like a second mark
            axes.errorbar(x, y, fmt="o", markersize=5, linestyle="none", label=label, **bars)
        axes.set(xlabel=x_label, yticks=range(len(names)), yticklabels=list(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(3, len(series)), borderaxespad=0)
        figure.set_figheight(1.6 + 0.34 * len(names))
        return _svg(figure)


@contextmanager
def _axes(columns: int = 1) -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes in our style; no pyplot, so no display and no global state."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        across = min(columns, MAX_ACROSS)
        down = -(-columns // across)
        figure = Figure(figsize=(6.4 if across == 1 else max(WIDTH, 4.2 * across), 3.2 * down), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(down, across)
        for empty in np.ravel(axes)[columns:]:
            empty.set_axis_off()
        yield figure, axes


def _save_png(figure: Any, path: str | os.PathLike[str]) -> None:
    figure.savefig(path, format="png", dpi=150, metadata={"Software": None}, facecolor="white")


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
