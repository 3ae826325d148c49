"""A process of ``benchmarks/peers.py``, in which one contender trains batches as its own documentation does.

The process reads a request a line from standard input and answers each with a line of JSON. It imports its own
framework and nothing of the others, so that every contender may live in an environment of its own. The weights, inputs
and labels come in a file that the parent wrote.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peers_batch import LAMBDA, SLOPE, Batch, Job


def _torch_job(parameters: list[Any], train: Callable[[], Any]) -> Job:
    def run() -> None:
        for parameter in parameters:
            parameter.grad = None
        train()

    return Job(run, lambda: [parameter.grad.numpy().reshape(parameter.shape) for parameter in parameters])


def _tensors(batch: Batch) -> tuple[list[Any], Any]:
    """Return the T frames, which share memory where they are one frame, and the one-hot labels."""
    import torch

    x = torch.from_numpy(batch.x)
    frames = [x] * batch.steps if batch.constant else list(x.unbind(1))
    return frames, torch.nn.functional.one_hot(torch.from_numpy(batch.labels), len(batch.weights[-1])).to(x.dtype)


def _stack(batch: Batch, neuron: Callable[[], Any]) -> list[Any]:
    """Return torch's own layers with the weights of the batch: the MLP, or the convolutional network."""
    import torch
    from torch import nn

    layers: list[Any] = []
    for index, weight in enumerate(batch.weights):
        if weight.ndim == 4:
            layers += [nn.AvgPool2d(2)] if index else []
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
        else:
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if index and batch.weights[index - 1].ndim == 4 else []
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = nn.Parameter(torch.from_numpy(weight.copy()))
        layers += [layer] if index + 1 == len(batch.weights) else [layer, neuron()]
    return layers


def _weights(layers: list[Any]) -> list[Any]:
    return [layer.weight for layer in layers if getattr(layer, "weight", None) is not None]


def _our_network(batch: Batch, convention: str) -> tuple[Any, list[Any], Any]:
    """Return our network, its weights and its input."""
    import torch
    from training import networks

    from ottt_loihi.nn.inputs import ConstantInput

    title = "conv" if batch.weights[0].ndim == 4 else "MLP"
    net = next(net for name, (net, _) in networks(convention).items() if name.startswith(title))
    net = net.to(getattr(torch, batch.dtype))
    parameters = [connection.weight for connection in net.connections()]
    with torch.no_grad():
        for parameter, weight in zip(parameters, batch.weights, strict=True):
            parameter.copy_(torch.from_numpy(weight))
    x = torch.from_numpy(batch.x)
    return net, parameters, ConstantInput(x, batch.steps) if batch.constant else x


def ours(engine: str, convention: str) -> Callable[[Batch], Job]:
    """Our OTTT: "authors" has a trace before the readout and none on the input; "paper" the other way round."""

    def prepare(batch: Batch) -> Job:
        import torch
        from training import LOSS

        from ottt_loihi.rules import make_rule
        from ottt_loihi.training.engine import choose

        net, parameters, x = _our_network(batch, convention)
        rule, labels = make_rule("ottt", update="sequence", convention=convention), torch.from_numpy(batch.labels)
        chosen = choose(net, rule, LOSS, batch.steps, engine)
        return _torch_job(parameters, lambda: chosen.backward(net, rule, x, labels, LOSS))

    return prepare


def two_forwards(batch: Batch) -> Job:
    """OTTT as it is usually written with autograd (``benchmarks/training.py``)."""
    import torch
    from training import two_forward_batch

    net, parameters, x = _our_network(batch, "authors")
    labels = torch.from_numpy(batch.labels)
    return _torch_job(parameters, lambda: two_forward_batch(net, x, labels))


def spikingjelly_ottt(batch: Batch) -> Job:
    """SpikingJelly's modules for OTTT, one time step after the other, a backward pass in each."""
    from spikingjelly.activation_based import functional, neuron, surrogate
    from spikingjelly.activation_based.layer import OTTTSequential

    layers = _stack(batch, lambda: neuron.OTTTLIFNode(tau=2.0, surrogate_function=surrogate.Sigmoid(SLOPE)))
    net = OTTTSequential(*layers).train()
    frames, wanted = _tensors(batch)

    def train() -> None:
        functional.reset_net(net)
        for frame in frames:
            ((net(frame) - wanted).square().sum() / (2 * batch.steps * len(wanted))).backward()

    return _torch_job(_weights(layers), train)


def spikingjelly_bptt(batch: Batch) -> Job:
    """SpikingJelly's multi-step mode: a layer takes all time steps before the next one starts."""
    import torch
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    settings = {"decay_input": False, "v_reset": None, "detach_reset": True, "step_mode": "m"}
    layers = _stack(batch, lambda: neuron.LIFNode(tau=2.0, surrogate_function=surrogate.Sigmoid(SLOPE), **settings))
    net = torch.nn.Sequential(*(m if hasattr(m, "tau") else layer.SeqToANNContainer(m) for m in layers))
    frames, wanted = _tensors(batch)
    x = torch.stack(frames)

    def train() -> None:
        functional.reset_net(net)
        scores = net(x)
        ((scores - wanted).square().sum() / (2 * batch.steps * len(wanted))).backward()

    return _torch_job(_weights(layers), train)


def _through_time(batch: Batch, layers: list[Any], fire: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Job:
    """A loop over time and one backward pass; ``fire`` advances a neuron and returns its spikes and its state."""
    frames, wanted = _tensors(batch)
    neurons = [index for index, layer in enumerate(layers) if not type(layer).__module__.startswith("torch.")]

    def train() -> None:
        states: dict[int, Any] = {}
        loss = 0
        for out in frames:
            for index, layer in enumerate(layers):
                if index in neurons:
                    out, states[index] = fire(layer, out, states.get(index))
                else:
                    out = layer(out)
            loss = loss + (out - wanted).square().sum() / (2 * batch.steps * len(wanted))
        loss.backward()

    return _torch_job(_weights(layers), train)


def snntorch_bptt(batch: Batch) -> Job:
    """snnTorch's loop over time. Its spikes are float32 always, so they are cast for the check in float64."""
    import snntorch as snn
    from snntorch import surrogate

    layers = _stack(batch, lambda: snn.Leaky(beta=LAMBDA, spike_grad=surrogate.sigmoid(slope=SLOPE)))

    def fire(neuron: Any, current: Any, state: Any) -> tuple[Any, Any]:
        spikes, state = neuron(current, neuron.reset_mem() if state is None else state)
        return spikes.to(current.dtype), state

    return _through_time(batch, layers, fire)


def norse_bptt(batch: Batch) -> Job:
    """Norse's loop over time. Its neuron halves the current, so the hidden weights are doubled."""
    import torch
    from norse.torch import LIFBoxCell, LIFBoxParameters

    batch.weights = [2 * weight for weight in batch.weights[:-1]] + batch.weights[-1:]
    parameters = LIFBoxParameters(tau_mem_inv=torch.as_tensor(1.0))
    layers = _stack(batch, lambda: LIFBoxCell(parameters, dt=LAMBDA))
    return _through_time(batch, layers, lambda neuron, current, state: neuron(current, state))


def slayer_bptt(batch: Batch) -> Job:
    """lava-dl's SLAYER: layers of all time steps with the time last, weights and states rounded as Loihi needs them."""
    import torch
    from lava.lib.dl import slayer

    neuron = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 1 - LAMBDA, "requires_grad": False}
    convolutional = batch.weights[0].ndim == 4
    layers: list[Any] = []
    for index, weight in enumerate(batch.weights[:-1]):
        if convolutional:
            layers += [torch.nn.AvgPool3d((2, 2, 1))] if index else []
            layers.append(slayer.block.cuba.Conv(neuron, weight.shape[1], weight.shape[0], 3, padding=1))
        else:
            layers.append(slayer.block.cuba.Dense(neuron, weight.shape[1], weight.shape[0]))
    layers.append(slayer.synapse.Dense(batch.weights[-1].shape[1], len(batch.weights[-1])))
    parameters = [parameter for layer in layers for parameter in layer.parameters() if parameter.ndim > 1]
    with torch.no_grad():
        for parameter, weight in zip(parameters, batch.weights, strict=True):
            parameter.copy_(torch.from_numpy(weight).reshape(parameter.shape))
    frames, wanted = _tensors(batch)
    x = torch.stack(frames, -1)

    def train() -> None:
        out = x
        for layer in layers[:-1]:
            out = layer(out)
        out = layers[-1](out.mean((2, 3)) if convolutional else out)
        ((out - wanted[..., None]).square().sum() / (2 * batch.steps * len(wanted))).backward()

    return _torch_job(parameters, train)


def braintrace_pp_prop(batch: Batch) -> Job:
    from peers_braintrace import pp_prop

    return pp_prop(batch)


CONTENDERS: dict[str, tuple[Callable[[Batch], Job], tuple[str, ...]]] = {  # and the packages whose versions count
    "ours": (ours("auto", "authors"), ("torch",)),
    "ours, plain": (ours("plain", "authors"), ("torch",)),
    "ours, input traced": (ours("auto", "paper"), ("torch",)),
    "two forwards": (two_forwards, ("torch",)),
    "SpikingJelly OTTT": (spikingjelly_ottt, ("spikingjelly", "torch")),
    "SpikingJelly BPTT": (spikingjelly_bptt, ("spikingjelly", "torch")),
    "snnTorch BPTT": (snntorch_bptt, ("snntorch", "torch")),
    "Norse BPTT": (norse_bptt, ("norse", "torch")),
    "SLAYER BPTT": (slayer_bptt, ("lava-dl", "torch")),
    "BrainTrace pp_prop": (braintrace_pp_prop, ("braintrace", "jax")),
}
IMPORTS = {
    "SpikingJelly": "spikingjelly.activation_based.layer",
    "snnTorch": "snntorch",
    "Norse": "norse.torch",
    "SLAYER": "lava.lib.dl.slayer",
    "BrainTrace": "braintrace",
}


def _status(field: str) -> int:
    """Return VmRSS or VmHWM in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def peak_of(run: Callable[[], Any]) -> int:
    """Return the bytes that a call needs at most at one time beyond what the process holds before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else memory that was freed before counts as held
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    run()
    return max(0, _status("VmHWM") - before)


class Worker:
    """Answers requests with the one batch that was prepared last."""

    def __init__(self, prepare: Callable[[Batch], Job]) -> None:
        self.prepare, self.job = prepare, None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = request["do"]
        if kind == "prepare":
            self.job = None
            gc.collect()
            self.job = self.prepare(Batch.read(request["file"], request["dtype"]))
            self.job.run()  # compiles and allocates
            return {}
        if kind == "memory":  # the batch is the first of its size: a framework keeps memory for the next one
            self.prepare(Batch.read(request["small"], "float32")).run()  # loads libraries
            return {"bytes": peak_of(self.prepare(Batch.read(request["file"], "float32")).run)}
        assert self.job is not None
        if kind == "time":
            wall, cpu = time.perf_counter(), time.process_time()
            self.job.run()
            return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        self.job.run()
        np.savez(request["to"], *self.job.gradients())
        return {}


def _said(error: Exception) -> dict[str, str]:
    return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or ['no reason is given'])[0]}"}


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is no answer
    if threads == 1 and name.startswith("BrainTrace"):  # JAX has no setting for it
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    prepare, packages = CONTENDERS[name]
    try:
        for start, module in IMPORTS.items():
            if name.startswith(start):
                __import__(module)
        if not name.startswith("BrainTrace"):
            import torch

            torch.set_num_threads(threads)
        ready = {"versions": {package: version(package) for package in packages}}
    except Exception as error:  # whatever a framework raises when it is imported
        ready = _said(error)
    print(json.dumps(ready), file=answers, flush=True)
    worker = Worker(prepare)
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:  # the parent names it in the table and goes on without this contender
            answer = _said(error)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
