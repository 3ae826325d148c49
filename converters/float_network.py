"""What the converters need to know of a trained network: plain float64 arrays, whatever framework they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ottt_loihi.errors import ChipError

if TYPE_CHECKING:
    from ottt_loihi.network import Network


@dataclass(frozen=True)
class FloatLayer:
    """One weighted layer: ``weight`` float64 ``(out, in)``, ``bias`` float64 ``(out,)`` or None.

    ``decay`` λ, ``v_threshold`` and ``reset`` ("zero" | "subtract") describe its neurons; the readout has none
    (``reset=None``) and is memoryless: o[t] = W·s[t] + b.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray | None
    reset: str | None = None
    decay: float = 0.0
    v_threshold: float = 1.0


@dataclass(frozen=True)
class FloatNetwork:
    """Layers in order, the readout last; ``input_shape`` of one frame and T = ``num_steps``."""

    input_shape: tuple[int, ...]
    num_steps: int
    layers: tuple[FloatLayer, ...]


def from_torch(net: Network) -> FloatNetwork:
    """Read a network of :mod:`ottt_loihi.network`.

    Raises
    ------
    ChipError
        for a layer that has no counterpart here, or whose weights are NaN, infinite or all zero
    """
    layers = []
    for index, block in enumerate(net.blocks):
        neuron = block.neuron
        name = f"hidden {index + 1}"
        if len(block.branches) or block.skip is not None:
            raise ChipError(f"{name}: recurrent, feedback and skip connections cannot be exported yet")
        weight, bias = _arrays(block.synapse, name)
        layers.append(FloatLayer(name, weight, bias, neuron.reset, float(neuron.decay), float(neuron.v_threshold)))
    weight, bias = _arrays(net.readout, "readout")
    layers.append(FloatLayer("readout", weight, bias))
    return FloatNetwork(tuple(net.input_shape), int(net.time_steps), tuple(layers))


def _arrays(synapse: object, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    weight = getattr(synapse, "weight", None)
    if weight is None or weight.ndim != 2:
        raise ChipError(f"{name}: a {type(synapse).__name__} cannot be exported yet; fully connected layers can")
    bias = getattr(synapse, "bias", None)
    arrays = [None if p is None else p.detach().cpu().double().numpy() for p in (weight, bias)]
    for kind, array in zip(("weight", "bias"), arrays):
        if array is not None and not np.isfinite(array).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ChipError(f"{name}.{kind}: {array[place]} at {place}; train again with a smaller learning rate")
    if not arrays[0].any():
        raise ChipError(f"{name}.weight: all {arrays[0].size} weights are zero, nothing would pass; train the network")
    return arrays[0], arrays[1]
