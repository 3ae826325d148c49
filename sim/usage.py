"""The fields of ``ChipNetwork`` that say how to use it, beside its integers: checked, and as JSON.

Files before version 4 have these in the provenance, where any JSON may be; what is there and of another type is as
nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.description import DataDescription, Step
from ottt_loihi.errors import ChipError, UsageError

if TYPE_CHECKING:
    from ottt_loihi.sim.network import ChipNetwork

INPUT_FORMS = ("spikes", "graded", "inject", "bias")
FIELDS = ("input_form", "input_transform", "logit_scale", "loss", "data", "data_set", "untrained")
MAX_JSON = 1 << 22  # bytes


def check(chip: ChipNetwork) -> None:
    """Check and normalise the fields; raises :class:`ChipError`."""
    try:
        checks.one_of(chip.input_form, "input_form", INPUT_FORMS)
        if chip.input_transform is not None:
            object.__setattr__(chip, "input_transform", _pair(chip.input_transform))
        if chip.logit_scale is not None:
            object.__setattr__(chip, "logit_scale", checks.number(chip.logit_scale, "logit_scale", 0.0, above=True))
        checks.flag(chip.untrained, "untrained")
    except UsageError as error:
        raise ChipError(str(error)) from None
    for name, kind in (("loss", str), ("data", DataDescription), ("data_set", Step)):
        value = getattr(chip, name)
        if value is not None and not isinstance(value, kind):
            raise ChipError(f"{name}: expected {kind.__name__} or None, got {type(value).__name__}")
    if chip.data is not None and chip.data.num_classes > chip.layers[-1].size:
        raise ChipError(f"data: {chip.data.num_classes} classes, and the readout has {chip.layers[-1].size} neurons")


def _pair(value: Any) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise UsageError(f"input_transform: expected (weight, bias), got {value!r:.80}")
    return checks.number(value[0], "input_transform: weight"), checks.number(value[1], "input_transform: bias")


def to_bytes(chip: ChipNetwork) -> np.ndarray | None:
    """Return the fields that say anything as the bytes of a JSON text, uint8; None if the provenance has them all."""
    found = {name: getattr(chip, name) for name in FIELDS}
    found = {name: value for name, value in found.items() if value not in (None, False, "spikes")}
    if found == from_provenance(chip.provenance):
        return None
    texts = {k: v.to_json() if isinstance(v, (DataDescription, Step)) else v for k, v in found.items()}
    return np.frombuffer(json.dumps(texts).encode(), np.uint8)


def from_bytes(characters: np.ndarray) -> dict[str, Any]:
    """Return the fields that :func:`to_bytes` wrote, by name; raises :class:`ChipError` for any other integers."""
    try:
        found = json.loads(characters.astype(np.uint8).tobytes()) if characters.size <= MAX_JSON else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found.keys() <= set(FIELDS):
        raise ChipError(
            f"use: expected a JSON object with any of {', '.join(FIELDS)}; a newer ottt-loihi may have more"
        )
    try:
        if "data" in found:
            found["data"] = DataDescription.from_json(found["data"])
        if "data_set" in found:
            found["data_set"] = Step.from_json(found["data_set"], "data_set")
    except UsageError as error:
        raise ChipError(str(error)) from None
    return found


def from_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that the provenance of a file before version 4 holds, by name."""
    scales, name = _at(provenance, "scales"), _at(provenance, "training", "data")
    options, transform = _at(provenance, "training", "data_options"), _at(provenance, "input_transform")
    scale = scales[-1] if isinstance(scales, list) and scales else None
    found = {
        "input_form": _at(provenance, "input_form"),
        "input_transform": (transform.get("weight"), transform.get("bias")) if isinstance(transform, Mapping) else None,
        "logit_scale": scale if _is_scale(scale) else None,
        "loss": _at(provenance, "training", "training", "loss", "name"),
        "data_set": Step(name, options if isinstance(options, Mapping) else {}) if _is_name(name) else None,
    }
    texts = ("input_form", "loss")
    return {k: v for k, v in found.items() if v is not None and (k not in texts or isinstance(v, str))}


def _at(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _is_scale(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()
