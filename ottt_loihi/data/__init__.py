"""Data sets and spike encodings: NumPy only, so that training, simulation and the chip see the same spikes."""

from ottt_loihi.data.digits import Split, load_digits
from ottt_loihi.data.encoding import rate_code
from ottt_loihi.errors import UsageError

DATA_SETS = {"digits": load_digits}


def load_data(name: str) -> Split:
    """The data set of that name; :class:`UsageError` lists the names there are."""
    if name not in DATA_SETS:
        raise UsageError(f"data: expected one of {', '.join(DATA_SETS)}, got {name!r}")
    return DATA_SETS[name]()


__all__ = ["DATA_SETS", "Split", "load_data", "load_digits", "rate_code"]
