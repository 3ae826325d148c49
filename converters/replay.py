"""The same samples in a backend, or through a ``.net`` in lava-dl's netx, and in the simulator; compared."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ottt_loihi.converters.lava.backends import BACKENDS, find

if TYPE_CHECKING:
    import numpy as np
    from ottt_loihi.converters.verify import Comparison
    from ottt_loihi.sim.network import ChipNetwork

NETX = "netx"
PLACES = (*(name for name in BACKENDS if name != "sim"), NETX)  # where samples can be repeated


def title(place: str) -> str:
    """Return the title of a place of :data:`PLACES` in tables."""
    return "lava-dl netx on Lava" if place == NETX else find(place, "--verify").title


def require(place: str) -> None:
    """Refuse an unknown place to repeat samples in, and a backend that is not available."""
    from ottt_loihi.errors import UsageError

    if place not in PLACES:
        raise UsageError(f"--verify: expected one of {', '.join(PLACES)}, got {place!r}")
    if place != NETX:
        find(place).require()


def replay(chip: ChipNetwork, place: str, x: np.ndarray, net: Path | None = None) -> Comparison:
    """Run samples ``x`` in a place and in the simulator, and compare every state that can be read there.

    Parameters
    ----------
    place
        one of :data:`PLACES`
    net
        the network's ``.net``, for netx; None: it is written to a temporary folder

    Raises
    ------
    UsageError, BackendUnavailableError
        for a place that is unknown, or not there
    """
    from ottt_loihi.converters.netx import write as netx
    from ottt_loihi.converters.verify import compare

    from ottt_loihi import sim

    require(place)
    if place != NETX:
        backend = find(place)
        prepared = backend.prepare(chip, x).chip
        return compare(prepared, backend.expected(prepared, x), backend.run(prepared, x, backend.reads))
    record = ("u", "v", "s")
    with tempfile.TemporaryDirectory() as folder:
        if net is None:
            net = Path(folder) / "model.net"
            netx.write(chip, net)
        return compare(chip, sim.run(chip, x, record), netx.run(chip, net, x, record))
