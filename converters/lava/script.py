"""A ready-to-run Python script of the Lava graph, so that its user owns the result and needs nothing of ours."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from ottt_loihi.sim.network import INPUT, ChipNetwork

from ottt_loihi.errors import ChipError
from ottt_loihi.files import atomic_write

SCORES = {"sum_v": "v.sum(axis=0)", "last_v": "v[-1]", "spike_count": "spikes[-1].sum(axis=0)"}


def write(chip: ChipNetwork, path: Path, chip_file: str = "model.h5") -> None:
    """Write the script for ``chip``, which is stored as ``chip_file`` in the same folder.

    Raises :class:`ChipError` for plastic connections: their odd weights Lava would truncate.
    """
    from jinja2 import Environment, StrictUndefined

    for c in chip.connections:
        if c.weight_format != "inference8":
            raise ChipError(
                f"{c.label}: a plastic connection's odd weights would be truncated by Lava; freeze() it first"
            )
    template = files("ottt_loihi.converters.lava").joinpath("lava_script.py.jinja").read_text(encoding="utf-8")
    graded = any(c.num_message_bits for c in chip.connections if c.pre == INPUT)
    text = (
        Environment(undefined=StrictUndefined, keep_trailing_newline=True)
        .from_string(template)
        .render(
            title=f"A network of {len(chip.layers)} layers",
            version=version("ottt-loihi"),
            chip=chip_file,
            name=path.name,
            module=path.stem,
            dtype="graded messages" if graded else "spikes, 0 or 1,",
            num_steps=chip.num_steps,
            shape=", ".join(map(str, chip.input_shape)),
            score=SCORES[chip.readout],
        )
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
