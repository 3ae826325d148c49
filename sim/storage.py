"""A ChipNetwork in one HDF5 file, and back equal.

Layout: root attributes ``format``, ``version``, ``input_shape``, ``num_steps``, ``readout``, ``provenance``
(JSON); groups ``layers/<i>`` and ``connections/<i>`` with one attribute or dataset per field of the dataclasses of
``sim/network.py``; connections have ``kind``, the class's name. All integers; every dataset carries a checksum.
Version 2 may have a group ``host``, laid out like the root, and in version 3 a layer's ``vth`` may be a dataset, one
threshold per neuron. Version 4 may have a dataset ``use``, the bytes of a JSON text: the fields of ``sim/usage.py``;
in files before it the provenance holds them. The lowest version that can say what is there is written.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from typing import Any

import h5py
import numpy as np
from ottt_loihi.sim import usage
from ottt_loihi.sim.network import LIF, ChipNetwork, Connection, Conv, Dense, Diagonal, Sparse

from ottt_loihi import checks, safe_hdf5
from ottt_loihi.errors import ChipError, FileError

FORMAT = "ottt-loihi ChipNetwork"
VERSION = 4
CONNECTIONS = {kind.__name__: kind for kind in (Dense, Diagonal, Sparse, Conv)}
MAX_PARTS = 10_000  # layers or connections
KINDS = {"int": int, "str": str, "np.ndarray | int": int}  # of attributes; the others are tuples


def save(chip: ChipNetwork, path: str | os.PathLike[str]) -> None:
    """Write ``chip`` to ``path``, whole or not at all; raises :class:`FileError` if the folder cannot be written."""
    checks.instance(chip, "chip", ChipNetwork)
    with safe_hdf5.new_hdf5(path) as file:
        file.attrs["format"] = _plain(FORMAT)
        use = usage.to_bytes(chip)
        file.attrs["version"] = _version(chip) if use is None else 4
        _write_network(file, chip)
        if use is not None:
            file.create_dataset("use", data=use, fletcher32=True, compression="gzip")
        if chip.host is not None:
            _write_network(file.create_group("host"), chip.host)


def _version(chip: ChipNetwork) -> int:
    layers = (*chip.layers, *(chip.host.layers if chip.host else ()))
    if any(isinstance(layer.vth, np.ndarray) for layer in layers):
        return 3
    return 1 if chip.host is None else 2


def _write_network(target: h5py.Group, chip: ChipNetwork) -> None:
    target.attrs["input_shape"] = np.asarray(chip.input_shape, np.int64)
    target.attrs["num_steps"] = chip.num_steps
    target.attrs["readout"] = _plain(chip.readout)
    target.attrs["provenance"] = _plain(json.dumps(dict(chip.provenance)))
    for index, layer in enumerate(chip.layers):
        _write(target.create_group(f"layers/{index}"), layer)
    for index, connection in enumerate(chip.connections):
        place = target.create_group(f"connections/{index}")
        place.attrs["kind"] = _plain(type(connection).__name__)
        _write(place, connection)


def load(path: str | os.PathLike[str]) -> ChipNetwork:
    """Read a ChipNetwork.

    Raises
    ------
    FileError
        for a missing, damaged or foreign file, or a newer format version
    UnsafeFileError
        for a file with links out of itself or absurd sizes
    """
    with safe_hdf5.open_hdf5(path) as file:
        version = safe_hdf5.version(file, FORMAT, VERSION, "not a ChipNetwork file; ottt-export writes them")
        try:
            host = _read_network(safe_hdf5.group(file, "host")) if "host" in file and version > 1 else None
            return _read_network(file, host, version)
        except ChipError as error:
            raise FileError(f"holds no valid network: {error}") from error


def _read_network(source: h5py.Group, host: ChipNetwork | None = None, version: int = VERSION) -> ChipNetwork:
    provenance = _read_provenance(source)
    use = usage.from_provenance(provenance) if version < 4 else {}
    if version >= 4 and "use" in source:
        use = usage.from_bytes(safe_hdf5.integers(source, "use"))
    return ChipNetwork(
        input_shape=safe_hdf5.attribute(source, "input_shape", tuple),
        layers=tuple(LIF(**_read(part, LIF)) for part in _parts(source, "layers")),
        connections=tuple(_read_connection(part) for part in _parts(source, "connections")),
        num_steps=safe_hdf5.attribute(source, "num_steps", int),
        readout=safe_hdf5.attribute(source, "readout", str),
        provenance=provenance,
        host=host,
        **use,
    )


def _write(target: h5py.Group, part: LIF | Connection) -> None:
    for f in fields(part):
        value = getattr(part, f.name)
        if not isinstance(value, np.ndarray):
            target.attrs[f.name] = _plain(value)
        else:
            # chunked storage with a checksum: a flipped byte in a weight is noticed
            target.create_dataset(f.name, data=value, fletcher32=True, compression="gzip", shuffle=True)


def _plain(value: Any) -> Any:
    """Texts are stored with fixed length (``safe_hdf5.attribute`` says why)."""
    if isinstance(value, str):
        return np.bytes_(value.encode())
    return np.asarray(value, np.int64) if isinstance(value, tuple) else value


def _parts(file: h5py.Group, name: str) -> list[h5py.Group]:
    parent = safe_hdf5.group(file, name)
    if len(parent) > MAX_PARTS:
        raise FileError(f"/{name}: {len(parent)} entries, at most {MAX_PARTS} are allowed")
    return [safe_hdf5.group(parent, str(index)) for index in range(len(parent))]


def _read(source: h5py.Group, kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass; a field's annotation decides how it is stored."""
    values: dict[str, Any] = {}
    for f in fields(kind):
        if "ndarray" in str(f.type) and f.name not in source.attrs:
            values[f.name] = safe_hdf5.integers(source, f.name)
        else:
            values[f.name] = safe_hdf5.attribute(source, f.name, KINDS.get(str(f.type), tuple))
    return values


def _read_connection(source: h5py.Group) -> Connection:
    name = safe_hdf5.attribute(source, "kind", str)
    if name not in CONNECTIONS:
        raise FileError(f"{source.name}: unknown kind of connection {name!r}")
    kind = CONNECTIONS[name]
    return kind(**_read(source, kind))


def _read_provenance(file: h5py.Group) -> dict[str, Any]:
    try:
        provenance = json.loads(safe_hdf5.attribute(file, "provenance", str))
    except json.JSONDecodeError as error:
        raise FileError(f"/@provenance: not JSON ({error})") from None
    if not isinstance(provenance, dict):
        raise FileError("/@provenance: expected a JSON object")
    return provenance
