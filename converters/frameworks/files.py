"""A module from a user's Python file, and its weights from a file that is read without trust.

``mynet.py:build`` runs that file: it is the user's own code. A weights file is data: a ``state_dict``, or one inside a
dictionary (``{"net": …, "epoch": …}``), as ``torch.save`` writes it. A file that pickles the module itself would run
code of its choosing, and is refused before anything of it is unpickled.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ottt_loihi.errors import FileError, UsageError, first_line
from ottt_loihi.torch_files import GLOBALS, OPCODES, read_payload, require_room

CLASSES = GLOBALS | {"torch._utils _rebuild_parameter", "torch Size", "torch device", "collections defaultdict"}
CODES = OPCODES | {"BUILD", "EMPTY_LIST", "APPEND", "APPENDS", "BINFLOAT", "TUPLE3"}
CURE = (
    "; such a file pickles a module, whose loading would run code. Save the weights alone: "
    "torch.save(net.state_dict(), 'net.pth')"
)
LEFT_OVER = ("v_mem", "i_syn", "num_batches_tracked")  # states of the last call, and counters


def build(text: str) -> nn.Module:
    """Return the module that ``file.py:function`` makes.

    Raises
    ------
    FileError
        where there is no such file
    UsageError
        where it does not run, has no such function, or the function needs arguments or returns no module
    """
    name, _, function = text.rpartition(":")
    path = Path(name)
    if not path.is_file():
        raise FileError(f"{path}: no such file; give file.py:function, a function that returns the module")
    spec = importlib.util.spec_from_file_location(f"_ottt_loihi_of_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    source = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # so that it may import what lies beside it
    try:
        sys.modules[spec.name] = source
        spec.loader.exec_module(source)
        made = _called(text, getattr(source, function, None), function, path)
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:  # user code raises anything, SystemExit too
        raise UsageError(f"{text}: does not run ({type(error).__name__}: {first_line(error)})") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    if not isinstance(made, nn.Module):
        raise UsageError(f"{text}: expected it to return a torch.nn.Module, got {type(made).__name__}")
    return made


def _called(text: str, function: Any, name: str, path: Path) -> Any:
    if function is None:
        raise UsageError(f"{path}: has no {name!r}; expected a function that returns the module")
    if isinstance(function, nn.Module):
        return function
    if not callable(function):
        raise UsageError(f"{text}: expected a function that returns the module, got {type(function).__name__}")
    try:
        inspect.signature(function).bind()
    except ValueError:
        pass
    except TypeError as error:
        raise UsageError(f"{text}: must work without arguments ({error}); give them defaults") from None
    return function()


def load_weights(net: nn.Module, path: Path) -> list[str]:
    """Fill a module with the weights of a file; return what was left out, one line each.

    Raises
    ------
    FileError
        for a file that is damaged, or whose names and shapes are not the module's, all of them named
    UnsafeFileError
        for one that pickles more than weights
    """
    if not path.exists():
        raise FileError(f"{path}: no such file; torch.save(net.state_dict(), {path.name!r}) writes one")
    payload, size = read_payload(path, CLASSES, CODES, CURE)
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = list(_dictionaries(payload, ""))
    if not found:
        raise FileError(
            f"{path}: holds no state_dict, nor a dictionary with one; torch.save(net.state_dict(), …) makes one"
        )
    place, weights = max(found, key=lambda each: len(_plain(each[1]).keys() & expected.keys()))
    require_room(path, weights, size)
    notes = [] if not place else [f"{path.name}: weights of its entry {place!r}"]
    plain = _plain(weights)
    left = sorted(name for name in plain.keys() - expected.keys() if name.rpartition(".")[2] in LEFT_OVER)
    if left:
        notes.append(f"{path.name}: {len(left)} states of the last call are left out ({left[0]} …)")
    plain = {name: value for name, value in plain.items() if name not in left}
    missing = {name for name in expected.keys() - plain.keys() if name.rpartition(".")[2] not in LEFT_OVER}
    wrong = [f"{name}: not in the file" for name in sorted(missing)]
    wrong += [f"{name}: not in the module" for name in sorted(plain.keys() - expected.keys())]
    for name in sorted(plain.keys() & expected.keys()):
        value = plain[name]
        if tuple(value.shape) != expected[name] and value.numel() > 1:
            wrong.append(f"{name}: {tuple(value.shape)} in the file, {expected[name]} in the module")
        elif value.is_floating_point() and not bool(torch.isfinite(value).all()):
            wrong.append(f"{name}: not finite")
    if wrong:
        listed = "; ".join(wrong[:12]) + (f"; and {len(wrong) - 12} more" if len(wrong) > 12 else "")
        raise FileError(f"{path}: {len(wrong)} of its weights do not fit the module: {listed}")
    shaped = {
        name: value.reshape(expected[name]) if value.numel() == 1 and math.prod(expected[name]) <= 1 else value
        for name, value in plain.items()
    }
    try:
        net.load_state_dict(shaped, strict=False)
    except RuntimeError as error:
        raise FileError(f"{path}: does not fit the module ({first_line(error)})") from None
    return notes


def _dictionaries(value: Any, place: str, depth: int = 0) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield every dictionary of named tensors in a file, with its place."""
    if not isinstance(value, Mapping) or depth > 2:
        return
    tensors = {name: part for name, part in value.items() if isinstance(name, str) and isinstance(part, Tensor)}
    if tensors:
        yield place, tensors
    for name, part in value.items():
        if isinstance(name, str):
            yield from _dictionaries(part, f"{place}.{name}".lstrip("."), depth + 1)


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the names without the prefix that DataParallel and torch.compile write."""
    for prefix in ("module.", "_orig_mod."):
        if weights and all(name.startswith(prefix) for name in weights):
            return {name.removeprefix(prefix): value for name, value in weights.items()}
    return dict(weights)
