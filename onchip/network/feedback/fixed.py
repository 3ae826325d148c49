"""Feedback whose weights never change, which Lava's own connection carries."""

from __future__ import annotations

from typing import Any

from ottt_loihi.sim.learning.network import Feedback


class Fixed(Feedback):
    """``matrix · e`` with fixed weights; a subclass says which error e is, and makes the matrix."""

    def process(self, layer: int, builder: Any) -> Any:
        """Return the Lava process, named ``feedback[layer]``, in a graph of ``onchip.lava.graph.Builder``."""
        from lava.proc.dense.process import Dense

        return Dense(weights=self.matrix, num_message_bits=8, name=f"feedback[{layer}]")
