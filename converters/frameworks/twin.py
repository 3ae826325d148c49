"""A copy of a user's module that may be run: it remembers nothing, and its spikes are of the dtype of its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from ottt_loihi.converters.frameworks.registry import neurons_of
from torch import Tensor, nn

from ottt_loihi.errors import UsageError


def copied(net: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy in evaluation mode on the CPU that remembers nothing; ``dtype``: of its weights."""
    memo: dict[int, Any] = {}
    try:
        for module in net.modules():  # sinabs has a way of its own, which loses what is recurrent
            for value in (*module._buffers.values(), *vars(module).values()):  # states of a call that had a gradient
                if isinstance(value, Tensor) and not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
            if hasattr(type(module), "__deepcopy__"):
                memo[id(module)] = blank = type(module).__new__(type(module))
                blank.__dict__.update(copy.deepcopy(module.__dict__, memo))
        twin = copy.deepcopy(net, memo).cpu().eval()
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"the module cannot be copied ({first_line(error)}); make a new one, load its weights with load_state_dict "
            "and convert it before it has run"
        ) from None
    forget(twin)
    twin = twin if dtype is None else twin.to(dtype)
    for module, _ in neurons_of(twin).values():  # spikes are float32 in snnTorch and sinabs, whatever the weights are
        module.register_forward_hook(lambda _, inputs, result: _cast(result, weights_dtype(twin)))
        for part in module.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                part.register_forward_pre_hook(lambda part, inputs: _cast(inputs, part.weight.dtype))
    return twin


def _cast(result: Any, dtype: torch.dtype) -> Any:
    """Return a neuron's result with its spikes in the dtype of the weights."""
    if isinstance(result, tuple) and not hasattr(result, "_fields") and result and isinstance(result[0], Tensor):
        return (result[0].to(dtype), *result[1:])
    return result.to(dtype) if isinstance(result, Tensor) else result


def forget(net: nn.Module) -> None:
    """Make every neuron forget the last call."""
    for module, framework in neurons_of(net).values():
        framework.reset(module)


def weights_dtype(net: nn.Module) -> torch.dtype:
    """Return the dtype of a module's weights."""
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.get_default_dtype())


@contextmanager
def making(dtype: torch.dtype) -> Iterator[None]:
    """States that a neuron makes by itself are of this dtype meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def first_tensor(value: Any) -> Any:
    """Return the first tensor among the arguments or results of a module."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((found for part in value if (found := first_tensor(part)) is not None), None)
    return value if isinstance(value, Tensor) else None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
