"""Codings: functions that turn values into the input of every time step. Each is one file and needs only NumPy.

Training, simulator and chip call the same :func:`encode`, so they get the same bits.

===============  ==============================================  ===============================================
name             what is sent                                    options
===============  ==============================================  ===============================================
``rate``         a spike with probability x                      none
``regular``      a spike whenever accumulated x reaches 1        ``phase``: ``"random"``, ``"fixed"``
``latency``      one spike, the earlier the larger x             none
``delta``        up and down spikes where x has changed          ``threshold``
``population``   K neurons with overlapping tuning curves        ``neurons``, ``width``, ``phase``
``thermometer``  K neurons, each fires while x is above a level  ``levels``
``graded``       a message of 8 bits at every step               ``unit``: the value of a message of 1
``frames``       the data's own spikes                           none
``delays``       the data's own spikes, and again some later     ``copies``, ``apart``
``slots``        the data's own spikes, other lines later on     ``parts`` of a sample
``constant``     the value itself at every step                  ``mean``, ``std`` of each channel
===============  ==============================================  ===============================================
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.codings.delays import copies_steps, delays
from ottt_loihi.data.codings.delta import delta
from ottt_loihi.data.codings.graded import constant, frames, graded
from ottt_loihi.data.codings.latency import latency
from ottt_loihi.data.codings.population import population
from ottt_loihi.data.codings.rate import rate
from ottt_loihi.data.codings.regular import regular
from ottt_loihi.data.codings.slots import parts_steps, slots
from ottt_loihi.data.codings.thermometer import thermometer
from ottt_loihi.data.description import Step
from ottt_loihi.errors import UsageError

__all__ = ["CODINGS", "Coding", "coded_shape", "encode", "message_value", "parse_coding", "rate_code"]


@dataclass(frozen=True)
class Coding:
    """A coding: its function, and the data it takes.

    Attributes
    ----------
    function
        ``(values (n, T, *shape), seed, indices (n,), **options)`` → uint8 spikes or int16 messages
        ``(n, T, [K,] *shape)``
    time
        of the samples: ``"any"``, ``"axis"`` (a time axis is needed) or ``"none"`` (there must be none)
    messages
        whether it sends graded messages, which a layer that learns on the chip cannot receive
    unit_range
        whether the values have to be in [0, 1]
    least_steps
        ``**options`` → the fewest time steps in which all of its lines can fire; None: any number
    """

    function: Callable[..., np.ndarray]
    time: str = "any"
    messages: bool = False
    unit_range: bool = True
    least_steps: Callable[..., int] | None = None

    def options(self) -> tuple[str, ...]:
        """Return the names of its options."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)

    def takes(self, time_axis: bool) -> bool:
        """Return whether it codes samples with, or without, a time axis."""
        return self.time == "any" or time_axis == (self.time == "axis")


CODINGS = {
    "rate": Coding(rate),
    "regular": Coding(regular),
    "latency": Coding(latency, time="none"),
    "delta": Coding(delta, time="axis", unit_range=False),
    "population": Coding(population),
    "thermometer": Coding(thermometer),
    "graded": Coding(graded, messages=True, unit_range=False),
    "frames": Coding(frames, time="axis", unit_range=False),
    "delays": Coding(delays, time="axis", unit_range=False, least_steps=copies_steps),
    "slots": Coding(slots, time="axis", unit_range=False, least_steps=parts_steps),
    "constant": Coding(constant, time="none", messages=True),
}


def parse_coding(value: Any, where: str = "encoding") -> Step:
    """Return the coding given as a name, ``"delta:threshold=0.1"``, a table ``{name = "delta", …}`` or a Step.

    Raises
    ------
    UsageError
        for an unknown name, option or value
    """
    if isinstance(value, Step):
        step = value
    elif isinstance(value, str):
        step = _from_text(value, where)
    elif isinstance(value, Mapping) and isinstance(value.get("name"), str):
        options = value.get("options", {k: v for k, v in value.items() if k != "name"})
        step = Step(value["name"], options)
    else:
        raise UsageError(f"{where}: expected a name, name:option=value or a table with a name, got {value!r:.80}")
    if step.name not in CODINGS:
        near = difflib.get_close_matches(step.name, CODINGS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(CODINGS)}"
        raise UsageError(f"{where}: {step.name!r:.40} is unknown; {hint}")
    known = CODINGS[step.name].options()
    for option in step.options:
        if option not in known:
            raise UsageError(f"{where}: {step.name} has no option {option!r:.40}; it has {', '.join(known) or 'none'}")
    _nothing(step, (1,))  # the coding refuses options out of range
    return step


def coded_shape(coding: Step, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a time step of the network's input, from the shape of a time step of the data.

    K neurons per value stand in front: ``(40,)`` becomes ``(K, 40)``; channels of an image are multiplied by K.
    """
    return _joined(_nothing(coding, shape), shape).shape[2:]


def encode(
    x: np.ndarray,
    coding: Step,
    num_steps: int,
    seed: int = 0,
    indices: np.ndarray | None = None,
    *,
    time_axis: bool = False,
) -> np.ndarray:
    """Return the input of the network: uint8 spikes or int16 messages ``(n, T, *coded_shape)``.

    A sample's spikes depend on ``seed`` and its index alone, not on the batch it is in.

    Parameters
    ----------
    x
        samples ``(n, *shape)``, or with ``time_axis`` ``(n, T, *shape)``
    coding
        of :data:`CODINGS`
    num_steps
        T of samples without a time axis; of those with one it must be theirs
    seed
        ≥ 0
    indices
        int ``(n,)``, the samples' numbers in their data set; default 0 … n − 1

    Raises
    ------
    UsageError
        for values out of range, another number of time steps, or a coding that does not fit the samples
    """
    x = np.asarray(x)
    kind = CODINGS[coding.name]
    if not kind.takes(time_axis):
        needs = "samples with a time axis" if kind.time == "axis" else "samples without a time axis"
        raise UsageError(f"encoding: {coding.name} needs {needs}")
    if num_steps < 1 or seed < 0:
        raise UsageError(f"encoding: expected num_steps ≥ 1 and seed ≥ 0, got {num_steps} and {seed}")
    if time_axis and x.shape[1] != num_steps:
        raise UsageError(f"encoding: expected samples of {num_steps} time steps, got {x.shape[1]}")
    if kind.least_steps and num_steps < (least := kind.least_steps(**coding.options)):
        raise UsageError(
            f"encoding: {coding} needs samples of at least {least} time steps, got {num_steps}: the last of its "
            f"lines would never fire; choose smaller {' or '.join(kind.options())}"
        )
    if kind.unit_range and x.size and not (x.min() >= 0 and x.max() <= 1):  # False for NaN
        got = f"[{x.min():g}, {x.max():g}]"
        raise UsageError(f"encoding: {coding.name} needs intensities in [0, 1], got {got}; scale them")
    indices = np.arange(len(x)) if indices is None else np.asarray(indices)
    if indices.shape != (len(x),):
        raise UsageError(f"encoding: expected {len(x)} indices, got shape {indices.shape}")
    values = x if time_axis else np.broadcast_to(x[:, None], (len(x), num_steps, *x.shape[1:]))
    return _joined(kind.function(values, seed, indices, **coding.options), values.shape[2:])


def rate_code(images: np.ndarray, num_steps: int, seed: int = 0, indices: np.ndarray | None = None) -> np.ndarray:
    """Return ``s_i[t] ~ Bernoulli(x_i)``: a pixel of intensity x fires with probability x at each time step.

    A sample's spikes depend on ``seed`` and its index alone, not on the batch it is in.

    Parameters
    ----------
    images
        floats in [0, 1], ``(n, *shape)``
    num_steps
        time steps T ≥ 1
    seed
        any non-negative integer; another seed gives other spikes
    indices
        ``(n,)`` the samples' numbers in their data set; default 0 … n − 1

    Returns
    -------
    uint8 ``(n, num_steps, *shape)`` of 0 and 1

    Raises
    ------
    UsageError
        for NaN or intensities outside [0, 1], ``num_steps < 1``, a negative seed, or as many indices as not images
    """
    images = np.asarray(images)
    checks.integer(num_steps, "rate_code: num_steps")
    checks.integer(seed, "rate_code: seed", 0)
    if images.dtype.kind not in "biuf" or not images.ndim:
        raise UsageError(f"rate_code: expected an array (n, …) of numbers, got {images.dtype} of shape {images.shape}")
    return encode(images, Step("rate"), num_steps, seed, indices)


def message_value(coding: Step) -> float:
    """Return the value of a message of 1 in the float network; it is 1 for spikes."""
    if coding.name == "constant":
        return 1 / 255
    return float(coding.options.get("unit", 1 / 255)) if coding.name == "graded" else 1.0


def _nothing(coding: Step, shape: tuple[int, ...]) -> np.ndarray:
    """Return the coding of one sample of zeros with one time step of this shape."""
    return CODINGS[coding.name].function(
        np.zeros((1, 1, *shape), np.float32), 0, np.zeros(1, np.int64), **coding.options
    )


def _joined(coded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return K neurons per value as channels of an image ``(C, height, width)``; other shapes keep them in front."""
    if coded.ndim == len(shape) + 3 and len(shape) == 3:
        return coded.reshape(*coded.shape[:2], -1, *shape[1:])
    return coded


def _from_text(text: str, where: str) -> Step:
    name, colon, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{where}: expected name:option=value,option=value, got {text!r:.80}")
        options[key.strip()] = _plain(value.strip())
    return Step(name.strip() or "?", options)


def _plain(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)
