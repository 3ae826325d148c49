"""A network: blocks of connections and neurons, one after the other, and a readout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block, BlockState, Sent, learning_current
from ottt_loihi.nn.connections import Connection, pooled_shape
from ottt_loihi.nn.inputs import Input, check_input, check_labels, frames
from ottt_loihi.nn.neurons import Trace
from ottt_loihi.nn.part import Part
from ottt_loihi.nn.paths import BPTT, CONVENTIONS, GradientPaths

SCORES = ("sum", "last", "max")  # of o[t]

Layer = Callable[[Block, Sequence[Tensor | None], BlockState | None, bool], tuple[Tensor, BlockState]]
"""``(block, inputs, its state before, whether only the readout is behind it) →`` its output and state."""


class NetworkState(NamedTuple):
    """The state after a step."""

    blocks: tuple[BlockState, ...]  # of every block
    readout: Trace | None  # the trace of the readout's input; None where no gradient asked for it
    sent: Sent = {}  # noqa: RUF012 - never changed


@dataclass(frozen=True)
class Run:
    """The result of :meth:`Network.run`.

    Attributes
    ----------
    scores
        Σ_t o[t], ``(batch, classes)``; o[T] or max_t o[t] where the network's ``scores`` say so
    states
        for each recorded variable one tensor ``(T, batch, *block's shape)`` per block (``"s"`` spikes, ``"u"`` membrane
        before the reset, ``"v"`` after it), and for ``"o"`` a list of one, ``(T, batch, classes)``.
    """

    scores: Tensor
    states: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def predictions(self) -> Tensor:
        """Return the class with the highest score, int64 ``(batch,)``."""
        return self.scores.argmax(dim=1)


class Network(nn.Module):
    """Blocks in a row, then a memoryless readout. All layers compute the same time step t, without delays.

    A branch with a delay of d carries the spikes of d steps earlier; in the first d steps it carries none.

    ============  ======================  =========================================================================
    attribute     type                    meaning
    ============  ======================  =========================================================================
    blocks        ModuleList of Block     ``.connection.weight``, ``.connection.bias``, ``.neuron.beta`` …
    readout       :class:`~.connections.  ``o[t] = W·s[t] + b``; ``torch.nn.Linear`` will do
                  Readout`
    input_shape   tuple of int            one frame of the input
    time_steps    int ≥ 1                 T the network is trained with; it can be run for any number of steps
    convention    str                     ``"paper"`` or ``"authors"``: how ties and gradients are treated
    scores        str                     of all o[t]: their ``"sum"``, the ``"last"`` or the largest, ``"max"``
    provenance    dict of JSON values     how the weights came about (versions, seed, training settings)
    data          DataDescription, None   what a sample is and how it becomes spikes; None: it is not known
    ============  ======================  =========================================================================
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        readout: nn.Module,
        *,
        input_shape: Sequence[int],
        time_steps: int,
        convention: str = "paper",
        scores: str = "sum",
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(checks.items(blocks, "blocks", Block))
        self.readout = checks.instance(readout, "readout", nn.Module)
        self.input_shape = checks.sizes(input_shape, "input_shape", 1)
        self.time_steps = checks.integer(time_steps, "time_steps")
        self.convention = checks.one_of(convention, "convention", CONVENTIONS)
        self.scores = checks.one_of(scores, "scores", SCORES)
        self.provenance: dict[str, Any] = {}
        self.data: Any = None
        self.check_shapes()

    @property
    def num_classes(self) -> int:
        """Return the number of outputs."""
        return self.readout.out_features

    def connections(self) -> Iterator[Any]:
        """Return every connection, the readout last."""
        for block in self.blocks:
            yield from block.connections
        yield self.readout

    def quantize(self, weight_bits: int | None) -> None:
        """Compute with weights that are rounded to 2 … 8 bits, as on the chip; None: with the real weights again."""
        if weight_bits is not None:
            checks.integer(weight_bits, "weight_bits", 2, 8)
        for connection in self.connections():
            if weight_bits is not None and not isinstance(connection, Connection):
                raise UsageError(f"quantize: {type(connection).__name__} has no rounded weights; use our Linear")
            connection.weight_bits = weight_bits
        self.provenance.pop("weight_bits", None)
        if weight_bits is not None:
            self.provenance["weight_bits"] = weight_bits

    def fan_out(self) -> list[float]:
        """Return the mean number of synapses that a spike reaches: for the input, then for every block."""
        shapes = [self.input_shape, *(block.shape for block in self.blocks)]
        fan_out = [0.0] * len(shapes)
        for index, block in enumerate(self.blocks):
            sources = [index, *(branch.source + 1 for branch in block.branches)]
            for source, connection in zip(sources, block.connections, strict=True):
                fan_out[source] += math.prod(block.shape) * _weights_per_input(connection, shapes[source])
        fan_out[-1] += self.num_classes * _weights_per_input(self.readout, shapes[-1])
        return fan_out

    def step(
        self,
        x: Tensor,
        state: NetworkState | None = None,
        paths: GradientPaths = BPTT,
        sent: Callable[[int, Tensor], Tensor] | None = None,
        layer: Layer | None = None,
    ) -> tuple[Tensor, NetworkState]:
        """Return ``(o[t], state)`` of one time step, a function of its arguments.

        Parameters
        ----------
        x
            ``(batch, *input_shape)`` of the weights' dtype and device
        state
            of the step before, None at rest
        paths
            what the gradient may use of the past; a rule passes its own
        sent
            ``(index of a block, its output) →`` the input of the connections behind it (OPZO's noise); None: the output
        layer
            takes the step of a block in its place (rules with an eligibility of their own)
        """
        if state is not None and not paths.membrane:
            state = without_graph(state)
        past = {} if state is None else state.sent
        out, blocks, outs = x, [], []
        for index, block in enumerate(self.blocks):
            inputs = [out, *self.arriving(block, outs, past, x)]
            before = None if state is None else state.blocks[index]
            if layer is None:
                stream = None if block.skip is None else block.skip.factor * blocks[block.skip.source].current
                out, after = block(inputs, before, paths, stream=stream, first=index == 0)
            else:
                out, after = layer(block, inputs, before, index == len(self.blocks) - 1)
            blocks.append(after)
            out = out if sent is None else sent(index, out)
            outs.append(out)
        o, trace = self.read(out, None if state is None else state.readout, paths)
        return o, NetworkState(tuple(blocks), trace, self.remembered(outs, past))

    def read(self, x: Tensor, before: Trace | None, paths: GradientPaths = BPTT) -> tuple[Tensor, Trace | None]:
        """Return the readout of the last block's output, and the trace of its input."""
        last = self.blocks[-1].neuron if len(self.blocks) else None
        traced = paths.readout_trace and last is not None and getattr(last, "spiking", True)
        return learning_current(self.readout, x, before, last, replace(paths, trace=traced, bias_trace=False))

    def arriving(self, block: Block, outs: Sequence[Tensor], sent: Sent, x: Tensor) -> Iterator[Tensor | None]:
        """Return the input of every branch at this step; None: the released code sends nothing yet.

        outs: of the blocks before, in this step. sent: what :meth:`remembered` returned in the step before; empty at
        rest. x: the network's input
        """
        for branch in block.branches:
            past = sent.get(branch.source, ())
            if not branch.delay:
                yield outs[branch.source]
            elif branch.delay <= len(past):
                yield past[branch.delay - 1]
            else:  # the released code adds no bias before the first spikes
                shape = self.blocks[branch.source].shape
                yield x.new_zeros(len(x), *shape) if self.convention == "paper" else None

    def remembered(self, outs: Sequence[Tensor], sent: Sent) -> Sent:
        """Return the outputs that branches will bring after this step, in which the blocks have sent ``outs``.

        Only those are kept, so memory grows with the delays and not with the number of time steps.
        """
        return {i: (outs[i], *sent.get(i, ()))[:delay] for i, delay in self.delays.items()}

    def check_shapes(self) -> None:
        """Set every block's shape, and refuse connections that do not fit."""
        shape = self.input_shape
        for index, block in enumerate(self.blocks):
            shape = fitting(block.connection, shape, f"block {index + 1}")
            if block.skip is not None and not 0 <= block.skip.source < index:
                raise UsageError(f"block {index + 1}: its skip must come from a block before it, got {block.skip}")
            if block.skip is not None and self.blocks[block.skip.source].shape != shape:
                raise UsageError(f"block {index + 1}: {shape} neurons, but its skip has another shape: {block.skip}")
            block.shape = shape
        self.delays: dict[int, int] = {}  # the longest from each block that has a branch with a delay
        for index, block in enumerate(self.blocks):
            for branch in block.branches:
                if branch.delay:
                    self.delays[branch.source] = max(branch.delay, self.delays.get(branch.source, 0))
                end = len(self.blocks) if branch.delay else index
                if not 0 <= branch.source < end:
                    raise UsageError(f"block {index + 1}: a branch from block {branch.source + 1}, expected 1 … {end}")
                found = fitting(branch.connection, self.blocks[branch.source].shape, f"block {index + 1}, branch")
                if found != block.shape:
                    raise UsageError(f"block {index + 1}: {block.shape} neurons, but a branch gives {found}")
        fitting(self.readout, shape, "readout")

    def forward(self, x: Input) -> Tensor:
        """Return the scores ``(batch, classes)`` of spikes ``(batch, T, *input_shape)``; differentiable (BPTT)."""
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
        kept: dict[str, list[list[Tensor]]] = {name: [] for name in record}  # of each step, of each block
        state, scores = None, None
        for frame in frames(x):
            o, state = self.step(frame, state, paths)
            scores = gathered(self, scores, o)
            for name, steps in kept.items():
                steps.append([o] if name == "o" else [getattr(block, name) for block in state.blocks])
        return Run(scores, {name: [torch.stack(values) for values in zip(*steps)] for name, steps in kept.items()})

    @torch.no_grad()
    def predict(self, x: Input) -> Tensor:
        """Return the predicted classes of spike trains ``(batch, T, *input_shape)``, int64 ``(batch,)``.

        No neuron is dropped, whatever mode the network is in.
        """
        with evaluating(self):
            return self.run(x).predictions

    def check_input(self, x: Any) -> Input:
        """Return ``x`` in the weights' dtype and on their device (:func:`ottt_loihi.nn.inputs.check_input`)."""
        return check_input(x, self.input_shape, self.readout.weight)

    def check_labels(self, labels: Any, samples: int) -> Tensor:
        """Return ``labels`` as int64 on the weights' device (:func:`ottt_loihi.nn.inputs.check_labels`)."""
        return check_labels(labels, samples, self.num_classes, self.readout.weight.device)


def gathered(net: nn.Module, scores: Tensor | None, o: Tensor) -> Tensor:
    """Return a network's scores after o[t], of those before it; None: it is the first step."""
    kind = getattr(net, "scores", "sum")
    if scores is None or kind == "last":
        return o
    return torch.maximum(scores, o) if kind == "max" else scores + o


def without_graph(state: Any) -> Any:
    """Return a state whose tensors are constants to autograd."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, Mapping):
        return {key: without_graph(part) for key, part in state.items()}
    if isinstance(state, tuple):
        parts = map(without_graph, state)
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Run with every module in evaluation mode, and put back the mode of each."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _weights_per_input(connection: nn.Module, shape: tuple[int, ...]) -> float:
    """Weights of one output, for each of its inputs."""
    return connection.weight[0].numel() / math.prod(pooled_shape(shape, getattr(connection, "pool", None)))


def fitting(connection: nn.Module, shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Return the shape of a connection's current; of a module of another kind by running it once on zeros."""
    try:
        if isinstance(connection, Part):
            return connection.output_shape(shape)
        like = next(connection.parameters(), torch.zeros(()))
        with torch.no_grad():
            return tuple(connection(like.new_zeros(1, *shape)).shape[1:])
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        kind, reason = type(connection).__name__, str(error).splitlines()[0]
        raise UsageError(f"{where}: {kind} does not take an input of shape {shape} ({reason})") from None
