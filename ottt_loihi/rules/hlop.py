"""HLOP: Hebbian learning based orthogonal projection, for tasks one after the other (Xiao et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.errors import TrainingError, UsageError
from ottt_loihi.nn.connections import Linear
from ottt_loihi.nn.network import Network

CHANGE_LIMIT = 10.0  # of an element of ΔH
LONGEST = 10.0  # of a row; an element cannot become infinite where its changes are limited
SPIKE_LIMIT = 20.0  # of y, where lateral neurons spike
SETTINGS = ("rows", "later_rows", "learning_rate", "momentum", "iterations", "spikes", "seed")


class Subspace:
    """The subspace of one connection's inputs: rows of H, learnt by lateral neurons.

    ::

        y = H·x        x̂ = Hᵀ·y                     over all rows; x: (batch, N), a presynaptic trace
        V ← m·V + (1 − m)·clamp(mean_batch y·(x − x̂)ᵀ, ±10)      H ← H + η·V       the rows after the first ``fixed``
        x ← x − H_oldᵀ·(H_old·x)                    what the weights learn from; H_old: the first ``fixed`` rows

    y·xᵀ is Hebbian, −y·x̂ᵀ anti-Hebbian: Oja's subspace rule, whose rows become an orthonormal basis of the principal
    subspace of what the fixed rows leave. With ``spikes`` = n > 0 lateral neurons fire n times at most, with a sign:
    y = (20/n)·round(n·clamp(y, ±20)/20), in all three lines.
    """

    def __init__(self, size: int, learning_rate: float, momentum: float, iterations: int, spikes: int) -> None:
        self.learning_rate, self.momentum = learning_rate, momentum
        self.iterations, self.spikes = iterations, spikes
        self.rows = torch.zeros(0, size)  # H, (k, N)
        self.velocity = self.rows  # V, (k − fixed, N)
        self.fixed = 0  # rows of earlier tasks

    def grow(self, count: int, like: Tensor, generator: torch.Generator) -> None:
        """Begin a task: draw ``count`` new rows, orthonormal to one another and to the old rows."""
        old = self.rows.to(like)
        start = torch.randn(like.shape[1], count, generator=generator, dtype=torch.float64).to(like)
        basis = torch.linalg.qr(old.t()).Q  # old rows are as orthonormal as learning has made them
        for _ in range(2):  # once more for what rounding left
            start = torch.linalg.qr(start - basis @ (basis.t() @ start)).Q
        self.rows, self.velocity = torch.cat([old, start.t()]), torch.zeros_like(start.t())

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Learn from a trace, and project it."""
        for _ in range(self.iterations if len(self.velocity) else 0):
            y = self._respond(x, self.rows)
            change = y[:, self.fixed :].t() @ (x - y @ self.rows) / len(x)
            self.velocity.mul_(self.momentum).add_(change.clamp_(-CHANGE_LIMIT, CHANGE_LIMIT), alpha=1 - self.momentum)
            self.rows[self.fixed :] += self.learning_rate * self.velocity
        return self.project(x)

    def project(self, x: Tensor) -> Tensor:
        """Return ``x − H_oldᵀ·(H_old·x)``."""
        if not self.fixed:
            return x
        old = self.rows[: self.fixed]
        return x - self._respond(x, old) @ old

    def _respond(self, x: Tensor, rows: Tensor) -> Tensor:
        y, unit = x @ rows.t(), SPIKE_LIMIT / max(self.spikes, 1)
        return torch.round(y.clamp_(-SPIKE_LIMIT, SPIKE_LIMIT) / unit) * unit if self.spikes else y


class HLOP:
    """A :class:`Subspace` at every connection of a network, the readout's included; an option of OTTT and SLTT.

    The first task is learnt freely while its subspaces form. :meth:`end_task` keeps them. From then on no update
    changes the currents that inputs inside the subspaces cause. Biases stay as the first task left them, because their
    input is always active.

    These settings are refused, because they would undo the protection: weight decay, Adam, momentum of the previous
    task (begin each task with a new optimiser, as ``Trainer.fit`` does), learnt gains and thresholds, rounded weights,
    and all connections except fully connected, feed-forward ones.

    =============  =====================  =============================================================================
    setting        range                  meaning
    =============  =====================  =============================================================================
    rows           list of int ≥ 1        k of the first task, per connection
    later_rows     the same               of every later task; default: ``rows``
    learning_rate  > 0, or one each       η
    momentum       [0, 1)                 m
    iterations     ≥ 1                    updates of H per trace
    spikes         ≥ 0                    spikes of a lateral neuron; 0: y is a real number
    seed           ≥ 0                    of the first rows
    =============  =====================  =============================================================================

    Source: *Hebbian Learning based Orthogonal Projection for Continual Learning of Spiking Neural Networks*; clamp,
    momentum and iterations from its released code.
    """

    def __init__(
        self,
        rows: Sequence[int],
        later_rows: Sequence[int] | None = None,
        learning_rate: float | Sequence[float] = 0.01,
        momentum: float = 0.9,
        iterations: int = 5,
        spikes: int = 0,
        seed: int = 0,
    ) -> None:
        self.rows = list(checks.sizes(rows, "hlop.rows"))
        self.later_rows = self.rows if later_rows is None else list(checks.sizes(later_rows, "hlop.later_rows"))
        rates = learning_rate if isinstance(learning_rate, (list, tuple)) else [learning_rate] * len(self.rows)
        self.learning_rate = [checks.number(rate, "hlop.learning_rate", 0, above=True) for rate in rates]
        if len(self.later_rows) != len(self.rows) or len(self.learning_rate) != len(self.rows):
            raise UsageError(f"hlop: expected later_rows and learning_rate for each of {len(self.rows)} connections")
        self.momentum = checks.number(momentum, "hlop.momentum", 0, 1, below=True)
        self.iterations = checks.integer(iterations, "hlop.iterations")
        self.spikes = checks.integer(spikes, "hlop.spikes", 0)
        self.seed = checks.integer(seed, "hlop.seed", 0)
        self.subspaces: list[Subspace] = []
        self._of: dict[Linear, Subspace] = {}  # of the batch that is learnt from
        self.tasks = 0  # that have ended
        self.settled = False  # the optimiser of this task has been seen to begin without momentum

    def end_task(self) -> None:
        """Protect the subspace of this task's inputs from now on."""
        for subspace in self.subspaces:
            subspace.fixed, subspace.velocity = len(subspace.rows), subspace.velocity[:0]
        self.tasks, self.settled = self.tasks + 1, False

    @contextmanager
    def learning(self, net: Network) -> Iterator[None]:
        """Learn the subspaces of a batch, and keep biases as the first task left them.

        Raises
        ------
        UsageError
            for a network whose connections cannot be protected
        TrainingError
            where a subspace has diverged
        """
        self._prepare(net)
        kept = [c.bias for c, s in self._of.items() if s.fixed and c.bias is not None and c.bias.requires_grad]
        for bias in kept:
            bias.requires_grad_(False)
        try:
            yield
        finally:
            for bias in kept:
                bias.requires_grad_(True)
            self._of = {}
        self.check()

    def project(self, connection: Linear, trace: Tensor) -> Tensor:
        """Return the part of the trace from which the weights learn, and learn the subspace from the trace."""
        return self._of[connection](trace.flatten(1))

    def _prepare(self, net: Network) -> None:
        connections, count = _connections(net), self.later_rows if self.tasks else self.rows
        if len(connections) != len(count):
            raise UsageError(
                f"hlop.rows: expected one number for each of {len(connections)} connections, got {self.rows}"
            )
        if not self.subspaces:
            self.subspaces = [self._subspace(index, c.in_features) for index, c in enumerate(connections)]
        for index, (subspace, connection) in enumerate(zip(self.subspaces, connections)):
            inputs = connection.in_features
            if subspace.rows.shape[1] != inputs:
                raise UsageError("hlop: its subspaces are another network's; make a new rule")
            if len(subspace.rows) > subspace.fixed:
                continue  # its task has begun
            if subspace.fixed + count[index] > inputs:
                raise UsageError(
                    f"hlop: connection {index + 1} has {inputs} inputs, {subspace.fixed} directions are taken and task "
                    f"{self.tasks + 1} wants {count[index]} more; ask for fewer rows"
                )
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.tasks * 1009 + index)
            subspace.grow(count[index], connection.weight.detach(), generator)
        self._of = dict(zip(connections, self.subspaces))

    def check(self) -> None:
        """TrainingError where a subspace has diverged: rows that converge get no longer than about 1."""
        for index, subspace in enumerate(self.subspaces):
            if not bool((subspace.rows.norm(dim=1) < LONGEST).all()):
                raise TrainingError(
                    f"hlop: the subspace of connection {index + 1} has diverged; lower its learning rate "
                    f"({self.learning_rate[index]:g})"
                )

    def describe(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {name: getattr(self, name) for name in SETTINGS}

    def tensors(self) -> dict[str, Tensor]:
        """Return the state for a resumed run."""
        numbers = [float(self.tasks), float(self.settled), *(float(s.fixed) for s in self.subspaces)]
        kept = {"hlop.numbers": torch.tensor(numbers, dtype=torch.float64)}
        for index, subspace in enumerate(self.subspaces):
            kept |= {f"hlop.{index}.rows": subspace.rows, f"hlop.{index}.velocity": subspace.velocity}
        return kept

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the state to :meth:`tensors` of an earlier run. Raises ValueError if they do not fit these settings."""
        numbers = tensors.get("hlop.numbers", torch.zeros(0)).tolist()
        fixed = [int(n) for n in numbers[2:]]
        names = {f"hlop.{index}.{part}" for index in range(len(fixed)) for part in ("rows", "velocity")}
        if len(numbers) < 2 or len(fixed) not in (0, len(self.rows)) or set(tensors) != names | {"hlop.numbers"}:
            raise ValueError(f"hlop: its subspaces are damaged, found {', '.join(tensors) or 'none'}")
        self.tasks, self.settled, self.subspaces = int(numbers[0]), bool(numbers[1]), []
        for index, count in enumerate(fixed):
            rows, velocity = tensors[f"hlop.{index}.rows"], tensors[f"hlop.{index}.velocity"]
            fits = rows.ndim == 2 and velocity.shape == (len(rows) - count, rows.shape[1]) and count >= 0
            if not fits or not (torch.isfinite(rows).all() and torch.isfinite(velocity).all()):
                raise ValueError(f"hlop.{index}: damaged rows {tuple(rows.shape)}, {count} of them fixed")
            found = self._subspace(index, rows.shape[1])
            found.rows, found.velocity, found.fixed = rows.clone(), velocity.clone(), count
            self.subspaces.append(found)

    def _subspace(self, index: int, size: int) -> Subspace:
        return Subspace(size, self.learning_rate[index], self.momentum, self.iterations, self.spikes)

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse an optimiser whose steps leave the subspaces."""
        if type(optimizer) is not torch.optim.SGD:
            raise UsageError(
                f"hlop: expected the optimiser sgd, got {type(optimizer).__name__.lower()}, whose steps leave the "
                "subspace that the gradients are in"
            )
        if any(group["weight_decay"] for group in optimizer.param_groups):
            raise UsageError("hlop: expected no weight decay, which changes what earlier tasks learnt; set it to 0")
        buffers = (state.get("momentum_buffer") for state in optimizer.state.values())
        if self.tasks and not self.settled and any(b is not None and bool(b.any()) for b in buffers):
            raise UsageError("hlop: the optimiser carries momentum of the task before; begin each with a new one")
        self.settled = True


def _connections(net: Network) -> list[Linear]:
    """The connections, or a UsageError that names what HLOP cannot protect."""
    if not isinstance(net, Network):
        raise UsageError(f"hlop: expected a Network of blocks, got {type(net).__name__}; leave hlop out")
    if any(len(block.branches) or block.skip is not None for block in net.blocks):
        raise UsageError("hlop: expected a row of layers without branches and skips")
    connections = list(net.connections())
    for index, connection in enumerate(connections):
        place = f"hlop: connection {index + 1}"
        if not isinstance(connection, Linear) or connection.pool is not None:
            raise UsageError(f"{place}: expected a fully connected one without pooling, got {connection}")
        if connection.gain is not None or connection.skip_gain is not None:
            raise UsageError(f"{place}: has a learned gain, which changes every response; leave standardisation out")
        if connection.binary is not None or connection.weight_bits is not None:
            raise UsageError(f"{place}: has rounded weights, whose changes leave the subspace; train with real ones")
    known = {id(p) for connection in connections for p in connection.parameters()}
    for name, parameter in net.named_parameters():
        if id(parameter) not in known and parameter.requires_grad:
            raise UsageError(f"hlop: {name} is learned and changes every response; freeze it (requires_grad = False)")
    return connections


def make_hlop(settings: HLOP | Mapping[str, Any] | None) -> HLOP | None:
    """HLOP from its settings (a table ``[rule.hlop]``), itself, or nothing."""
    if settings is None or isinstance(settings, HLOP):
        return settings
    if not isinstance(settings, Mapping):
        raise UsageError(f"hlop: expected a table of settings, got {settings!r}")
    try:
        return HLOP(**settings)
    except TypeError:
        raise UsageError(
            f"hlop: expected rows, and of {', '.join(SETTINGS[1:])} what differs from the default; "
            f"got {', '.join(settings) or 'nothing'}"
        ) from None
