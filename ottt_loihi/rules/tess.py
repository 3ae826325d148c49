"""TESS: S-TLLR with a learning signal that every layer makes by itself (Apolinario et al., IJCNN 2025, 2502.01837)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.network import Network, NetworkState
from ottt_loihi.rules.base import Error
from ottt_loihi.rules.stllr import Eligibility


class TESS(Eligibility):
    """The eligibility of S-TLLR; nothing passes backwards between layers.

    ::

        B_ck = sign(sin(ω_c·k))              ω_c = 50 … 512 in C equal steps, k = 0 … N−1
        z = (κ/N)·B·P(s[t])                  m = Pᵀ·(κ/N)·Bᵀ·∂L(z, y)/∂z                  ∇w_ij = Σ_t m_i[t]·e_ij[t]

    P averages each channel's image to p×p values, N are left. L is the loss of the readout: with cross-entropy
    ∂L/∂z = softmax(z) − y. The readout learns from its own loss.

    ============  ======================  =======================================================================
    setting       range                   meaning
    ============  ======================  =======================================================================
    kappa         > 0, or None            κ; None: N/4, so that z = B·P(s)/4. The released code has 1
                                          (docs/rules.md compares both)
    pooled        sequence of int ≥ 1,    p of each block with images; None: 4 for the first block, 1 for the last,
                  or None                 2 for the others, or the image's size where it is smaller
    lambda_pre …  as in S-TLLR
    ============  ======================  =======================================================================

    B is 0 at k = 0: the first neuron of a layer, at p = 1 the whole first channel, learns nothing. B is computed in
    float64; in float32, 0.35 % of its signs differ (100 classes, 4096 values). The published scripts never compute a
    local signal (``--delay-ls`` equals T), so no public run is known to confirm the paper's numbers. This is the
    paper's rule with the code's 1/N and pooling, and a reset by the network's threshold.
    """

    name: ClassVar[str] = "tess"
    settings = (*Eligibility.settings, "kappa", "pooled")
    alone = True

    def __init__(
        self,
        kappa: float | None = None,
        pooled: Sequence[int] | None = None,
        lambda_pre: float = 0.5,
        lambda_post: float = 0.2,
        alpha_pre: float = 1.0,
        alpha_post: float = 1.0,
        last_steps: int | None = None,
        update: str = "sequence",
        convention: str = "authors",
    ) -> None:
        super().__init__(lambda_pre, lambda_post, alpha_pre, alpha_post, last_steps, update, convention)
        self.kappa = None if kappa is None else checks.number(kappa, "kappa", 0, 1e9, above=True)
        self.pooled = None if pooled is None else list(checks.sizes(pooled, "pooled", 1))

    def check(self, net: Network) -> None:
        super().check(net)
        if self.pooled is not None and len(self.pooled) != len(net.blocks):
            raise UsageError(f"pooled: expected a size for each of the {len(net.blocks)} blocks, got {self.pooled}")

    def teach(self, net: Network, now: Tensor, o: Tensor, state: NetworkState, error: Error) -> None:
        local = [error(self.local_readout(net, index, after.out)) for index, after in enumerate(state.blocks)]
        torch.autograd.backward([value for value in (now, *local) if value.requires_grad])

    def local_readout(self, net: Network, index: int, s: Tensor) -> Tensor:
        """Return z of block ``index`` for its spikes ``(batch, *shape)``: ``(batch, classes)``."""
        if s.ndim == 4:
            wanted = self.pooled[index] if self.pooled is not None else default_pooling(index, len(net.blocks))
            s = functional.adaptive_avg_pool2d(s, (min(wanted, s.shape[2]), min(wanted, s.shape[3])))
        s = s.flatten(1)
        factor = 0.25 if self.kappa is None else self.kappa / s.shape[1]
        return factor * (s @ signs(net.num_classes, s.shape[1]).to(s).t())


def default_pooling(index: int, blocks: int) -> int:
    """Return p of a block: 1 for the last, 4 for the first, 2 between."""
    return 1 if index == blocks - 1 else 4 if index == 0 else 2


@lru_cache(maxsize=64)
def signs(classes: int, size: int) -> Tensor:
    """Return B, float64 ``(classes, size)`` of −1, 0, 1; made in float64, because sin(512·k) needs its digits."""
    omega = np.linspace(50.0, 512.0, classes)
    return torch.from_numpy(np.sign(np.sin(omega[:, None] * np.arange(size))))
