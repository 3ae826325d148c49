"""``model.pt``: a network in a file that is read without trust.

A ``model.pt`` is a ZIP file as ``torch.save`` writes it, holding one dictionary::

    {"format": "ottt-loihi model", "version": 2, "metadata": <JSON text>, "weights": {name: tensor}}

The metadata are ``{"architecture": …, "provenance": …}``, ``"data"`` where the network has a description of its data,
``"frozen"``, the names of parameters that do not learn (``requires_grad = False``), and ``"shared"``, the other names
of parameters that have several, where there are any.

The architecture is the network block by block (:mod:`ottt_loihi.nn.description`); in version 1 it is the name of
a function of ``nn.models`` and its arguments. Everything is a function of the network, so equal networks give equal
bytes. A class of a user's own is named, never imported: ``load(path, net=mine)`` fills his network. Reading a file runs
no code of its choosing and allocates no more than the file's own size. :mod:`ottt_loihi.torch_files` reads it; the
architecture has no more connections than the file has tensors, and is built without memory on torch's meta device; the
weights' names and shapes must be those it has, and all finite.
"""

from __future__ import annotations

import copy
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ottt_loihi import __version__, checks
from ottt_loihi.data.description import DataDescription
from ottt_loihi.errors import FileError, TrainingError, UsageError, first_line
from ottt_loihi.files import atomic_write
from ottt_loihi.nn.cuba import CubaLIF
from ottt_loihi.nn.description import completed, construct, count_parts, describe, differences, foreign
from ottt_loihi.nn.models import build
from ottt_loihi.nn.network import Network
from ottt_loihi.torch_files import read_payload, require_room

FORMAT = "ottt-loihi model"
VERSION = 2
DTYPES = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def save(net: nn.Module, path: str | os.PathLike[str], provenance: Mapping[str, Any] | None = None) -> None:
    """Write a network to a file.

    ``provenance`` (JSON values) and the versions of the libraries are added to ``net.provenance``.

    net: a :class:`Network` or any module. If it contains classes of your own, the file has only their names

    Raises
    ------
    UsageError
        for weights that the network's own classes do not have (a pruned one), or values that are not JSON
    TrainingError
        for weights that are NaN or infinite
    FileError
        if the file cannot be written; nothing is left then
    """
    checks.instance(net, "save: net", nn.Module)
    if found := not_finite(tensors_of(net)):
        raise TrainingError(f"save: {found}, so no file is written; train it again with a smaller learning rate")
    architecture = describe(net)
    if not foreign(architecture):
        with torch.device("meta"):
            expected = tensors_of(construct(architecture)).keys()
        kinds = {value.dtype: name for name, value in tensors_of(net).items()}
        if len(kinds) > 1:
            found = " and ".join(f"{name} is {kind}" for kind, name in kinds.items())
            raise UsageError(f"save: {found}; bring them to one dtype, as net.float() does")
        if strange := sorted(expected ^ tensors_of(net).keys()):
            raise UsageError(
                f"save: {strange[0]}: a hook or an attribute of your own has changed the network's tensors; make it "
                "permanent (torch.nn.utils.prune.remove), or give the part a class of its own"
            )
    net.provenance = {
        **getattr(net, "provenance", {}),
        **(checks.instance(provenance, "save: provenance", Mapping, none=True) or {}),
        "versions": {"ottt_loihi": __version__, "torch": torch.__version__},
    }
    try:
        metadata = json.dumps(metadata_of(net), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise UsageError(f"save: provenance must be JSON values ({error})") from None
    write_tensors(path, FORMAT, VERSION, metadata, tensors_of(net))


def metadata_of(net: nn.Module) -> dict[str, Any]:
    """Return the content of a file apart from the weights, as JSON values."""
    metadata = {"architecture": describe(net), "provenance": getattr(net, "provenance", {})}
    if (data := getattr(net, "data", None)) is not None:
        if not isinstance(data, DataDescription):
            raise UsageError(f"save: net.data: expected a DataDescription, got {type(data).__name__}")
        metadata["data"] = data.to_json()
    if frozen := [name for name, parameter in net.named_parameters() if not parameter.requires_grad]:
        metadata["frozen"] = frozen
    if shared := _shared(net):
        metadata["shared"] = shared
    return metadata


def _shared(net: nn.Module) -> dict[str, str]:
    """Return the other names of parameters that have several, with their first."""
    first: dict[int, str] = {}
    names = [(name, first.setdefault(id(p), name)) for name, p in net.named_parameters(remove_duplicate=False)]
    return {name: known for name, known in names if name != known}


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network without its constants, which its description holds."""
    return {name: value for name, value in net.state_dict().items() if not name.endswith("_extra_state")}


def load(path: str | os.PathLike[str], net: nn.Module | None = None) -> Any:
    """Return the network of a file, on the CPU, ``net.provenance`` included.

    Parameters
    ----------
    path
        a ``model.pt``
    net
        a network with the same description as the saved one. The weights are loaded into it, and it is returned. It is
        needed if the file names classes of your own. Its own ``requires_grad`` decide what is trained. If loading
        fails, it is not changed

    Raises
    ------
    FileError
        if the file is missing, damaged, of a newer version, not a model, its weights do not fit or are not finite, or
        it names classes that it cannot bring
    UsageError
        if ``net`` is another network than the file's
    UnsafeFileError
        if it would do more than hold weights; nothing of it was run
    """
    path = checks.path(path, "load")
    checks.instance(net, "load: net", nn.Module, none=True)
    return assemble(path, *read_tensors(path, FORMAT, VERSION), net)


def write_tensors(
    path: str | os.PathLike[str], format_name: str, version: int, metadata: str, tensors: Mapping[str, Tensor]
) -> None:
    """Write a file as described at the top of this module; ``metadata``: JSON text."""
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise UsageError(f"{path}: {name} is {tensor.dtype}, which no file of ours holds; use bfloat16 or larger")
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    buffer = io.BytesIO()  # torch.save writes a file's name into it; without, equal networks give equal bytes
    torch.save({"format": format_name, "version": version, "metadata": metadata, "weights": weights}, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_tensors(path: Path, format_name: str, newest: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return metadata and tensors of a file of :func:`write_tensors` up to version ``newest``, read without trust.

    Raises
    ------
    FileError, UnsafeFileError
        as :func:`load`
    """
    theirs = f"; for another framework's weights: ottt-export mynet.py:build --weights {path.name}, build makes it"
    cure = theirs if format_name == FORMAT else ""
    payload, size = read_payload(path, cure=cure)
    if not isinstance(payload, dict) or payload.get("format") != format_name:
        kind = format_name.removeprefix("ottt-loihi ")
        raise FileError(f"{path}: a PyTorch file, but not a {kind} saved by ottt-loihi{cure}")
    version = payload.get("version")
    if not isinstance(version, int) or version < 1:
        raise FileError(f"{path}: damaged, its version is {version!r}")
    if version > newest:
        raise FileError(
            f"{path}: version {version}, made by a newer ottt-loihi; this one reads up to {newest}, upgrade"
        )
    try:
        metadata, weights = json.loads(payload["metadata"]), payload["weights"]
        parts = (metadata["architecture"], metadata["provenance"], weights)
        whole = all(isinstance(part, dict) for part in parts) and all(isinstance(name, str) for name in weights)
    except (KeyError, TypeError, ValueError, RecursionError):
        whole = False
    if not whole or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise FileError(f"{path}: damaged, it lacks the architecture, the provenance or the weights")
    require_room(path, weights, size)
    return metadata, weights


def assemble(
    path: Path, metadata: Mapping[str, Any], weights: Mapping[str, Tensor], mine: nn.Module | None = None
) -> Any:
    """Return the network of metadata and weights. If ``mine`` is given, load the weights into it.

    Raises
    ------
    FileError, UsageError
        as :func:`load`, naming what does not fit
    """
    net = _described(path, metadata["architecture"], len(weights))
    if mine is not None:
        architecture = metadata["architecture"] if net is None else describe(net)
        if found := list(differences(completed(architecture), describe(mine))):
            more = f", and {len(found) - 1} more differences" if len(found) > 1 else ""
            raise UsageError(f"{path}: the network to be filled is another one: {found[0]}{more}")
        net = mine
    elif net is None:
        raise FileError(
            f"{path}: {foreign(metadata['architecture'])[0]} is a class that no file can bring; make the network with "
            "your own code and fill it: ol.load(path, net=mine)"
        )
    weights = {  # version 1 says synapse; the constants are in the description
        name.replace(".synapse.", ".connection."): weight
        for name, weight in weights.items()
        if not name.endswith("_extra_state")
    }
    _check_weights(path, net, weights)
    for name, first in _shared(net).items():
        if not torch.equal(weights[name], weights[first]):
            raise UsageError(
                f"{path}: {name} and {first} are one parameter of the network to be filled, and differ here"
            )
    try:
        data = DataDescription.from_json(metadata["data"]) if "data" in metadata else None
        if mine is None:
            net.to(next(iter(weights.values())).dtype)  # also a readout without weights
            net.load_state_dict({name: weight.clone() for name, weight in weights.items()}, assign=True)
            net.requires_grad_(True)
            _share(net, metadata.get("shared", {}))
            _freeze(net, metadata.get("frozen", []))
        else:
            net.load_state_dict(weights, strict=False)  # the constants are in no file, and were compared
        if (bits := metadata["provenance"].get("weight_bits")) is not None and isinstance(net, Network):
            net.quantize(bits)  # version 1 has the bits only there
    except (UsageError, TypeError) as error:
        raise FileError(f"{path}: damaged, {first_line(error)}") from None
    net.provenance = {**({} if mine is not None else net.provenance), **metadata["provenance"]}
    net.data = data
    return net.eval()  # a trained network drops no neurons


def _described(path: Path, architecture: Mapping[str, Any], tensors: int) -> Network | None:
    """Return the network of a description of any version, on the meta device; None if it names a user's classes."""
    try:
        with torch.device("meta"):
            if "name" in architecture:  # version 1
                if _layers_asked(architecture.get("arguments")) > tensors:
                    raise FileError(f"{path}: damaged, it describes more layers than it has weights")
                return build(architecture["name"], architecture.get("arguments"))
            if foreign(architecture):
                return None
            if count_parts(architecture) > tensors:
                raise FileError(f"{path}: damaged, it describes more connections than it has weights")
            return construct(architecture)
    except (UsageError, RuntimeError, RecursionError) as error:
        raise FileError(f"{path}: {first_line(error)}") from None


def _layers_asked(arguments: Any) -> int:
    """Return how many layers with weights the arguments of a network ask for at least, where they list layers."""
    known = arguments if isinstance(arguments, Mapping) else {}
    sizes, features = known.get("sizes"), known.get("features")
    words = features.split("-") if isinstance(features, str) else []
    return max(len(sizes) - 1 if isinstance(sizes, list) else 0, sum("P" not in word.upper() for word in words))


def not_finite(weights: Mapping[str, Tensor]) -> str:
    """Return which weight has NaN or infinite values and how many; empty where all are finite."""
    for name, weight in weights.items():
        if weight.dtype not in DTYPES:  # torch may not tell, and no file holds it
            continue
        if weight.is_floating_point() and not (finite := torch.isfinite(weight)).all():
            return f"{name}: {int((~finite).sum())} of {weight.numel()} values are NaN or infinite"
    return ""


def _check_weights(path: Path, net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of other names, shapes or dtypes than the network's, not finite, or constants out of range."""
    expected = {name: tuple(weight.shape) for name, weight in tensors_of(net).items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if expected != found:
        name = min(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise FileError(f"{path}: {name}: expected shape {expected.get(name)}, got {found.get(name)}")
    own = {name: value.dtype for name, value in tensors_of(net).items() if not value.is_meta}  # of a given network
    common = next((w.dtype for w in weights.values() if w.is_floating_point()), None)
    for name, weight in weights.items():
        if weight.dtype not in (common, own.get(name)) or not weight.is_contiguous():
            raise FileError(f"{path}: {name}: expected a contiguous tensor of floats, of the same dtype as the others")
    if strange := not_finite(weights):
        raise FileError(f"{path}: {strange}; train it again")
    for name, part in net.named_modules():
        if isinstance(part, CubaLIF):
            own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
            probe = copy.deepcopy(part)
            probe.load_state_dict(own, strict=False, assign=True)
            try:
                probe.check()
            except UsageError as error:
                raise FileError(f"{path}: {name}: {error}") from None


def _share(net: nn.Module, names: Any) -> None:
    known = dict(net.named_parameters())
    for name, first in names.items() if isinstance(names, dict) else [(names, None)]:
        if name not in known or first not in known or not torch.equal(known[name], known[first]):
            raise UsageError(f"its shared parameters are not the network's: {names!r:.80}")
        place, _, own = name.rpartition(".")
        setattr(net.get_submodule(place), own, known[first])


def _freeze(net: nn.Module, names: Any) -> None:
    known = dict(net.named_parameters())
    if not isinstance(names, list) or any(not isinstance(name, str) or name not in known for name in names):
        raise UsageError(f"its frozen parameters are not the network's: {names!r:.80}")
    for name in names:
        known[name].requires_grad_(False)
