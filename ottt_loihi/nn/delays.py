"""What arrives over a connection that takes steps of time: a delay of d brings what its source sent at step t − d.

The state of step t − 1 has everybody's last spikes anyway; only sources of connections with d > 1 need more, their
d − 1 steps before, so memory grows with the delays and not with the number of time steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

Late = Mapping[int, tuple[Tensor, ...]]
"""Source → what it sent before the last step, the newest first."""


def arriving(source: int, delay: int, last: Callable[[int], Tensor], late: Late) -> Tensor | None:
    """What ``source`` sent ``delay`` ≥ 1 steps ago, None before its first step; ``last``: what it sent in the last."""
    if delay == 1:
        return last(source)
    older = late.get(source, ())
    return older[delay - 2] if len(older) > delay - 2 else None


def remembered(delays: Mapping[int, int], last: Callable[[int], Tensor], late: Late) -> Late:
    """``late`` of the next step; ``delays``: the longest from each source. Copies, because a step may reuse memory."""
    return {i: (last(i).clone(), *late.get(i, ()))[: delay - 1] for i, delay in delays.items() if delay > 1}
