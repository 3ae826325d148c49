"""S-TLLR: a three-factor rule like pair STDP (Apolinario and Roy, TMLR 2025, arXiv 2306.15220)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block, BlockState
from ottt_loihi.nn.network import Network, NetworkState
from ottt_loihi.nn.neurons import Trace, follow
from ottt_loihi.nn.paths import CONVENTIONS
from ottt_loihi.nn.trace import fixed_parameters, gradient_only, with_trace
from ottt_loihi.rules.base import Error, with_graph
from ottt_loihi.rules.eligibility import LayeredRule, after_step, fire, random_matrix, require_lif, trace_of

SIGNALS = ("backpropagated", "direct")


class Eligibility(LayeredRule):
    """The eligibility of S-TLLR, which TESS shares.

    ::

        tr[t] = λ_pre·tr[t−1] + x[t]                        h[t] = λ_post·h[t−1] + Ψ(u[t])
        e_ij[t] = α_pre·Ψ(u_i[t])·tr_j[t] + α_post·h_i[t−1]·x_j[t]
        ∇w_ij = Σ_t δ_i[t]·e_ij[t]                          ∇b_i = Σ_t δ_i[t]·Ψ(u_i[t])

    Ψ is the surrogate of the neurons. Traces run through all T steps, whether they are learnt from or not.
    """

    shares_convention: ClassVar[bool] = False  # of this rule's own released code
    settings = ("lambda_pre", "lambda_post", "alpha_pre", "alpha_post", "last_steps", "update", "convention")

    def __init__(
        self,
        lambda_pre: float,
        lambda_post: float,
        alpha_pre: float,
        alpha_post: float,
        last_steps: int | None,
        update: str,
        convention: str,
    ) -> None:
        super().__init__(update)
        self.lambda_pre = checks.number(lambda_pre, "lambda_pre", 0, 1)
        self.lambda_post = checks.number(lambda_post, "lambda_post", 0, 1)
        self.alpha_pre = checks.number(alpha_pre, "alpha_pre", -1e6, 1e6)
        self.alpha_post = checks.number(alpha_post, "alpha_post", -1e6, 1e6)
        self.last_steps = None if last_steps is None else checks.integer(last_steps, "last_steps")
        self.convention = checks.one_of(convention, "convention", CONVENTIONS)

    @property
    def post_factor(self) -> float:
        """Return the factor of h[t − 1], α_post or with the paper's convention (equation 10) α_post·λ_post."""
        return self.alpha_post * (self.lambda_post if self.convention == "paper" else 1.0)

    def check(self, net: Network) -> None:
        require_lif(self.name, net, branches=True)

    def steps_with_gradient(self, num_steps: int) -> set[int]:
        if self.last_steps is not None and self.last_steps > num_steps:
            raise UsageError(f"last_steps: expected at most the {num_steps} time steps, got {self.last_steps}")
        return set(range(num_steps - (self.last_steps or num_steps), num_steps))

    def layer(
        self, block: Block, inputs: Sequence[Tensor | None], state: BlockState | None, last: bool
    ) -> tuple[Tensor, BlockState]:
        """Return the spikes of one time step, with this eligibility for the weights and Ψ towards the inputs."""
        current, after, traces = 0, 0, []
        for number, (connection, x) in enumerate(zip(block.connections, inputs, strict=True)):
            trace = follow(x, trace_of(state, number), self.lambda_pre)
            traces.append(trace)
            current = current + with_trace(connection, x, Trace(self.alpha_pre * trace.value), current=("bias",))
            if state is not None and self.post_factor and torch.is_grad_enabled():
                weights = [name for name, _ in connection.named_parameters() if name != "bias"]
                after = after + fixed_parameters(connection, x.detach(), weights)
        step = fire(block, current, state)
        h = block.neuron.surrogate(step.u.detach(), block.neuron.v_threshold)
        if isinstance(after, Tensor):
            step = step._replace(s=step.s + gradient_only(self.post_factor * state.memory * after))
        if state is not None:
            h = self.lambda_post * state.memory + h
        return after_step(block, step, current, tuple(traces), state, h)


class STLLR(Eligibility):
    """The eligibility above with a learning signal through space: backpropagated, or sent to every layer directly.

    ::

        δ_l = W_{l+1}ᵀ·(Ψ_{l+1} ⊙ δ_{l+1})         signal="backpropagated"
        δ_l = B_l·∂L[t]/∂o[t]                       signal="direct", B_l fixed and random

    ============  ======================  ========================================================================
    setting       range                   meaning
    ============  ======================  ========================================================================
    lambda_pre    0 … 1                   λ_pre, decay of the input's trace
    lambda_post   0 … 1                   λ_post, decay of h
    alpha_pre     number                  α_pre, weight of what the input did before the neuron
    alpha_post    number                  α_post, weight of what it does after; 0: a gradient, else it is none
    last_steps    1 … T, or None          S: only the last S time steps are learnt from; None: all
    signal        ``"backpropagated"``,   see above
                  ``"direct"``
    update        ``"step"``,             as in OTTT
                  ``"sequence"``
    convention    ``"authors"``,          the released code, with which the published runs were made; or equation 10
                  ``"paper"``             of the paper, where α_post is multiplied by λ_post
    seed          ≥ 0                     of B, together with the layer's number
    ============  ======================  ========================================================================

    LIF layers, recurrent ones too: a recurrent connection has the same eligibility with s[t − 1] for x, and no error
    goes back through it. The readout has no trace. In two places this is not the released code: its threshold is
    0.6 for every data set, ours is the network's; its direct error is a sum over the batch, ours a mean.
    With α_post = 0, λ_pre = λ and all steps, the weights' gradient is that of ``OTTT(convention="paper")``.
    """

    name: ClassVar[str] = "s-tllr"
    settings = (*Eligibility.settings, "signal", "seed")

    def __init__(
        self,
        lambda_pre: float = 0.5,
        lambda_post: float = 0.2,
        alpha_pre: float = 1.0,
        alpha_post: float = 1.0,
        last_steps: int | None = None,
        signal: str = "backpropagated",
        update: str = "sequence",
        convention: str = "authors",
        seed: int = 0,
    ) -> None:
        super().__init__(lambda_pre, lambda_post, alpha_pre, alpha_post, last_steps, update, convention)
        self.signal = checks.one_of(signal, "signal", SIGNALS)
        self.alone = signal == "direct"
        self.seed = checks.integer(seed, "seed", 0)

    def teach(self, net: Network, now: Tensor, o: Tensor, state: NetworkState, error: Error) -> None:
        if not self.alone:
            super().teach(net, now, o, state, error)
            return
        outs = [after.out for after in state.blocks]
        (g,) = torch.autograd.grad(now, o, retain_graph=True)
        signals = []
        for layer, (block, out) in enumerate(zip(net.blocks, outs, strict=True)):
            feedback = random_matrix((math.prod(block.shape), net.num_classes), self.seed, layer, o)
            signals.append((g @ feedback.t()).view_as(out))
        torch.autograd.backward(*with_graph([now, *outs], [torch.ones_like(now), *signals]))
