"""Data sets and spike encodings: NumPy only, so that training, simulation and the chip see the same spikes."""

from ottt_loihi.data.digits import load_digits
from ottt_loihi.data.encoding import rate_code

__all__ = ["load_digits", "rate_code"]
