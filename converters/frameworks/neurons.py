"""The neurons of all frameworks in one form.

::

    c[t] = α·c[t−1] + g·(x[t] + recurrent(s[t−1]))          u[t] = β·v[t−1] + c[t] + bias          s[t] = H(u[t] − θ)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from ottt_loihi.errors import UsageError

Value = float | np.ndarray  # of a layer, or one for each neuron or channel


class Unmapped(Exception):
    """A part without an exact counterpart. The message gives the reason and the nearest part that works."""


@dataclass(frozen=True)
class Group:
    """Several neurons of ours that replace one neuron. All have its input and its decay, and no reset.

    Attributes
    ----------
    thresholds
        of each, in units of the one's
    feedback
        delay in steps → what each (row) gets from a spike of each (column), in membrane units
    sends
        what a spike of each counts to the outside
    """

    thresholds: tuple[float, ...]
    feedback: Mapping[int, np.ndarray]
    sends: tuple[float, ...]


def several_spikes(most: int, taken: float) -> Group:
    """Return the neurons that fire up to ``most`` times in a step; each spike takes ``taken`` one step later."""
    return Group(tuple(range(1, most + 1)), {1: np.full((most, most), -taken)}, (1.0,) * most)


@dataclass(frozen=True)
class Neurons:
    """A layer of neurons.

    Attributes
    ----------
    beta, alpha
        what membrane and synaptic current keep of themselves, 0 … 1
    threshold
        > 0
    reset
        of :class:`~ottt_loihi.nn.cuba.CubaLIF`: ``"zero"``, ``"subtract"``, ``"delayed"`` or ``"none"``
    gain
        what the neuron multiplies its input with, recurrent input included
    at_threshold
        fires at u = θ, too
    v_reset, v_init
        where ``"zero"`` puts the membrane, and where it begins
    bias
        what every step adds to the current by itself, after the gain
    fires
        False: a readout, whose output is its membrane
    recurrent
        maps s[t−1] to an input: a Linear or Conv2d of torch, or an array of one weight for each neuron; None without
    entrance
        a Linear inside of the neurons, which the input passes before the gain; None without
    late_bias
        the recurrent layer's bias begins at the second step
    group
        neurons of ours that stand for one; None: one does
    loses
        a reset to zero that is one step late: the input of the step after a spike is lost
    unbounded
        sends as many spikes in a step as thresholds fit into the membrane; the user says how many at most
    amplitude
        what a spike counts to the next layer, and to the recurrent connection
    shows
        which membrane its module returns as its state: the one ``"before"`` its reset, or ``"after"`` a reset by
        subtraction; empty: none that can be followed
    sends
        ``"spikes"``; of a last layer whose membranes are the scores ``"membranes"``, or ``"after"`` the reset
    inexact
        why this is not exact, in words that name the nearest; empty: it is
    """

    beta: Value
    alpha: Value = 0.0
    threshold: Value = 1.0
    reset: str = "zero"
    gain: Value = 1.0
    at_threshold: bool = False
    v_reset: Value = 0.0
    v_init: Value = 0.0
    bias: Value = 0.0
    fires: bool = True
    recurrent: Any = None
    entrance: Any = None
    late_bias: bool = False
    group: Group | None = None
    loses: bool = False
    unbounded: bool = False
    amplitude: float = 1.0
    shows: str = ""
    sends: str = "spikes"
    inexact: tuple[str, ...] = ()


@dataclass(frozen=True)
class Framework:
    """The neurons of one framework, by the names of their classes; nothing of it is imported.

    Attributes
    ----------
    name, packages, versions
        its name, the first words of its modules' names, and the versions whose classes are known
    neurons
        class name → reader, which raises :class:`Unmapped`
    refused
        class name → why it has no counterpart, and the nearest that has one
    reset
        forgets what a neuron remembers of the last call
    batch
        tells the layers of a module how many samples come, where they have to know
    steps
        how a module made of its layers takes time: see ``trace.FORMS``; None: a call is a step
    """

    name: str
    packages: tuple[str, ...]
    versions: str
    neurons: Mapping[str, Callable[[nn.Module], Neurons]]
    refused: Mapping[str, str] = field(default_factory=dict)
    reset: Callable[[nn.Module], None] = lambda module: None
    batch: Callable[[nn.Module, int], None] = lambda net, samples: None
    steps: Callable[[nn.Module], str | None] = lambda module: None

    def read(self, module: nn.Module) -> Neurons:
        """Return the neurons of a module.

        Raises
        ------
        Unmapped
            for neurons without an exact counterpart
        UsageError
            for a class that has changed since ``versions``
        """
        try:
            return self.neurons[self.kind(module)](module)
        except Missing as missing:
            raise UsageError(
                f"{missing}; its class has changed since {self.versions}, for which the conversion was written: use "
                "that version, or convert by NIR"
            ) from None

    def kind(self, module: nn.Module) -> str:
        """Return the name of a module's class in this framework; of a user's own class, of that which it is made of."""
        home = [c for c in type(module).__mro__ if c.__module__.split(".")[0] in self.packages]
        return (home or [type(module)])[0].__name__

    def owns(self, module: nn.Module) -> bool:
        """Return whether a module's class, or one that it is made of, comes from this framework."""
        return any(c.__module__.split(".")[0] in self.packages for c in type(module).__mro__)


class Missing(Exception):
    """An object has no attribute of a name. The message says so."""


def calling(name: str) -> Callable[[nn.Module], None]:
    """Return a function that calls a module's method of this name, if the module has it."""

    def call(module: nn.Module) -> None:
        if hasattr(module, name):
            getattr(module, name)()

    return call


def attribute(owner: Any, name: str) -> Any:
    """Return an attribute; :class:`Missing` where a class has none of this name."""
    if not hasattr(owner, name):
        raise Missing(f"{type(owner).__name__} has no {name!r} here")
    return getattr(owner, name)


def number(module: Any, name: str) -> Any:
    """Return an attribute as float64: a number, or an array where it has several values that differ.

    Raises
    ------
    Missing
        where the class has no such attribute
    Unmapped
        where it is no finite number, or has no values
    """
    value = attribute(module, name)
    try:
        values = np.asarray(value.detach().cpu().double().numpy() if hasattr(value, "detach") else value, np.float64)
    except (TypeError, ValueError):
        raise Unmapped(f"{name} = {value!r:.40} is no number") from None
    if not np.isfinite(values).all() or not values.size:
        raise Unmapped(f"{name} is not finite" if values.size else f"{name} has no values")
    return values if np.ptp(values) else float(values.reshape(-1)[0])


def one_number(module: Any, name: str) -> float:
    """Return an attribute as a float; Unmapped where it has several values that differ."""
    value = number(module, name)
    if np.ndim(value):
        raise Unmapped(f"{name} has values that differ, {shown(value)}; the nearest is one for the whole layer")
    return float(value)


def shown(value: Value) -> str:
    """Return a value for a message; of several, the smallest and the largest."""
    low, high = float(np.min(value)), float(np.max(value))
    return f"{low:g}" if low == high else f"{low:g} … {high:g}"
