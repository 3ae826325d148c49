"""Damaging files in every way a disk, a download or a malicious person does."""

import numpy as np
import pytest

from ottt_loihi.errors import FileError


def damaged(content, seed, count=60):
    """Truncations, flipped bytes, overwritten stretches, insertions and things appended."""
    rng = np.random.default_rng(seed)
    yield from (b"", content[:1], content[:-1], content + b"\0", content + content)
    for _ in range(count):
        broken, place = bytearray(content), int(rng.integers(len(content)))
        kind = rng.integers(4)
        if kind == 0:
            broken = broken[:place]
        elif kind == 1:
            broken[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            broken[place : place + 4] = rng.bytes(4)
        else:
            broken[place:place] = rng.bytes(int(rng.integers(1, 9)))
        yield bytes(broken)


def failure(read, path):
    """What reading raises, which must be a FileError in one line that names the file, or None."""
    try:
        read(path)
    except FileError as error:
        found = error
    except Exception as error:
        pytest.fail(f"{type(error).__name__}: {error}")
    else:
        return None
    assert path.name in str(found), found
    assert "\n" not in str(found)
    assert len(str(found)) < 600
    return found


def assert_only_our_errors(read, path, content, seed=0, count=60):
    """Reading a damaged file works (some damage cannot be seen) or is a FileError; returns how often it is."""
    refused = 0
    for broken in damaged(content, seed, count):
        path.write_bytes(broken)
        refused += failure(read, path) is not None
    path.write_bytes(content)
    assert failure(read, path) is None
    return refused
