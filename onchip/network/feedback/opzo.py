"""OPZO: direct feedback that learns from noise in the forward pass."""

from __future__ import annotations

from typing import Any

from ottt_loihi.onchip.network.feedback.kolen_pollack import start_weights
from ottt_loihi.onchip.network.trainable import Plan
from ottt_loihi.sim.learning import integers
from ottt_loihi.sim.learning.network import Feedback
from ottt_loihi.sim.learning.program import Op
from ottt_loihi.sim.learning.rule import Rule

NOISE = 4  # its amplitude is a quarter of the threshold; less gives a noisier M, more disturbs the network
AVERAGING = 13  # M averages over 2^13 time steps: as long as a fifth of an epoch of MNIST at T = 6 … 8


class OPZO(Feedback):
    """``M · e`` with the readout's error e; M follows noise · error. Source: OPZO (Xiao et al. 2024)."""

    kind = "opzo"
    operations = (Op.FOLLOW_NOISE,)

    @classmethod
    def begin(cls, plan: Plan, layer: int, rule: Rule, own_seed: int) -> tuple[OPZO, float]:
        """As :meth:`~ottt_loihi.onchip.network.feedback.random.Random.begin`.

        An LSB of M is an LSB of the readout's weights: ∂o/∂u of the top layer is its transposed weights times a rate.
        """
        lif, units = plan.hidden[layer], plan.resolution(len(plan.hidden))
        noise = max(1, lif.vth // NOISE)
        gain = units * lif.vth / noise / integers.ERROR_STEPS
        matrix = start_weights(plan, -1, (lif.size, plan.classes), rule.seed + layer)
        scale = integers.mantissa_and_shift(gain, f"feedback[{layer}].gain")
        return cls(matrix, own_seed, noise, scale, AVERAGING), units

    def process(self, layer: int, builder: Any) -> Any:
        """As :meth:`~ottt_loihi.onchip.network.feedback.random.Fixed.process`."""
        from ottt_loihi.onchip.lava.processes.feedback import MomentumFeedback

        return MomentumFeedback(self, builder.network.epoch, f"feedback[{layer}]")
