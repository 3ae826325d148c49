"""Memory that was freed stays with the process: the tensors of the next time steps have the same sizes."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import lru_cache


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let glibc keep up to 256 MB of freed memory for the next time steps.

    Otherwise glibc returns it to the system, and the page faults of the next steps took 7 to 30 % of a batch.
    """
    if os.environ.keys() & {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}:  # the user decides
        return
    with suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, as high as glibc itself sets it at most
        mallopt(-1, 2**28)  # M_TRIM_THRESHOLD
