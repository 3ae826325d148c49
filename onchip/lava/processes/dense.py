"""The plastic connection of OTTT: Lava's learning engine, with trace reset and without its surprises."""

from __future__ import annotations

from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.connection import LearningConnectionModelBitApproximate, LearningConnectionModelFloat
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.models import AbstractPyDenseModelBitAcc, AbstractPyDenseModelFloat
from lava.proc.dense.process import LearningDense
from ottt_loihi.onchip.lava.connection import Plastic, PlasticModelFixed, PlasticModelFloat


class OTTTDense(Plastic, LearningDense):
    """``a_out[t+1] = (W·s_in[t]) << weight_exp``, W learning by Lava's engine at the end of each epoch.

    What differs from Lava's ``LearningDense``:

    * x1 is set to 0 before every ``reset_interval``-th step, counted from the first: the trace of one sample never
      reaches the next (``reset_interval`` = K·T; K for a trace that is the epoch's spike alone);
    * weights are not truncated to even numbers at the first step: a resumed run goes on from the very same weights;
    * a ``Var.set()`` does not turn x1_tau into an integer;
    * weights decay, ``w −= w/2^decay_shift`` after every ``decay_every``-th epoch (0: never), rounded stochastically
      with a number of its own for each synapse (``sim.learning.integers.decay_step``);
    * ``error_out[t+1] = Wᵀ·error_in[t]`` gives the transposed weights as they are, for symmetric feedback.

    weights: integers −256 … 255 ``(post, pre)`` in fixed point.

    rounding (fixed point): how an updated weight becomes an integer again. ``"lava"``: as Lava's engine does it, one
    random number per learning epoch for all synapses, so that their errors add up. ``"per-synapse"``: an independent
    number for each synapse, as the chip does it, of ``sim.learning.integers.synapse_draws(seed, …)``, counting epochs
    from 0; everything else is Lava's engine.
    """


@implements(proc=OTTTDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class OTTTDenseModelFloat(PlasticModelFloat, LearningConnectionModelFloat, AbstractPyDenseModelFloat):
    pass


@implements(proc=OTTTDense, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class OTTTDenseModelFixed(PlasticModelFixed, LearningConnectionModelBitApproximate, AbstractPyDenseModelBitAcc):
    pass
