"""Surrogate derivatives f(u) of the spike function H(u − Vth), usable by name.

Each is a small frozen dataclass called as ``f(u, v_threshold)`` on a floating-point tensor of any shape. Any callable
with these arguments will do; one of your own runs on the plain engine, and files name its class. These here use tensor
methods only, so the module does not import torch.

Sources: OTTT (arXiv 2210.04195) §3.2 and §4.2; the sigmoid with α = 4 is the one behind the paper's results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rectangle:
    """``f(u) = 1 if |u − Vth| < Vth else 0`` (§4.2): the derivative of the spike representation's clamp.

    closed: 1 at ``|u − Vth| = Vth`` too, as in the released code (``convention="authors"``)
    """

    closed: bool = False
    name: ClassVar[str] = "rectangle"

    def __call__(self, u: Tensor, v_threshold: float) -> Tensor:
        distance = (u - v_threshold).abs()
        return (distance <= v_threshold if self.closed else distance < v_threshold).to(u.dtype)


class _Sloped:
    """A surrogate with a ``slope``, which is above 0."""

    slope: float
    name: ClassVar[str]

    def __post_init__(self) -> None:
        checks.number(self.slope, f"surrogate {self.name}, slope", 0, above=True)


@dataclass(frozen=True)
class Sigmoid(_Sloped):
    """``f(u) = k·σ(k(u − Vth))·(1 − σ(k(u − Vth)))``, ``slope`` k = 4 (§3.2 with a₂ = 1/k)."""

    slope: float = 4.0
    name: ClassVar[str] = "sigmoid"

    def __call__(self, u: Tensor, v_threshold: float) -> Tensor:
        sigma = ((u - v_threshold) * self.slope).sigmoid()
        return self.slope * sigma * (1 - sigma)


@dataclass(frozen=True)
class Triangle:
    """``f(u) = max(0, 1 − |u − Vth|/Vth)``: as high and as wide as :class:`Rectangle`, with sloping sides."""

    name: ClassVar[str] = "triangle"

    def __call__(self, u: Tensor, v_threshold: float) -> Tensor:
        return (1 - (u - v_threshold).abs() / v_threshold).clamp(min=0)


@dataclass(frozen=True)
class FastSigmoid(_Sloped):
    """``f(u) = 1/(k·|u − Vth| + 1)²``, ``slope`` k = 25: the derivative of ``u/(1 + k·|u|)``.

    Source: SuperSpike (Zenke and Ganguli 2018). OTPE uses k = 25, S-TLLR k = 100 on sound.
    """

    slope: float = 25.0
    name: ClassVar[str] = "fast-sigmoid"

    def __call__(self, u: Tensor, v_threshold: float) -> Tensor:
        return (self.slope * (u - v_threshold).abs() + 1) ** -2


Surrogate = Rectangle | Sigmoid | Triangle | FastSigmoid | Callable[["Tensor", float], "Tensor"]
SURROGATES: dict[str, type] = {kind.name: kind for kind in (Rectangle, Sigmoid, Triangle, FastSigmoid)}


def make_surrogate(what: str | Mapping[str, Any] | Surrogate) -> Surrogate:
    """Return a surrogate from its name, its description (:func:`describe`) or itself, which may be any callable.

    UsageError for an unknown name or parameter.
    """
    if callable(what):
        return what() if isinstance(what, type) else what
    parameters = dict(what) if isinstance(what, Mapping) else {"name": what}
    name = parameters.pop("name", None)
    if not isinstance(name, str) or name not in SURROGATES:
        raise UsageError(f"surrogate: expected one of {', '.join(SURROGATES)}, got {name!r}")
    if name == Sigmoid.name and "alpha" in parameters:  # its name in files of version 1
        parameters.setdefault("slope", parameters.pop("alpha"))
    try:
        return SURROGATES[name](**parameters)
    except TypeError:
        raise UsageError(f"surrogate {name}: does not know the parameters {', '.join(map(str, parameters))}") from None


def describe(surrogate: Surrogate) -> dict[str, Any]:
    """Return name and parameters as JSON values: ``make_surrogate(describe(f)) == f``; of others the name alone."""
    if type(surrogate) not in SURROGATES.values():
        kind = surrogate if hasattr(surrogate, "__qualname__") else type(surrogate)
        return {"name": f"{kind.__module__}.{kind.__qualname__}"}
    settings = {key: value for key, value in asdict(surrogate).items() if key != "closed" or value}
    return {"name": surrogate.name, **settings}
