"""Whose file it is: what NIR's numbers mean depends on the program that wrote them.

A file holds no time step, no kind of reset and no rule of integration; every framework means its own::

    from           dt       decay          gain              fires   reset
    spikingjelly   1e-4     1 − dt/τ       dt·r/τ            v ≥ θ   to v_reset
    snntorch       1e-4     1 − dt/τ       dt·r/τ            v > θ   −θ one step late (the file says to zero)
    norse          1e-6     1 − dt/τ       dt·r/τ, IF: 1     v > θ   to zero
    sinabs         1        exp(−dt/τ)     1 − decay, IF: 1  v ≥ θ   −θ at once
    rockpool       1e-3     exp(−dt/τ)     1                 v ≥ θ   −θ at once
    lava, and NIR  --dt     1 − dt/τ       dt·r/τ            v > θ   to zero

Each was found by running the framework beside its file; docs/frameworks.md has the versions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

RESETS = ("subtract", "zero")


@dataclass(frozen=True)
class Dialect:
    """The meaning of one program's files.

    Attributes
    ----------
    name
        of the program; "nir": the equations of NIR's own paper
    dt
        seconds of a time step, None: the file's writer does not fix it
    exact
        states decay by exp(−dt/τ), not by Euler's 1 − dt/τ
    reset
        "zero", "subtract" (at once) or "delayed" (subtracts one step late)
    at_threshold
        fires at v = θ, too
    gains
        "file": dt·r/τ; "leak": 1 − decay; "one": 1, whatever the file says
    integrate_gain
        what an IF multiplies its input with, None: dt·r
    synapse_gain
        what a CubaLIF multiplies its input with, beside the membrane's gain; None: w_in·dt/τ_syn; "decay": the decay
    """

    name: str
    dt: float | None = None
    exact: bool = False
    reset: str = "zero"
    at_threshold: bool = False
    gains: str = "file"
    integrate_gain: float | None = None
    synapse_gain: float | str | None = None

    def kept(self, tau: float, dt: float) -> float:
        """Return the share of a state that is left after a step."""
        return math.exp(-dt / tau) if self.exact else 1 - dt / tau

    def gain(self, kept: float, r: np.ndarray, tau: float, dt: float) -> np.ndarray:
        """Return the factors of a membrane's input."""
        if self.gains == "file":
            return dt * r / tau
        return np.full(r.shape, 1 - kept if self.gains == "leak" else 1.0)

    def synapse(self, kept: float, w_in: np.ndarray, tau: float, dt: float) -> np.ndarray:
        """Return the factors of a synaptic current's input."""
        if self.synapse_gain is None:
            return w_in * dt / tau
        return np.full(w_in.shape, kept if self.synapse_gain == "decay" else float(self.synapse_gain))


PLAIN = Dialect("nir")
DIALECTS = {
    each.name: each
    for each in (
        Dialect("snntorch", 1e-4, reset="delayed"),
        Dialect("spikingjelly", 1e-4, at_threshold=True),
        Dialect("norse", 1e-6, integrate_gain=1.0, synapse_gain=1.0),
        Dialect("sinabs", 1.0, True, "subtract", True, "leak", 1.0, "decay"),
        Dialect("rockpool", 1e-3, True, "subtract", True, "one", 1.0, "decay"),
        Dialect("lava"),
    )
}


def chosen(
    name: str | None, reset: str | None, dt: float | None, guessed: str | None
) -> tuple[Dialect, float, list[str]]:
    """Return the dialect, the seconds of a step, and notes for the user.

    Parameters
    ----------
    name, reset, dt
        what the user says; None: nothing
    guessed
        whose file it looks like

    Raises
    ------
    UsageError
        where nothing says what a time step is
    """
    notes = []
    if name is None and dt is None and guessed is not None:
        name = guessed
        notes.append(f"it looks like a file of {guessed}, and is read as such; --from and --dt say otherwise")
    elif name is None and guessed is not None:
        meant = DIALECTS[guessed]
        notes.append(
            f"read by NIR's equations with --dt {dt:g}, but it looks like a file of {guessed}, which means dt = "
            f"{meant.dt:g} and a reset {_said(meant.reset)}; --from {guessed} reads it so"
        )
    dialect = PLAIN if name is None else DIALECTS[checks.one_of(name, "--from", tuple(DIALECTS))]
    dt = dialect.dt if dt is None else dt
    if dt is None:
        raise UsageError(
            "an NIR file does not hold the seconds of a time step; give --dt, or --from and the program that wrote it: "
            f"{', '.join(DIALECTS)}"
        )
    dialect = dialect if reset is None else with_reset(dialect, reset)
    if dialect.name != "nir" or reset is not None:
        decays = "exp(−dt/τ)" if dialect.exact else "1 − dt/τ"
        notes.append(f"a step of {dt:g} s, a reset {_said(dialect.reset)}, decays {decays}")
    return dialect, dt, notes


def with_reset(dialect: Dialect, reset: str) -> Dialect:
    """Return the dialect with another reset; one by subtraction is as late as its program has it."""
    checks.one_of(reset, "--reset", RESETS)
    if reset == "zero" or dialect.reset == "zero":
        return replace(dialect, reset=reset)
    return dialect


def resets(text: str | None) -> tuple[str | None, dict[str, str]]:
    """Return the reset of all layers and of single ones, of ``"zero"``, ``"3=zero"`` or ``"subtract,3=zero"``."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    single = dict(part.split("=", 1) for part in parts if "=" in part)
    common = [part for part in parts if "=" not in part]
    if len(common) > 1:
        raise UsageError(f"--reset: expected one for all layers, and layer=reset for others, got {text!r}")
    for reset in (*common, *single.values()):
        checks.one_of(reset, "--reset", RESETS)
    return (common[0] if common else None), single


def _said(reset: str) -> str:
    return {"zero": "to zero", "subtract": "by subtraction", "delayed": "by subtraction one step late"}[reset]


def guess(nodes: Iterable[tuple[str, str, dict[str, Any]]]) -> str | None:
    """Return the program that wrote a file, known by names and numbers that no other one writes; None: not known.

    Parameters
    ----------
    nodes
        (name, kind, {parameter: array}) of every node
    """
    nodes = list(nodes)
    names = [name for name, _, _ in nodes]
    if any(name.endswith("Torch") for name in names):
        return "rockpool"
    if any(name.rpartition("/")[2] == "w_rec" for name in names):
        return "snntorch"
    if "input_1" in names:
        return "spikingjelly"
    for _, kind, values in nodes:
        tau = values.get("tau", values.get("tau_mem"))
        r = values.get("r")
        if kind in ("LIF", "CubaLIF", "LI", "CubaLI") and tau is not None and r is not None:
            if (tau >= 1).all():
                return "sinabs"
            if (tau < 5e-5).all() and (r == 1).all():
                return "norse"
            if (r != 1).all() and np.allclose(r * 1e-4, tau, rtol=1e-5, atol=0):
                return "snntorch"
        if kind == "IF" and r is not None and (r == 1).all():  # vectors of Norse's and sinabs' are alike
            return "norse" if r.ndim == 0 else "sinabs" if any(kind == "SumPool2d" for _, kind, _ in nodes) else None
    return None
