"""The host's part of a network: its computation on the data before anything is sent to the chip.

An image that stays the same for all time steps needs its first layer's current only once. The host computes it, in the
same integers as the chip would, and the chip gets it as messages through weights of one, −4096 … 4095: what the 13 bits
of a bias hold, as in the input layer of lava-dl's netx. ``ChipNetwork.host`` is that part, a network of one step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi.errors import UsageError

if TYPE_CHECKING:
    from ottt_loihi.sim.inference.reference import Result

MESSAGE_MIN, MESSAGE_MAX = -4096, 4095  # 13 bits


def host_messages(chip: ChipNetwork, x: np.ndarray, run: Callable[..., Result] | None = None) -> np.ndarray:
    """Return the messages of the host to the chip: int16 ``(n, num_steps, *input_shape)``, the same at every step.

    Every ``run`` applies it to its input.

    Parameters
    ----------
    chip
        the network; one without a host's part gets x back
    x
        messages for the host's network, integers ``(n, num_steps, *host.input_shape)`` that do not change in time
    run
        what computes the host's network; default: :func:`ottt_loihi.sim.run`

    Raises
    ------
    UsageError
        for an input that changes, or of another shape, and for a current outside −4096 … 4095
    """
    if chip.host is None:
        return x
    if run is None:
        from ottt_loihi.sim.inference.simulator import run
    x = np.asarray(x)
    expected = (chip.num_steps, *chip.host.input_shape)
    if x.shape[1:] != expected:
        raise UsageError(f"input: expected shape (batch, {', '.join(map(str, expected))}), got {x.shape}")
    if (x != x[:, :1]).any():
        raise UsageError("input: the host computes the first layer once, for an input that stays the same in time")
    result = run(chip.host, x[:, :1], record=("v",))
    current = result.states["v"][-1][0] >> arithmetic.STATE_SHIFT
    low, high = (int(current.min()), int(current.max())) if current.size else (0, 0)
    if low < MESSAGE_MIN or high > MESSAGE_MAX or result.spike_counts.any():
        raise UsageError(
            f"input: the host's current reaches {low:,} … {high:,}, a message holds {MESSAGE_MIN} … {MESSAGE_MAX}; "
            "scale the input down, or export with --input graded"
        )
    messages = current.reshape(len(x), 1, *chip.input_shape).astype(np.int16)
    return np.repeat(messages, chip.num_steps, axis=1)
