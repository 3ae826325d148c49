"""Events of a dynamic vision sensor: the 5-byte format of N-MNIST, and frames made of events.

An event says: at time t the pixel (x, y) became brighter (p = 1, ON) or darker (p = 0, OFF).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ottt_loihi.data.sparse import SampleArray, collected
from ottt_loihi.errors import FileError, UsageError

EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])  # t in µs
BY = ("time", "count")
LARGEST = 2**31 - 1  # values of a sample


class Frames(NamedTuple):
    """Events counted in frames.

    Attributes
    ----------
    counts
        uint8 ``(T, 2, height, width)``, channel 0 OFF and 1 ON
    lost
        events above the ceiling, not counted.
    """

    counts: np.ndarray
    lost: int


def decode_bin(content: bytes, width: int, height: int, where: str) -> np.ndarray:
    """Return the events of an N-MNIST ``.bin`` or a SLAYER ``.bs2`` file, dtype ``EVENT``, in the file's order.

    Five bytes each: x, y, and big-endian 24 bits p·2²³ + t, t in µs (Orchard et al. 2015).

    Raises
    ------
    FileError
        for a size that is no multiple of 5 bytes, or a pixel outside ``width × height``
    """
    if len(content) % 5:
        raise FileError(f"{where}: has {len(content)} bytes, expected a multiple of 5; it is truncated")
    raw = np.frombuffer(content, np.uint8).reshape(-1, 5)
    events = np.empty(len(raw), EVENT)
    events["x"], events["y"], events["p"] = raw[:, 0], raw[:, 1], raw[:, 2] >> 7
    high, middle, low = (raw[:, column].astype(np.int64) for column in (2, 3, 4))
    events["t"] = (high & 0x7F) << 16 | middle << 8 | low
    check_pixels(events, width, height, where)
    return events


def encode_bin(events: np.ndarray) -> bytes:
    """The bytes of a ``.bin`` file with these events; x and y below 256, t below 2²³ µs (8.4 s)."""
    if events.dtype != EVENT:
        raise UsageError(f"encode_bin: expected events of dtype {EVENT}, got {events.dtype}")
    if len(events) and (max(events["x"].max(), events["y"].max()) > 255 or not 0 <= events["t"].max() < 1 << 23):
        raise UsageError("encode_bin: expected x, y < 256 and t < 2²³ µs; this format holds no more")
    raw = np.empty((len(events), 5), np.uint8)
    raw[:, 0], raw[:, 1] = events["x"], events["y"]
    raw[:, 2] = events["p"] << 7 | (events["t"] >> 16).astype(np.uint8)
    raw[:, 3], raw[:, 4] = events["t"] >> 8 & 0xFF, events["t"] & 0xFF
    return raw.tobytes()


def check_pixels(events: np.ndarray, width: int, height: int, where: str) -> None:
    """Raise :class:`FileError` for the first event outside the sensor."""
    outside = (events["x"] >= width) | (events["y"] >= height)
    if outside.any():
        first = int(outside.argmax())
        raise FileError(
            f"{where}: event {first} is at ({events['x'][first]}, {events['y'][first]}), expected pixels below "
            f"({width}, {height}); the file is damaged, or of another sensor"
        )


def to_frames(
    events: np.ndarray, num_steps: int, width: int, height: int, by: str = "time", ceiling: int = 255
) -> Frames:
    """T frames that count the events of each pixel and polarity.

    ``by="time"``: frames of equal duration, event i goes into frame ``min((t_i − t_0) // d, T − 1)`` with
    ``d = max((t_N − t_0) // T, 1)``; t_0 and t_N are the earliest and the latest event. ``by="count"``: frames of
    equally many events in the file's order, ``min(i // n, T − 1)`` with ``n = max(N // T, 1)``; the last frame takes
    the rest (both as spikingjelly and OTTT's authors have it). Counts above ``ceiling`` are cut to it; 1 makes binary
    spikes. How many events that loses is part of the result.

    Parameters
    ----------
    events
        dtype ``EVENT``, ``(N,)``; no events give empty frames
    num_steps
        frames T ≥ 1
    width, height
        of the sensor
    by
        ``"time"`` or ``"count"``
    ceiling
        1 … 255

    Raises
    ------
    UsageError
        for any other argument, or an event outside the sensor
    """
    if events.dtype != EVENT or events.ndim != 1:
        raise UsageError(f"to_frames: expected events (N,) of dtype {EVENT}, got {events.dtype} {events.shape}")
    _check_settings(num_steps, width, height, by, ceiling)
    shape = (num_steps, 2, height, width)
    if len(events) == 0:
        return Frames(np.zeros(shape, np.uint8), 0)
    if events["x"].max() >= width or events["y"].max() >= height or events["p"].max() > 1:
        raise UsageError(f"to_frames: expected pixels below ({width}, {height}) and polarities 0 and 1")
    place = _frame_of(events["t"], num_steps, by)
    for axis, size in (("p", 2), ("y", height), ("x", width)):
        place = place * size + events[axis]
    counts = np.bincount(place, minlength=num_steps * 2 * height * width).reshape(shape)
    kept = np.minimum(counts, ceiling)
    return Frames(kept.astype(np.uint8), len(events) - int(kept.sum()))


def as_frames(
    parts: Iterable[Iterable[np.ndarray]], num_steps: int, width: int, height: int, by: str = "time", ceiling: int = 255
) -> tuple[list[SampleArray], tuple[str, ...]]:
    """Return the frames of the recordings of each part, and a sentence about events above the ceiling, if any.

    A recording is read when it is its turn. Parameters as :func:`to_frames`; the frames of a part are uint8
    ``(n, T, 2, height, width)``, sparse where that is smaller.
    """
    _check_settings(num_steps, width, height, by, ceiling)
    if num_steps * 2 * height * width > LARGEST:
        raise UsageError(f"num_steps: {num_steps} frames of {width}×{height} do not fit into memory")
    lost = total = 0

    def counted(recordings: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal lost, total
        for events in recordings:
            counts, cut = to_frames(events, num_steps, width, height, by, ceiling)
            lost, total = lost + cut, total + len(events)
            yield counts

    frames = [collected(counted(recordings), (num_steps, 2, height, width)) for recordings in parts]
    if not lost:
        return frames, ()
    said = f"{lost / total:.1%} of the events were lost where a pixel's count in a frame went over {ceiling}"
    return frames, (said,)


def _check_settings(num_steps: int, width: int, height: int, by: str, ceiling: int) -> None:
    sizes = (num_steps, width, height, ceiling)
    if not all(isinstance(n, (int, np.integer)) and n >= 1 for n in sizes) or by not in BY or ceiling > 255:
        raise UsageError(
            "frames: expected whole numbers num_steps, width, height ≥ 1, by = time or count, ceiling 1 … 255; "
            f"got {num_steps!r}, {width!r}, {height!r}, {by!r}, {ceiling!r}"
        )


def _frame_of(t: np.ndarray, num_steps: int, by: str) -> np.ndarray:
    if by == "time":
        start = t.min()
        index = (t - start) // max((int(t.max()) - int(start)) // num_steps, 1)
    else:
        index = np.arange(len(t)) // max(len(t) // num_steps, 1)
    return np.minimum(index, num_steps - 1)
