"""Pictures of the report."""

import numpy as np
import pytest


@pytest.mark.parametrize("spread", [1, 1000])
def test_labels_of_a_logarithmic_axis_are_numbers(spread):
    """Mathtext is off for names with a $; matplotlib's own labels of powers of ten would be shown as their source."""
    pytest.importorskip("matplotlib")
    from ottt_loihi.report import plots

    weights = np.repeat(np.linspace(-1, 1, 50), np.linspace(1, spread, 50).astype(int))
    drawn = plots.weight_histograms({"hidden $1$": (weights, weights)})
    assert "mathdefault" not in drawn
    assert "hidden $1$" in drawn


def test_a_drawing_uses_its_width(monkeypatch):
    """The input stands at the left edge, the readout at the right one, and arrows begin and end at the boxes."""
    from ottt_loihi.report import plots

    monkeypatch.setattr(plots, "_svg", lambda figure: figure)
    figure = plots.drawing([("input", "8×8"), ("hidden", "128"), ("readout", "10")], [(0, 1, "dense"), (1, 2, "dense")])
    figure.canvas.draw()
    texts = figure.axes[0].texts
    boxes = [text.get_window_extent() for text in texts if "\n" in text.get_text()]
    assert boxes[0].x0 < 0.08 * figure.bbox.width
    assert boxes[-1].x1 > 0.92 * figure.bbox.width
    arrows = [text.arrow_patch.get_window_extent() for text in texts if getattr(text, "arrow_patch", None)]
    for left, right, arrow in zip(boxes[:-1], boxes[1:], arrows, strict=True):
        assert arrow.x0 - left.x1 < 20
        assert right.x0 - arrow.x1 < 20


def test_curves_begin_at_zero(monkeypatch):
    """Firing rates that differ by a few per cent looked like a rise from nothing."""
    from ottt_loihi.report import plots

    monkeypatch.setattr(plots, "_svg", lambda figure: figure.axes[0].get_ylim())
    low, high = plots.curves({"hidden 1": ([1, 2], [0.079, 0.084])}, "time step", "spikes")
    assert low == 0
    assert 0.084 < high < 0.1
