"""A network as plain data, block by block, and built again from it: what ``model.pt`` holds besides the weights.

::

    {"input_shape": [64], "time_steps": 6, "convention": "paper",
     "blocks": [{"connection": {"class": "Linear", "settings": {"in_features": 64, "out_features": 128, …}},
                 "neuron": {"class": "LIF", "settings": {"beta": 0.5, …}},
                 "branches": [{"connection": …, "source": 0, "delay": 1}], "skip": null, "dropout": 0.0}],
     "readout": {"class": "Readout", "settings": …}}

``settings`` are the arguments of the class, which its method ``settings()`` returns; values that are tensors are in the
weights, and the settings say their shape. A class of a user's own is named with its module, ``"mine.Izhikevich"``, and
never imported: only the network itself can be filled with such weights. ``torch.nn.Linear`` and ``torch.nn.Conv2d``
are known, too. A module that is no :class:`Network` is its
class, and the neurons inside: ``{"class": "mine.Net", "parts": {"1": {"class": "LIF", …}}}``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block, Branch, Skip
from ottt_loihi.nn.connections import Connection, Conv2d, Elementwise, Linear, Readout
from ottt_loihi.nn.cuba import CubaLIF, Membrane
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF, DSRNeuron, Neuron, Stream
from ottt_loihi.nn.part import Part
from ottt_loihi.nn.slayer import SlayerNeuron, SlayerReadout, SlayerSynapse, SpikeCount
from ottt_loihi.nn.surrogates import SURROGATES

TORCH = {  # torch class: its arguments beside ``bias``
    nn.Linear: ("in_features", "out_features"),
    nn.Conv2d: (
        *("in_channels", "out_channels", "kernel_size"),
        *("stride", "padding", "dilation", "groups", "padding_mode"),
    ),
}
CONNECTIONS, READOUTS = (Connection, SlayerSynapse, *TORCH), (Linear, SlayerReadout, SpikeCount, nn.Linear)
NEURONS = (LIF, CubaLIF, Membrane, Stream, DSRNeuron, SlayerNeuron)
OURS = (Linear, Conv2d, Elementwise, Readout, SlayerSynapse, SlayerReadout, SpikeCount, *NEURONS)
PARTS = {kind.__name__: kind for kind in OURS} | {f"torch.nn.{kind.__name__}": kind for kind in TORCH}
NAMES = {kind: name for name, kind in PARTS.items()}
WEIGHTED = {name for name, kind in PARTS.items() if issubclass(kind, (*CONNECTIONS, *READOUTS)) and kind != SpikeCount}
LARGEST = 2**31 - 1  # integers in a description
# settings that files of version 2 may lack, because they are younger, and what such a file means by it
YOUNGER: dict[str, dict[str, Any]] = {"Conv2d": {"dilation": 1}}

Description = dict[str, Any]


def describe(net: nn.Module) -> Description:
    """Return a network as JSON values without its weights. ``construct(describe(net))`` has the same shapes.

    UsageError for a setting of a user's own class that is no JSON value.
    """
    if not isinstance(net, Network):
        neurons = {name: _described(part) for name, part in net.named_modules() if isinstance(part, Neuron)}
        return _plain({"class": _name(net), "parts": neurons})
    own = {} if type(net) is Network else {"class": _name(net)}
    return _plain(
        {
            **own,
            "input_shape": net.input_shape,
            "time_steps": net.time_steps,
            "convention": net.convention,
            "blocks": [_block(block) for block in net.blocks],
            "readout": _described(net.readout),
            **({} if net.scores == "sum" else {"scores": net.scores}),
        }
    )


def construct(description: Any) -> Network:
    """Return the network of a description of :func:`describe`, with new weights.

    UsageError for anything else than a description, or one that names a class of a user's own (:func:`foreign`).
    """
    description = {"scores": "sum", **completed(description)} if isinstance(description, Mapping) else description
    names = ("input_shape", "time_steps", "convention", "scores")
    known = _fields(description, "network", (*names, "blocks", "readout"))
    blocks = [_built_block(block, f"block {i + 1}") for i, block in enumerate(_list(known["blocks"], "blocks"))]
    readout = _part(known["readout"], "readout", READOUTS)
    settings = {name: _sane(known[name], name) for name in names}
    return _called(Network, "network", (blocks, readout), settings)


def foreign(description: Any) -> list[str]:
    """Return the parts that a file only names, ``"block 1, neuron: mine.Izhikevich"``; a description of any kind."""
    found = []
    for where, part in _parts(description):
        found += [f"{where}: {part['class']}"] if part["class"] not in PARTS else []
        surrogate = _settings_in(part).get("surrogate")
        if isinstance(surrogate, Mapping) and str(surrogate.get("name")) not in SURROGATES:
            found.append(f"{where}, surrogate: {surrogate.get('name')}")
    return found


def completed(description: Any) -> Any:
    """Return a description with the settings that are younger than it; anything else as it is."""
    whole = copy.deepcopy(description)
    for _, part in _parts(whole):
        if settings := _settings_in(part):
            part["settings"] = YOUNGER.get(part["class"], {}) | settings
    return whole


def differences(mine: Any, other: Any, where: str = "network") -> Iterator[str]:
    """Yield one phrase for each place in which two descriptions differ."""
    if isinstance(mine, Mapping) and isinstance(other, Mapping):
        for key in sorted(mine.keys() | other.keys()):
            yield from differences(mine.get(key), other.get(key), f"{where}.{key}")
    elif isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other):
        for index, pair in enumerate(zip(mine, other)):
            yield from differences(*pair, f"{where}[{index}]")
    elif mine != other:
        yield f"{where}: expected {_short(mine)}, got {_short(other)}"


def count_parts(description: Any) -> int:
    """Return how many connections with weights a description lists, whatever it is."""
    kinds = [(part["class"], _settings_in(part).get("kind")) for _, part in _parts(description)]
    return sum(name in WEIGHTED and kind not in ("Input", "Pool") for name, kind in kinds)


def _block(block: Block) -> Description:
    own = {} if type(block) is Block else {"class": _name(block)}
    return {
        **own,
        "connection": _described(block.connection),
        "neuron": _described(block.neuron),
        "branches": [{"connection": _described(b.connection), **b.settings()} for b in block.branches],
        "skip": None if block.skip is None else asdict(block.skip),
        "dropout": block.dropout,
    }


def _described(part: nn.Module) -> Description:
    return {"class": _name(part), "settings": _settings(part)}


def _settings(part: nn.Module) -> dict[str, Any]:
    """Return the arguments that make a part; none for a user's own class that does not tell them."""
    if isinstance(part, Part):
        return part.settings()
    names = TORCH.get(type(part))
    return {} if names is None else {name: getattr(part, name) for name in names} | {"bias": part.bias is not None}


def _name(part: Any) -> str:
    """The class by its bare name where it is one of :data:`PARTS`, no subclass; else with its module."""
    kind = type(part)
    return NAMES.get(kind, f"{kind.__module__}.{kind.__qualname__}")


def _plain(description: Description) -> Description:
    """A copy in JSON's types: what was read equals what was written."""
    try:
        return json.loads(json.dumps(description, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"network: the settings of a class of your own must be finite JSON values ({error})") from None


def _parts(value: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(place, part)`` for everything in a description that names its class."""
    if isinstance(value, Mapping):
        if isinstance(value.get("class"), str):
            yield where or "network", value
        for key, part in value.items():
            here = where if key in ("settings", "blocks", "parts", "branches") else f"{where}, {key}".strip(", ")
            yield from _parts(part, here)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _parts(part, f"branch {index + 1} of {where}" if where else f"block {index + 1}")


def _settings_in(part: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = part.get("settings")
    return settings if isinstance(settings, Mapping) else {}


def _built_block(value: Any, where: str) -> Block:
    known = _fields(value, where, ("connection", "neuron", "branches", "skip", "dropout"))
    branches = []
    for index, branch in enumerate(_list(known["branches"], f"{where}, branches")):
        place = f"{where}, branch {index + 1}"
        parts = _fields(branch, place, ("connection", "source", "delay"))
        parts["connection"] = _part(parts["connection"], place, CONNECTIONS)
        branches.append(_called(Branch, place, (), parts))
    skip = known["skip"]
    if skip is not None:
        skip = _called(Skip, f"{where}, skip", (), _fields(skip, f"{where}, skip", ("source", "factor")))
    connection = _part(known["connection"], f"{where}, connection", CONNECTIONS)
    neuron = _part(known["neuron"], f"{where}, neuron", NEURONS)
    settings = {"branches": branches, "skip": skip, "dropout": known["dropout"]}
    return _called(Block, where, (connection, neuron), settings)


def _part(value: Any, where: str, kind: tuple[type, ...]) -> Any:
    known = _fields(value, where, ("class", "settings"))
    name, settings = known["class"], known["settings"]
    if not isinstance(name, str) or not issubclass(PARTS.get(name, object), kind):
        allowed = ", ".join(n for n, part in PARTS.items() if issubclass(part, kind))
        raise UsageError(f"{where}: expected one of {allowed}, got {name!r:.80}")
    if not isinstance(settings, Mapping):
        raise UsageError(f"{where}: expected settings with names, got {settings!r:.80}")
    part = _called(PARTS[name], where, (), _sane(settings, where))
    if unlike := list(differences(_plain(_settings(part)), settings, where)):
        raise UsageError(f"{unlike[0]}; a description holds every setting of a {name}")
    return part


def _called(kind: Any, where: str, arguments: tuple[Any, ...], settings: Mapping[str, Any]) -> Any:
    try:
        return kind(*arguments, **settings)
    except UsageError as error:
        raise error if str(error).startswith(where) else UsageError(f"{where}: {error}") from None
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{where}: these settings do not fit ({reason})") from None


def _sane(value: Any, where: str, depth: int = 0) -> Any:
    """``value``, or a UsageError where it is nested deeply or holds numbers that no setting has."""
    if depth > 4:
        raise UsageError(f"{where}: settings are nested too deeply")
    if isinstance(value, Mapping):
        return {str(key): _sane(part, where, depth + 1) for key, part in value.items()}
    if isinstance(value, list):
        return [_sane(part, where, depth + 1) for part in value]
    if checks.is_integer(value):
        return checks.integer(value, where, -LARGEST, LARGEST)
    return checks.number(value, where) if isinstance(value, float) else value


def _fields(value: Any, where: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: expected {', '.join(names)}, got {value!r:.80}")
    if missing := [name for name in names if name not in value]:
        raise UsageError(f"{where}: {', '.join(missing)} is missing")
    if more := [str(name) for name in value if name not in names]:
        raise UsageError(f"{where}: {more[0]!r:.80} is none of {', '.join(names)}; a newer ottt-loihi may have it")
    return dict(value)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError(f"{where}: expected a list, got {value!r:.80}")
    return value


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
