"""Scales and thresholds chosen on data: the ones whose spikes differ least from the trained network's.

Layer after layer, first to last, each layer with what was chosen for those before it: a coarse grid over the factor on
S (above 1 the largest weights are clipped and all others get finer steps, which few bits need), then over the factor on
Vth. Spikes of that layer on the calibration samples decide, counted in the chip-exact simulator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ottt_loihi.converters.quantize.float_network import FloatNetwork
from ottt_loihi.converters.quantize.layer import Tuning
from ottt_loihi.converters.quantize.quantize import quantize

from ottt_loihi import sim
from ottt_loihi.errors import ChipError

SCALE_FACTORS = (1.0, 0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0)
THRESHOLD_FACTORS = (1.0, 0.9, 0.95, 0.97, 0.985, 0.995, 1.005, 1.015, 1.03, 1.05, 1.1)


def calibrate(
    net: FloatNetwork,
    float_spikes: Sequence[np.ndarray],
    messages: np.ndarray,
    num_weight_bits: int | str | Sequence[int | str],
    settings: Mapping[str, Any] | None = None,
) -> dict[int, Tuning]:
    """Layer → :class:`Tuning` for :func:`~ottt_loihi.converters.quantize.quantize.quantize`.

    Parameters
    ----------
    float_spikes
        of the trained network, bool ``(T, n, *shape)`` per hidden layer
    messages
        the same samples for the chip, or its host, ``(n, T, *input_shape)``
    settings
        the other arguments of ``quantize``
    """
    chosen: dict[int, Tuning] = {}
    for index, spikes in enumerate(float_spikes):
        best = Tuning()
        least = _mismatches(net, chosen | {index: best}, index, spikes, messages, num_weight_bits, settings)
        for field, factors in (("scale", SCALE_FACTORS[1:]), ("v_threshold", THRESHOLD_FACTORS[1:])):
            for tuning in _candidates(best, field, factors):
                found = _mismatches(net, chosen | {index: tuning}, index, spikes, messages, num_weight_bits, settings)
                if found < least:
                    best, least = tuning, found
        chosen[index] = best
    return chosen


def _candidates(start: Tuning, field: str, factors: Sequence[float]) -> Iterator[Tuning]:
    return (replace(start, **{field: factor}) for factor in factors)


def _mismatches(
    net: FloatNetwork,
    tuning: Mapping[int, Tuning],
    index: int,
    spikes: np.ndarray,
    messages: np.ndarray,
    num_weight_bits: int | str | Sequence[int | str],
    settings: Mapping[str, Any] | None,
) -> float:
    """Return the number of spikes of layer ``index`` that differ; infinity if the chip cannot hold the layer."""
    try:
        chip = quantize(net, num_weight_bits, tuning=tuning, **(settings or {})).chip
    except ChipError:
        if tuning[index] == Tuning():
            raise
        return float("inf")
    result = sim.run(chip, messages, {"s": [index]})
    return float((result.states["s"][index].reshape(spikes.shape) != spikes).sum())
