"""A copy of a user's module that may be run: it remembers nothing, and its spikes are of the dtype of its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from ottt_loihi.converters.frameworks.registry import framework_of, neurons_of
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ottt_loihi.errors import UsageError, first_line


def copied(net: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy in evaluation mode on the CPU that remembers nothing.

    dtype: of its weights; None: its own, or float32 where they have 16 bits
    """
    twin = copy_of(net)
    forget(twin)
    twin = twin.to(dtype or (torch.float64 if weights_dtype(twin) == torch.float64 else torch.float32))
    for module, _ in neurons_of(twin).values():  # spikes are float32 in snnTorch and sinabs, whatever the weights are
        module.register_forward_hook(lambda _, inputs, result: _cast(result, weights_dtype(twin)))
    for part in twin.modules():
        if (own := next(part.parameters(recurse=False), None)) is not None and not _is_neuron(part):
            part.register_forward_pre_hook(lambda _, inputs, own=own: _cast(inputs, own.dtype))
    return twin


def copy_of(net: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode on the CPU, without what ``torch.compile`` made of it.

    Raises
    ------
    UsageError
        for a module that cannot be copied
    """
    memo: dict[int, Any] = {}
    try:
        for module in net.modules():  # sinabs has a way of its own, which loses what is recurrent
            for value in (*module._buffers.values(), *vars(module).values()):  # states of a call that had a gradient
                if isinstance(value, Tensor) and not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
            if hasattr(type(module), "__deepcopy__"):
                memo[id(module)] = blank = type(module).__new__(type(module))
                blank.__dict__.update(copy.deepcopy(module.__dict__, memo))
        twin = copy.deepcopy(getattr(net, "_orig_mod", net), memo).cpu().eval()
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"the module cannot be copied ({first_line(error)}); make a new one, load its weights with load_state_dict "
            "and convert it before it has run"
        ) from None
    for module in twin.modules():
        module._compiled_call_impl = None
        for name, part in module.named_children():
            if hasattr(part, "_orig_mod"):
                setattr(module, name, part._orig_mod)
    return twin


def require_weights(net: nn.Module) -> None:
    """Refuse a module whose weights are not there yet, or not finite; constants of neurons are read one by one.

    Raises
    ------
    UsageError
        with the names of all such weights
    """
    inside = tuple(f"{path}." for path in neurons_of(net) if path)
    named = [(n, v) for n, v in (*net.named_parameters(), *net.named_buffers()) if not n.startswith(inside or ("\0",))]
    empty = [name for name, value in named if nn.parameter.is_lazy(value)]
    if empty:
        raise UsageError(f"{', '.join(empty)}: lazy weights without values; run the module once on a sample before")
    wrong = [name for name, value in named if value.is_floating_point() and not bool(value.isfinite().all())]
    if wrong:
        raise UsageError(
            f"{', '.join(wrong)}: NaN or infinity; expected finite weights: load those of an earlier epoch"
        )


def _is_neuron(module: nn.Module) -> bool:
    return framework_of(module) is not None


def _cast(result: Any, dtype: torch.dtype) -> Any:
    """Return a neuron's result with its spikes in the dtype of the weights, or so a layer's inputs."""
    if isinstance(result, tuple) and not hasattr(result, "_fields") and result and isinstance(result[0], Tensor):
        return (_cast(result[0], dtype), *result[1:])
    return result.to(dtype) if isinstance(result, Tensor) and result.is_floating_point() else result


def forget(net: nn.Module) -> None:
    """Make every neuron forget the last call."""
    for module, framework in neurons_of(net).values():
        framework.reset(module)


def weights_dtype(net: nn.Module) -> torch.dtype:
    """Return the dtype of a module's weights."""
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.get_default_dtype())


@contextmanager
def making(dtype: torch.dtype) -> Iterator[None]:
    """States that a neuron makes by itself are of this dtype meanwhile, and what forward asks to be float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _Wide() if dtype == torch.float64 else nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)


class _Wide(TorchFunctionMode):
    """float64 where a forward that was written for float32 asks for that, or brings a tensor of its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        products = func.__name__.startswith(("linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "einsum", "conv"))

        def wide(value: Any) -> Any:
            if value is torch.float32:
                return torch.float64
            return value.double() if products and isinstance(value, Tensor) and value.dtype == torch.float32 else value

        func = Tensor.double if func is Tensor.float else func
        return func(*(wide(value) for value in args), **{key: wide(value) for key, value in (kwargs or {}).items()})


def first_tensor(value: Any) -> Any:
    """Return the first tensor among the arguments or results of a module."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((found for part in value if (found := first_tensor(part)) is not None), None)
    return value if isinstance(value, Tensor) else None
