"""The integer network in torch: the same integers as ``sim`` and Lava, from torch's own products.

A second, independent execution of a :class:`~ottt_loihi.sim.network.ChipNetwork`, of any size. All values are integers
below 2⁵³ in float64, so every product and sum is exact whatever the order; wrap-around and clipping are those of
``sim/arithmetic.py``, written once more with torch's operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim import checks as sim_checks
from ottt_loihi.sim.inference.reference import LEAST, Result, check_input, read_out
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Connection, Conv, Dense, Diagonal

from ottt_loihi import checks

if TYPE_CHECKING:
    from torch import Tensor


def run(chip: ChipNetwork, x: np.ndarray, record: Sequence[str] = ()) -> Result:
    """Run a batch; arguments and result are those of :func:`ottt_loihi.sim.inference.reference.run`."""
    import torch

    messages = torch.from_numpy(check_input(checks.instance(chip, "chip", ChipNetwork), x)).double()
    record = sim_checks.variables(record)
    batch, layers = len(messages), range(len(chip.layers))
    products = [(_product(c), c) for c in chip.connections]
    u = [torch.tensor(layer.u_init.reshape(1, -1)).double().repeat(batch, 1) for layer in chip.layers]
    v = [torch.zeros_like(state) for state in u]
    longest = max(chip.logical_delay(c) for c in chip.connections)
    silent = {i: torch.zeros(batch, chip.size(i), dtype=torch.float64) for i in (INPUT, *layers)}
    past = [silent] * (longest + 1)
    kept: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in layers] for name in record}
    scores = np.full((batch, chip.layers[-1].size), LEAST if chip.readout == "max_v" else 0, np.int64)
    counts = np.zeros(len(chip.layers), np.int64)
    for t in range(chip.num_steps):
        past = [{INPUT: messages[:, t]}, *past[:-1]]
        for index, layer in enumerate(chip.layers):
            arriving = [p(past[chip.logical_delay(c)][c.pre]) for p, c in products if c.post == index]
            u[index], v[index], s = _lif(layer, sum(arriving), u[index], v[index])
            past[0][index] = s.double()
            counts[index] += int(s.sum())
            for name, now in (("u", u[index].int()), ("v", v[index].int()), ("s", s)):
                if name in record:
                    kept[name][index].append(now.numpy().reshape(batch, *layer.shape))
        scores = read_out(chip.readout, scores, v[-1].long().numpy(), past[0][layers[-1]].long().numpy())
    states = {name: [np.stack(steps) for steps in per_layer] for name, per_layer in kept.items()}
    return Result(scores, states, counts)


def _lif(layer: LIF, a: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute one step of :class:`~ottt_loihi.sim.network.LIF`."""
    import torch

    unity, shift = arithmetic.DECAY_UNITY, 1 << arithmetic.STATE_SHIFT
    current = torch.trunc(u * (unity - (layer.du + 1)) / unity) + _wrapped(a, 32) * shift
    current = _wrapped(current, 32)
    half = 2.0**23
    current = torch.where(current > half, current - 2 * half, current)
    current = torch.where(current <= -half, current + 2 * half, current)
    bias = torch.as_tensor(layer.effective_bias).double()
    limit = arithmetic.STATE_LIMIT - 1
    membrane = torch.clamp(torch.trunc(v * (unity - layer.dv) / unity) + current + bias, -limit, limit)
    s = membrane > torch.as_tensor(layer.thresholds).double() * shift
    return current, torch.where(s, 0.0, membrane), s


def _wrapped(a: Tensor, bits: int) -> Tensor:
    """Return integers wrapped to two's complement of so many bits."""
    import torch

    return torch.remainder(a + 2.0 ** (bits - 1), 2.0**bits) - 2.0 ** (bits - 1)


def _product(c: Connection) -> Any:
    """Return the output of a connection for messages ``(batch, pre)``."""
    import torch

    weight = torch.as_tensor(np.array(c.weight)).double()

    def seen(x: Tensor) -> Tensor:
        return x if c.num_message_bits else (x != 0).double()

    def shifted(a: Tensor) -> Tensor:
        return torch.floor(_wrapped(a, 32) * 2.0**c.weight_exp)

    if isinstance(c, Conv):
        settings = {"stride": c.stride, "padding": c.padding, "dilation": c.dilation, "groups": c.groups}
        frame = (-1, *c.input_shape)
        return lambda x: _wrapped(torch.nn.functional.conv2d(seen(x).reshape(frame), weight, **settings).flatten(1), 24)
    if isinstance(c, Dense):
        return lambda x: shifted(seen(x) @ weight.t())
    if isinstance(c, Diagonal):
        return lambda x: shifted(seen(x) * weight)
    places = torch.as_tensor(np.stack([c.rows, c.columns])).long()
    matrix = torch.sparse_coo_tensor(places, weight, c.size).coalesce()
    return lambda x: shifted(torch.sparse.mm(matrix, seen(x).t()).t())
