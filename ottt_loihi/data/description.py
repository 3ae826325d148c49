"""The record of the data: the form of a sample, its preparation, and its coding as spikes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.compact import CompactArray
from ottt_loihi.data.sparse import SampleArray, pieces
from ottt_loihi.data.split import Split
from ottt_loihi.errors import UsageError

VALUES = ("spikes", "counts", "analog")
LARGEST = 2**31 - 1  # values of a sample, time steps, classes: what a description may claim
DEEPEST = 8  # nesting of a step's options


@dataclass(frozen=True)
class Step:
    """One named operation on the data with its options, such as ``Step("delta", {"threshold": 0.1})``.

    Attributes
    ----------
    name
        of the coding or of the preprocessing
    options
        JSON values: null, true and false, finite numbers, strings, lists and objects of them. Arrays are lists

    Raises
    ------
    UsageError
        for an empty name, or options that are no JSON values
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _text(self.name, "name of a coding or preprocessing")
        if not isinstance(self.options, Mapping):
            raise UsageError(f"{self.name}: expected options with names, got {self.options!r:.80}")
        object.__setattr__(self, "options", _json_value(self.options, self.name))

    def to_json(self) -> dict[str, Any]:
        """Return the step as JSON values."""
        return {"name": self.name, "options": _json_value(self.options, self.name)}

    @classmethod
    def from_json(cls, value: Any, where: str) -> Step:
        """Return the step that :meth:`to_json` gave."""
        known = _known(value, where, ("name", "options"))
        if "name" not in known:
            raise UsageError(f"{where}: expected a name, got {sorted(known)}")
        return cls(**known)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={_short(value)}" for name, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


@dataclass(frozen=True)
class DataDescription:
    """The record of the data: the form of a sample, and how it becomes spikes.

    It is kept with a network, so that no command asks again.

    Attributes
    ----------
    shape
        of one sample, or of one time step of it: ``(28, 28)``, ``(40,)`` mel bands, ``(2, 34, 34)`` events.
        The coding may make another shape of it, which is the network's ``input_shape``
    num_classes
        ≥ 1
    values
        ``"spikes"``: 0 and 1 in any dtype; ``"counts"``: integers ≥ 0; ``"analog"``: real numbers.
        After the preprocessing
    value_range
        ``(low, high)`` of the training samples, or None where it is not known. Spikes have none
    time_steps
        T of a sample with a time axis, ``(T, *shape)``; None for a sample without one, ``shape``
    dt
        seconds per time step of the recording, > 0; None where it is not known. It needs a time axis
    class_names
        one per class, or empty
    preprocessing
        what was done to the recorded values, first to last, with the numbers fitted on the training samples
    coding
        how a sample becomes the network's input: ``rate``, ``constant``, ``frames`` (as it is) and others

    Raises
    ------
    UsageError
        for a field of another type, outside its range, or that does not fit the others
    """

    shape: tuple[int, ...]
    num_classes: int
    coding: Step
    values: str = "analog"
    value_range: tuple[float, float] | None = None
    time_steps: int | None = None
    dt: float | None = None
    class_names: tuple[str, ...] = ()
    preprocessing: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        checked = {
            "shape": checks.sizes(_listed(self.shape, "shape"), "data.shape"),
            "num_classes": checks.integer(self.num_classes, "data.num_classes", 1, LARGEST),
            "values": checks.one_of(self.values, "data.values", VALUES),
            "class_names": tuple(_text(n, "class_names") for n in _listed(self.class_names, "class_names")),
            "preprocessing": _listed(self.preprocessing, "preprocessing"),
        }
        if self.value_range is not None:
            checked["value_range"] = _range(self.value_range)
        if self.time_steps is not None:
            checked["time_steps"] = checks.integer(self.time_steps, "data.time_steps", 1, LARGEST)
        if self.dt is not None:
            checked["dt"] = _number(self.dt, "data.dt", above_zero=True)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        self._check_together()

    def _check_together(self) -> None:
        size = math.prod(self.shape) * (self.time_steps or 1)
        if size > LARGEST:
            raise UsageError(f"data.shape: expected at most {LARGEST} values per sample, got {size}")
        if self.dt is not None and self.time_steps is None:
            raise UsageError("data.dt: expected a time axis (time_steps) beside it, got none")
        if self.values == "spikes" and self.value_range is not None:
            raise UsageError("data.value_range: spikes are 0 or 1 and have none; leave it out")
        if self.values == "counts" and self.value_range is not None and self.value_range[0] < 0:
            raise UsageError(f"data.value_range: counts are ≥ 0, got {self.value_range}")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise UsageError(f"data.class_names: expected {self.num_classes} names, got {len(self.class_names)}")
        for step in (self.coding, *self.preprocessing):
            if not isinstance(step, Step):
                raise UsageError(f"data: expected a Step as coding or preprocessing, got {type(step).__name__}")

    @property
    def time_axis(self) -> bool:
        """Whether a sample has a time axis."""
        return self.time_steps is not None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of a whole sample: ``(T, *shape)`` with a time axis, else ``shape``."""
        return self.shape if self.time_steps is None else (self.time_steps, *self.shape)

    def check(self, x: np.ndarray, where: str = "data") -> int:
        """Refuse samples that are not of this kind; return how many of their values are outside ``value_range``.

        Parameters
        ----------
        x
            ``(n, *sample_shape)``, numbers, after the preprocessing
        where
            what the message calls them

        Raises
        ------
        UsageError
            for another shape or number of time steps, values that are not finite, or values of a kind that cannot
            be read as this one (analog values for spikes, say)
        """
        x = x if isinstance(x, CompactArray) else np.asarray(x)
        expected = self.sample_shape
        if self.time_axis and x.ndim == len(expected) + 1 and x.shape[2:] == expected[1:] and x.shape[1] != expected[0]:
            raise UsageError(f"{where}: expected samples of {expected[0]} time steps, got {x.shape[1]}")
        if x.shape[1:] != expected or x.ndim == 0:
            raise UsageError(f"{where}: expected samples of shape {expected}, got an array {x.shape}")
        kind, _ = _seen(x, where)
        if VALUES.index(kind) > VALUES.index(self.values):
            raise UsageError(f"{where}: expected {self.values}, got {kind} values")
        if self.value_range is None:
            return 0
        low, high = self.value_range
        return sum(int(((part < low) | (part > high)).sum()) for part in _parts(x))

    def differences(self, other: DataDescription) -> list[str]:
        """Return one phrase for each field in which the samples of ``other`` are not of this kind."""
        names = ("shape", "time_steps", "values", "dt", "num_classes", "class_names", "preprocessing", "coding")
        found = []
        for name in names:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"{name}: expected {_short(mine)}, got {_short(theirs)}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON values; :meth:`from_json` reads them."""
        return json.loads(json.dumps(asdict(self)))  # tuples become lists

    @classmethod
    def from_json(cls, value: Any) -> DataDescription:
        """Return the description that :meth:`to_json` gave; UsageError for anything else, whatever it is."""
        known = _known(value, "data", tuple(f.name for f in fields(cls)))
        for name in ("shape", "num_classes", "coding"):
            if name not in known:
                raise UsageError(f"data: expected shape, num_classes and coding; {name} is missing")
        steps = _listed(known.get("preprocessing", ()), "preprocessing")
        known["preprocessing"] = tuple(Step.from_json(step, "data.preprocessing") for step in steps)
        known["coding"] = Step.from_json(known["coding"], "data.coding")
        return cls(**known)

    def __str__(self) -> str:
        """Return the description in one line."""
        limits = "" if self.value_range is None else " in [{:g}, {:g}]".format(*self.value_range)
        before = "".join(f"{step}, then " for step in self.preprocessing)
        return f"{self.values}{limits}, {self.form}; {before}{self.coding}"

    @property
    def form(self) -> str:
        """The form of a sample in words: its shape, time steps and number of classes."""
        shape = "×".join(map(str, self.shape))
        steps = f"{self.time_steps} time steps" if self.time_axis else "no time axis"
        return f"{shape}, {steps}{'' if self.dt is None else f' of {self.dt:g} s'}, {self.num_classes} classes"


def describe_split(split: Split, coding: Step | str) -> DataDescription:
    """Return the description of a data set, its values and their range found in the training samples.

    Samples without a time axis are analog: intensities, whatever numbers they are.

    Raises
    ------
    UsageError
        for values that are not finite
    """
    kind, limits = _seen(split.x_train, f"{split.name or 'data'}: x_train")
    found = DataDescription(
        shape=split.input_shape,
        num_classes=split.num_classes,
        coding=Step(coding) if isinstance(coding, str) else coding,
        values=kind if split.time_axis else "analog",
        time_steps=split.num_steps,
        dt=split.dt,
        class_names=split.class_names,
    )
    return found if found.values == "spikes" else replace(found, value_range=limits)


def _seen(x: SampleArray, where: str) -> tuple[str, tuple[float, float]]:
    """Return the kind of the values, and (lowest, highest); every value is read."""
    if x.dtype.kind not in "buif":
        raise UsageError(f"{where}: expected numbers, got {x.dtype}")
    low, high, whole = math.inf, -math.inf, True
    for part in _parts(x):
        if x.dtype.kind == "f":
            if not np.isfinite(part).all():
                raise UsageError(f"{where}: {int((~np.isfinite(part)).sum())} values are NaN or infinite")
            whole = whole and bool((part == np.rint(part)).all())
        low, high = min(low, float(part.min(initial=math.inf))), max(high, float(part.max(initial=-math.inf)))
    if low > high:
        raise UsageError(f"{where}: expected samples, got none")
    counts = whole and low >= 0
    return ("spikes" if counts and high <= 1 else "counts" if counts else "analog"), (low, high)


def _parts(x: SampleArray) -> Any:
    """Yield ``x`` in pieces, so that no second array of its size is made; integers as float64."""
    for chosen in pieces(x):
        part = x[chosen]
        yield part if x.dtype.kind == "f" else part.astype(np.float64)


def _known(value: Any, where: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: expected an object with {', '.join(names)}, got {value!r:.80}")
    for name in value:
        if name not in names:
            raise UsageError(f"{where}: {name!r:.80} is none of {', '.join(names)}; a newer ottt-loihi may have it")
    return dict(value)


def _listed(value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"data.{name}: expected a list, got {value!r:.80}")
    return tuple(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise UsageError(f"data: {where}: expected printable text, got {value!r:.80}")
    return value


def _range(value: Any) -> tuple[float, float]:
    limits = _listed(value, "value_range")
    if len(limits) != 2:
        raise UsageError(f"data.value_range: expected (low, high), got {value!r:.80}")
    low, high = (_number(limit, "data.value_range") for limit in limits)
    if low > high:
        raise UsageError(f"data.value_range: expected low ≤ high, got {low:g} > {high:g}")
    return low, high


def _number(value: Any, where: str, above_zero: bool = False) -> float:
    if isinstance(value, int) and abs(value) > 2**1023:  # no float holds it
        raise UsageError(f"{where}: expected a number that a float holds, got an integer of {value.bit_length()} bits")
    return checks.number(value, where, *((0.0,) if above_zero else ()), above=above_zero)


def _json_value(value: Any, where: str, depth: int = 0) -> Any:
    """Return a copy in plain Python types, so that a description read from a file equals the one written."""
    if depth > DEEPEST:
        raise UsageError(f"{where}: options are nested more than {DEEPEST} deep")
    if value is None or isinstance(value, (bool, str)):
        return value
    if checks.is_integer(value):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return _number(float(value), where)
    if isinstance(value, np.ndarray):
        return _json_value(value.tolist(), where, depth)
    if isinstance(value, (list, tuple)):
        return [_json_value(item, where, depth + 1) for item in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _json_value(item, where, depth + 1) for name, item in value.items()}
    raise UsageError(f"{where}: expected JSON values as options, got {type(value).__name__}")


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        value = f"({', '.join(str(item) for item in value)})"
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
