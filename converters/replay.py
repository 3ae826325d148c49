"""Compare the simulator with the trained network, a backend, or a ``.net`` in lava-dl's netx, on the same samples."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ottt_loihi.converters.lava.backends import BACKENDS, find

if TYPE_CHECKING:
    import numpy as np
    from ottt_loihi.converters.quantize.float_network import FloatLayer
    from ottt_loihi.converters.samples import Samples
    from ottt_loihi.converters.verify import Agreement, Comparison
    from ottt_loihi.sim.network import LIF, ChipNetwork

    from ottt_loihi.nn.network import Network

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


def run_trained(net: Network, seen: Samples, record: tuple[str, ...]) -> Iterator[Any]:
    """Yield the runs of the trained network, without dropout, on batches of the samples of bounded size."""
    import numpy as np
    import torch

    from ottt_loihi.nn.inputs import ConstantInput

    per_sample = sum(math.prod(block.shape) for block in net.blocks) * net.time_steps * len(record) * 4
    batch = max(1, min(256, (1 << 28) // max(per_sample, 1)))
    was_training = net.training
    for start in range(0, len(seen.x), batch):
        x = torch.from_numpy(np.ascontiguousarray(seen.x[start : start + batch]))
        x = ConstantInput(x[:, 0], net.time_steps) if x.shape[1] == 1 != net.time_steps else x
        try:
            with torch.no_grad():
                run = net.eval().run(x, record=record)
        finally:
            net.train(was_training)
        yield run


def fired(net: Network, run: Any, layers: Sequence[FloatLayer | LIF]) -> list[np.ndarray]:
    """Return the spikes of the layers before the last one, bool ``(T, n, *shape)``.

    A block that sends its membranes fires where they are above the threshold. ``layers``: of the float or the integer
    network, which may have helping neurons that the trained network does not have.
    """
    from ottt_loihi.converters.quantize.forms import helper_spikes

    pairs = zip(net.blocks, run.states["s"], strict=True)
    each = (block.neuron.fired(s) if hasattr(block.neuron, "fired") else s != 0 for block, s in pairs)
    spikes = helper_spikes([layer.name for layer in layers], [s.cpu().numpy() for s in each])
    return spikes[: len(layers) - 1]  # where a readout counts spikes, its layer is the last block


def replay_trained(net: Network, chip: ChipNetwork, seen: Samples) -> tuple[Agreement, dict[str, Any]]:
    """Run float network, integer network in torch, and simulator on the same samples; return how far they agree.

    The second result has the spikes of the first sample, of the input and of each layer that fires.
    """
    from ottt_loihi.converters import torch_integer
    from ottt_loihi.converters.verify import Tally, compare

    from ottt_loihi import sim

    messages = seen.messages
    ties, tally, raster, start = 0, Tally(chip), {}, 0
    arriving = sim.host_messages(chip, messages)
    for run in run_trained(net, seen, ("u", "s")):
        ties += sum(int((u == block.neuron.v_threshold).sum()) for u, block in zip(run.states["u"], net.blocks))
        part = slice(start, start + len(run.scores))
        record = ("s",) if raster else ("u", "v", "s")  # states are compared in the first batch only
        result = sim.run(chip, messages[part], record)
        scores = run.scores.cpu().numpy()
        tally.add(fired(net, run, chip.layers), scores, result, seen.labels[part], arriving[part])
        if not raster:
            integer = torch_integer.run(chip, messages[part], ("u", "v", "s"))
            compare(chip, integer, result).raise_if_different("the integer network in torch and in sim")
            raster = {"input": arriving[0] != 0}
            raster |= {layer.name: s[:, 0] for layer, s in zip(chip.layers[:-1], result.states["s"])}
        start = part.stop
    return tally.agreement(ties), raster
