"""BrainTrace as a contender of ``benchmarks/peers.py``; the one that needs JAX and no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from peers_batch import LAMBDA, SLOPE, Batch, Job


def pp_prop(batch: Batch) -> Job:
    """BrainTrace's pp_prop, compiled by JAX; channels come last."""
    import jax

    jax.config.update("jax_enable_x64", batch.dtype == "float64")
    import brainstate
    import braintrace
    import jax.numpy as jnp
    from braintools.surrogate import sigmoid

    class LIF(brainstate.nn.Module):
        """The membrane before the reset is the state; the threshold is subtracted a step later, and decays."""

        def __init__(self, shape: tuple[int, ...]) -> None:
            super().__init__()
            self.shape = shape

        def init_state(self, batch_size: int | None = None) -> None:
            self.u = brainstate.HiddenState(jnp.zeros((batch_size, *self.shape), batch.dtype))

        def update(self, current: Any) -> Any:
            before = self.u.value
            rest = before - jax.lax.stop_gradient((before >= 1).astype(before.dtype))
            self.u.value = LAMBDA * rest + current
            return sigmoid(self.u.value - 1, SLOPE)

    class Net(brainstate.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.connections, self.neurons = [], []
            side = batch.x.shape[-1]
            for weight in batch.weights:
                if weight.ndim == 4:
                    shape = (side, side, weight.shape[1])
                    made = braintrace.nn.Conv2d(shape, weight.shape[0], 3, padding="SAME", b_init=None)
                    made.weight.value = {"weight": jnp.asarray(weight.transpose(2, 3, 1, 0))}
                    self.neurons.append(LIF((side, side, weight.shape[0])))
                    side //= 2
                else:
                    made = braintrace.nn.Linear(weight.shape[1], weight.shape[0], b_init=None)
                    made.weight.value = {"weight": jnp.asarray(weight.T)}
                    self.neurons.append(LIF((weight.shape[0],)))
                self.connections.append(made)
            self.neurons.pop()

        def update(self, x: Any) -> Any:
            for index, connection in enumerate(self.connections):
                if x.ndim == 4 and index:
                    if batch.weights[index].ndim == 4:
                        n, side, _, channels = x.shape
                        x = x.reshape(n, side // 2, 2, side // 2, 2, channels).mean((2, 4))
                    else:
                        x = x.mean((1, 2))
                x = connection(x)
                if index < len(self.neurons):
                    x = self.neurons[index](x)
            return x

    x = batch.x
    if x.ndim >= 4 and batch.weights[0].ndim == 4:
        x = np.moveaxis(x, -3, -1)
    x = np.broadcast_to(x, (batch.steps, *x.shape)) if batch.constant else x.swapaxes(0, 1)
    samples = len(batch.labels)
    net = Net()
    learner = braintrace.compile(net, braintrace.pp_prop, jnp.asarray(x[0]), batch_size=samples, decay_or_rank=LAMBDA)
    xs = jnp.asarray(x)
    wanted = jax.nn.one_hot(batch.labels, len(batch.weights[-1]), dtype=batch.dtype)

    def step(frame: Any) -> Any:
        return ((learner(frame) - wanted) ** 2).sum() / (2 * batch.steps * samples)

    @brainstate.transform.jit
    def train(xs: Any) -> Any:
        for neuron in net.neurons:
            neuron.u.value = jnp.zeros_like(neuron.u.value)
        learner.reset_state(samples)
        return learner.etrace_grad(xs, step_fn=step, reduction="sum")

    found: dict[Any, Any] = {}

    def run() -> None:
        found["gradients"] = None
        found["gradients"] = jax.block_until_ready(train(xs))

    def gradients() -> list[np.ndarray]:
        by_state = {id(state): key for key, state in learner.param_states.items()}
        values = [found["gradients"][by_state[id(c.weight)]]["weight"] for c in net.connections]
        return [np.asarray(v).transpose((3, 2, 0, 1) if v.ndim == 4 else (1, 0)) for v in values]

    return Job(run, gradients)
