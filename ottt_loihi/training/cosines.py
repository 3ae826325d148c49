"""The cosine of a rule's gradient with that of backpropagation through time, layer by layer."""

from __future__ import annotations

import copy

import torch

from ottt_loihi.data.pixels import intensities
from ottt_loihi.nn.network import Network
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.base import Rule
from ottt_loihi.rules.losses import Loss
from ottt_loihi.training.encoding import encode
from ottt_loihi.training.trainer import Trainer

SAMPLES = 64
SEED = 0  # of the coding, and of the neurons that drop out


def cosines(trainer: Trainer) -> list[float | None]:
    """Return the cosine of each layer's gradient with BPTT's, the readout last; None where a layer learns nothing.

    Both are gradients of one batch, the first 64 training samples, in float64 on a copy of the network, and of the
    trainer's loss with its class weights and teacher. BPTT has the membrane's whole past, its reset is a constant.
    ``trainer``: after :meth:`~ottt_loihi.training.trainer.Trainer.open`.

    Raises
    ------
    UsageError
        for a network or loss that one of the rules does not fit
    """
    net, samples = copy.deepcopy(trainer.net).double().train(), trainer.data
    batch = next(iter(samples.in_order(SAMPLES)))
    values = batch.x[:, : net.time_steps] if samples.time_axis else intensities(batch.x)
    x = encode(values, samples.coding, net.time_steps, SEED, batch.indices, samples.time_axis).to(torch.float64)
    loss = trainer.loss_of(x.to(trainer.net.readout.weight))
    found = [_gradients(net, one, loss, x, torch.from_numpy(batch.y)) for one in (trainer.rule, make_rule("bptt"))]
    return [_cosine(a, b) for a, b in zip(*found, strict=True)]


def _gradients(
    net: Network, rule: Rule, loss: Loss, x: torch.Tensor, labels: torch.Tensor
) -> list[torch.Tensor | None]:
    net.zero_grad()
    with torch.random.fork_rng([]):
        torch.manual_seed(SEED)  # both rules drop the same neurons
        rule.backward(net, x, labels, loss)
    layers = [*(block.connection for block in net.blocks), net.readout]
    return [None if layer.weight.grad is None else layer.weight.grad.flatten().clone() for layer in layers]


def _cosine(a: torch.Tensor | None, b: torch.Tensor | None) -> float | None:
    if a is None or b is None or not a.any() or not b.any():
        return None
    return float(torch.cosine_similarity(a, b, 0))
