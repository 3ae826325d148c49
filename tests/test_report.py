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
