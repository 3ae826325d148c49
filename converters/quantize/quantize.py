"""From float weights to a :class:`~ottt_loihi.sim.network.ChipNetwork`, layer by layer, never silently.

Spikes are binary, so a layer's scale S (integer units per float unit) is free: weights, threshold and bias of one layer
are multiplied by the same S and nothing else changes. Per layer::

    w_int = step·round(S·w / (g·2^e) / step)        vth = round(S·Vth)        bias = round(64·S·b / 2^exp)·2^exp

``step = 2^(9 − bits)``; g is what one unit of a message counts (1 for spikes, 1/255 of 1 for pixels) and e the
connection's weight exponent. S = 254·2^k / max|w| of the layer's main connection, whose exponent is k: as large as
lets the other connections of the layer use all their bits at exponents ≥ 0. Lava's Conv and ``.net`` know none: k = 0.

Where a channel's weights have one size a_c, S is one number per channel, G/a_c, and weights are ±1 on the chip
(``channel_scale.py``); so are ternary and binary weights. Everything below holds with that S, channel by channel.

``reset="zero"``: the membrane lives in v; du = 4095, dv = 4096 − round(4096·λ).

``reset="subtract"``: the membrane lives in u; du = 4095 − round(4096·λ), dv = 4096, and a diagonal connection −R with
R = λ·vth subtracts λ·Vth one step after each spike. R is one weight, even and at most 254, times 2^e; S follows from R.
A reset one step late takes R = vth, no reset R = 0.
lava-dl's ``.net`` has no exponent: for a network that fits into it otherwise, e stays 0 and S is made smaller. With a
scale per channel R = round(λ·vth) has all its bits, in two connections where one does not hold them.

Readout: du = 4095, dv = 4096 (no memory) and a threshold that is never reached, so v[t] = 64·S·o[t].
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from ottt_loihi.converters.quantize import channel_scale
from ottt_loihi.converters.quantize.float_connection import FloatConnection, written_out
from ottt_loihi.converters.quantize.float_network import FloatNetwork
from ottt_loihi.converters.quantize.layer import QuantizedLayer, Tuning
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Conv, Dense, Diagonal

from ottt_loihi import checks
from ottt_loihi.errors import ChipError, UsageError

HOST_BITS = 12  # of the messages that a host sends: what a bias's 13 bits hold
INPUT_FORMS = ("graded", "bias", "inject")
SCALES = ("free", "power-of-two")
THRESHOLDS = ("channel", "layer")
WEIGHT_KINDS = ("ternary", "binary")


@dataclass(frozen=True)
class LayerReport:
    """The quantisation of one layer, in numbers.

    Attributes
    ----------
    shape
        of its weights, all connections
    scale
        integer units per float unit, S
    vth
        the threshold
    vth_error
        how far it is from S·Vth, relative; all three one number, or one for each channel
    bits
        of a weight
    clipped
        weights cut off at the ends of the range
    zeroed
        weights that were not 0 and are now
    rms_error
        root mean square of w − w_int/S, relative to the root mean square of w
    weights
        of all connections that are not 0 before
    """

    name: str
    shape: tuple[int, ...]
    scale: float | tuple[float, ...]
    vth: int | tuple[int, ...]
    vth_error: float | tuple[float, ...]
    bits: int
    clipped: int
    zeroed: int
    rms_error: float
    weights: int = 0


@dataclass(frozen=True)
class Quantized:
    """The integer network and its rounding.

    Attributes
    ----------
    weights
        of each layer's main connection, before and after, float
    rounded
        the trained network with the values that the chip's integers stand for; None where nothing was rounded
    """

    chip: ChipNetwork
    layers: tuple[LayerReport, ...]
    weights: tuple[tuple[np.ndarray, np.ndarray], ...]
    rounded: FloatNetwork | None = None


def quantize(
    net: FloatNetwork,
    num_weight_bits: int | str | Sequence[int | str] = 8,
    provenance: dict[str, Any] | None = None,
    *,
    input_form: str = "graded",
    scale: str = "free",
    tuning: Mapping[int, Tuning] | None = None,
    for_netx: bool | None = None,
    thresholds: str = "channel",
) -> Quantized:
    """Quantise a network.

    Parameters
    ----------
    net
        the trained network
    num_weight_bits
        2 … 8, ``"ternary"`` (−a, 0, a) or ``"binary"`` (−a, a), for all layers or one for each; fewer bits keep the
        range and coarsen the step; a layer's main connection is ternary or binary, stored in 2 bits, others have 8
    provenance
        JSON values to store with the network; versions and settings are added
    input_form
        of an input that is constant in time: ``"graded"``, pixels 0 … 255 as messages at every step; ``"inject"``, at
        the first step only, kept by u for ever (du = −1, reset by zero); ``"bias"``, the first layer's current computed
        by the host (``ChipNetwork.host``) and sent in the 13 bits of a bias at every step
    scale
        ``"free"``, or ``"power-of-two"``: S rounded down to one
    tuning
        layer → :class:`Tuning`, as calibration finds it
    for_netx
        keep to what ``.net`` can hold (no exponents, one threshold a layer); default: where the network is dense and
        feed-forward, and no layer has a threshold per channel
    thresholds
        ``"channel"``: a layer of one-bit weights holds them as ±1, and their sizes in a threshold for each channel;
        ``"layer"``: one threshold a layer, such weights rounded like all others

    Raises
    ------
    ChipError
        a layer that cannot be expressed: its bias or threshold leaves the chip's range
    UsageError
        a setting out of range
    """
    bits = _bits(num_weight_bits, len(net.layers))
    checks.one_of(input_form, "input", INPUT_FORMS)
    checks.one_of(scale, "scale", SCALES)
    checks.one_of(thresholds, "thresholds", THRESHOLDS)
    if net.input != "constant" and input_form != "graded":
        raise UsageError(f"input: {input_form} is for images that stay the same; this input changes, choose graded")
    if scale == "power-of-two" and (kinds := [b for b in bits if isinstance(b, str)]):
        raise UsageError(f"scale: {kinds[0]} weights have the scale of their size; use scale free, or a number of bits")
    per_channel = thresholds == "channel" and scale == "free" and not for_netx
    if for_netx is None:
        for_netx = net.input == "spikes" and all(c.kind is Dense and not c.delay for c in net.connections)
        for_netx = for_netx and all(np.ndim(layer.v_threshold) == 0 for layer in net.layers)
        for_netx = for_netx and not any(layer.at_threshold for layer in net.layers)  # its biases are whole units
        for_netx = for_netx and not (
            per_channel and any(channel_scale.folds(net, index, b) for index, b in enumerate(bits))
        )
    if net.input == "constant" and input_form == "bias":  # exponents cost the host nothing, and Conv has none
        net = replace(net, connections=tuple(written_out(c) if _seen(c) else c for c in net.connections))
    layers: list[LIF] = []
    connections: list[Connection] = []
    reports, weights, rounded = [], [], []
    for index in range(len(net.layers)):
        tuned = (tuning or {}).get(index, Tuning())
        parts = QuantizedLayer(net, index, bits[index], input_form, scale, tuned, for_netx, per_channel)
        layers.append(parts.lif)
        connections += parts.connections
        reports.append(_report(parts))
        rounded.append(parts.rounded())
        weights.append((parts.trained[0].weight, parts.weights[0].weight / parts.weights[0].units))
    scales = [float(np.min(report.scale)) for report in reports]
    stored = num_weight_bits if isinstance(num_weight_bits, (int, str)) else list(num_weight_bits)
    origin = {**versions(), "num_weight_bits": stored, "scales": scales, **(provenance or {})}
    readout = f"{net.scores}_v" if net.layers[-1].reset is None else "spike_count"
    chip = ChipNetwork(net.input_shape, tuple(layers), tuple(connections), net.num_steps, readout, origin)
    chip = replace(chip, logit_scale=scales[-1], input_form="spikes" if net.input == "spikes" else input_form)
    if net.input == "constant" and input_form == "bias":
        chip = _on_host(chip)
    arriving = tuple(c for _, connections_in in rounded for c in connections_in)
    held = replace(net, layers=tuple(layer for layer, _ in rounded), connections=arriving)
    return Quantized(chip, tuple(reports), tuple(weights), held)


def _report(parts: QuantizedLayer) -> LayerReport:
    before = [c.weight for c in parts.trained]
    error = sum(float(((b - w.weight / w.units) ** 2).sum()) for b, w in zip(before, parts.weights))
    power = sum(float((b**2).sum()) for b in before)
    wanted, main = parts.scale * parts.v_threshold, parts.inputs[0]
    return LayerReport(
        name=parts.layer.name,
        shape=parts.weights[0].weight.shape,
        scale=_per_channel(parts.scale, main),
        vth=_per_channel(parts.lif.vth, main),
        vth_error=0.0 if parts.layer.reset is None else _per_channel(parts.lif.vth / wanted - 1, main),
        bits=parts.weights[0].bits,
        clipped=sum(w.clipped for w in parts.weights),
        zeroed=sum(int(((w.weight == 0) & (b != 0)).sum()) for b, w in zip(before, parts.weights)),
        rms_error=float(np.sqrt(error / power)) if power else 0.0,
        weights=sum(int((b != 0).sum()) for b in before),
    )


def _per_channel(values: np.ndarray | float, main: FloatConnection) -> Any:
    """Return a number where they are all equal, else one for each row of the main connection's weights."""
    values = np.asarray(values)
    if (values == values.flat[0]).all():
        return values.flat[0].item()
    return tuple(np.reshape(values, (len(main.weight), -1) if main.weight.ndim > 1 else (-1, 1))[:, 0].tolist())


def _seen(c: FloatConnection) -> bool:
    return c.pre == INPUT and c.kind is Conv


def _on_host(chip: ChipNetwork) -> ChipNetwork:
    """Return ``chip`` with the host computing the first layer's current from the input, in the same integers."""
    moved = tuple(c for c in chip.connections if c.pre == INPUT)
    if any(c.post for c in moved):
        raise ChipError("input: more than the first layer sees it; choose --input graded")
    first = chip.layers[0]
    silent = LIF(first.shape, 4095, 4096, arithmetic.VTH_MAX, name="host")
    host = ChipNetwork(chip.input_shape, (silent,), moved, 1, "last_v")
    arriving = Diagonal(INPUT, 0, np.ones(first.size, np.int32), num_message_bits=HOST_BITS)
    rest = tuple(c for c in chip.connections if c.pre != INPUT)
    return replace(chip, input_shape=first.shape, connections=(arriving, *rest), host=host)


def versions() -> dict[str, str]:
    """Versions of everything whose arithmetic matters, for the provenance."""
    found = {"python": platform.python_version()}
    for package in ("ottt-loihi", "lava-nc", "lava-dl", "numpy", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _bits(value: int | str | Sequence[int | str], layers: int) -> list[int | str]:
    one = isinstance(value, str) or checks.is_integer(value)
    each = [value] * layers if one else list(checks.items(value, "num_weight_bits", (int, np.integer, str)))
    if len(each) != layers:
        raise UsageError(f"num_weight_bits: expected one for each of {layers} layers, got {len(each)}")
    for bits in each:
        if not (bits in WEIGHT_KINDS if isinstance(bits, str) else not isinstance(bits, bool) and 2 <= bits <= 8):
            raise UsageError(f"num_weight_bits: expected 2 … 8, {' or '.join(WEIGHT_KINDS)}, got {bits!r}")
    return each
