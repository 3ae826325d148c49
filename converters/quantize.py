"""From float weights to a :class:`~ottt_loihi.sim.network.ChipNetwork`, layer by layer, never silently.

Spikes are binary, so a layer's scale S (integer units per float unit) is free: weights, threshold and bias of one layer
are multiplied by the same S and nothing else changes. Per layer::

    w_int = clip(2·round(S·w / 2), −256, 254)        vth = round(S·Vth)        bias = round(S·b) << 6

``reset="zero"``: the membrane lives in v; du = 4095, dv = 4096 − round(4096·λ), S = 254 / max|w|.

``reset="subtract"``: the membrane lives in u; du = 4095 − round(4096·λ), dv = 4096, and a diagonal connection −R with
R = λ·vth subtracts λ·Vth one step after each spike. R is a single weight, even and at most 254, so S follows from R.

Readout: du = 4095, dv = 4096 (no memory) and a threshold that is never reached, so v[t] = 64·S·o[t].
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from ottt_loihi.converters.float_network import FloatLayer, FloatNetwork
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Dense, Diagonal

from ottt_loihi.errors import ChipError, UsageError

MAX_WEIGHT = 254  # the largest even 8-bit weight of both signs
MAX_INHIBITION = 254  # netx clips a purely inhibitory connection to 255, and R must be even
BIAS_EXP = 6  # the exponent lava-dl's netx assumes for every bias


@dataclass(frozen=True)
class LayerReport:
    """What quantisation did to one layer.

    scale: integer units per float unit, S · clipped: weights cut off at the ends of the range · zeroed: weights that
    were not 0 and are now · rms_error: root mean square of w − w_int/S, relative to the root mean square of w.
    """

    name: str
    shape: tuple[int, int]
    scale: float
    vth: int
    clipped: int
    zeroed: int
    rms_error: float


@dataclass(frozen=True)
class Quantized:
    """The integer network and what it cost."""

    chip: ChipNetwork
    layers: tuple[LayerReport, ...]


def quantize(net: FloatNetwork, num_weight_bits: int = 8, provenance: dict[str, Any] | None = None) -> Quantized:
    """Quantise a fully connected network.

    Parameters
    ----------
    net
        the trained network
    num_weight_bits
        2 … 8; fewer bits keep the range and coarsen the step
    provenance
        JSON values to store with the network; versions and settings are added

    Raises
    ------
    ChipError
        a layer that cannot be expressed: its bias or threshold leaves the chip's range
    UsageError
        ``num_weight_bits`` out of range
    """
    if not 2 <= num_weight_bits <= 8:
        raise UsageError(f"num_weight_bits: expected 2 … 8, got {num_weight_bits}")
    layers: list[LIF] = []
    connections: list[Connection] = []
    reports = []
    for index, layer in enumerate(net.layers):
        scale, inhibition = _scale(layer)
        weight = _quantize_weight(layer.weight, scale, num_weight_bits)
        lif = _neurons(layer, scale, inhibition)
        layers.append(lif)
        connections.append(Dense(index - 1 if index else INPUT, index, weight, num_weight_bits=num_weight_bits))
        if layer.reset == "subtract":
            connections.append(Diagonal(index, index, np.full(lif.size, -inhibition)))
        reports.append(_report(layer, weight, scale, lif.vth, num_weight_bits))
    scales = [report.scale for report in reports]  # onchip needs to know what a float unit is
    origin = {**versions(), "num_weight_bits": num_weight_bits, "scales": scales, **(provenance or {})}
    chip = ChipNetwork(net.input_shape, tuple(layers), tuple(connections), net.num_steps, "sum_v", origin)
    return Quantized(chip, tuple(reports))


def decay_mantissa(decay: float) -> int:
    """``round(4096·λ)``: what a decay factor λ in [0, 1] is on the chip, in 1/4096."""
    return round(arithmetic.DECAY_UNITY * decay)


def versions() -> dict[str, str]:
    """Versions of everything whose arithmetic matters, for the provenance."""
    found = {"python": platform.python_version()}
    for package in ("ottt-loihi", "lava-nc", "lava-dl", "numpy", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _scale(layer: FloatLayer) -> tuple[float, int]:
    """(S, R): the layer's scale, and the inhibition weight of the reset by subtraction, else 0."""
    scale = MAX_WEIGHT / np.abs(layer.weight).max()
    if layer.reset is None:
        # v = 64·S·o must stay below the largest threshold, or the readout would fire and be reset
        largest = np.abs(layer.weight).sum(axis=1) + (0 if layer.bias is None else np.abs(layer.bias))
        return min(scale, 0.99 * arithmetic.VTH_MAX / largest.max()), 0
    if layer.reset == "zero":
        return min(scale, arithmetic.VTH_MAX / layer.v_threshold), 0
    decay = decay_mantissa(layer.decay) / arithmetic.DECAY_UNITY
    if decay == 0:
        raise ChipError(f"{layer.name}: decay 0 leaves nothing to subtract from; train it with reset='zero'")
    inhibition = int(min(decay * layer.v_threshold * scale, MAX_INHIBITION)) // 2 * 2
    if inhibition < 2:
        raise ChipError(
            f"{layer.name}: λ·Vth = {decay * layer.v_threshold:.3g} is below two weight steps of the largest weight "
            f"{np.abs(layer.weight).max():.3g}; the threshold would be lost, train with smaller weights"
        )
    return inhibition / (decay * layer.v_threshold), inhibition


def _quantize_weight(weight: np.ndarray, scale: float, bits: int) -> np.ndarray:
    """Round to the multiples of ``2^(9 − bits)`` that a mixed-sign connection can hold, clipped to its range."""
    step = 1 << (9 - bits)
    low, high = -256, 256 - step
    rounded = np.clip(step * np.round(weight * scale / step), low, high).astype(np.int32)
    if rounded.max() <= 0:  # a purely inhibitory connection ends at −255
        rounded = np.maximum(rounded, -256 + step)
    return rounded


def _neurons(layer: FloatLayer, scale: float, inhibition: int) -> LIF:
    size = layer.weight.shape[0]
    bias = np.zeros(size) if layer.bias is None else layer.bias
    mantissa = decay_mantissa(layer.decay)
    if layer.reset is None:
        bias_mant, bias_exp = _bias(layer.name, scale * bias)
        return LIF((size,), 4095, 4096, arithmetic.VTH_MAX, bias_mant, bias_exp, 0, layer.name)
    if layer.reset == "zero":
        bias_mant, bias_exp = _bias(layer.name, scale * bias)
        return LIF((size,), 4095, 4096 - mantissa, _vth(layer, scale), bias_mant, bias_exp, 0, layer.name)
    decay = mantissa / arithmetic.DECAY_UNITY
    if decay == 1 and bias.any():
        raise ChipError(f"{layer.name}: a bias needs decay < 1 with reset='subtract'; train without bias")
    bias_mant, bias_exp = _bias(layer.name, scale * bias / (1 - decay) if bias.any() else bias)
    u_init = -arithmetic.effective_bias(bias_mant, bias_exp)
    vth = round(inhibition / decay)
    return LIF((size,), 4095 - mantissa, 4096, vth, bias_mant, bias_exp, u_init, layer.name)


def _vth(layer: FloatLayer, scale: float) -> int:
    vth = round(scale * layer.v_threshold)
    if vth < 1:
        raise ChipError(
            f"{layer.name}: the threshold {layer.v_threshold} rounds to 0 beside the largest weight "
            f"{np.abs(layer.weight).max():.3g}; train with smaller weights"
        )
    return vth


def _bias(name: str, scaled: np.ndarray) -> tuple[np.ndarray, int]:
    """(mantissa, exponent) of a bias in weight units; the state's 64 are in the exponent."""
    for exponent in (BIAS_EXP, 7):
        mantissa = np.round(scaled * 2.0 ** (arithmetic.STATE_SHIFT - exponent))
        if np.abs(mantissa).max(initial=0) <= 4095:
            return mantissa.astype(np.int32), exponent
    raise ChipError(
        f"{name}.bias: {np.abs(scaled).max():.0f} weight units, at most {4095 * 2} fit into 13 bits with exponent 7; "
        "train with smaller biases"
    )


def _report(layer: FloatLayer, weight: np.ndarray, scale: float, vth: int, bits: int) -> LayerReport:
    step = 1 << (9 - bits)
    wanted = step * np.round(layer.weight * scale / step)
    error = np.sqrt(np.mean((layer.weight - weight / scale) ** 2) / np.mean(layer.weight**2))
    return LayerReport(
        name=layer.name,
        shape=weight.shape,
        scale=float(scale),
        vth=int(vth),
        clipped=int((wanted != weight).sum()),
        zeroed=int(((weight == 0) & (layer.weight != 0)).sum()),
        rms_error=float(error),
    )
