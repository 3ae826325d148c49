"""An oracle for gradients: plain autograd through time, written without any layer of ours."""

from __future__ import annotations

import torch

SURROGATES = {
    "rectangle": lambda u, vth: ((u > 0) & (u < 2 * vth)).to(u.dtype),
    "sigmoid": lambda u, vth: torch.autograd.functional.vjp(
        lambda z: torch.sigmoid(4 * z), u - vth, torch.ones_like(u), strict=True
    )[1],
    "triangle": lambda u, vth: torch.relu(1 - torch.abs(u / vth - 1)),
}


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, vth, surrogate):
        ctx.save_for_backward(u)
        ctx.vth, ctx.surrogate = vth, surrogate
        return torch.heaviside(u - vth, torch.zeros_like(u))

    @staticmethod
    def backward(ctx, g):
        (u,) = ctx.saved_tensors
        with torch.enable_grad():
            f = SURROGATES[ctx.surrogate](u.detach(), ctx.vth)
        return g * f, None, None


def gradients(net, x, labels, loss, surrogate, attached=None):
    """Gradients (weights, biases) of Σ_t L[t] per layer, the readout last.

    ``attached``: the hidden layers whose gradient runs back through λ·v[t−1]; None: all (BPTT). Resets are constants.
    """
    layers = [block.connection for block in net.blocks] + [net.readout]
    weights = [layer.weight.detach().clone().requires_grad_() for layer in layers]
    biases = [None if layer.bias is None else layer.bias.detach().clone().requires_grad_() for layer in layers]
    v = [0.0] * len(net.blocks)
    total = 0.0
    for t in range(x.shape[1]):
        h = x[:, t].flatten(1)
        for index, block in enumerate(net.blocks):
            neuron = block.neuron
            past = v[index] if attached is None or index in attached or t == 0 else v[index].detach()
            u = neuron.beta * past + torch.nn.functional.linear(h, weights[index], biases[index])
            h = Spike.apply(u, neuron.v_threshold, surrogate)
            fired = h.detach()
            v[index] = u - (neuron.v_threshold if neuron.reset == "subtract" else u.detach()) * fired
        total = total + loss(torch.nn.functional.linear(h, weights[-1], biases[-1]), labels, x.shape[1])
    total.backward()
    return [w.grad for w in weights], [None if b is None else b.grad for b in biases]
