"""Networks: blocks of connection and neuron, one after the other, and a readout."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ottt_loihi.errors import UsageError
from ottt_loihi.layers import Block, BlockState, Linear, Readout, SynapseState
from ottt_loihi.neurons import LIF, one_of
from ottt_loihi.paths import BPTT, CONVENTIONS, Paths
from ottt_loihi.surrogates import Surrogate, describe, make_surrogate


class NetworkState(NamedTuple):
    """The state of every block and of the readout after a step."""

    blocks: tuple[BlockState, ...]
    readout: SynapseState


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

    ============  ======================  =========================================================================
    attribute     type                    meaning
    ============  ======================  =========================================================================
    blocks        ModuleList of Block     ``.synapse.weight``, ``.synapse.bias``, ``.neuron.decay`` …
    readout       :class:`Readout`        ``o[t] = W·s[t] + b``
    input_shape   tuple of int            one frame of the input
    time_steps    int ≥ 1                 T the network is trained with; it can be run for any number of steps
    convention    str                     ``"paper"`` or ``"authors"``: how ties and gradients are treated
    architecture  dict of JSON values     name and arguments that :func:`build` makes the same network from
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
        self.input_shape = _sizes(input_shape, "input_shape", 1)
        (self.time_steps,) = _sizes((time_steps,), "time_steps", 1)
        self.convention = one_of(convention, "convention", CONVENTIONS)
        self.architecture = dict(architecture or {})
        self.provenance: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """Number of outputs."""
        return self.readout.out_features

    def step(self, x: Tensor, state: NetworkState | None = None, paths: Paths = BPTT) -> tuple[Tensor, NetworkState]:
        """One time step, a function of its arguments: ``(o[t], state)``.

        x: ``(batch, *input_shape)`` of the weights' dtype and device · state: what the previous step gave, None at rest
        · paths: what the gradient may use of the past (BPTT by default; a rule passes its own).
        """
        blocks = []
        before = state.blocks if state is not None else (None,) * len(self.blocks)
        for index, (block, block_state) in enumerate(zip(self.blocks, before, strict=True)):
            x, block_state = block(x, block_state, paths, first=index == 0)
            blocks.append(block_state)
        o, readout = self.readout(
            x,
            None if state is None else state.readout,
            decay=self.blocks[-1].neuron.decay if paths.readout_trace and len(self.blocks) else 0.0,
            traced=paths.readout_trace,
        )
        return o, NetworkState(tuple(blocks), readout)

    def forward(self, x: Tensor) -> Tensor:
        """Scores Σ_t o[t], ``(batch, classes)``, of spikes ``(batch, T, *input_shape)``; differentiable (BPTT)."""
        return self.run(x).scores

    def run(self, x: Tensor, record: Iterable[str] = (), paths: Paths = BPTT) -> Run:
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
        scores, state = x.new_zeros(len(x), self.num_classes), None
        for t in range(x.shape[1]):
            o, state = self.step(x[:, t], state, paths)
            scores = scores + o
            for name, per_block in kept.items():
                now = (o,) if name == "o" else (getattr(block, name) for block in state.blocks)
                for history, value in zip(per_block, now, strict=True):
                    history.append(value)
        return Run(scores, {name: [torch.stack(history) for history in per_block] for name, per_block in kept.items()})

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """int64 ``(batch,)``: the predicted classes of a spike train ``(batch, T, *input_shape)``."""
        return self.run(x).predictions

    def check_input(self, x: Tensor) -> Tensor:
        """``x`` in the weights' dtype and on their device, or a UsageError."""
        if not isinstance(x, Tensor):
            x = torch.as_tensor(x)
        if x.ndim != 2 + len(self.input_shape) or tuple(x.shape[2:]) != self.input_shape or 0 in x.shape:
            expected = ", ".join(("batch", "time steps", *map(str, self.input_shape)))
            raise UsageError(f"input: expected shape ({expected}), got {tuple(x.shape)}")
        if x.is_complex() or (x.is_floating_point() and not torch.isfinite(x).all()):
            raise UsageError("input: expected finite real numbers, got NaN, infinity or complex ones")
        return x.to(self.readout.weight)


def mlp(
    sizes: Sequence[int] = (64, 128, 10),
    *,
    decay: float = 0.5,
    v_threshold: float = 1.0,
    reset: str = "subtract",
    bias: bool = False,
    surrogate: str | Mapping[str, Any] | Surrogate = "rectangle",
    convention: str = "paper",
    time_steps: int = 6,
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> Network:
    """Fully connected layers of LIF neurons and a readout.

    Parameters
    ----------
    sizes
        inputs, hidden layers …, classes; ``(64, 10)`` is a readout alone
    decay, v_threshold, reset, surrogate
        of all neurons (:class:`~ottt_loihi.neurons.LIF`)
    bias
        of all layers, the readout's too
    input_shape
        shape of one frame, as many elements as ``sizes[0]``; default ``(sizes[0],)``
    seed
        of the initial weights; torch's global generator is neither used nor moved

    Raises
    ------
    UsageError
        for any value out of range
    """
    sizes = _sizes(sizes, "sizes", 2)
    input_shape = (sizes[0],) if input_shape is None else _sizes(input_shape, "input_shape", 1)
    if math.prod(input_shape) != sizes[0]:
        raise UsageError(
            f"input_shape: {input_shape} is {math.prod(input_shape)} elements, but sizes begin with {sizes[0]}"
        )
    arguments: dict[str, Any] = {
        "sizes": list(sizes),
        "decay": decay,
        "v_threshold": v_threshold,
        "reset": reset,
        "bias": bool(bias),
        "surrogate": describe(make_surrogate(surrogate)),
        "convention": convention,
        "time_steps": time_steps,
        "input_shape": list(input_shape),
    }
    neuron = {key: arguments[key] for key in ("decay", "v_threshold", "reset", "surrogate", "convention")}
    generator = _generator(seed)
    return Network(
        [Block(Linear(n, m, bool(bias), generator), LIF(**neuron)) for n, m in itertools.pairwise(sizes[:-1])],
        Readout(sizes[-2], sizes[-1], bool(bias), generator),
        input_shape=input_shape,
        time_steps=time_steps,
        convention=convention,
        architecture={"name": "mlp", "arguments": arguments},
    )


ARCHITECTURES = {"mlp": mlp}


def build(architecture: Mapping[str, Any]) -> Network:
    """The network that ``net.architecture`` describes, with weights of its own (seed 0).

    Raises
    ------
    UsageError
        for an unknown name or unknown, missing or unfit arguments
    """
    name = architecture.get("name")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UsageError(f"architecture: expected one of {', '.join(ARCHITECTURES)}, got {name!r}")
    try:
        return ARCHITECTURES[name](**architecture["arguments"])
    except (TypeError, KeyError) as error:
        raise UsageError(f"architecture {name}: its arguments do not fit ({error})") from None


def _generator(seed: int) -> torch.Generator:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed: expected a non-negative integer, got {seed!r}")
    return torch.Generator("cpu").manual_seed(seed)


def _sizes(value: Any, where: str, at_least: int) -> tuple[int, ...]:
    try:
        sizes = tuple(value)
    except TypeError:
        sizes = ()
    if len(sizes) < at_least or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise UsageError(f"{where}: expected {at_least} or more positive integers, got {value!r}")
    return sizes
