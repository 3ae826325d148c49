"""Whether a module and the network that was read from it have the same spikes, found by running both in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ottt_loihi.converters.frameworks import slayer
from ottt_loihi.converters.frameworks.convert import Imported, read
from ottt_loihi.converters.frameworks.forward import call, require_each_step
from ottt_loihi.converters.frameworks.groups import counted
from ottt_loihi.converters.frameworks.registry import neurons_of
from ottt_loihi.converters.frameworks.twin import copied, first_tensor, forget, making
from torch import Tensor, nn

from ottt_loihi import checks
from ottt_loihi.errors import UsageError, VerificationError

CLOSE = 1e-9  # of a threshold: nearer membranes differ by rounding, not by another equation

EXPECTED = (
    "expected a forward that does the same at every step and for every input, begins with membranes of 0 and leaves "
    "them to the neurons"
)


@dataclass(frozen=True)
class Divergence:
    """The first spike that differs.

    Attributes
    ----------
    layer
        path of the neurons in the module
    time_step, sample, neuron
        0-based; the neuron's place in its layer
    theirs, ours
        what each sent
    membrane, threshold
        of our neuron at that step
    """

    layer: str
    time_step: int
    sample: int
    neuron: tuple[int, ...]
    theirs: float
    ours: float
    membrane: float
    threshold: float

    @property
    def said(self) -> str:
        """A cause that is no other equation: more spikes than the user said, or rounding; empty: it is another one."""
        if self.theirs not in (0.0, 1.0) and self.theirs > self.ours:
            return f"the module sends {self.theirs:g} in a step, more than our neurons for it do"
        if abs(self.membrane - self.threshold) <= CLOSE * max(1.0, abs(self.threshold)):
            return "the membrane meets the threshold, where the order of a sum decides"
        return ""

    @property
    def cause(self) -> str:
        """The likely cause, as far as the numbers say."""
        return self.said or "the two compute different membranes"

    def __str__(self) -> str:
        place = f"{self.layer}, time step {self.time_step + 1}, sample {self.sample}, neuron {self.neuron}"
        ours = f"ours {self.ours:g} (membrane {self.membrane:.10g}, threshold {self.threshold:.10g})"
        return f"{place}: the module sends {self.theirs:g}, {ours}; {self.cause}"


@dataclass(frozen=True)
class Compared:
    """A module and our network on the same samples.

    Attributes
    ----------
    layers
        path → (spikes that differ, spikes of the module, places that were compared)
    samples, num_steps
        what they were compared on
    first
        the first divergence, by time step, then by layer; None: every spike is equal
    random
        whether the samples were drawn, because none were given
    predictions
        samples that both predict the same class of; None: the module's output is no row of numbers for each
    membranes
        whether the last layer's membranes were compared, to 1e-9, and not its spikes
    other_scores
        the first sample whose scores differ although no spike does; empty: they are equal up to a factor
    """

    layers: dict[str, tuple[int, int, int]]
    samples: int
    num_steps: int
    first: Divergence | None
    random: bool
    predictions: int | None = None
    membranes: bool = False
    other_scores: str = ""

    @property
    def different(self) -> int:
        """Return the number of spikes that differ, over all layers."""
        return sum(count for count, _, _ in self.layers.values())

    def raise_if_different(self) -> None:
        """Raise a VerificationError that names the first divergence, or the first sample with other scores."""
        if self.other_scores:
            raise VerificationError(
                f"the module returns other scores than our network, {self.other_scores}; expected the sum, mean, last "
                "or largest of all time steps of the last layer"
            )
        if self.first is not None:
            cure = "" if self.first.said else f"; {EXPECTED}"
            raise VerificationError(f"the module and our network differ, first in {self.first}{cure}")

    def __str__(self) -> str:
        places = sum(count for _, _, count in self.layers.values())
        spikes = sum(count for _, count, _ in self.layers.values())
        on = f"{self.samples} {'random ' if self.random else ''}samples of {self.num_steps} steps"
        same = "" if self.predictions is None else f"; the same prediction on {self.predictions} of {self.samples}"
        silent = [path for path, (_, count, _) in self.layers.items() if not count and not self.membranes]
        same += f"; no spike of {', '.join(silent)}, so their resets were not compared" if silent else ""
        if self.first is None:
            more = " and every membrane of the last layer" if self.membranes else ""
            return f"every spike{more} equal in float64: {places:,} places, {spikes:,} spikes of {on}{same}"
        return f"{self.different:,} of {places:,} spikes differ on {on}{same}; first {self.first}"


def compare(
    net: nn.Module,
    input_shape: Sequence[int],
    num_steps: int | None = None,
    x: Any = None,
    *,
    samples: int = 8,
    rate: float = 0.3,
    seed: int = 0,
    **options: Any,
) -> Compared:
    """Run a module and the network read from it, and compare every spike of every layer.

    Parameters
    ----------
    net, input_shape, num_steps
        as :func:`~ottt_loihi.converters.frameworks.convert.from_module`
    x
        samples ``(n, T, *input_shape)``; None: random spikes. Of a module that shows one frame to every step: the first
    samples, rate, seed
        of the random spikes: how many, how often a spike is 1, which
    options
        ``readout`` and ``approximate`` of ``from_module``

    Raises
    ------
    UsageError, ChipError
        as ``from_module``, and for samples of another shape
    """
    shape = checks.sizes(input_shape, "input_shape", 1)
    imported = read(net, shape, num_steps, dtype=torch.float64, **options)
    steps = imported.network.time_steps
    random = x is None
    if x is None:
        generator = torch.Generator().manual_seed(checks.integer(seed, "seed", 0))
        x = (torch.rand(checks.integer(samples, "samples"), steps, *shape, generator=generator) < rate).double()
    x = torch.as_tensor(np.asarray(x)).double()
    if x.ndim != 2 + len(shape) or tuple(x.shape[2:]) != shape or not len(x):
        raise UsageError(f"samples: expected (n, T, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
    if imported.form == "constant":
        x = x[:, :1].expand(-1, steps, *shape)
    if imported.form == "slayer":
        theirs, whole = slayer.run(net, x)
        output = [whole]
    else:
        theirs, output = run_module(net, imported, x)
    with torch.no_grad():
        run = imported.network.run(x, record=("s", "u"))
    found = _compared(imported, theirs, run.states["s"], run.states["u"], len(x), x.shape[1], random)
    if found.first is not None and imported.form != "slayer" and not _repeats(net, imported, x):
        raise UsageError(
            f"{type(net).__name__}: it returns something else when it runs again on the same samples, so its forward "
            "draws at random or changes the module; expected one that depends on its input alone"
        )
    if imported.membranes is not None:
        output = list(theirs[imported.membranes])
    theirs = _scores(output, run.scores, imported, x.shape[1])
    if theirs is None:
        return found
    same = _same_predictions(theirs, run.scores)
    said = any("the scores are" in note for note in imported.notes) or found.first is not None
    return replace(found, predictions=same, other_scores="" if said else _other_scores(theirs, run.scores))


def require_the_same(net: nn.Module, input_shape: Sequence[int], num_steps: int | None, **options: Any) -> None:
    """Run a module and its network on two random samples.

    Spikes that differ by rounding, or because the module sends more in a step than the user said, are let through.

    Raises
    ------
    VerificationError
        for a spike that differs otherwise: the first; for other scores
    """
    compared = compare(net, input_shape, num_steps, samples=2, **options)
    if compared.first is None or not compared.first.said:
        compared.raise_if_different()


def _same_predictions(theirs: Tensor, ours: Tensor) -> int:
    """Return the number of samples whose largest score of ours is the module's largest, too."""
    at_ours = theirs.gather(1, ours.argmax(1, keepdim=True)).squeeze(1)
    best = theirs.amax(1)
    return int((best - at_ours <= CLOSE * best.abs().clamp(min=1.0)).sum())


def _scores(output: list[Any], ours: Tensor, imported: Imported, steps: int) -> Tensor | None:
    """Return the module's scores ``(n, classes)``, gathered over time as ours; None if it returns another form."""
    parts, (n, classes) = [first_tensor(each) for each in output], ours.shape
    if not all(isinstance(part, Tensor) and part.numel() % (n * classes) == 0 for part in parts):
        return None
    if len(parts) > 1 and parts[0].numel() == n * classes:
        whole = torch.stack([part.reshape(n, classes) for part in parts])
    elif len(parts) == 1 and parts[0].numel() == n * classes:
        whole = parts[0].reshape(1, n, classes)
    elif len(parts) == 1 and parts[0].numel() == steps * n * classes:
        (part,) = parts  # a forward returns its steps along any axis, whatever its input has
        axes = [
            (t, b)
            for t, b in ((0, 1), (1, 0), (-1, 0))
            if part.ndim > 1 and (part.shape[t], part.shape[b]) == (steps, n)
        ]
        form = "time first" if imported.form == "constant" else imported.form
        wholes = [part.movedim(each, (0, 1)) for each in axes] or [_by_step(parts, form, n, steps)]
        found = [_gathered(each.reshape(steps, n, classes), imported.readout) for each in wholes]
        return min(found, key=lambda scores: bool(_other_scores(scores, ours)))  # as many samples as steps: any
    else:
        return None
    return _gathered(whole, imported.readout)


def _gathered(whole: Tensor, readout: str) -> Tensor:
    return {"last": whole[-1], "max": whole.amax(0)}.get(readout, whole.sum(0)).double()


def _other_scores(theirs: Tensor, ours: Tensor) -> str:
    """Return the first sample with other scores than the module's, times one number for all; empty: there is none."""
    if not bool(ours.any()) and not bool(theirs.any()):
        return ""
    factor = float((theirs * ours).sum() / (ours * ours).sum()) if bool(ours.any()) else 0.0
    wrong = ((theirs - factor * ours).abs() > 1e-6 * theirs.abs().amax()).any(1)
    if factor > 0 and not bool(wrong.any()):
        return ""
    sample = int(wrong.nonzero()[0]) if bool(wrong.any()) else 0
    shown = (", ".join(f"{value:.4g}" for value in each[sample][:5].tolist()) for each in (theirs, ours))
    return "sample {}: the module's {}, ours {}".format(sample, *shown)


def _repeats(net: nn.Module, imported: Imported, x: Tensor) -> bool:
    """Return whether a module returns the same when it runs twice."""
    twin, seen = copied(net, torch.float64), []
    for _ in range(2):
        with making(torch.float64):
            seen.append([first_tensor(part) for part in call(twin, imported.form, x)])
        forget(twin)
    return all(not isinstance(a, Tensor) or torch.equal(a, b) for a, b in zip(*seen))


def spikes_of(net: nn.Module, imported: Imported, x: Tensor) -> dict[str, Tensor]:
    """Return what each layer of neurons of a module sends, path → float64 ``(T, n, *shape)``."""
    return run_module(net, imported, x)[0]


@torch.no_grad()
def run_module(net: nn.Module, imported: Imported, x: Tensor) -> tuple[dict[str, Tensor], list[Any]]:
    """Return what each layer of neurons of a module sends, as :func:`spikes_of`, and what each call returned."""
    twin = copied(net, torch.float64)
    history: dict[str, list[Tensor]] = {}
    for path, (module, _) in neurons_of(twin).items():

        def keep(module: nn.Module, inputs: Any, result: Any, path: str = path) -> None:
            parts = [r for r in result if isinstance(r, Tensor)] if isinstance(result, (tuple, list)) else [result]
            sent = parts[0]
            if path == imported.membranes:
                kept = [m for name in ("mem", "v") if isinstance(m := getattr(module, name, None), Tensor)]
                sent = parts[-1] if len(parts) > 1 or not kept else kept[0]
            history.setdefault(path, []).append(sent.detach().double().clone())

        module.register_forward_hook(keep)  # of a copy, so that nothing has to be removed
    with making(torch.float64):
        results = list(call(twin, imported.form, x))
    return {path: _by_step(parts, imported.form, len(x), x.shape[1]) for path, parts in history.items()}, results


def _by_step(parts: list[Tensor], form: str, samples: int, steps: int) -> Tensor:
    """Return the results ``(T, n, …)`` of one call for each step, or of one call for all of them."""
    if len(parts) == steps and (len(parts) > 1 or form in ("step", "constant")):
        return torch.stack([part.reshape(samples, *part.shape[part.ndim - _own(part, samples) :]) for part in parts])
    if len(parts) > 1:
        require_each_step(len(parts), steps)
    (whole,) = parts
    if form == "squeezed":
        return whole.unflatten(0, (samples, steps)).transpose(0, 1)
    if form == "batch first":
        return whole.transpose(0, 1)
    return whole if tuple(whole.shape[:2]) == (steps, samples) else whole.unflatten(0, (steps, samples))


def _own(part: Tensor, samples: int) -> int:
    """Return the number of axes of one sample: those after (samples,), or after (1, samples)."""
    return part.ndim - (2 if part.ndim > 1 and tuple(part.shape[:2]) == (1, samples) != (samples,) else 1)


def _compared(
    imported: Imported, theirs: dict[str, Tensor], ours: list[Tensor], u: list[Tensor], n: int, steps: int, random: bool
) -> Compared:
    layers, places = {}, []
    for index, path in enumerate(imported.paths):
        if path not in theirs:  # a layer that stands for an operation
            continue
        expected, found = theirs[path].reshape(steps, n, -1), ours[index].reshape(steps, n, -1).double()
        if (sends := imported.sends.get(path)) is not None:
            found = counted(ours[index], sends, imported.network.blocks[index].shape)
        different, spikes = expected != found, int((expected != 0).sum())
        if path == imported.membranes:
            different, spikes = (expected - found).abs() > CLOSE * expected.abs().clamp(min=1.0), 0
        layers[path] = (int(different.sum()), spikes, expected.numel())
        if bool(different.any()):
            step, sample, neuron = (int(i) for i in torch.nonzero(different)[0])
            places.append((step, index, sample, neuron))
    first = None
    if places:
        step, index, sample, neuron = min(places)
        path, shape = imported.paths[index], tuple(theirs[imported.paths[index]].shape[2:])
        block, sends = imported.network.blocks[index], imported.sends.get(path)
        threshold = torch.as_tensor(block.neuron.v_threshold, dtype=torch.float64)
        found, own = ours[index].reshape(steps, n, -1), neuron
        if sends is not None:  # of the first of those that stand for one
            found, rest = counted(ours[index], sends, block.shape), math.prod(block.shape[1:])
            own = neuron // rest * len(sends) * rest + neuron % rest
        first = Divergence(
            path,
            step,
            sample,
            tuple(int(i) for i in np.unravel_index(neuron, shape)) if math.prod(shape) > 1 else (neuron,),
            float(theirs[path].reshape(steps, n, -1)[step, sample, neuron]),
            float(found[step, sample, neuron]),
            float(u[index].reshape(steps, n, -1)[step, sample, own]),
            float(torch.broadcast_to(threshold, block.shape).reshape(-1)[own]),
        )
    return Compared(layers, n, steps, first, random, membranes=imported.membranes is not None)
