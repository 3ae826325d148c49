"""One layer from float weights to the chip's integers; ``quantize.py`` has the formulas and puts layers together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ottt_loihi.converters.quantize import channel_scale
from ottt_loihi.converters.quantize.float_connection import FloatConnection, chip_delay
from ottt_loihi.converters.quantize.float_network import FloatLayer, FloatNetwork
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import INPUT, LIF, Connection, Conv, Diagonal

from ottt_loihi.errors import ChipError

MAX_WEIGHT = 254  # the largest even 8-bit weight of both signs
MAX_INHIBITION = 254  # netx clips a purely inhibitory connection to 255, and R must be even
MAX_WEIGHT_EXP = 7
MIN_WEIGHT_EXP = -8
EXACT = 1e-9  # of a logarithm: a quotient that is a power of two but for float64's rounding
BIAS_EXP = 6  # the exponent lava-dl's netx assumes for every bias
MAX_MANTISSA = 4095
MAX_BIAS = MAX_MANTISSA * 2  # weight units: 13 bits with the exponent 7, of which 6 are the state's
PIXEL_LEVELS = 255  # a graded message of 255 is 1.0
PIXEL_BITS = 8
HOST_LIMIT = 4095  # of a current that a host sends: what a bias's 13 bits hold


@dataclass(frozen=True)
class Tuning:
    """The factors of a layer that calibration chooses: S times ``scale``, Vth times ``v_threshold``."""

    scale: float = 1.0
    v_threshold: float = 1.0


@dataclass(frozen=True)
class _Weights:
    """A connection's integers, and how many of its weights were clipped."""

    connection: FloatConnection
    weight: np.ndarray
    bits: int
    exponent: int
    units: np.ndarray | float  # S / (g·2^e): w_int per float weight
    clipped: int


class QuantizedLayer:
    """One layer on its way to integers."""

    def __init__(
        self,
        net: FloatNetwork,
        index: int,
        bits: int | str,
        input_form: str,
        scale: str,
        tuning: Tuning,
        for_netx: bool,
        per_channel: bool,
    ) -> None:
        layer = net.layers[index]
        self.index, self.layer, self.for_netx, self.tuning = index, layer, for_netx, tuning
        self.soft = layer.reset == "subtract"
        self.num_steps = net.num_steps
        self.bits = 8 if isinstance(bits, str) else bits
        self.inputs = self.trained = net.inputs_of(index)
        per_channel = per_channel and channel_scale.folds(net, index, bits)
        if isinstance(bits, str):
            self.inputs = (channel_scale.levelled(self.trained[0], bits, per_channel), *self.trained[1:])
        one_size = per_channel or isinstance(bits, str)
        self.sizes = channel_scale.fold(self.inputs[0], self.inputs[1:], layer.shape) if one_size else None
        self.bias = np.zeros(layer.shape) if layer.bias is None else layer.bias.reshape(layer.shape)
        self.graded = {id(c) for c in self.inputs if c.pre == INPUT and net.input != "spikes"}
        self.injected = bool(self.graded) and input_form == "inject"
        self.by_host = bool(self.graded) and input_form == "bias"
        if layer.alpha and (self.injected or self.soft):
            raise ChipError(
                f"{layer.name}: a synaptic current with decay needs u for itself; it cannot be combined with "
                "reset='subtract' or --input inject"
            )
        if self.injected and self.soft:
            raise ChipError(
                f"{layer.name}: an injected current stays in u, where reset='subtract' keeps the membrane; "
                "choose --input graded, or train with reset='zero'"
            )
        if layer.alpha == 1 and self.bias.any():
            raise ChipError(f"{layer.name}: a bias on a current that never decays grows without bound")
        self.v_threshold = layer.v_threshold * tuning.v_threshold
        self.beta, self.alpha = (_mantissa(kept) / arithmetic.DECAY_UNITY for kept in (layer.beta, layer.alpha))
        self.taken = self.beta if layer.taken is None else layer.taken
        if self.soft:
            self._check_decay()
        keeps = self.beta if self.soft else self.alpha  # the chip adds the bias to v, where it does not decay as in u
        self.remains = 1 - keeps if keeps and self.bias.any() else 1.0
        self.bias_on_v = self.bias / self.remains
        self.unit: channel_scale.Unit | None = None  # ±1 on the chip, where weights have one size in each channel
        self.scale: np.ndarray | float
        self.inhibition: np.ndarray | int = 0
        self.inhibition_exp = 0
        self.spread = 0  # exponent of the main connection, so that a weaker one has all its bits
        if self.sizes is not None:
            self._choose_unit(self.sizes)
        else:
            self._choose_scale(exactly=scale == "power-of-two")
        self.weights = [self._integers(c) for c in self.inputs]
        self.lif = self._neurons()

    @property
    def connections(self) -> list[Connection]:
        """The chip's connections into this layer."""
        found = [self._connection(w) for w in self.weights]
        inhibition = np.broadcast_to(self.inhibition, self.layer.shape).reshape(-1)
        coarse = inhibition >> self.inhibition_exp
        for weight, exponent in ((coarse, self.inhibition_exp), (inhibition - (coarse << self.inhibition_exp), 0)):
            if weight.any():
                found.append(Diagonal(self.index, self.index, -weight, exponent))
        return found

    def rounded(self) -> tuple[FloatLayer, list[FloatConnection]]:
        """Return the layer and its connections in float units, with the values that the chip's integers stand for."""
        held = arithmetic.effective_bias(self.lif.bias_mant, self.lif.bias_exp) / (1 << arithmetic.STATE_SHIFT)
        bias = np.where(self.bias_on_v != 0, held / self.scale * self.remains, 0.0)
        layer = replace(self.layer, bias=bias, beta=self.beta, alpha=self.alpha)
        if self.layer.reset is not None:
            layer = replace(layer, v_threshold=self.lif.vth / self.scale)
        return layer, [replace(w.connection, weight=w.weight / w.units) for w in self.weights]

    def _check_decay(self) -> None:
        name = self.layer.name
        if self.taken == 0 and self.layer.taken is None:
            raise ChipError(f"{name}: beta 0 leaves nothing to subtract from; train it with reset='zero'")
        if self.beta == 1 and self.bias.any():
            raise ChipError(f"{name}: a bias needs beta < 1 with reset='subtract'; train without bias")

    def _choose_unit(self, sizes: np.ndarray) -> None:
        """Choose S = G/a for every neuron, and R = round(λ·vth)."""
        main, *others = self.inputs
        unit = self.tuning.scale * self._gain(main) / sizes  # S for G = 1
        limits = [0.99 * arithmetic.VTH_MAX / (unit * self._reached()).max()]
        if self.layer.reset is not None:
            limits.append(0.99 * arithmetic.VTH_MAX / (unit * self.v_threshold).max())
        if self.soft:
            limits.append((MAX_INHIBITION << MAX_WEIGHT_EXP) / max((unit * self.v_threshold * self.taken).max(), 1e-30))
        if (bias := np.abs(self.bias_on_v)).any():
            limits.append(MAX_BIAS / (unit * bias).max())
        if self.by_host:
            limits.append(HOST_LIMIT / (unit * self._arriving()).max())
        for c in others:
            limits.append(self._most(c) * self._gain(c) / np.abs(c.weight * channel_scale.rows(c, unit)).max())
        self.unit = channel_scale.choose(main.kind, float(min(limits)), self.for_netx, self.layer.name)
        self.scale = unit * (self.unit.weight * 2.0**self.unit.exponent)
        if self.soft:
            self._inhibit_each()

    def _inhibit_each(self) -> None:
        """Choose R of every neuron, in two connections where one does not hold its bits."""
        self.inhibition = np.round(self.taken * self._vth()).astype(np.int64)
        self.inhibition_exp = max(0, int(np.ceil(np.log2(max(self.inhibition.max(), 1) / MAX_INHIBITION))))

    def _choose_scale(self, exactly: bool) -> None:
        self.scale = self._scale()
        if exactly:
            self.scale = 2.0 ** np.floor(np.log2(self.scale))
        if self.soft and self.taken:
            self._choose_inhibition(exactly) if np.ndim(self.v_threshold) == 0 else self._inhibit_each()

    def _scale(self) -> float:
        """Return S, as large as the main connection's weights and the ranges of threshold, bias and current allow."""
        main = self.inputs[0]
        largest = float(np.abs(main.weight).max()) or self._without_weights()
        scale = MAX_WEIGHT * self._gain(main) / largest * self.tuning.scale
        if self.graded:  # an exponent makes room: the current's 24 bits are the limit, not the weight's 8
            full = MAX_WEIGHT * self._gain(main) / largest
            room = (HOST_LIMIT if self.by_host else arithmetic.VTH_MAX) / self._strongest()
            # the exponent takes the largest power of two that fits, so that the weights use their whole range
            exponent = np.clip(np.floor(np.log2(room / full)), MIN_WEIGHT_EXP, 0)
            scale = min(room, full) if main.kind is Conv else min(room, full * 2.0**exponent)
        limit = min([self._most(c) * self._gain(c) / largest for c, largest in self._others()], default=np.inf)
        if self.layer.reset is None:
            # v = 64·S·o must stay below the largest threshold, or the readout would fire and be reset
            limit = min(limit, 0.99 * arithmetic.VTH_MAX / (self._strongest() or 1.0))
        else:
            limit = min(limit, arithmetic.VTH_MAX / np.max(self.v_threshold))
            limit = min(limit, self._inhibited()) if np.ndim(self.v_threshold) else limit
        if (bias := np.abs(self.bias_on_v).max()) > 0:
            limit = min(limit, MAX_BIAS / bias)
        scale = float(min(scale, limit))
        self.spread = self._room(scale, limit)
        return scale * 2.0**self.spread

    def _inhibited(self) -> float:
        """Return the largest S whose R = λ·vth one connection holds."""
        if not self.soft or not self.taken:
            return np.inf
        return (MAX_INHIBITION << MAX_WEIGHT_EXP) / (self.taken * np.max(self.v_threshold))

    def _without_weights(self) -> float:
        """Return a stand-in for the largest weight of a layer that only its bias drives: then S fits the threshold."""
        return float(np.max(self.v_threshold) if self.layer.reset is not None else np.abs(self.bias).max() or 1.0)

    def _others(self) -> list[tuple[FloatConnection, float]]:
        """Return the connections except the main one, each with its largest weight; those of zeros set no scale."""
        each = [(c, float(np.abs(c.weight).max())) for c in self.inputs[1:]]
        return [(c, largest) for c, largest in each if largest > 0]

    def _room(self, scale: float, limit: float) -> int:
        """Return how often S may be doubled for a connection whose weights are small beside the main one's.

        The main connection takes the factor as its exponent and keeps its integers; every other one chooses its own. No
        sum is rounded so, which exponents below 0 would do.
        """
        main = self.inputs[0]
        if self.for_netx or main.kind is Conv or id(main) in self.graded or not self._others():
            return 0
        limit = min(limit, self._inhibited())
        if self.soft and len({c.pre for c in self.inputs}) < len(self.inputs):
            # currents of many steps add up in u, where the membrane is, and its 24 bits wrap
            limit = min(limit, 0.99 * arithmetic.VTH_MAX / self._reached().max())
        wanted = max(MAX_WEIGHT * self._gain(c) / largest for c, largest in self._others())
        return int(np.clip(np.floor(np.log2(min(limit, wanted) / scale) + EXACT), 0, MAX_WEIGHT_EXP))

    def _most(self, c: FloatConnection) -> int:
        """Return the largest weight that a second connection of a layer can hold."""
        return MAX_WEIGHT if c.kind is Conv or self.for_netx else MAX_WEIGHT << MAX_WEIGHT_EXP

    def _gain(self, c: FloatConnection) -> float:
        """Return the messages per float unit: 255 for 8-bit pixels, 1 for spikes."""
        return float(PIXEL_LEVELS) if id(c) in self.graded else 1.0

    def _strongest(self) -> float:
        """Return the largest |v| of a layer that never fires, for inputs in 0 … 1, bias included."""
        total = np.abs(self.bias).reshape(-1).max()
        for c in self.inputs:
            total += channel_scale.largest_sums(c).max()
        if self.layer.reset is None:
            total *= self._accumulated(self.layer.beta)
        return float(total * self._accumulated(self.layer.alpha))

    def _arriving(self) -> np.ndarray:
        """Return the largest absolute current of every neuron, for inputs in 0 … 1."""
        sums = (channel_scale.spread(channel_scale.largest_sums(c), self.layer.shape) for c in self.inputs)
        return np.abs(self.bias) + sum(sums)

    def _reached(self) -> np.ndarray:
        """Return the largest ``|u|`` or ``|v|`` of every neuron, whatever arrives in a sample."""
        layer = self.layer
        decays = self._accumulated(layer.beta) * self._accumulated(layer.alpha)
        return decays * self._arriving() + np.abs(self.bias_on_v) + np.abs(layer.v_init)

    def _accumulated(self, beta: float) -> float:
        """Return Σ_t λ^t over the time steps of a sample."""
        return self.num_steps if beta == 1 else (1 - beta**self.num_steps) / (1 - beta)

    def _choose_inhibition(self, exactly: bool) -> None:
        """Choose R = m·2^e, and the scale that follows from it."""
        wanted = self.taken * self.v_threshold * self.scale
        exponent = 0
        while not self.for_netx and wanted / 2**exponent > MAX_INHIBITION + 1 and exponent < MAX_WEIGHT_EXP:
            exponent += 1
        mantissa = int(min(wanted / 2**exponent, MAX_INHIBITION)) // 2 * 2
        if mantissa < 2:
            largest = np.abs(self.inputs[0].weight).max()
            raise ChipError(
                f"{self.layer.name}: λ·Vth = {self.taken * self.v_threshold:.3g} is below two weight steps of the "
                f"largest weight {largest:.3g}; the threshold would be lost, train with smaller weights"
            )
        if exactly and mantissa << exponent != wanted:
            while self.for_netx and wanted > MAX_INHIBITION:
                wanted, self.scale = wanted / 2, self.scale / 2
            mantissa = round(wanted / 2**exponent)
            if mantissa * 2**exponent != wanted or mantissa % 2:
                raise ChipError(
                    f"{self.layer.name}: with a scale of {self.scale:g}, λ·vth = {wanted:g} is no even weight; "
                    "use --scale free, or a decay and a threshold that are powers of two"
                )
        self.inhibition, self.inhibition_exp = mantissa << exponent, exponent
        if not exactly:
            self.scale = self.inhibition / (self.taken * self.v_threshold)

    def _integers(self, c: FloatConnection) -> _Weights:
        """Return weights rounded to multiples of the step of a connection with both signs, and clipped to its range."""
        if c is self.inputs[0] and self.unit is not None:
            unit = self.unit
            units = channel_scale.rows(c, self.scale) / (self._gain(c) * 2.0**unit.exponent)
            return _Weights(c, np.sign(c.weight).astype(np.int32) * unit.weight, unit.bits, unit.exponent, units, 0)
        exponent, units = 0, channel_scale.rows(c, self.scale) / self._gain(c)
        if c is self.inputs[0] and id(c) not in self.graded:
            exponent = self.spread
        elif c.kind is not Conv and not self.for_netx and (largest := np.abs(c.weight * units).max()) > 0:
            lowest = MIN_WEIGHT_EXP if id(c) in self.graded else 0
            exponent = int(np.clip(np.ceil(np.log2(largest / MAX_WEIGHT) - EXACT), lowest, MAX_WEIGHT_EXP))
        units = units / 2.0**exponent
        step = 1 << (9 - self.bits)
        wanted = step * np.round(c.weight * units / step)
        rounded = np.clip(wanted, -256, 256 - step).astype(np.int32)
        clipped = int((rounded != wanted).sum())
        if rounded.max() <= 0:  # a purely inhibitory connection ends at −255
            rounded = np.maximum(rounded, -256 + step)
        return _Weights(c, rounded, self.bits, exponent, units, clipped)

    def _connection(self, w: _Weights) -> Connection:
        c = w.connection
        options: dict[str, Any] = {"num_weight_bits": w.bits, **c.geometry}
        if id(c) in self.graded:
            options["num_message_bits"] = PIXEL_BITS
        if c.kind is not Conv:
            options |= {"weight_exp": w.exponent, "delay": chip_delay(c)}
        return c.kind(c.pre, c.post, weight=w.weight, **options)

    def _neurons(self) -> LIF:
        layer = self.layer
        bias_mant, bias_exp = _bias(layer.name, self.scale * self.bias_on_v, self.for_netx)
        common = {"bias_mant": bias_mant, "bias_exp": bias_exp, "name": layer.name}
        mantissa, du = _mantissa(layer.beta), 4095 - _mantissa(layer.alpha)
        if self.soft or du != 4095:  # so that u + beff, the current, starts at 0
            common["u_init"] = -arithmetic.effective_bias(bias_mant, bias_exp)
        if np.any(layer.v_init) and not self.soft:
            raise ChipError(f"{layer.name}: v_init needs reset='subtract', where u holds the membrane; train it so")
        if layer.at_threshold and (self.soft or self.beta < 1):
            self._fire_at_threshold(common)
        if self.soft:
            common["u_init"] = common["u_init"] + self._units(layer.v_init)
            counted = np.ndim(self.inhibition) or not self.taken
            vth = self._vth() if counted else round(self.inhibition / self.taken)
            return LIF(layer.shape, 4095 - mantissa, 4096, vth, **common)
        vth = arithmetic.VTH_MAX if layer.reset is None else self._vth()
        if layer.at_threshold and self.beta == 1 and not self.bias.any():
            vth = vth - 1  # currents are whole weight units, and nothing is lost of them
        return LIF(layer.shape, -1 if self.injected else du, 4096 - mantissa, vth, **common)

    def _fire_at_threshold(self, common: dict[str, Any]) -> None:
        """Add the least there is to v, 1/64 of a weight unit; the membrane that u_init begins at has no part in it."""
        mantissa = np.broadcast_to(common["bias_mant"], self.layer.shape)
        exponent = 0 if not mantissa.any() else common["bias_exp"]
        common |= {"bias_mant": np.minimum(mantissa + 1, MAX_MANTISSA).astype(np.int32), "bias_exp": exponent}

    def _units(self, v: float) -> np.ndarray:
        """Return a membrane of v in the units of the state u."""
        return np.round(self.scale * v * (1 << arithmetic.STATE_SHIFT)).astype(np.int64)

    def _vth(self) -> np.ndarray:
        vth = np.round(self.scale * np.float64(self.v_threshold)).astype(np.int64)
        if vth.min() < 1:
            raise ChipError(
                f"{self.layer.name}: the threshold {np.min(self.v_threshold):g} rounds to 0 beside the largest weight "
                f"{np.abs(self.inputs[0].weight).max():.3g}; train with smaller weights"
            )
        return np.asarray(vth)


def _bias(name: str, scaled: np.ndarray, for_netx: bool) -> tuple[np.ndarray, int]:
    """Return (mantissa, exponent) of a bias in weight units: the smallest exponent that fits, with the state's 64."""
    for exponent in range(BIAS_EXP if for_netx or not scaled.any() else 0, 8):
        mantissa = np.round(scaled * 2.0 ** (arithmetic.STATE_SHIFT - exponent))
        if np.abs(mantissa).max(initial=0) <= MAX_MANTISSA:
            return mantissa.astype(np.int32), exponent
    raise ChipError(
        f"{name}.bias: {np.abs(scaled).max():.0f} weight units, at most {MAX_BIAS} fit into 13 bits with exponent 7; "
        "train with smaller biases"
    )


def _mantissa(beta: float) -> int:
    """Return ``round(4096·λ)``: a decay factor λ in [0, 1] as the chip has it, in 1/4096."""
    return round(arithmetic.DECAY_UNITY * beta)
