"""A network: blocks of connections and neurons, one after the other, and a readout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block, BlockState, Late, arriving, remembered
from ottt_loihi.nn.connections import Connection, ConnectionState, Readout, pooled_shape
from ottt_loihi.nn.folding import Folded
from ottt_loihi.nn.inputs import ConstantInput, Input, check_input, frames
from ottt_loihi.nn.neurons import has_kernels
from ottt_loihi.nn.paths import BPTT, CONVENTIONS, GradientPaths


class NetworkState(NamedTuple):
    """The state of every block and of the readout after a step; ``late`` for connections that take longer than one."""

    blocks: tuple[BlockState, ...]
    readout: ConnectionState
    late: Late = {}  # noqa: RUF012 - never changed


@dataclass(frozen=True)
class Run:
    """What :meth:`Network.run` gives back.

    scores: Σ_t o[t], ``(batch, classes)`` · states: for each recorded variable one tensor
    ``(T, batch, *block's shape)`` per block (``"s"`` spikes, ``"u"`` membrane before the reset, ``"v"`` after it), and
    for ``"o"`` a list of one, ``(T, batch, classes)``.
    """

    scores: Tensor
    states: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def predictions(self) -> Tensor:
        """int64 ``(batch,)``: the class with the highest score."""
        return self.scores.argmax(dim=1)


class Network(nn.Module):
    """Blocks in a row, then a memoryless readout; all layers see the same time step t (no delay between them).

    A branch with a delay carries the spikes of so many steps before; the first steps find none.

    ============  ======================  =========================================================================
    attribute     type                    meaning
    ============  ======================  =========================================================================
    blocks        ModuleList of Block     ``.connection.weight``, ``.connection.bias``, ``.neuron.beta`` …
    readout       :class:`Readout`        ``o[t] = W·s[t] + b``
    input_shape   tuple of int            one frame of the input
    time_steps    int ≥ 1                 T the network is trained with; it can be run for any number of steps
    convention    str                     ``"paper"`` or ``"authors"``: how ties and gradients are treated
    architecture  dict of JSON values     name and arguments that ``architectures.build`` makes the same network from
    provenance    dict of JSON values     how the weights came about (versions, seed, training settings)
    ============  ======================  =========================================================================
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        readout: Readout,
        *,
        input_shape: Sequence[int],
        time_steps: int,
        convention: str = "paper",
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.readout = readout
        self.input_shape = checks.sizes(input_shape, "input_shape", 1)
        (self.time_steps,) = checks.sizes((time_steps,), "time_steps", 1)
        self.convention = checks.one_of(convention, "convention", CONVENTIONS)
        self.architecture = dict(architecture or {})
        self.provenance: dict[str, Any] = {}
        self._check_shapes()

    @property
    def num_classes(self) -> int:
        """Number of outputs."""
        return self.readout.out_features

    def connections(self) -> Iterator[Connection]:
        """Every connection, the readout last."""
        for block in self.blocks:
            yield from block.connections
        yield self.readout

    def quantize(self, weight_bits: int | None) -> None:
        """Compute with weights of so many bits, 2 … 8, as the chip has them; None: with the real ones again."""
        if weight_bits is not None:
            checks.integer(weight_bits, "weight_bits", 2, 8)
        for connection in self.connections():
            connection.weight_bits = weight_bits
        self.provenance.pop("weight_bits", None)
        if weight_bits is not None:
            self.provenance["weight_bits"] = weight_bits

    def fan_out(self) -> list[float]:
        """Synapses that a spike reaches, on average: of the input first, then of every block."""
        shapes = [self.input_shape, *(block.shape for block in self.blocks)]
        fan_out = [0.0] * len(shapes)
        for index, block in enumerate(self.blocks):
            sources = [index, *(branch.source + 1 for branch in block.branches)]
            for source, connection in zip(sources, block.connections, strict=True):
                pixels = math.prod(pooled_shape(shapes[source], connection.pool))
                fan_out[source] += math.prod(block.shape) * connection.fan_in / pixels
        fan_out[-1] += self.num_classes * self.readout.fan_in / math.prod(pooled_shape(shapes[-1], self.readout.pool))
        return fan_out

    def fold(
        self,
        x: Input | None = None,
        *,
        leaves: bool = False,
        paths: GradientPaths = BPTT,
        projections: Mapping[Connection, Any] | None = None,
    ) -> Folded:
        """What steps share until a parameter changes (:mod:`ottt_loihi.nn.folding`); x: input ``(batch, T, …)``."""
        frame = x.frame if isinstance(x, ConstantInput) else None
        return Folded(self, frame, leaves, paths, projections)

    def step(
        self, x: Tensor, state: NetworkState | None = None, paths: GradientPaths = BPTT, folded: Folded | None = None
    ) -> tuple[Tensor, NetworkState]:
        """One time step, a function of its arguments: ``(o[t], state)``.

        x: ``(batch, *input_shape)`` of the weights' dtype and device · state: what the previous step gave, None at rest
        · paths: what the gradient may use of the past (BPTT by default; a rule passes its own) · folded: of
        :meth:`fold`, where several steps share the weights.
        """
        folded = self.fold() if folded is None else folded
        blocks: list[BlockState] = []
        currents: list[Tensor] = []
        late = {} if state is None else remembered(self.delays, _last(state), state.late)
        out = x
        for index, block in enumerate(self.blocks):
            before = None if state is None else state.blocks[index]
            inputs = [out, *self._branch_inputs(block, blocks, state, x, paths)]
            first = folded.first_current if index == 0 and folded.first is not None else None
            current, connections = block.charge(inputs, before, paths, index == 0, folded, first)
            if block.skip is not None:
                current = torch.add(current, currents[block.skip.source], alpha=block.skip.factor)
            if folded.lean and block.neuron.lean and has_kernels(current):
                keep = first is not None or index in self.skip_sources
                blocks.append(block.fire_lean(current, connections, before, keep))
            else:
                blocks.append(block.fire(current, connections, before, paths))
            currents.append(current)
            out = blocks[-1].out
        o, readout = self.readout(
            out,
            None if state is None else state.readout,
            beta=self.blocks[-1].neuron.beta if paths.readout_trace and len(self.blocks) else 0.0,
            traced=paths.readout_trace,
            weights=folded[self.readout],
        )
        return o, NetworkState(tuple(blocks), readout, late)

    def _branch_inputs(
        self, block: Block, blocks: list[BlockState], state: NetworkState | None, x: Tensor, paths: GradientPaths
    ) -> Iterator[Tensor]:
        for branch in block.branches:
            source, delay = branch.source, branch.delay
            if not delay:
                yield blocks[source].out
                continue
            before = None if state is None else arriving(source, delay, _last(state), state.late)
            if before is None:
                yield x.new_zeros(len(x), *self.blocks[source].shape)
            else:
                yield before if paths.membrane else before.detach()

    def _check_shapes(self) -> None:
        """Set every block's shape, and refuse connections that do not fit."""
        shape = self.input_shape
        for index, block in enumerate(self.blocks):
            shape = _fitting(block.connection, shape, f"block {index + 1}")
            if block.skip is not None and not 0 <= block.skip.source < index:
                raise UsageError(f"block {index + 1}: its skip must come from a block before it, got {block.skip}")
            if block.skip is not None and self.blocks[block.skip.source].shape != shape:
                raise UsageError(f"block {index + 1}: {shape} neurons, but its skip has another shape: {block.skip}")
            block.shape = shape
        self.skip_sources = {block.skip.source for block in self.blocks if block.skip is not None}
        self.delays: dict[int, int] = {}  # the longest from each block
        for index, block in enumerate(self.blocks):
            for branch in block.branches:
                if isinstance(branch.delay, bool) or not isinstance(branch.delay, int) or not 0 <= branch.delay <= 62:
                    raise UsageError(f"block {index + 1}: a branch with a delay of {branch.delay!r}, expected 0 … 62")
                self.delays[branch.source] = max(branch.delay, self.delays.get(branch.source, 0))
                end = len(self.blocks) if branch.delay else index
                if not 0 <= branch.source < end:
                    raise UsageError(f"block {index + 1}: a branch from block {branch.source + 1}, expected 1 … {end}")
                found = _fitting(branch.connection, self.blocks[branch.source].shape, f"block {index + 1}, branch")
                if found != block.shape:
                    raise UsageError(f"block {index + 1}: {block.shape} neurons, but a branch gives {found}")
        _fitting(self.readout, shape, "readout")

    def forward(self, x: Input) -> Tensor:
        """Scores Σ_t o[t], ``(batch, classes)``, of spikes ``(batch, T, *input_shape)``; differentiable (BPTT)."""
        return self.run(x).scores

    def run(self, x: Input, record: Iterable[str] = (), paths: GradientPaths = BPTT) -> Run:
        """Run all steps from rest.

        Parameters
        ----------
        x
            ``(batch, T, *input_shape)``, any real dtype; T need not be ``time_steps``
        record
            any of ``"u"``, ``"v"``, ``"s"``, ``"o"``: what to keep of every block and step

        Raises
        ------
        UsageError
            for a wrong shape, NaN or an unknown variable
        """
        x = self.check_input(x)
        record = tuple(record)
        if unknown := sorted(set(record) - set("uvso")):
            raise UsageError(f"record: expected any of 'u', 'v', 's', 'o', got {unknown}")
        kept: dict[str, list[list[Tensor]]] = {n: [[] for _ in self.blocks] if n != "o" else [[]] for n in record}
        state, folded = None, self.fold(x, paths=paths)
        scores = self.readout.weight.new_zeros(len(x), self.num_classes)
        for frame in frames(x):
            o, state = self.step(frame, state, paths, folded)
            scores = scores + o
            for name, per_block in kept.items():
                now = (o,) if name == "o" else (getattr(block, name) for block in state.blocks)
                for history, value in zip(per_block, now, strict=True):
                    history.append(value)
        return Run(scores, {name: [torch.stack(history) for history in per_block] for name, per_block in kept.items()})

    @torch.no_grad()
    def predict(self, x: Input) -> Tensor:
        """int64 ``(batch,)``: the predicted classes of a spike train ``(batch, T, *input_shape)``."""
        return self.run(x).predictions

    def check_input(self, x: Any) -> Input:
        """Return ``x`` in the weights' dtype and on their device (:func:`ottt_loihi.nn.inputs.check_input`)."""
        return check_input(x, self.input_shape, self.readout.weight)


def _last(state: NetworkState) -> Callable[[int], Tensor]:
    return lambda source: state.blocks[source].out


def _fitting(connection: Connection, shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    try:
        return connection.output_shape(shape)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
