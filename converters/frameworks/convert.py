"""``from_module``: a module of another framework becomes our trainable :class:`~ottt_loihi.nn.network.Network`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from ottt_loihi.converters.frameworks import slayer
from ottt_loihi.converters.frameworks.groups import counted
from ottt_loihi.converters.frameworks.kernel import FACTORS, is_negative
from ottt_loihi.converters.frameworks.linear import Term, filled
from ottt_loihi.converters.frameworks.neurons import Neurons, Unmapped
from ottt_loihi.converters.frameworks.nodes import Node, added, alike, shared, sources
from ottt_loihi.converters.frameworks.parts import equals, tensor
from ottt_loihi.converters.frameworks.reading import Reading
from ottt_loihi.converters.frameworks.trace import trace
from ottt_loihi.converters.frameworks.twin import copied, require_weights, weights_dtype
from torch import nn

from ottt_loihi import checks
from ottt_loihi.errors import ChipError, UsageError
from ottt_loihi.nn.connections import Linear, Readout
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.slayer import SpikeCount
from ottt_loihi.nn.slayer_blocks import from_blocks

MOST_SPIKES = 64
UNNEEDED = "spikes_per_step: every neuron of the module has a limit of its own; leave it out"
READOUTS = ("spikes", "sum", "last", "max")
LARGEST = ("max", "amax", "maximum")
GATHERED = {"sum": "sum", "mean": "sum", **dict.fromkeys(LARGEST, "max")}  # over time
REDUCTIONS = {"stack", "cat", "concat", "unsqueeze", "squeeze", "__getitem__", "step", "steps", *GATHERED}
SOME_STEPS = "output: it holds some of the time steps; the nearest is a module that returns all of them, or their sum"


@dataclass
class Imported:
    """A network that was read.

    Attributes
    ----------
    network
        ours
    paths
        of the modules whose spikes its blocks have; of a block that stands for an operation, ``"… (max pooling)"``
    form, inner_steps
        how the module takes its input (``trace.py``)
    readout
        what the scores are, of ``READOUTS``
    notes
        what differs from the module, one line each
    sends
        path → what a spike of each of our neurons counts, where several stand for one of the module's
    membranes
        path of the last layer, if its membranes are read; None: spikes, or outputs without neurons
    """

    network: Network
    paths: list[str]
    form: str
    inner_steps: int
    readout: str
    notes: list[str] = field(default_factory=list)
    sends: dict[str, tuple[float, ...]] = field(default_factory=dict)
    membranes: str | None = None


def from_module(
    net: nn.Module,
    input_shape: Sequence[int],
    num_steps: int | None = None,
    *,
    readout: str | None = None,
    approximate: bool = False,
    spikes_per_step: int | None = None,
) -> Network:
    """Return a network of ours that has the same spikes as a module of another framework.

    The module is read in evaluation mode and stays as it is. It is run on zeros to see what it does, so its ``forward``
    may be anything: a ``Sequential``, one step, a loop over time. Then both run on two random samples (not with
    ``approximate``), because a ``forward`` may do things that zeros do not show. ``check.compare`` compares on yours.

    Parameters
    ----------
    net
        of snnTorch, SpikingJelly, Norse, sinabs, lava-dl's SLAYER or the OTTT authors' code, with its weights
    input_shape
        of one sample at one step
    num_steps
        T; needed unless ``forward`` counts the steps itself
    readout
        what the scores are: ``"spikes"``, the last layer's spikes counted; or of the outputs of a last layer without
        neurons, or of its membranes: ``"sum"`` over time, ``"last"`` step, or ``"max"`` over time. Default: what the
        module itself returns
    approximate
        replace parts without an exact counterpart by the nearest one; ``network.provenance["imported"]["notes"]`` names
        them
    spikes_per_step
        how many spikes a neuron sends in one step at most, where the module sets no limit (sinabs' ``MultiSpike``): so
        many neurons of ours stand for one

    Raises
    ------
    ChipError
        for a module with parts that have no counterpart: all of them, by path, with the nearest thing that works
    UsageError
        for a module that does not run on such inputs, or has no neurons, or weights that are not finite
    VerificationError
        for a module that sends other spikes than the network: the first of them
    """
    options = {"readout": readout, "approximate": approximate, "spikes_per_step": spikes_per_step}
    imported = read(net, input_shape, num_steps, **options)
    if not approximate and imported.form != "slayer":  # whose blocks have run beside the network already
        from ottt_loihi.converters.frameworks.check import require_the_same

        require_the_same(net, input_shape, num_steps, **options)
    return imported.network


def read(
    net: nn.Module,
    input_shape: Sequence[int],
    num_steps: int | None = None,
    *,
    readout: str | None = None,
    approximate: bool = False,
    spikes_per_step: int | None = None,
    dtype: torch.dtype | None = None,
) -> Imported:
    """Return the network and how it was read; arguments as :func:`from_module`, ``dtype``: of its weights."""
    if not isinstance(net, nn.Module):
        raise UsageError(f"from_module: expected a torch.nn.Module, got {type(net).__name__}")
    shape = checks.sizes(input_shape, "input_shape", 1)
    if readout is not None:
        checks.one_of(readout, "readout", READOUTS)
    if spikes_per_step is not None:
        checks.integer(spikes_per_step, "spikes_per_step", 1, MOST_SPIKES)
    require_weights(net)
    if (blocks := slayer.blocks_of(net)) is not None:
        if spikes_per_step is not None:
            raise UsageError(UNNEEDED)
        return _of_slayer(net, blocks, shape, num_steps, readout)
    twin = copied(net, dtype)
    seen = trace(twin, shape, num_steps if isinstance(num_steps, int) else None)
    if seen.form == "constant" and num_steps not in (None, seen.inner_steps):
        raise UsageError(f"num_steps: forward runs {seen.inner_steps} steps by itself, got {num_steps}")
    num_steps = seen.inner_steps if seen.form == "constant" else num_steps
    if num_steps is None:
        raise UsageError("num_steps: the module does not say how many time steps a sample has; give a number")
    reading = Reading(seen, shape, weights_dtype(twin), approximate, spikes_per_step)
    output = _Output(reading, readout)
    network = output.network(checks.integer(num_steps, "num_steps"))
    reading.notes += shared({**seen.arriving, "output": seen.output}, dict(twin.named_parameters()))
    if spikes_per_step is not None and not reading.limited:
        raise UsageError(UNNEEDED)
    frameworks = sorted({framework.name for _, framework in seen.neurons.values()})
    network.provenance["imported"] = {
        "framework": ", ".join(frameworks),
        "module": f"{type(net).__module__}.{type(net).__qualname__}",
        "readout": output.readout,
        "notes": reading.notes,
    }
    return Imported(
        network.eval(),
        reading.paths,
        seen.form,
        seen.inner_steps,
        output.readout,
        reading.notes,
        reading.sends,
        output.membranes,
    )


def _of_slayer(
    net: nn.Module,
    blocks: Mapping[str, nn.Module],
    shape: tuple[int, ...],
    num_steps: int | None,
    readout: str | None,
) -> Imported:
    """Return a network of a module's SLAYER blocks, whose integers are the chip's already."""
    if num_steps is None:
        raise UsageError("num_steps: SLAYER's blocks do not say how many time steps a sample has; give a number")
    outside = [path for path, _ in net.named_parameters() if not any(path.startswith(f"{b}.") for b in blocks if b)]
    if outside and "" not in blocks:
        raise ChipError(f"{', '.join(outside)}: weights outside of SLAYER's blocks; the nearest is a block for each")
    if readout not in (None, "spikes"):
        raise UsageError(f"readout={readout!r}: SLAYER's networks are read by their spikes; expected 'spikes'")
    network = from_blocks(blocks.values(), input_shape=shape, time_steps=checks.integer(num_steps, "num_steps"))
    network.provenance["imported"] = {"framework": "slayer", "readout": "spikes", "notes": []}
    paths = slayer.firing(blocks)
    slayer.require_the_same(net, network.eval(), paths)
    return Imported(network, paths, "slayer", 1, "spikes")


class _Output:
    """The blocks, and what the module returns as a readout behind them."""

    def __init__(self, reading: Reading, wanted: str | None) -> None:
        self.reading, self.wanted, self.readout = reading, wanted, ""
        self.gathered: set[str] = set()  # how the module gathers over time: "sum", "max"
        self.last = False  # whether it returns the last step alone
        self.membranes: str | None = None  # path of the layer whose membranes are the scores

    @property
    def gathers(self) -> str | None:
        """How the module gathers over time, of ``READOUTS``; None: it returns every step."""
        return "max" if "max" in self.gathered else "last" if self.last else "sum" if self.gathered else None

    def network(self, num_steps: int) -> Network:
        """Return the network; ChipError with all that has no counterpart."""
        reading = self.reading
        read = reading.read_neurons()
        output = self._output(list(read))
        neurons = read.get(output.path) if output.kind in ("spikes", "membrane") else None
        if neurons is not None:
            neurons = read[output.path] = self._read_as(output, neurons)
        silent = neurons is not None and not neurons.fires and neurons.sends == "spikes"  # no block, but a readout
        reading.order = [path for path in read if path != output.path or not silent]
        for path in reading.order:
            reading.add_block(path, read[path])
        layer = self._readout(output, neurons)
        self._say_what_is_gathered()
        if reading.problems:
            listed = list(dict.fromkeys(reading.problems))
            what = "1 part has" if len(listed) == 1 else f"{len(listed)} parts have"
            raise ChipError(f"{what} no counterpart here: {'; '.join(listed)}")
        assert layer is not None
        scores = "sum" if self.readout == "spikes" or silent else self.readout
        return Network(reading.blocks, layer, input_shape=reading.input_shape, time_steps=num_steps, scores=scores)

    def _read_as(self, output: Node, neurons: Neurons) -> Neurons:
        """Return the last layer's neurons as they are read: their spikes, or their membranes."""
        path, wanted = output.path, self.wanted
        if neurons.fires and (wanted == "spikes" or (wanted is None and output.kind == "spikes")):
            self.readout = "spikes"
            return neurons
        if not neurons.fires and wanted == "spikes":
            self.reading.problems.append(
                f"{path}: readout='spikes': these neurons send none; the nearest is readout='last', 'max' or 'sum'"
            )
            return neurons
        after = neurons.fires and neurons.shows == "after"
        if neurons.fires and (not neurons.shows or (after and np.any(neurons.alpha))):
            said = f"readout={wanted!r}" if wanted else "the module returns membranes"
            self.reading.problems.append(
                f"{path}: {said}: these neurons fire, and no layer of ours follows the membranes that they keep; the "
                "nearest is readout='spikes', or a last layer without neurons"
            )
            return neurons
        if neurons.fires and not after:
            self.reading.amplitudes.pop(path, None)
            self.reading.membranes = path
            if neurons.recurrent is not None:
                self.reading.problems.append(self.reading.gets_spikes_of(path, path))
        self.readout = wanted or self.gathers or "last"
        if wanted is None and self.gathers is None:
            self.reading.notes.append(
                f"{path}: the module returns membranes of every step; the scores are those of the last step "
                "(readout='sum' and 'max' are of all steps)"
            )
        leaks = neurons.fires or not (equals(neurons.beta, 1.0) and equals(neurons.alpha, 0.0))
        if self.readout == "last" and not (leaks or np.any(neurons.v_init)):
            return neurons  # the last membrane is the sum of all currents
        self.membranes = path
        return replace(neurons, sends="after" if after else "membranes")

    def _output(self, paths: list[str]) -> Node:
        """Return the module's output before it is gathered over time; the last layer's where it is not known."""
        node = whole = self.reading.seen.output
        held = 1  # steps that are gathered one by one
        while node is not None and node.inputs:
            leaves = added(node)
            if node.kind in REDUCTIONS and not alike(node.inputs):
                self.reading.problems.append(
                    f"output ({node.kind}): it gathers several layers; the nearest is the last alone"
                )
            if node.kind == "steps" or (node.kind == "__getitem__" and not node.shape):
                self.reading.problems.append(SOME_STEPS)
            if node.kind in REDUCTIONS or (node.kind in FACTORS and len(node.inputs) == 1 and not is_negative(node)):
                held = max(held, len(node.inputs))
                self.gathered |= {GATHERED[node.kind]} if node.kind in GATHERED else set()
                if node.kind == "step" and held != self.reading.seen.length:
                    self.last = held == 1 and node.step == self.reading.seen.length
                    self.reading.problems += [] if self.last else [SOME_STEPS]
                node = node.inputs[-1]
            elif len(leaves) > 1 and alike(leaves):
                held, node = max(held, len(leaves)), leaves[-1]  # added up over time by hand
                self.gathered |= {"sum"}
            else:
                break
        if node is None:
            if self.wanted is None:
                self.reading.problems.append(
                    "output: what the module returns was made of no layer that was watched; the nearest is torch.stack "
                    "of the last layer's outputs, or readout='spikes', which counts its spikes"
                )
            return Node("spikes", paths[-1])
        latest = max(sources(node), key=lambda source: source.step)
        steps = self.reading.seen.steps.get(latest.path, 1)
        seen = {source.step for source in sources(node) if source.path == latest.path}
        if self.reading.seen.form != "step" and steps > 1:  # a loop inside of forward
            self.last |= held == 1 and latest.step == steps and len(seen) == 1
            if held not in (1, self.reading.seen.length) or latest.step != steps:
                self.reading.problems.append(SOME_STEPS)
        if whole.shape and math.prod(whole.shape) != math.prod(node.shape):
            self.reading.problems.append(
                f"output: {whole.shape} of the last layer's {node.shape}; the nearest is all of it"
            )
        return node

    def _readout(self, output: Node, neurons: Neurons | None) -> nn.Module | None:
        try:
            if output.kind not in ("spikes", "membrane"):
                return self._linear_readout(self.reading.terms(output, "output"))
            if neurons is None or self.reading.problems:
                return None
            if self.membranes is not None:
                return SpikeCount(math.prod(self._last_shape(output.path))).to(self.reading.dtype)
            if neurons.fires:
                return self._spike_readout(output.path)
            terms = self.reading.terms(self.reading.seen.arriving[output.path], output.path)
            return self._into_readout(terms, tensor(neurons.gain)) if terms and not self.reading.problems else None
        except Unmapped as reason:
            self.reading.problems.append(f"{output.path or 'output'}: {reason}")
            return None

    def _say_what_is_gathered(self) -> None:
        """Note scores that are not what the module gathers over time."""
        if self.gathers in (None, self.readout, "sum" if self.readout == "spikes" else None):
            return
        does = {"max": "takes the largest over time", "last": "returns the last step alone", "sum": "adds up all steps"}
        are = {"spikes": "spikes of all steps, counted", "sum": "sums over all steps", "last": "those of the last step"}
        self.reading.notes.append(
            f"the module {does[self.gathers]}; the scores are {are.get(self.readout, 'the largest over time')}"
        )

    def _last_shape(self, answer: str) -> tuple[int, ...]:
        if self.reading.index.get(answer) != len(self.reading.blocks) - 1:
            raise Unmapped(
                "the output is not the last layer's; the nearest is a module that returns the last layer's spikes"
            )
        return self.reading.shapes[-1]

    def _spike_readout(self, answer: str) -> nn.Module:
        size = math.prod(self._last_shape(answer))
        weight = torch.eye(size)
        if (sends := self.reading.sends.get(answer)) is not None:
            weight = counted(weight[None], sends, self.reading.shapes[-1])[0].t()
        return filled(Readout(size, len(weight)), weight, None, self.reading.dtype)

    def _linear_readout(self, terms: list[Term]) -> nn.Module | None:
        if self.wanted == "spikes":
            raise Unmapped(
                "readout='spikes': the last layer has no neurons; the nearest is readout='sum', 'last' or 'max'"
            )
        if self.reading.problems or not terms:
            return None
        self.readout = self.wanted or self.gathers or "sum"
        return self._into_readout(terms, tensor(1.0))

    def _gathering(self, terms: list[Term], gain: torch.Tensor) -> nn.Module:
        """Return the readout of several layers: a last block without memory adds up their currents."""
        adds = Neurons(0.0, gain=gain.numpy(), reset="none", fires=False, sends="membranes")
        self.reading.build("output", adds, terms)
        return SpikeCount(math.prod(self.reading.shapes[-1])).to(self.reading.dtype)

    def _into_readout(self, terms: list[Term], gain: torch.Tensor) -> nn.Module:
        main, others = self.reading.main(terms, "")
        if others and not any(delay for _, delay in others):
            return self._gathering(terms, gain)
        if others:
            raise Unmapped(
                "several layers, or steps with different weights, feed the output; the nearest is the last layer alone"
            )
        connection = self.reading.connection(main, gain, "output")
        if not isinstance(connection, Linear):
            raise Unmapped("the output is an image; the nearest is one number for each class")
        settings = {"bias": connection.bias is not None, "pool": connection.pool}
        layer = Readout(connection.in_features, connection.out_features, **settings)
        return filled(layer, connection.weight, connection.bias, self.reading.dtype)
