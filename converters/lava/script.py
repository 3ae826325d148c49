"""A ready-to-run Python script of the Lava graph, so that its user owns the result and needs nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks
from ottt_loihi.errors import ChipError
from ottt_loihi.files import atomic_write

SCORES = {
    "sum_v": "v.sum(axis=0)",
    "last_v": "v[-1]",
    "max_v": "v.max(axis=0)",
    "spike_count": "spikes[-1].sum(axis=0)",
}


def write(chip: ChipNetwork, path: Path, chip_file: str = "model.h5") -> None:
    """Write the script for ``chip``, which is stored as ``chip_file`` in the same folder.

    Raises :class:`ChipError` for plastic connections: their odd weights Lava would truncate.
    """
    require_inference(checks.instance(chip, "chip", ChipNetwork))
    path = checks.path(path, "script")
    kind = "what ottt_loihi.sim.host_messages sends," if chip.host else ""
    values = {
        "title": f"A network of {len(chip.layers)} layers",
        "version": version("ottt-loihi"),
        "chip": chip_file,
        "name": path.name,
        "module": path.stem,
        "dtype": kind or ("graded messages" if chip.message_bits else "spikes, 0 or 1,"),
        "num_steps": chip.num_steps,
        "shape": ", ".join(map(str, chip.input_shape)),
        "score": SCORES[chip.readout],
    }
    text = rendered("lava_script.py.jinja", values)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_inference(chip: ChipNetwork) -> None:
    """Refuse plastic connections: their odd weights Lava would truncate."""
    for c in chip.connections:
        if c.weight_format != "inference8":
            raise ChipError(
                f"{c.label}: a plastic connection's odd weights would be truncated by Lava; to_inference() it first"
            )


def rendered(template: str, values: Mapping[str, Any]) -> str:
    """Return a template of this folder with its values filled in."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("ottt_loihi.converters.lava")
    loader = FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template(template).render(values)
