"""AEDAT, the files of iniVation's cameras: 3.1 (DVS-Gesture) and 2.0 of a DVS128 (CIFAR10-DVS).

Source: https://docs.inivation.com/software/software-advanced-usage/file-formats/.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from ottt_loihi.data.events import EVENT, check_pixels
from ottt_loihi.data.folder import read_bytes
from ottt_loihi.errors import FileError

MAX_HEADER = 1 << 16
PACKET = struct.Struct("<hhiiiiii")  # type, source, size, timestamp offset and overflow, capacity, number, valid
POLARITY = 1
SIDE = 128  # of a DVS128


def read_aedat(path: str | os.PathLike[str], width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """The polarity events of an AEDAT 3.1 or 2.0 (DVS128) file, dtype ``EVENT``, in the file's order.

    Raises
    ------
    FileError
        for another version, a truncated or contradictory packet, a pixel outside ``width × height``
    """
    path = Path(path)
    content = read_bytes(path)
    if content.startswith(b"#!AER-DAT3.1"):
        events = _version_3_1(content, path)
    elif content.startswith(b"#!AER-DAT2.0"):
        events = _version_2_0(content, path)
    else:
        start = content[:12].decode("ascii", "replace")
        raise FileError(f"{path}: starts with {start!r}, expected #!AER-DAT3.1 or #!AER-DAT2.0")
    check_pixels(events, width, height, str(path))
    return events


def _version_3_1(content: bytes, path: Path) -> np.ndarray:
    """Return the events of version 3.1: header lines, then packets of events of one type each.

    A polarity event is two little-endian words: valid bit 0, polarity bit 1, y bits 2–16, x bits 17–31; timestamp in
    µs, whose bits above 31 are the packet's overflow counter. Invalid events and other packets are skipped.
    """
    end = content.find(b"#!END-HEADER\r\n", 0, MAX_HEADER)
    if end < 0:
        raise FileError(f"{path}: no #!END-HEADER line; it is truncated")
    position, packets = end + len(b"#!END-HEADER\r\n"), []
    while position < len(content):
        if position + PACKET.size > len(content):
            raise FileError(f"{path}: ends within the packet header at byte {position}; it is truncated")
        kind, _, size, offset, overflow, capacity, number, _ = PACKET.unpack_from(content, position)
        position += PACKET.size
        if not (size > 0 and 0 <= number <= capacity and overflow >= 0):
            raise FileError(f"{path}: the packet header before byte {position} contradicts itself; it is damaged")
        if position + size * capacity > len(content):
            raise FileError(f"{path}: ends within the packet at byte {position}; it is truncated")
        if kind == POLARITY:
            if (size, offset) != (8, 4):
                raise FileError(f"{path}: polarity events of {size} bytes at byte {position}, expected 8")
            words = np.frombuffer(content, "<u4", 2 * number, position).reshape(-1, 2)
            packets.append(_polarity_events(words, overflow))
        position += size * capacity
    return np.concatenate(packets) if packets else np.empty(0, EVENT)


def _polarity_events(words: np.ndarray, overflow: int) -> np.ndarray:
    data, t = words[words[:, 0] & 1 == 1].T
    events = np.empty(len(data), EVENT)
    events["t"] = (t & 0x7FFFFFFF).astype(np.int64) | overflow << 31
    events["x"], events["y"], events["p"] = data >> 17 & 0x7FFF, data >> 2 & 0x7FFF, data >> 1 & 1
    return events


def _version_2_0(content: bytes, path: Path) -> np.ndarray:
    """Return the events of version 2.0: lines of ``#``, then pairs of big-endian words, address and time in µs.

    A DVS128's address: y bits 8–14, x bits 1–7, polarity bit 0; x runs from right to left and the bit is 1 for OFF, as
    OTTT's authors and spikingjelly read CIFAR10-DVS.
    """
    position = 0
    while content[position : position + 1] == b"#":
        newline = content.find(b"\n", position, position + MAX_HEADER)
        if newline < 0:
            raise FileError(f"{path}: ends within its header; it is truncated")
        position = newline + 1
    if (len(content) - position) % 8:
        raise FileError(f"{path}: has {len(content) - position} bytes of events, expected a multiple of 8; truncated")
    address, t = np.frombuffer(content, ">u4", offset=position).reshape(-1, 2).T
    if (address >> 15).any():
        raise FileError(f"{path}: addresses of more than 15 bits; expected a DVS128's")
    events = np.empty(len(address), EVENT)
    events["t"], events["y"] = t, address >> 8 & 0x7F
    events["x"], events["p"] = SIDE - 1 - (address >> 1 & 0x7F), 1 - (address & 1)
    return events
