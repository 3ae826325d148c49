"""The changes that lava-dl's netx and Lava's models make to the dense weights of a ``.net``.

netx chooses one exponent and one number of bits for all weights of a layer, the recurrent ones included
(``optimize_weight_bits`` in ``lava/lib/dl/netx/utils.py``), but does not pass the sign mode on. Lava's Dense takes each
matrix's own, and clips and truncates by that (``lava/utils/weightutils.py``): a matrix without positive weights holds
−255 at the least, where the common exponent may have made −256 of them.
"""

from __future__ import annotations

import math

import numpy as np
from ottt_loihi.sim import arithmetic

from ottt_loihi.errors import ChipError


def loaded(*parts: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Return the integers that Lava multiplies with, int32, and the exponent e ≤ 0: a current is ``⌊2^e · W·s⌋``.

    Parameters
    ----------
    parts
        int ``(outputs, inputs)``, the layer's matrices as the file has them

    Raises
    ------
    ChipError
        for weights that are all 0, which netx fails on
    """
    whole = np.hstack([part.astype(np.int64) for part in parts])
    if not whole.any():
        raise ChipError("netx does not load a layer whose weights are all 0")
    if (whole.max() > 254 and whole.min() < 0) or (whole.min() < -256 and whole.max() > 0):
        whole = np.clip(whole, -256, 254)
    high, low = int(whole.max()), int(whole.min())
    mixed = high >= 0 > low
    one_sign = -256 / low if high < 0 else 255 / max(high, 1)
    scale = min(127 / high if high else math.inf, -128 / low) if mixed else one_sign
    shift = math.floor(math.log2(scale)) + mixed
    zeros = next((n for n in range(8, 0, -1) if not (whole % 2**n).any()), 0)  # low bits that no weight uses
    bits = 8 - shift - (zeros - mixed)
    if shift < 0:  # C's shift by a negative number, as NumPy has it
        return [np.zeros(part.shape, np.int32) for part in parts], 0
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    return [_truncated(part << shift, bits) for part in np.split(whole, ends, axis=1)], -shift


def _truncated(weight: np.ndarray, bits: int) -> np.ndarray:
    """Return the weights as Lava clips them; netx asks for 9 bits if odd weights of both signs need them."""
    if bits <= 8:
        return arithmetic.truncate_weight(weight, bits)
    if arithmetic.sign_mode(weight) == "mixed":
        return np.clip(weight, -256, 255).astype(np.int32)
    return np.zeros(weight.shape, np.int32)  # again a shift by a negative number
