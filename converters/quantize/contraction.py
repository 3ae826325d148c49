"""Whether feedback still contracts once it is integers.

Networks trained at their equilibrium (IDE, SPIDE) need ``‖W_source/θ · … · F/θ‖₂ < 1`` once around each loop
(:func:`ottt_loihi.rules.equilibrium.loop_norm`); rounding changes the weights. In the chip's units a spike adds
``w·2^e`` to a membrane whose threshold is vth, so each connection counts ``w·2^e/vth``, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ottt_loihi.converters.quantize.float_connection import convolution_matrix
from ottt_loihi.sim.network import ChipNetwork, Connection, Conv, Dense, Diagonal, Sparse

from ottt_loihi.errors import ChipError


def loop_norms(chip: ChipNetwork) -> dict[str, float]:
    """Feedback connection (its label) → spectral norm once around its loop; resets by subtraction are none."""
    found = {}
    for c in chip.connections:
        if c.pre >= 0 and c.post <= c.pre and not isinstance(c, Diagonal):
            chain = [c, *(_forward(chip, index) for index in range(c.post + 1, c.pre + 1))]
            found[c.label] = _norm([_matrix(chip, part) for part in chain])
    return found


def require_contraction(chip: ChipNetwork) -> dict[str, float]:
    """:func:`loop_norms`, all of them below 1; otherwise a ChipError with the norm and the remedy."""
    found = loop_norms(chip)
    for label, norm in found.items():
        if norm >= 1:
            raise ChipError(
                f"{label}: after quantisation this feedback multiplies a difference by {norm:.3g} once around, "
                "expected below 1; use more weight bits, or train with a smaller max_norm"
            )
    return found


def _forward(chip: ChipNetwork, index: int) -> Connection:
    return next(c for c in chip.inputs_of(index) if c.pre == index - 1)


def _matrix(chip: ChipNetwork, c: Connection) -> Any:
    """Return ``(post, pre)``, the part of a threshold that a spike adds."""
    from scipy.sparse import coo_matrix, csr_matrix, diags

    unit = diags(2.0**c.weight_exp / chip.layers[c.post].thresholds)
    if isinstance(c, Conv):
        geometry = (c.input_shape, c.stride, c.padding, c.groups, c.dilation)
        return unit @ convolution_matrix(c.weight.astype(float), *geometry, c.label)
    if isinstance(c, Sparse):
        return unit @ coo_matrix((c.weight, (c.rows, c.columns)), shape=c.shape).tocsr()
    assert isinstance(c, Dense)
    return unit @ csr_matrix(c.weight)


def _norm(chain: Sequence[Any]) -> float:
    """Return the spectral norm of the product of the matrices; ``chain[0]`` is applied first."""
    from scipy.sparse.linalg import LinearOperator, aslinearoperator, svds

    whole: LinearOperator = aslinearoperator(chain[0])
    for matrix in chain[1:]:
        whole = aslinearoperator(matrix) @ whole
    if min(whole.shape) < 2:
        return float(np.linalg.norm(whole @ np.eye(whole.shape[1])))
    return float(svds(whole, 1, return_singular_vectors=False, random_state=0)[0])
