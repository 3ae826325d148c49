"""Any ``torch.nn.Module`` of layers and neurons, one time step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import checked_step, learning_current, require_neuron
from ottt_loihi.nn.inputs import Input, check_input, check_labels, frames
from ottt_loihi.nn.network import evaluating, without_graph
from ottt_loihi.nn.neurons import LIFStep, Neuron, Trace
from ottt_loihi.nn.paths import BPTT, GradientPaths
from ottt_loihi.nn.trace import require_affine


class ModuleState(NamedTuple):
    """After a step."""

    steps: Mapping[nn.Module, LIFStep]  # of every layer of neurons, in the order in which ``Stepwise`` lists them
    # of every parameterised layer's input; the input itself after the first step, and where no gradient uses a trace
    traces: Mapping[nn.Module, Trace | Tensor]
    feeds: Mapping[nn.Module, Neuron]  # the neurons that a parameterised layer feeds; a readout feeds none

    @property
    def blocks(self) -> tuple[LIFStep, ...]:
        """Return the steps, as the states of a network's blocks."""
        return tuple(self.steps.values())


class Stepwise:
    """A module whose neurons keep their state between time steps, and whose layers learn from traces.

    ::

        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), LIF(), nn.Linear(128, 10))
        OTTT(update="sequence").backward(net, x, labels, SquaredError())       # wraps the module by itself
        scores = Stepwise(net).run(x)

    Each time step runs the module once, on one frame; within it, neurons return their spikes. A layer with parameters
    (``nn.Linear``, ``nn.Conv2d`` …, or any module that is affine in its input) feeds the neurons that run next after
    it, and its trace decays with their ``beta``; without neurons after it, it is a readout. Each of these layers and
    each layer of neurons runs once per time step.

    UsageError for a module without neurons, or with layers that are not affine in their input (normalisation,
    recurrent cells), max pooling or transposed convolutions.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.neurons = [part for part in module.modules() if isinstance(part, Neuron)]
        inside = {id(part) for neuron in self.neurons for part in neuron.modules()}
        self.layers = [part for part in module.modules() if id(part) not in inside and _has_parameters(part)]
        if not self.neurons:
            raise UsageError(f"{type(module).__name__}: expected layers of neurons (LIF, or a Neuron), found none")
        for part in module.modules():
            if id(part) not in inside:
                require_affine(part, part in self.layers)
        for neuron in self.neurons:
            if getattr(neuron, "trace", "") == "synapse":
                raise UsageError(
                    f"{type(neuron).__name__}: trace='synapse' has no form for modules; use a Network of blocks, or "
                    "trace='mean'"
                )
            require_neuron(neuron)
        if not self.layers:
            raise UsageError(f"{type(module).__name__}: expected layers with parameters, such as Linear, found none")
        self.num_classes = 0
        conventions = {getattr(neuron, "convention", "paper") for neuron in self.neurons}
        if len(conventions) > 1:
            raise UsageError("expected one convention for all neurons, got paper and authors")
        self.convention = conventions.pop()

    def step(
        self, x: Tensor, state: ModuleState | None = None, paths: GradientPaths = BPTT
    ) -> tuple[Tensor, ModuleState]:
        """Return ``(o[t], state)`` of one time step, as ``Network.step``; x: ``(batch, *input_shape)``."""
        if state is not None and not paths.membrane:
            state = without_graph(state)
        run = _Run(self, state, paths)
        with run.hooks():
            o = self.module(x)
        return o, run.state()

    def run(self, x: Any, paths: GradientPaths = BPTT) -> Tensor:
        """Return the scores Σ_t o[t], ``(batch, classes)``, of an input ``(batch, T, …)``."""
        state, scores = None, 0
        for frame in frames(self.check_input(x)):
            o, state = self.step(frame, state, paths)
            scores = scores + o
        return scores

    @torch.no_grad()
    def predict(self, x: Any) -> Tensor:
        """Return the predicted classes, int64 ``(batch,)``; nothing is dropped."""
        with evaluating(self.module):
            return self.run(x).argmax(1)

    def check_input(self, x: Any) -> Input:
        """Return x ``(batch, T, …)`` in the parameters' dtype and on their device; the module must take its frames."""
        like = next(self.module.parameters())
        x = check_input(x, tuple(getattr(x, "shape", ())[2:]), like)
        with torch.no_grad(), evaluating(self.module):
            o, _ = self.step(next(frames(x))[:1])
        if not isinstance(o, Tensor) or o.ndim != 2:
            found = tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__
            raise UsageError(f"{type(self.module).__name__}: expected an output (batch, classes), got {found}")
        self.num_classes = o.shape[1]
        return x

    def check_labels(self, labels: Any, samples: int) -> Tensor:
        """Return labels as int64 on the parameters' device; after :meth:`check_input`."""
        return check_labels(labels, samples, self.num_classes, next(self.module.parameters()).device)


class _Run:
    """The hooks of one time step, which give modules their state and collect the next one."""

    def __init__(self, net: Stepwise, before: ModuleState | None, paths: GradientPaths) -> None:
        self.net, self.before, self.paths = net, before, paths
        self.steps: dict[nn.Module, LIFStep] = {}
        self.traces: dict[nn.Module, Any] = {}
        self.feeds: dict[nn.Module, Neuron] = {}
        self.waiting: list[nn.Module] = []  # layers that have run since the last neurons
        self.inside = False  # of learning_current, which runs a layer again

    @contextmanager
    def hooks(self) -> Iterator[None]:
        handles = [neuron.register_forward_pre_hook(self._charge) for neuron in self.net.neurons]
        handles += [neuron.register_forward_hook(self._fire) for neuron in self.net.neurons]
        handles += [layer.register_forward_hook(self._learn) for layer in self.net.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def state(self) -> ModuleState:
        for part in (*self.net.neurons, *self.net.layers):
            if part not in self.steps and part not in self.traces:
                name = type(part).__name__
                raise UsageError(f"{name}: did not run in this time step; every layer must run once in each")
        return ModuleState({neuron: self.steps[neuron] for neuron in self.net.neurons}, self.traces, self.feeds)

    def _charge(self, neuron: Neuron, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if neuron in self.steps:
            raise UsageError(f"{type(neuron).__name__}: runs twice in a time step; give each layer its own neurons")
        self.feeds |= dict.fromkeys(self.waiting, neuron)
        self.waiting.clear()
        _require_positional(neuron, args)
        if self.before is None:
            return args[0], None, self.paths
        before = self.before.steps[neuron]
        return args[0], before.v, self.paths, *before[3:]

    def _fire(self, neuron: Neuron, args: tuple[Any, ...], step: LIFStep) -> Tensor:
        checked_step(step, args[0], neuron)
        self.steps[neuron] = step
        return step.s

    def _learn(self, layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
        if self.inside:
            return None
        if layer in self.traces:
            raise UsageError(f"{type(layer).__name__}: runs twice in a time step; its trace would mix two inputs")
        _require_positional(layer, args)
        first, x = not self.traces, args[0]
        self.waiting.append(layer)
        self.traces[layer] = x.detach()
        if self.before is None:  # which neurons it feeds is not known yet, and all traces of a first step are the input
            return None
        paths, readout = self.paths, layer not in self.before.feeds
        if readout:
            paths = replace(paths, trace=paths.readout_trace, bias_trace=False)
        elif first:
            paths = replace(paths, trace=paths.input_trace)
        if not paths.trace and not paths.bias_trace:
            return None
        ran = [neuron for neuron in self.net.neurons if neuron in self.steps] or self.net.neurons
        neuron = ran[-1] if readout else self.before.feeds[layer]
        before = self.before.traces[layer]
        before = neuron.follow(before, None) if isinstance(before, Tensor) else before
        self.inside = True
        try:
            current, self.traces[layer] = learning_current(layer, x, before, neuron, paths)
            return current
        finally:
            self.inside = False


def _require_positional(part: nn.Module, args: tuple[Any, ...]) -> None:
    if not args:
        raise UsageError(f"{type(part).__name__}: expected its input as the first argument, without a name")


def _has_parameters(module: nn.Module) -> bool:
    """Whether a module holds parameters itself, and not only its children; parametrised ones count."""
    if isinstance(module, parametrize.ParametrizationList):
        return False
    return parametrize.is_parametrized(module) or any(True for _ in module.parameters(recurse=False))
