"""Learning on the chip with OTTT's three local factors, in Lava. Nothing here imports Lava before it is used."""

from ottt_loihi.converters.lava.runtime import LavaRun, require_lava
from ottt_loihi.onchip.answered import Prequential, prequential
from ottt_loihi.onchip.lava.executors import repeat_in_lava
from ottt_loihi.onchip.learner import learn
from ottt_loihi.onchip.network.fresh import fresh_network
from ottt_loihi.onchip.network.hlop import watch
from ottt_loihi.onchip.result import LearningResult
from ottt_loihi.onchip.settings import Settings
from ottt_loihi.sim.learning.rule import Rule

__all__ = [
    "LavaRun",
    "LearningResult",
    "Prequential",
    "Rule",
    "Settings",
    "fresh_network",
    "learn",
    "prequential",
    "repeat_in_lava",
    "require_lava",
    "watch",
]
