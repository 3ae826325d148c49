"""A user's ``forward``: its arguments, its calls, and how often its neurons run in a step."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from ottt_loihi.converters.frameworks.neurons import Framework
from ottt_loihi.converters.frameworks.registry import neurons_of
from torch import Tensor, nn

from ottt_loihi.errors import UsageError


def wants_sequences(neurons: Mapping[str, tuple[nn.Module, Framework]]) -> str | None:
    """Return the form of sequences that some layers take; None: all take one step."""
    named = [framework.steps(module) for module, framework in neurons.values()]
    return next((form for form in named if form), None)


def require_one_argument(net: nn.Module) -> None:
    """Refuse a module that needs more than its input."""
    parameters = _parameters(net)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1 or not positional:
        raise UsageError(
            f"{type(net).__name__}.forward takes {', '.join(needed) or 'nothing'}; expected one input: give the others "
            "defaults, or wrap it in a module that takes one"
        )


def _parameters(net: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(net.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def states_of(net: nn.Module) -> int:
    """Return how many states a call takes behind its input, and returns behind its output, by their names."""
    others = [p for p in _parameters(net)[1:] if p.kind is p.POSITIONAL_OR_KEYWORD]
    return len(others) if all(p.name.startswith(("state", "hidden", "mem", "syn")) for p in others) else 0


def runs_twice(
    net: nn.Module,
    counts: Mapping[str, int],
    neurons: Mapping[str, tuple[nn.Module, Framework]],
    form: str,
    steps: int,
) -> str:
    """Return why some neurons have no state of a layer of ours; empty: they run once in a step.

    counts: path → how often they ran
    """
    nearest = "and have one state; the nearest is a layer of neurons for each place"
    if form in ("time first", "batch first") and wants_sequences(neurons):
        single = [p for p, n in counts.items() if n != steps and neurons[p][1].steps(neurons[p][0]) is None]
        if not single:
            return ""
        return (
            f"{', '.join(single)}: these neurons take one step, and ran once for a sequence; the nearest is their form "
            "for sequences (norse's LIF for LIFCell, SpikingJelly's step_mode='m')"
        )
    least, most = min(counts.values()), max(counts.values())
    if least != most:
        shared = ", ".join(path for path, n in counts.items() if n == most)
        return f"{shared}: these neurons run {most // least} times where others run once, {nearest}"
    places = defaultdict(list)
    for path, module in net.named_modules(remove_duplicate=False):
        places[id(module)].append(path)
    several = [paths for path in neurons if len(paths := places[id(neurons[path][0])]) > 1]
    if several and form == "step" and most > steps:
        return f"{', '.join(several[0])}: the same neurons at several places, {nearest}"
    return ""


def require_each_step(calls: int, steps: int) -> None:
    """Refuse neurons that take one step at a time and ran another number of times."""
    if calls != steps:
        raise UsageError(
            f"its neurons ran {calls} times for {steps} steps; they take one step at a time. If forward always takes "
            f"{calls} steps, give num_steps={calls} (ottt-export: --time-steps {calls})"
        )


def takes_time_last(net: nn.Module, shape: Sequence[int], steps: int) -> bool:
    """Return whether a module runs on sequences whose last axis is time, its neurons once a step.

    net: a copy, which is not used again
    """
    neurons = neurons_of(net)
    counts = dict.fromkeys(neurons, 0)
    for path, (module, framework) in neurons.items():

        def count(*_: Any, path: str = path) -> None:
            counts[path] += 1

        framework.reset(module)
        module.register_forward_hook(count)
    x = torch.zeros(2, *shape, steps, dtype=next((p.dtype for p in net.parameters()), None))
    try:
        with torch.no_grad():
            net(x)
    except (Exception, SystemExit):  # user code raises anything
        return False
    return set(counts.values()) == {steps}


def call(net: nn.Module, form: str, x: Tensor, seen: Callable[[Tensor], None] = lambda frame: None) -> Iterator[Any]:
    """Yield what a module returns for spikes ``(samples, T, *shape)``: once, or in the form ``"step"`` once a step.

    seen: is called with every input before it goes in
    """
    state: tuple[Any, ...] = ()
    states = states_of(net)
    for framework in {framework.name: framework for _, framework in neurons_of(net).values()}.values():
        framework.batch(net, len(x))
    x = x.clone()  # forward may change its input in place
    for frame in x.unbind(1) if form == "step" else (_in_one_call(form, x),):
        seen(frame)
        with torch.no_grad():
            result = net(frame, *state)
        state = result[1:] if states and isinstance(result, tuple) and len(result) == 1 + states else ()
        yield result


def _in_one_call(form: str, x: Tensor) -> Tensor:
    if form == "constant":
        return x[:, 0]
    if form == "time first":
        return x.transpose(0, 1)
    return x.flatten(0, 1) if form == "squeezed" else x
