"""How fast the training rules are, and how much memory they take, against plain formulations of the same networks.

The baseline is OTTT as it is usually written with autograd: every connection runs twice, once on the spikes for the
value and once on the trace for the gradient, standardisation inside each. It is written below with torch's own
operators, and so is BPTT as it is usually written; both are checked to give our rules' gradients. Contenders take turns
in one run; figures are medians, ratios are medians of the ratios within a turn.

    python benchmarks/training.py [--steps 48 6] [--repeats 9] [--threads 2] [--device cpu] [--json out.json]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from ottt_loihi.fast.cuda_graph import GraphedRule
from ottt_loihi.nn.connections import Conv2d, standardize
from ottt_loihi.nn.inputs import ConstantInput, Input, frames
from ottt_loihi.nn.models import conv, mlp
from ottt_loihi.nn.network import Network
from ottt_loihi.rules import Rule, make_rule
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.engine import choose

LOSS = SquaredError()


class _Replace(torch.autograd.Function):
    """The first argument's gradient with the second one's value."""

    @staticmethod
    def forward(ctx, carrier: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        return g, None


def _slope(u: Tensor) -> Tensor:
    """Return the derivative of a sigmoid of slope 4, our surrogate."""
    sigma = torch.sigmoid(4 * u)
    return 4 * sigma * (1 - sigma)


class _Spike(torch.autograd.Function):
    """``H(u)`` with a derivative of its own."""

    @staticmethod
    def forward(ctx, u: Tensor, derivative: Callable[[Tensor], Tensor] = _slope) -> Tensor:
        ctx.save_for_backward(u)
        ctx.derivative = derivative
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        return g * ctx.derivative(u), None


def two_forward_batch(net: Network, x: Input, labels: Tensor) -> Tensor:
    """OTTT_A with two forward products per connection; adds the gradients to ``.grad``."""
    authors = net.convention == "authors"
    v = [None] * len(net.blocks)
    traces = [None] * (len(net.blocks) + 1)
    scores = 0
    for out in frames(x):
        for i, block in enumerate(net.blocks):
            lam = block.neuron.beta
            if authors and i == 0:
                current = _apply(block.connection, out)
            else:
                traces[i] = out.detach() if traces[i] is None else lam * traces[i] + out.detach()
                with torch.no_grad():
                    value = _apply(block.connection, out)
                current = _Replace.apply(_apply(block.connection, _Replace.apply(out, traces[i])), value)
            u = current if v[i] is None else lam * v[i].detach() + current
            s = _Spike.apply(u - block.neuron.v_threshold)
            v[i] = u.detach() - block.neuron.v_threshold * s.detach()
            out = s
        if authors:
            lam = net.blocks[-1].neuron.beta
            traces[-1] = out.detach() if traces[-1] is None else lam * traces[-1] + out.detach()
            with torch.no_grad():
                value = _apply(net.readout, out)
            o = _Replace.apply(_apply(net.readout, _Replace.apply(out, traces[-1])), value)
        else:
            o = _apply(net.readout, out)
        LOSS(o, labels, x.shape[1]).backward()
        scores = scores + o.detach()
    return scores


def plain_bptt_batch(net: Network, x: Input, labels: Tensor) -> Tensor:
    """BPTT as it is usually written: a loop over time, and one backward pass; adds the gradients to ``.grad``."""
    v = [torch.zeros(())] * len(net.blocks)
    scores, loss = 0, 0
    for out in frames(x):
        for i, block in enumerate(net.blocks):
            u = block.neuron.beta * v[i].to(out) + _apply(block.connection, out)
            out = _Spike.apply(u - block.neuron.v_threshold)
            v[i] = u - block.neuron.v_threshold * out.detach()
        o = _apply(net.readout, out)
        loss = loss + LOSS(o, labels, x.shape[1])
        scores = scores + o.detach()
    loss.backward()
    return scores


def _apply(c: nn.Module, x: Tensor) -> Tensor:
    weight = c.weight if c.gain is None else standardize(c.weight, c.gain)
    if c.input_scale != 1:
        x = x * c.input_scale
    if c.pool is not None:
        x = functional.adaptive_avg_pool2d(x, 1) if c.pool == "global" else functional.avg_pool2d(x, c.pool)
    if isinstance(c, Conv2d):
        return functional.conv2d(x, weight, c.bias, c.stride, c.padding, 1, c.groups)
    return functional.linear(x.flatten(1), weight, c.bias)


def networks(convention: str) -> dict[str, tuple[Network, int]]:
    """The measured networks and their batch sizes."""
    common = {"surrogate": "sigmoid", "convention": convention}
    return {
        "MLP 784-800-10": (mlp((784, 800, 10), **common), 128),
        "conv 16C3-AP2-32C3-AP2-64C3-GAP-10": (
            conv("16C3-AP2-32C3-AP2-64C3-GAP", input_shape=(3, 32, 32), bias=False, **common),
            32,
        ),
        "the same, standardised weights": (
            conv("16C3-AP2-32C3-AP2-64C3-GAP", input_shape=(3, 32, 32), bias=False, standardized=True, **common),
            32,
        ),
    }


def contenders(net: Network, x: Input, labels: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Each is one batch from rest to gradients."""
    ottt = {"update": "sequence", "convention": net.convention}
    rules = {"OTTT": make_rule("ottt", **ottt)}
    if net.readout.weight.is_cuda:
        rules["OTTT, CUDA graph"] = GraphedRule(rules["OTTT"])
    rules |= {"SLTT": make_rule("sltt"), "SAF-E": make_rule("saf-e", update="sequence")}
    rules |= {"SAF-F": make_rule("saf-f"), "BPTT": make_rule("bptt")}
    ours = {name: _batch_of(rule, net, x, labels) for name, rule in rules.items()}
    ours["OTTT, plain engine"] = _batch_of(rules["OTTT"], net, x, labels, "plain")
    if net.readout.weight.is_cuda:
        ours["BPTT, CUDA graph"] = _batch_of(GraphedRule(make_rule("bptt")), net, x, labels)
    plain = {"BPTT, plain": lambda: plain_bptt_batch(net, x, labels)}
    return {"two forwards": lambda: two_forward_batch(net, x, labels)} | ours | plain


def _batch_of(rule: Rule, net: Network, x: Input, labels: Tensor, engine: str = "auto") -> Callable[[], Tensor]:
    chosen = choose(net, rule, LOSS, x.shape[1], engine)
    return lambda: chosen.backward(net, rule, x, labels, LOSS).scores


def shortened(x: Input, steps: int, samples: int | None = None) -> Input:
    """Return the first time steps of the first samples."""
    if isinstance(x, ConstantInput):
        return ConstantInput(x.frame[:samples], min(steps, x.num_steps))
    return x[:samples, :steps]


def check_equal(net: Network, x: Input, labels: Tensor) -> None:
    """Check that the loops here have our rules' gradients; in float64, where no spike at the threshold changes."""
    if net.convention == "paper" and any(s.bias is not None for s in net.connections()):
        raise ValueError("the two-forward formulation has no trace on biases")
    exact, found = copy.deepcopy(net).double(), {}
    for name, run in contenders(exact, shortened(x, 12).to(torch.float64), labels).items():
        if name.startswith(("two forwards", "OTTT", "BPTT")):
            exact.zero_grad()
            run()
            found[name] = torch.cat([p.grad.flatten() for p in exact.parameters()])
    for name, gradients in found.items():
        expected = found["BPTT" if name.startswith("BPTT") else "two forwards"]
        error = float((gradients - expected).norm() / expected.norm())
        if error > 1e-10:
            raise AssertionError(f"the gradients of {name} differ by {error:.1e}")


@torch.no_grad()
def let_fire(net: Network, x: Input, rate: float) -> list[float]:
    """Scale every layer's weights until this part of its neurons fires in a step, as in a trained network.

    A network as it is initialised is nearly silent behind its first layer, and events cost next to nothing there.
    """
    found = []
    for index, block in enumerate(net.blocks):
        scaled = block.connection.weight if block.connection.gain is None else block.connection.gain
        start, low, high = scaled.clone(), 0.0, 64.0
        for _ in range(16):
            factor = (low + high) / 2
            scaled.copy_(start * factor)
            now = float(net.run(shortened(x, 12, 8), record=("s",)).states["s"][index].mean())
            low, high = (factor, high) if now < rate else (low, factor)
        found.append(now)
    return found


def measure(runs: dict[str, Callable[[], Tensor]], net: Network, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds per batch and ratio to the first contender."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            net.zero_grad(set_to_none=False)
            _synchronize(net)
            start = time.perf_counter()
            run()
            _synchronize(net)
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    base = seconds[next(iter(runs))]
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(values),
            "ratio": statistics.median(b / v for b, v in zip(base, values)),
        }
        for name, values in seconds.items()
    }


def _synchronize(net: Network) -> None:
    if net.readout.weight.is_cuda:
        torch.cuda.synchronize()


def inputs(net: Network, batch: int, steps: int, static: bool, device: str) -> tuple[Input, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (batch,), generator=generator).to(device)
    if static:
        return ConstantInput(torch.rand(batch, *net.input_shape, generator=generator).to(device), steps), labels
    x = (torch.rand(batch, steps, *net.input_shape, generator=generator) < 0.1).float()
    return x.to(device), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[48, 6])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--convention", default="authors", choices=["authors", "paper"])
    parser.add_argument("--rate", type=float, default=0.1, help="spikes per neuron and step, of every layer")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--json", help="write the figures here too")
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.steps, arguments.repeats = [3], 1
    torch.set_num_threads(arguments.threads)
    rows = []
    table = Table("network", "input", "T", "rule", "ms per batch", "× two forwards")
    for name, (net, batch) in networks(arguments.convention).items():
        if arguments.only not in name:
            continue
        net.to(arguments.device)
        for steps in arguments.steps:
            for static in (False, True):
                x, labels = inputs(net, batch, steps, static, arguments.device)
                let_fire(net, x, arguments.rate)
                check_equal(net, x, labels)
                for rule, found in measure(contenders(net, x, labels), net, arguments.repeats).items():
                    kind = "constant" if static else "events"
                    rows.append({"network": name, "input": kind, "steps": steps, "rule": rule, **found})
                    table.add_row(name, kind, str(steps), rule, f"{found['milliseconds']:.1f}", f"{found['ratio']:.2f}")
    Console(width=120).print(table)
    cpu = f"{arguments.threads} threads, {platform.processor() or platform.machine()}"
    where = cpu if arguments.device == "cpu" else torch.cuda.get_device_name(arguments.device)
    print(f"torch {torch.__version__}, {where}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"where": where, "torch": torch.__version__, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
