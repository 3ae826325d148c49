"""The kinds of feedback, a class and a file for each. A new kind is one file here and its name in ``sim``'s rule.

A class says how the error travels (the attributes of :class:`~ottt_loihi.sim.learning.network.Feedback`), ``begin``
makes the integers of a hidden layer, and ``process`` the Lava process that carries the error to it.
"""

from ottt_loihi.onchip.network.feedback.kolen_pollack import KolenPollack
from ottt_loihi.onchip.network.feedback.local import Local
from ottt_loihi.onchip.network.feedback.opzo import OPZO
from ottt_loihi.onchip.network.feedback.random import Random
from ottt_loihi.onchip.network.feedback.symmetric import Symmetric

KINDS = {kind.kind: kind for kind in (Random, Symmetric, KolenPollack, OPZO, Local)}
