"""A batch as one CUDA graph: its operations are recorded once and repeated, instead of launched one by one.

Launching them takes small networks most of a batch's time (docs/benchmarks.md). For weights that stay as they are
during a sequence the operations are the same for every batch of one shape.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ottt_loihi.errors import UsageError
from ottt_loihi.fast.steps import OneByOne, why_not
from ottt_loihi.nn.inputs import ConstantInput, Input
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.precision import product_dtype
from ottt_loihi.rules.base import Accumulated, Rule
from ottt_loihi.rules.losses import CrossEntropy, Loss, SquaredError

WARM_UP = 3  # batches before the recording: libraries choose their algorithms and allocate then, kernels are compiled
KEPT = 4  # recordings: a batch, an epoch's last and smaller batch, and others


class GraphedRule(Rule):
    """``rule``, with the gradients of a batch from a CUDA graph: the same ones, faster where launches took longest.

    For OTTT, SLTT and SAF-E with ``update="sequence"``, and BPTT. Networks on a GPU, float32 or bfloat16 products. The
    memory of the recorded operations stays allocated.

    Raises
    ------
    UsageError
        for a rule whose operations differ from batch to batch
    """

    def __init__(self, rule: Rule) -> None:
        if reason := rule.why_not_captured():
            raise UsageError(f"cuda_graph: {reason}; or leave cuda_graph out")
        self.rule, self.name = rule, rule.name  # type: ignore[misc]
        # all but the gradients are the rule's own
        for name in ("check", "before_batch", "after_step", "describe", "tensors", "restore"):
            setattr(self, name, getattr(rule, name))
        self._recordings: dict[Any, _Recording] = {}

    def accumulate(self, net: Network, x: Input, labels: Tensor, loss: Loss) -> Accumulated:
        """Do :meth:`Rule.accumulate`; a batch of a new shape, loss or network is recorded first."""
        kind = product_dtype(net.readout.weight)
        _require_fitting(net, self.rule, loss, kind)
        key = _key(net, x, loss, kind)
        if key not in self._recordings:
            if len(self._recordings) == KEPT:
                self._recordings.clear()
            pool = next(iter(self._recordings.values())).graph.pool() if self._recordings else None
            engine = self.rule if why_not(net, self.rule) else OneByOne(self.rule)  # type: ignore[arg-type]
            self._recordings[key] = _record(engine, net, x, labels, loss, kind, pool)
        done = self._recordings[key].repeat(net, x, labels)
        return done._replace(scores=done.scores.clone())


class _Recording(NamedTuple):
    """A recorded batch: what it reads (``x``: one frame, where the input is constant in time) and what it writes."""

    graph: torch.cuda.CUDAGraph
    x: Tensor
    labels: Tensor
    done: Accumulated
    gradients: list[Tensor | None]

    def repeat(self, net: Network, x: Input, labels: Tensor) -> Accumulated:
        """The same with another batch; ``.grad`` becomes the recording's own, or its sum with what was there."""
        before = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
        self.x.copy_(x.frame if isinstance(x, ConstantInput) else x)
        self.labels.copy_(labels)
        self.graph.replay()
        for p, gradient, old in zip(net.parameters(), self.gradients, before, strict=True):
            p.grad = gradient if old is None else old if gradient is None else old.add_(gradient)
        return self.done


def _key(net: Network, x: Input, loss: Loss, kind: torch.dtype) -> tuple[Any, ...]:
    """Return all that is fixed in a recording: batches of one key are the same operations on the same memory."""
    bits = (connection.weight_bits for connection in net.connections())
    places = ((p.data_ptr(), p.requires_grad) for p in net.parameters())
    constants = ((repr(block.neuron), block.dropout) for block in net.blocks)
    return (x.shape, isinstance(x, ConstantInput), loss, net.training, kind, *bits, *places, *constants)


def _record(
    engine: Any, net: Network, x: Input, labels: Tensor, loss: Loss, kind: torch.dtype, pool: Any
) -> _Recording:
    """pool: of the other recordings; only one runs at a time, so they can share what they need in between."""
    device, parameters = net.readout.weight.device, list(net.parameters())
    constant, labels = isinstance(x, ConstantInput), labels.clone()
    values = (x.frame if constant else x).clone()
    recorded = ConstantInput(values, x.num_steps) if constant else values
    gradients = [p.grad for p in parameters]

    def run() -> Accumulated:
        for p in parameters:
            p.grad = None
        # what autocast keeps of one run would be read by the next one, whose weights are others
        with torch.autocast(device.type, kind, enabled=kind != net.readout.weight.dtype, cache_enabled=False):
            return engine.accumulate(net, recorded, labels, loss)

    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    with torch.cuda.device(device), torch.random.fork_rng([device]):  # as if nothing had been drawn for dropout
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph, pool=pool, stream=side):
            done = run()
    found = [p.grad for p in parameters]
    for p, before in zip(parameters, gradients, strict=True):
        p.grad = before
    return _Recording(graph, values, labels, done, found)


def why_not_recorded(rule: Rule, loss: Loss) -> str:
    """Return why a recording of one batch cannot be used for all batches; empty if it can."""
    if type(loss) not in (SquaredError, CrossEntropy):
        return "your own loss may read values on the host, and distillation changes the loss for every batch"
    return rule.why_not_captured()


def _require_fitting(net: Network, rule: Rule, loss: Loss, kind: torch.dtype) -> None:
    place = net.readout.weight.device
    if place.type != "cuda":
        raise UsageError(f"cuda_graph: is for GPUs, the network is on {place}; use training.device = 'cuda'")
    if reason := why_not_recorded(rule, loss):
        raise UsageError(f"cuda_graph: {reason}; turn cuda_graph off")
    if kind == torch.float16:
        raise UsageError("cuda_graph: float16 looks at the size of errors; use autocast = 'bfloat16'")
