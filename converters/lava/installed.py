"""Whether Lava can run in this environment, and what to do where it cannot. Needs nothing but Python itself."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import re
import sys
from importlib.metadata import PackageNotFoundError, version

LAVA_NC, LAVA_DL = "0.10.0", "0.6.0"  # what every claim of exactness was tested with
PYTHONS = "3.10 to 3.13"
NUMPY_BELOW = (2, 4)  # reshape(newshape=…) and int() of an array are gone from 2.4 on, and Lava needs both
REPAIRED = "pip install ./packaging/lava-nc ./packaging/lava-dl -e '.[lava]' in a clone of ottt-loihi"
STOCK = "pip install -e '.[lava]' in a clone of ottt-loihi"


def command() -> str:
    """Return the command that installs Lava on this Python; Intel's own wheels import on 3.10 only."""
    return STOCK if sys.version_info[:2] == (3, 10) else REPAIRED


def lava_problem() -> str:
    """Return one line with the reason why Lava cannot run here and the remedy, or an empty string if it can."""
    python = ".".join(map(str, sys.version_info[:2]))
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        return f"Lava was tried on Python {PYTHONS}, this is {python}; the simulator backends work here"
    found = installed("lava-nc")
    if found is None:
        return f"Lava is not installed: {command()}"
    if found.partition("+")[0] != LAVA_NC:
        return f"lava-nc {found} is installed, ottt-loihi needs {LAVA_NC}: {command()}"
    numpy = installed("numpy") or ""
    if tuple(map(int, re.findall(r"\d+", numpy)[:2])) >= NUMPY_BELOW:
        return f"NumPy {numpy} is installed, Lava's ports need one below 2.4: pip install 'numpy<2.4'"
    if (method := multiprocessing.get_start_method(allow_none=True)) not in (None, "fork"):
        return f"this program starts processes by {method!r}, and Lava needs 'fork' (multiprocessing.set_start_method)"
    try:
        _set_start_method(method)
        importlib.import_module("lava.magma.compiler.var_model")
    except Exception as error:  # Intel's own wheel on Python ≥ 3.11 ends in a ValueError
        return f"lava-nc {found} does not import on Python {python} ({type(error).__name__}: {error}): {command()}"
    return ""


def _set_start_method(method: str | None) -> None:
    """Import the part of Lava that sets how processes start; that fails if a program has used the default before."""
    module = "lava.magma.runtime.message_infrastructure.multiprocessing"
    if method is not None and module not in sys.modules:
        multiprocessing.set_start_method(None, force=True)  # Lava sets the same again
    importlib.import_module(module)


def lava_dl_problem() -> str:
    """Return one line with the reason why lava-dl (needed by netx) cannot run here, or an empty string if it can."""
    found = installed("lava-dl")
    if found is None:
        return f"lava-dl is not installed, netx checks need it: {command()}"
    if found.partition("+")[0] != LAVA_DL:
        return f"lava-dl {found} is installed, ottt-loihi needs {LAVA_DL}: {command()}"
    if importlib.util.find_spec("setuptools") is None:
        return "lava-dl needs setuptools, which it does not declare: pip install setuptools"
    return ""


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
