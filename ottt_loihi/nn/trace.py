"""The one place where a trace meets a gradient: OTTT's equation 4, for any connection."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Seen(NamedTuple):
    """The input that a connection's parameters learn from."""

    trace: Tensor  # â, of the input's shape, without a graph
    length: float = 1.0  # Λ, at least 1
    # 1 for the neurons that learn from it, else 0, of a shape that broadcasts to the current's; None: all
    mask: Tensor | None = None


def with_trace(connection: nn.Module, x: Tensor, *seen: Seen, current: Collection[str] = ()) -> Tensor:
    """Return ``connection(x)``, from whose gradient the parameters learn as if the input had been the trace (eq. 4).

    ::

        I[t] = W·x[t] + b          Σ_{τ≤t} λ^{t−τ}·I[τ] = W·â[t] + b·Λ_t = Λ_t·connection(â[t]/Λ_t)

    The value of I[t] and its gradient towards x are those of the first. The gradient towards the parameters is the one
    of the second: what their membrane has received so far, so that ∂L/∂W = g·âᵀ and ∂L/∂b = Σ g·Λ. That holds for any
    module that is affine in x. It runs twice, and so do its hooks.

    Parameters
    ----------
    connection
        of this package, ``torch.nn.Linear``, ``torch.nn.Conv2d``, or any module that is affine in its input
    x
        ``(batch, …)``, the spikes of this step
    seen
        â and Λ; several where groups of neurons have different ones
    current
        names of parameters that learn from x all the same
    """
    if not torch.is_grad_enabled():
        return connection(x)
    parameters = dict(connection.named_parameters())
    of_spikes = {name: p if name in current else p.detach() for name, p in parameters.items()}
    of_trace = {name: p.detach() if name in current else p for name, p in parameters.items()}
    now = functional_call(connection, of_spikes, (x,))
    for trace, length, mask in seen:
        received = length * functional_call(connection, of_trace, (trace / length,))
        learns = received - received.detach()
        now = now + (learns if mask is None else learns * mask)
    return now
