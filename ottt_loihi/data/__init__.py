"""Data sets, augmentations and spike encodings: NumPy only, so that training, simulation and the chip see the same.

``load_data(name)`` gives a :class:`Split`; docs/data.md says which files go where. Nothing is ever downloaded.
"""

from ottt_loihi.data.arrays import from_arrays, load_npz
from ottt_loihi.data.augment import augment
from ottt_loihi.data.codings import CODINGS, encode, rate_code
from ottt_loihi.data.description import DataDescription, Step, describe_split
from ottt_loihi.data.digits import load_digits
from ottt_loihi.data.event_files import as_events, read_events
from ottt_loihi.data.events import to_frames
from ottt_loihi.data.prepare import load_like, prepare, prepare_like
from ottt_loihi.data.registry import DATA_SETS, DataSet, load_data
from ottt_loihi.data.split import Split

__all__ = [
    "CODINGS",
    "DATA_SETS",
    "DataDescription",
    "DataSet",
    "Split",
    "Step",
    "as_events",
    "augment",
    "describe_split",
    "encode",
    "from_arrays",
    "load_data",
    "load_digits",
    "load_like",
    "load_npz",
    "prepare",
    "prepare_like",
    "rate_code",
    "read_events",
    "to_frames",
]
