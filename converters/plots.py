"""Figures of the reports, as self-contained SVG: one colour scheme, axes labelled with units."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BLUE, ORANGE, GREEN, RED, GREY = "#3b6ea8", "#d9822b", "#4a9b5f", "#b8453f", "#8a8f98"
STYLE = {
    "figure.figsize": (6.4, 3.2),
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#e3e5e8",
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', ['{BLUE}', '{ORANGE}', '{GREEN}', '{RED}'])",
    "svg.fonttype": "path",
    "svg.hashsalt": "ottt-loihi",  # the same data give the same bytes
    "legend.frameon": False,
}


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, percent: bool = False
) -> str:
    """Lines over one x axis: name → (x, y)."""
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
    """The same as a PNG file."""
    with _axes() as (figure, axes):
        _draw_curves(axes, series, x_label, y_label, percent)
        figure.savefig(path, format="png", dpi=150, metadata={"Software": None}, facecolor="white")


def _draw_curves(axes: Any, series: Mapping[str, Any], x_label: str, y_label: str, percent: bool) -> None:
    for name, (x, y) in series.items():
        axes.plot(x, np.asarray(y, float) * (100 if percent else 1), marker="o", markersize=3, label=name)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.legend()


def weight_histograms(weights: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Per layer the weights before and after quantisation, both in float units: name → (before, after)."""
    with _axes(columns=len(weights)) as (figure, axes):
        for ax, (name, (before, after)) in zip(np.atleast_1d(axes), weights.items()):
            edges = np.histogram_bin_edges(np.concatenate([before.ravel(), after.ravel()]), 60)
            ax.hist(before.ravel(), edges, color=BLUE, alpha=0.55, label="trained")
            ax.hist(after.ravel(), edges, histtype="step", color=ORANGE, linewidth=1.4, label="on the chip")
            ax.set(title=name, xlabel="weight (float units)", ylabel="weights per bin", yscale="log")
            ax.legend()
        return _svg(figure)


def raster(spikes: Mapping[str, np.ndarray]) -> str:
    """Spikes of one sample, per layer: name → bool ``(num_steps, neurons)``."""
    from matplotlib.ticker import MaxNLocator

    with _axes(columns=len(spikes)) as (figure, axes):
        for ax, (name, s) in zip(np.atleast_1d(axes), spikes.items()):
            t, neuron = np.nonzero(s.reshape(len(s), -1))
            ax.scatter(t + 1, neuron, s=9, marker="|", linewidths=1.4, color=BLUE)
            ax.set(title=name, xlabel="time step", ylabel="neuron", xlim=(0.5, len(s) + 0.5))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure)


class _axes:
    """Axes in our style, closed afterwards; no pyplot, so no display and no global state."""

    def __init__(self, columns: int = 1) -> None:
        self.columns = columns

    def __enter__(self) -> tuple[Any, Any]:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.style = matplotlib.rc_context(STYLE)
        self.style.__enter__()
        figure = Figure(figsize=(max(6.4, 4.2 * self.columns), 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(1, self.columns)

    def __exit__(self, *error: Any) -> None:
        self.style.__exit__(*error)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
