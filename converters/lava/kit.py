"""Write the files that a run on a Loihi 2 needs: graph script, samples, expected integers, comparison script.

``board.py`` prepares the network for the chip. The kit's ``README.md`` lists every change that it made.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ottt_loihi.converters.lava import board, script
from ottt_loihi.converters.lava.stream import expected, longest_delay, make_stream, why_exact
from ottt_loihi.sim import storage
from ottt_loihi.sim.inference.reference import Result, check_input
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import sim
from ottt_loihi.errors import UsageError
from ottt_loihi.files import atomic_write

RANDOM_RATE = 0.1  # of spikes, where the network names no data
FILES = {
    "graph.py": "loihi2_graph.py.jinja",
    "compare.py": "loihi2_compare.py.jinja",
    "README.md": "loihi2_readme.md.jinja",
}


def random_messages(chip: ChipNetwork, count: int, seed: int = 0) -> np.ndarray:
    """Return messages for a network that names no data: spikes at a rate of 10 %, or graded ones of any value.

    int32 ``(count, num_steps, *input_shape)``.
    """
    rng = np.random.default_rng(seed)
    shape = (count, chip.num_steps, *chip.input_shape)
    bits = chip.message_bits
    return rng.integers(0, 2**bits, shape, np.int32) if bits else (rng.random(shape) < RANDOM_RATE).astype(np.int32)


def write(
    chip: ChipNetwork, folder: str | Path, x: np.ndarray, labels: np.ndarray | None = None, of: str = ""
) -> board.Prepared:
    """Write the kit; return its network and the differences from the exported network.

    Parameters
    ----------
    chip
        the network, of inference weights
    folder
        where to write; files of an older kit are replaced, and its ``found.npz`` is removed
    x
        samples ``(n, num_steps, *input_shape)``, n ≥ 1
    labels
        int64 ``(n,)``, or None
    of
        where the samples are from, for ``README.md``

    Raises
    ------
    ChipError
        for a network that cannot run on a chip (``board.prepare``), or whose weights are plastic
    """
    if not len(x):
        raise UsageError("kit: expected at least one sample")
    script.require_inference(chip)
    folder, messages = Path(folder), check_input(chip, x)
    prepared = board.prepare(chip, x)
    network = prepared.chip
    clock = make_stream(network)
    exact = why_exact(network, clock)
    result = sim.run(network, x, ("u", "v", "s")) if exact else expected(network, messages, clock)
    arrays = {"messages": messages} | ({} if labels is None else {"labels": labels})
    _save(folder / "samples.npz", arrays)
    _save(folder / "expected.npz", _integers(network, result))
    storage.save(network, folder / "network.h5")
    described = (
        f"{len(x)} samples{f' of {of}' if of else ''}: messages `(samples, T, input)`, and their labels if known"
    )
    values = {
        "title": f"A network of {len(network.layers)} layers",
        "version": version("ottt-loihi"),
        "num_steps": network.num_steps,
        "delayed": longest_delay(network),
        "message_bits": network.message_bits,
        "reads_v": network.readout == "last_v",
        "notes": prepared.notes,
        "samples": described,
    }
    for name, template in FILES.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(script.rendered(template, values), encoding="utf-8")
    (folder / "found.npz").unlink(missing_ok=True)  # of an older network
    return prepared


def _integers(chip: ChipNetwork, result: Result) -> dict[str, np.ndarray]:
    """Return scores, spikes of all layers, and u and v of the first sample."""
    arrays = {"scores": result.scores}
    for index, layer in enumerate(chip.layers):
        for name in "uvs":
            states = result.states[name][index].reshape(chip.num_steps, -1, layer.size)
            arrays[f"{name}{index}"] = states if name == "s" else states[:, :1]
    return arrays


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
