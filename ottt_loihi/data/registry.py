"""All data sets by name, with what each needs on disk."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ottt_loihi import checks
from ottt_loihi.data import sensors
from ottt_loihi.data.arrays import load_npz
from ottt_loihi.data.audio import FSDD, load_fsdd, load_wav_folder
from ottt_loihi.data.cifar import CIFAR10, CIFAR100, load_cifar10, load_cifar100
from ottt_loihi.data.class_folders import has_recordings
from ottt_loihi.data.digits import load_digits
from ottt_loihi.data.dvs import CIFAR10_DVS, DVS_GESTURE, load_cifar10_dvs, load_dvs_gesture
from ottt_loihi.data.event_files import SUFFIXES, load_event_folder
from ottt_loihi.data.folder import Found, Layout, data_folder, find
from ottt_loihi.data.idx import FASHION_MNIST, MNIST, load_fashion_mnist, load_mnist
from ottt_loihi.data.images import load_image_folder
from ottt_loihi.data.nmnist import NMNIST, load_nmnist
from ottt_loihi.data.split import Split
from ottt_loihi.data.table import load_csv
from ottt_loihi.data.timeseries import UEA, load_ts, load_uea
from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.toml import with_changes


@dataclass(frozen=True)
class DataSet:
    """A data set that has a name.

    Attributes
    ----------
    title
        what it is
    load
        the loader, whose arguments after ``folder`` are options
    layouts
        what must lie where; empty for a data set that comes with an installed package
    source
        where people get it
    licence
        under which it is published, as far as it was verified
    """

    name: str
    title: str
    load: Callable[..., Split]
    layouts: tuple[Layout, ...] = ()
    source: str = ""
    licence: str = ""

    def find(self, folder: str | os.PathLike[str] | None = None) -> Found | None:
        """Return the files of the data set; None if it needs no files. :class:`FileError` names missing files."""
        return find(self.name, self.layouts, folder) if self.layouts else None

    def options(self) -> list[str]:
        """Return the names of the loader's own options."""
        return _options_of(self.load)


_SOURCES = {  # where people get it, and its licence
    "mnist": ("http://yann.lecun.com/exdb/mnist", "CC BY-SA 3.0, as Keras says"),
    "fashion-mnist": ("https://github.com/zalandoresearch/fashion-mnist", "MIT"),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/cifar.html", ""),
    "cifar100": ("https://www.cs.toronto.edu/~kriz/cifar.html", ""),
    "n-mnist": ("https://www.garrickorchard.com/datasets/n-mnist", "CC BY-SA 4.0, as snnTorch says"),
    "dvs-gesture": ("https://research.ibm.com/interactive/dvsgesture", "CC BY 4.0, as snnTorch says"),
    "cifar10-dvs": ("https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671", ""),
    "fsdd": ("https://github.com/Jakobovski/free-spoken-digit-dataset", "CC BY-SA 4.0"),
    "gas-drift": ("https://archive.ics.uci.edu/dataset/270", "CC BY 4.0, its page says for research only"),
    "myo-emg": ("https://github.com/aljazfrancic/myo-readings-dataset", "MIT"),
    "mitbih": ("https://physionet.org/content/mitdb/1.0.0", "ODC Attribution 1.0"),
    "braille": ("https://doi.org/10.5281/zenodo.7050094", "CC BY 4.0, as a third party says"),
    "uea-timeseries": (
        "https://www.timeseriesclassification.com",
        "BSD-3-Clause of the wheel that ships it; UEA's own terms were not seen",
    ),
}
DATA_SETS = {
    name: DataSet(name, title, load, layouts, *_SOURCES.get(name, ()))
    for name, title, load, layouts in (
        ("digits", "digits 8×8, 1,797 (in scikit-learn)", load_digits, ()),
        ("mnist", "digits 28×28, 70,000", load_mnist, MNIST),
        ("fashion-mnist", "clothes 28×28, 70,000", load_fashion_mnist, FASHION_MNIST),
        ("cifar10", "photos 3×32×32, 60,000", load_cifar10, CIFAR10),
        ("cifar100", "photos 3×32×32, 60,000", load_cifar100, CIFAR100),
        ("n-mnist", "events 2×34×34, 70,000", load_nmnist, NMNIST),
        ("dvs-gesture", "events 2×128×128, 1,464", load_dvs_gesture, DVS_GESTURE),
        ("cifar10-dvs", "events 2×128×128, 10,000", load_cifar10_dvs, CIFAR10_DVS),
        ("fsdd", "spoken digits, 3,000 recordings", load_fsdd, FSDD),
        ("gas-drift", "16 gas sensors over 36 months", sensors.load_gas_drift, sensors.GAS_DRIFT),
        ("myo-emg", "muscles, 8 wrist gestures", sensors.load_myo_emg, sensors.MYO_EMG),
        ("mitbih", "heart beats of 44 patients", sensors.load_mitbih, sensors.MITBIH),
        ("braille", "events of a fingertip, 7 or 27 letters", sensors.load_braille, sensors.BRAILLE),
        ("uea-timeseries", "JapaneseVowels, BasicMotions", load_uea, UEA),
    )
}


FILES: dict[str, Callable[..., Split]] = {".npz": load_npz, ".csv": load_csv, ".tsv": load_csv, ".ts": load_ts}


def load_data(name: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, **options: Any) -> Split:
    """Return a data set as a Split.

    It is found by its name, or by the path of a file (``.npz``, ``.csv``, ``.ts``) or of a folder of images, WAV or
    event files.

    Parameters
    ----------
    name
        one of ``DATA_SETS``, or a path
    folder
        the folder of the data sets; default ``OTTT_DATA_DIR``. A relative path that does not exist is searched there
    options
        options of the loader, such as ``num_steps=10`` for n-mnist or ``size=32`` for images

    Raises
    ------
    UsageError
        for an unknown name or option
    FileError
        for missing or damaged files
    """
    checks.path(name, "load_data: name")
    if folder is not None:
        checks.path(folder, "load_data: folder")
    name = os.fspath(name)
    loader, arguments = _loader(name, folder)
    known = _options_of(loader)
    for option in options:
        if option not in known:
            raise UsageError(f"data: {name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    return loader(**arguments, **options)


def loader_options(name: str, folder: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the names of the options that :func:`load_data` takes for this data set; an unknown name is refused."""
    return _options_of(_loader(name, folder)[0])


def chosen_options(
    name: str, changes: Iterable[str], folder: str | os.PathLike[str] | None = None, **given: Any
) -> dict[str, Any]:
    """Return options of a loader by name: ``given``, and texts as ``"data.num_steps=10"``.

    Raises
    ------
    UsageError
        for another table than ``data``, an option that the loader does not have, and one with two values
    """
    found = {}
    for place, value in with_changes({f"data.{option}": value for option, value in given.items()}, changes).items():
        table, _, option = place.partition(".")
        if table != "data":
            raise UsageError(f"--set {place}: expected data.NAME=value with an option of the loader")
        if option not in (known := loader_options(name, folder)):
            where = f"--{option.replace('_', '-')}" if option in given else f"--set {place}"
            raise UsageError(f"{where}: {name} has no option {option!r}; it has {', '.join(known) or 'none'}")
        found[option] = value
    return found


def located(name: str, folder: str | os.PathLike[str] | None = None) -> str:
    """Return a name under which the same data are found from any folder: a data set's own, or an absolute path."""
    if name in DATA_SETS:
        return name
    try:
        return str(_path(name, folder).resolve())
    except (UsageError, FileError):
        return name


def _loader(name: str, folder: str | os.PathLike[str] | None) -> tuple[Callable[..., Split], dict[str, Any]]:
    if name in DATA_SETS:
        data_set = DATA_SETS[name]
        return data_set.load, {"folder": folder} if data_set.layouts else {}
    path = _path(name, folder)
    if path.suffix in FILES:
        return FILES[path.suffix], {"path": path}
    kinds = ((load_wav_folder, (".wav",)), (load_event_folder, SUFFIXES))
    loader = next((loader for loader, suffixes in kinds if has_recordings(path, suffixes)), load_image_folder)
    return loader, {"folder": path}


def _options_of(loader: Callable[..., Split]) -> list[str]:
    return [name for name in inspect.signature(loader).parameters if name not in ("folder", "path")]


def _path(name: str, folder: str | os.PathLike[str] | None) -> Path:
    """Return the path that a name which is no data set's means: a file of a known kind, or a folder that is there."""
    base = data_folder(folder)
    candidates = [Path(name).expanduser(), *([base / name] if base else [])]
    for path in candidates:
        if path.is_dir() or (path.suffix in FILES and path.is_file()):
            return path
    if candidates[0].suffix in FILES:
        raise FileError(f"{candidates[0]}: no such file")
    raise UsageError(
        f"data: expected one of {', '.join(DATA_SETS)}, a file {', '.join(FILES)}, or a folder of images, WAV or event "
        f"files; got {name!r}"
    )
