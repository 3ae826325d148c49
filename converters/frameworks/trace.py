"""The graph of a module, found by running it for three steps: neurons, and the operations between them.

The user's ``forward`` runs as it is, on zeros. Every tensor that comes from the input or from a neuron is known by its
:class:`Node`; every torch function that makes one of it becomes another. A neuron has a node for each step, so a
connection that carries spikes of the step before shows itself: its source has the number of an earlier step. That is
also how a loop over time inside ``forward`` is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ottt_loihi.converters.frameworks.axes import first_index, from_the_end, in_place, numbers_of, reordered
from ottt_loihi.converters.frameworks.forward import (
    call,
    require_each_step,
    require_one_argument,
    runs_twice,
    takes_time_last,
    wants_sequences,
)
from ottt_loihi.converters.frameworks.neurons import Framework
from ottt_loihi.converters.frameworks.nodes import SPLITS, VIEWS, Node, at_step, mapped, one_of_several, sources, whole
from ottt_loihi.converters.frameworks.registry import FRAMEWORKS, neurons_of
from ottt_loihi.converters.frameworks.twin import first_tensor, forget, making, weights_dtype
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ottt_loihi.errors import ChipError, UsageError, first_line
from ottt_loihi.nn.neurons import Neuron

FORMS = ("step", "time first", "batch first", "squeezed")  # of the input of one call; squeezed: (samples·steps, …)
TAKES = {*VIEWS, *SPLITS, "select", "narrow"}  # may take some steps of a sequence
WITHIN = ("mean", "sum", "amax", "max")  # gather over time, or over axes of a sample
CASTS = {"to", "type", "int", "long", "short", "bool"}
DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout"}


@dataclass(frozen=True)
class Traced:
    """The graph of a module.

    Attributes
    ----------
    form
        one of :data:`FORMS`, or ``"constant"``: one frame goes in, and ``forward`` counts the steps itself
    neurons
        path → (module, framework), in the order in which they ran
    arriving
        path → the node that a neuron got at its last step, None: nothing that comes from the input
    steps
        path → the number of that step
    output
        the node of the module's output; None: it is none of the tensors that were watched
    inner_steps
        how many steps one call of the module runs
    length
        of the sequences that it was run on, in steps
    """

    form: str
    neurons: Mapping[str, tuple[nn.Module, Framework]]
    arriving: Mapping[str, Node | None]
    steps: Mapping[str, int]
    output: Node | None
    inner_steps: int
    length: int


def trace(net: nn.Module, input_shape: Sequence[int], num_steps: int | None = None) -> Traced:
    """Watch a module; ``net`` is a copy, see ``twin.py``.

    num_steps: T, for a ``forward`` that takes exactly so many steps out of its input

    Raises
    ------
    UsageError
        for a module that has no neurons we know of, needs other arguments than one tensor, or does not run
    ChipError
        for one that does not run and has neurons that could not be read
    """
    neurons, shape = neurons_of(net), tuple(input_shape)
    if not neurons and any(isinstance(part, Neuron) for part in net.modules()):
        raise UsageError(
            f"{type(net).__name__}: its neurons are of ottt_loihi; put its layers into ol.Block and ol.Network, which "
            "ol.save and ol.export take as they are"
        )
    if not neurons:
        raise UsageError(
            f"{type(net).__name__}: found no spiking neurons; expected a module with layers of "
            f"{', '.join(f.name for f in FRAMEWORKS[:-1])}, or the OTTT authors' code"
        )
    require_one_argument(net)
    failures: dict[str, str] = {}
    for steps in dict.fromkeys((None, num_steps)):  # any number first, so that no axis of a layer is taken for steps
        wanted = wants_sequences(neurons)  # else one step, or all of them in a loop
        forms = ["step", "time first", "batch first"] if wanted is None else [wanted]
        forms += ["constant"] if wanted == "time first" else []  # one frame, which forward repeats
        literal = False  # whether x[:, 0] is taken for a part of a sample
        while forms:
            form = forms.pop(0)
            try:
                return _watched(net, neurons, form, shape, steps, literal)
            except _AnotherForm as other:
                forms, literal = [*other.args, *(["step"] if other.args == ("batch first",) else [])], True
            except _NeverRan as error:
                raise UsageError(str(error)) from None
            except (Exception, SystemExit) as error:  # user code raises anything; the next form may be the right one
                failures[form] = first_line(error)
    if refused := _refused(neurons):
        raise ChipError(f"no counterpart here: {'; '.join(refused)}")
    if takes_time_last(net, shape, num_steps or 3):
        raise UsageError(
            f"{type(net).__name__} takes time as the last axis, (samples, {', '.join(map(str, shape))}, T); expected "
            "it first or second: give a module whose forward is self.net(x.movedim(1, -1)), and stack the steps first"
        )
    raise UsageError(
        f"{type(net).__name__} does not run on inputs of shape {shape}: "
        + "; ".join(f"{form}, {error}" for form, error in failures.items())
    )


def _refused(neurons: Mapping[str, tuple[nn.Module, Framework]]) -> list[str]:
    each = [(path, framework.kind(module), framework.refused) for path, (module, framework) in neurons.items()]
    return [f"{path} ({kind}): {refused[kind]}" for path, kind, refused in each if kind in refused]


class _NeverRan(Exception):
    """Some neurons did not run at all."""


class _AnotherForm(Exception):
    """``forward`` takes the input apart by itself; the argument is the form of such an input."""


def _watched(
    net: nn.Module,
    neurons: Mapping[str, tuple[nn.Module, Framework]],
    form: str,
    input_shape: tuple[int, ...],
    exactly: int | None = None,
    literal: bool = False,
) -> Traced:
    forget(net)
    sizes = {*input_shape, *(n for p in net.parameters() for n in p.shape)}
    free = [n for n in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41) if n not in sizes and n != exactly]
    steps, samples = (free[0], free[1]) if exactly is None else (exactly, free[0])
    samples = free[5] if form == "constant" else samples  # few modules repeat a frame so often
    watch, handles = _Watch(form, steps, samples), []
    for path, module in net.named_modules():
        if path in neurons:
            handles += watch.on_neuron(module, path, neurons[path][1])
        elif path and not any(path.startswith(f"{outer}.") for outer in neurons):
            handles += watch.on_module(module, path)
    x = torch.zeros(samples, steps, *input_shape, dtype=weights_dtype(net))
    output = None
    try:
        with making(weights_dtype(net)), watch:
            output = list(call(net, form, x, watch.on_input))[-1]
    finally:
        for handle in handles:
            handle.remove()
        forget(net)
    if watch.indexed is not None and not literal:
        raise _AnotherForm(watch.indexed)
    if silent := [path for path in neurons if path not in watch.steps]:
        raise _NeverRan(f"{', '.join(silent)}: these neurons never ran; take them out of the module")
    if reason := runs_twice(net, watch.steps, neurons, form, steps):
        raise _NeverRan(reason)
    if form == "constant" and watch.length is None:
        raise UsageError("forward makes no sequence of one frame")
    calls = max(watch.steps.values())
    if form == "step" and literal and calls != steps:
        raise UsageError(f"its neurons ran {calls // steps} times for one step")
    if form in ("time first", "batch first") and not wants_sequences(neurons):
        require_each_step(calls, steps)
    inner = watch.length or calls // (steps if form == "step" else 1)
    return Traced(
        "constant" if form == "step" and inner > 1 else form,
        {path: neurons[path] for path in watch.steps},
        watch.arriving,
        watch.steps,
        watch.node_of(first_tensor(output)),
        inner if form in ("step", "constant") else 1,
        inner if form in ("step", "constant") else steps,
    )


class _Watch(TorchFunctionMode):
    """Knows the node of every tensor, and sees every torch function outside of neurons."""

    def __init__(self, form: str, steps: int, samples: int) -> None:
        super().__init__()
        self.form, self.samples, self.leading = form, samples, self._leading(form, steps, samples)
        self.known: dict[int, tuple[Tensor, Node]] = {}  # holds the tensors, so that no number is given twice
        self.storages: dict[int, tuple[Tensor, Node]] = {}
        self.steps: dict[str, int] = {}
        self.arriving: dict[str, Node | None] = {}
        self.paths: list[str] = [""]
        self.inside = 0
        self.length: int | None = None  # of the sequence that forward makes of one frame
        self.indexed: str | None = None

    @staticmethod
    def _leading(form: str, steps: int, samples: int) -> list[tuple[int, ...]]:
        """Return the axes that may stand before a sample's own shape."""
        both = (samples, steps) if form in ("batch first", "squeezed") else (steps, samples)
        return [(1, samples), (samples,)] if form in ("step", "constant") else [both, (steps * samples,), (samples,)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not args and "input" in kwargs:
            args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
        given = args
        if not self.inside and func.__name__ in ("__iadd__", "add_") and self.node_of(args[0]) is None:
            given = (args[0].clone(), *args[1:])  # a constant, before the sum is in its place
        result = func(*args, **kwargs)
        if func.__name__ == "__setitem__" and not self.inside and (step := first_index(args[1])) is not None:
            self._fill(args[0], step, args[2])
        if not self.inside:
            for place, tensor in enumerate(result if isinstance(result, (tuple, list)) else (result,)):
                if isinstance(tensor, Tensor):
                    self._note(func, given, kwargs, tensor, place)
        return result

    def _fill(self, whole: Tensor, step: int, value: Any) -> None:
        """Know a tensor of zeros whose steps are filled one by one: ``outputs[t] = spikes``."""
        if (node := self.node_of(value)) is None:
            return
        own = self.known.get(id(whole), (None, None))[1]
        before = own.inputs if own is not None and own.kind == "stack" else ()
        if step % len(whole) == len(before):
            nodes = (*before, node)
            stack = Node("stack", self.paths[-1], nodes, node.shape, call=(torch.stack, (list(nodes),), {}))
            self.known[id(whole)] = (whole, stack)
            self.storages[whole.untyped_storage().data_ptr()] = (whole, stack)

    def node_of(self, tensor: Any) -> Node | None:
        """Return the node of a tensor, by its index too, which torch does not show; None: nothing known made it."""
        if not isinstance(tensor, Tensor):
            return None
        if id(tensor) in self.known:
            return self.known[id(tensor)][1]
        if tensor._base is None or tensor.untyped_storage().data_ptr() not in self.storages:
            return None
        whole = self.storages[tensor.untyped_storage().data_ptr()][1]
        shape = self.shape_of(tensor)
        self._see_index(whole, tensor)
        taken = self._steps_of(tensor)
        if taken is not None and taken.kind in ("stack", "steps") and shape is None:
            return taken
        if taken is not None and tensor.numel() == self.samples * math.prod(taken.shape):  # [-1:], too
            return taken
        taken = taken or whole
        return taken if shape == taken.shape else Node("part", self.paths[-1], (taken,), shape or ())

    def _steps_of(self, part: Tensor) -> Node | None:
        """Return the node of the steps that a view takes out of a sequence; None: it takes all, or is none."""
        whole, node = self.storages.get(part.untyped_storage().data_ptr(), (None, None))
        if whole is None:
            return None
        if node.kind == "stack":
            axis = node.call[2].get("dim", node.call[1][1] if len(node.call[1]) > 1 else 0) % whole.ndim
        elif self.form in ("time first", "batch first") and tuple(whole.shape[:2]) == self.leading[0]:
            axis = ("time first", "batch first").index(self.form)
        else:
            return None
        taken = numbers_of(whole, part, axis)
        if len(taken) in (0, whole.shape[axis]):
            return None
        if node.kind == "stack":
            chosen = tuple(node.inputs[number] for number in taken)
            return chosen[0] if len(taken) == 1 else Node("stack", node.path, chosen, node.shape, call=node.call)
        if node.kind == "input":  # a part of several steps has the steps' axis, and is no sample's
            return Node("input", node.path, (), node.shape, taken[0] + 1) if len(taken) == 1 else None
        if len(taken) == 1 and (one := at_step(node, taken[0])) is not None:
            return one
        kind, call = "step" if len(taken) == 1 else "steps", (part.select, (node,), {})
        return Node(kind, node.path, (node,), node.shape, taken[0] + 1, call)

    def _see_index(self, whole: Node, part: Tensor) -> None:
        """Note how ``forward`` takes steps out of an input that was to be one step: the input has one axis more.

        So has what is computed of it before a loop over time.
        """
        if self.form != "step" or part.ndim != len(whole.shape) or any(n.kind != "input" for n in sources(whole)):
            return
        first = tuple(part.shape) == whole.shape
        if first or whole.kind == "input" or tuple(part.shape) == (self.samples, *whole.shape[1:]):
            self.indexed = self.indexed or ("time first" if first else "batch first")

    def _know(self, tensor: Tensor, node: Node) -> None:
        self.known[id(tensor)] = (tensor, node)
        if tensor.numel():
            self.storages.setdefault(tensor.untyped_storage().data_ptr(), (tensor, node))

    def on_input(self, x: Tensor) -> None:
        """Begin a call."""
        self._know(x, Node("input", "input", shape=self.shape_of(x) or ()))

    def shape_of(self, tensor: Tensor) -> tuple[int, ...] | None:
        """Return the shape of one sample at one step, None where it has none."""
        for leading in self.leading:
            if tuple(tensor.shape[: len(leading)]) == leading:
                return tuple(tensor.shape[len(leading) :])
        return None

    def on_module(self, module: nn.Module, path: str) -> list[Any]:
        """Know in which module a function is called."""

        def enter(*_: Any) -> None:
            self.paths.append(path)

        def leave(*_: Any) -> None:
            self.paths.pop()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def on_neuron(self, module: nn.Module, path: str, framework: Framework) -> list[Any]:
        """Look at what goes into a neuron and comes out of it, and at nothing in between."""

        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.arriving[path] = self.node_of(first_tensor(inputs))
            found, (steps, samples) = tuple(first_tensor(inputs).shape[:2]), self.leading[0]
            other = self.form == "constant" or found[0] != samples  # one step has a message of its own
            if framework.steps(module) == "time first" and found != (steps, samples) and other:
                raise UsageError(f"{path} gets {found} where (steps, samples) are {steps, samples}")
            if self.form in ("time first", "batch first") and self.shape_of(first_tensor(inputs)) is None:
                raise UsageError(f"{path} gets {found}, without the axis of {samples} samples")
            self.steps[path] = self.steps.get(path, 0) + 1
            self.inside += 1

        def leave(_: nn.Module, inputs: tuple[Any, ...], result: Any) -> None:
            self.inside -= 1
            spikes = first_tensor(result)
            states = [r for r in result[1:] if isinstance(r, Tensor)] if isinstance(result, tuple) else []
            if not states and getattr(module, "step_mode", None) == "s":  # SpikingJelly keeps it
                states = [v for v in (getattr(module, "v", None),) if isinstance(v, Tensor)]
            for tensor, kind in [*((state, "membrane") for state in states[-1:]), (spikes, "spikes")]:
                node = Node(kind, path, shape=self.shape_of(tensor) or (), step=self.steps[path])
                self._know(tensor, node)

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor, place: int) -> None:
        """Give a result of a function its node: the same one where only the axes of steps and samples change.

        place: which one of several results it is
        """
        inputs: list[Node] = []

        def swap(value: Any) -> Any:
            """Return the node of a tensor that is known, else the value."""
            node = self.node_of(value)
            inputs.extend([] if node is None else [node])
            return value if node is None else node

        swapped, named = mapped(swap, (args, dict(kwargs)))
        if not inputs:
            return
        name = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
        if name in ("__getitem__", "unbind", "select"):  # newer versions of torch show an index
            self._see_index(inputs[0], result)
        first = inputs[0]
        if self._repeats(name, first, inputs, result):
            return self._know(result, first)
        if name == "stack" and self.form == "time first" and tuple(result.shape[:2]) == self.leading[0]:
            lifted = whole(inputs) if len(inputs) == len(result) else None  # a loop over steps, as Norse's Lift
            if lifted is not None:
                return self._know(result, lifted)
        shape = self.shape_of(result)
        if isinstance(args[0], Tensor) and reordered(name, args, kwargs, result, len(first.shape)):
            name = "reordered"
            if first.kind == "input" and self.form == "step":
                self.indexed = self.indexed or "time first"
        taken = self._steps_of(result) if name in TAKES else None
        if taken is not None and result.numel() == self.samples * math.prod(taken.shape):
            same = shape == taken.shape and (name == "__getitem__" or self._outside(name, args, first))
            if taken.kind != "input" or not taken.step or shape is None or (same and not in_place(first.kind)):
                return self._know(result, taken)
            first = at_step(first, taken.step - 1) or first  # a step of a view of the input, or a view of a step
            swapped, inputs = (first, *swapped[1:]), (first,)
        if name == "max" and not result.is_floating_point():
            name = "argmax"
        if name in CASTS and not result.is_floating_point() and first.kind != "spikes":
            name = "int"
        if name in WITHIN:
            args, swapped, named, inside = from_the_end(args, swapped, named, len(first.shape))
            name = f"{name} within" if inside else name
        asleep = name in DROPOUTS and not kwargs.get("training", args[2] if len(args) > 2 else True)
        same = asleep or (name in VIEWS and shape == first.shape and self._outside(name, args, first))
        if not same:
            call = (
                (one_of_several(func), swapped, {**named, "place": place}) if name in SPLITS else (func, swapped, named)
            )
            first = Node(name, self.paths[-1], tuple(inputs), shape or (), call=call)
        self._know(result, first)

    def _repeats(self, name: str, frame: Node, inputs: Sequence[Node], result: Tensor) -> bool:
        """Return whether a function makes a sequence of one frame, whose number of steps is known then."""
        if self.form != "constant" or name not in ("repeat", "expand", "tile", "stack", "broadcast_to"):
            return False
        wanted = (self.samples, *frame.shape)
        if any(node is not frame for node in inputs) or tuple(result.shape[1:]) != wanted or len(result) < 2:
            return False
        self.length = len(result)
        self.leading = [(self.length, self.samples), (self.length * self.samples,), (1, self.samples), (self.samples,)]
        return True

    def _outside(self, name: str, args: tuple[Any, ...], node: Node) -> bool:
        """Return whether a view leaves the axes of a sample as they are."""
        if name == "__getitem__":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return len(index) <= args[0].ndim - len(node.shape)
        if name in ("transpose", "swapaxes"):
            return all(axis % args[0].ndim < args[0].ndim - len(node.shape) for axis in args[1:3])
        return name not in ("permute", "movedim")
