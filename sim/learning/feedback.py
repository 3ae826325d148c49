"""Learnt feedback in the plain NumPy loop: Kolen–Pollack and OPZO. Slow, obvious, the oracle for Lava and for sim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ottt_loihi.sim.learning.three_factor import ThreeFactorLoop

from ottt_loihi.errors import UsageError


class KolenPollackLoop(ThreeFactorLoop):
    """Layerwise feedback through matrices of its own, which learn as the weights do.

    ::

        δ_l[t] = A_{l+1}ᵀ·(f(u_{l+1}[t])·δ_{l+1}[t])          ΔA_{l+1} = ΔW_{l+1}

    Both factors of ΔA are there: the trace of layer l, which the feedback reaches, and f·δ of layer l + 1, where it
    comes from. A − W never changes, so what both learn makes them alike; with a weight decay they become equal.

    twins: A per hidden layer, ``(n_{l+1}, n_l)`` as the weights above it · everything else as in
    :class:`~ottt_loihi.sim.learning.three_factor.ThreeFactorLoop`. Source: Kolen and Pollack 1994; Akrout et al. 2019.
    """

    def __init__(self, weights: Sequence[np.ndarray], twins: Sequence[np.ndarray], **settings: Any) -> None:
        super().__init__(weights, **settings, feedback="symmetric")
        expected = [w.shape for w in self.weights[1:]]
        if [np.shape(a) for a in twins] != expected:
            raise UsageError(f"twins: expected shapes {expected}, got {[np.shape(a) for a in twins]}")
        self.twins = [np.array(a, np.float64) for a in twins]

    def apply(self, delta_w: Sequence[np.ndarray], delta_b: Sequence[np.ndarray | None] | None = None) -> None:
        super().apply(delta_w, delta_b)
        for twin, change in zip(self.twins, delta_w[1:]):
            twin += change

    def _errors(self, o: np.ndarray, target: np.ndarray, surrogate: list[np.ndarray]) -> list[np.ndarray]:
        delta = [(o - target) / self.time_steps]
        for layer in range(self.num_layers - 2, -1, -1):
            delta.insert(0, (surrogate[layer + 1] * delta[0]) @ self.twins[layer])
        return delta


class OPZOLoop(ThreeFactorLoop):
    """Direct feedback through matrices M that learn from noise in the forward pass, for batches of one.

    ::

        s[t] = H(u[t] + α·z[t] − Vth),  z = ±1            the noise stirs the comparison, not the membrane
        δ_l[t] = M_l·δ_out[t]
        M_l ← M_l + ( T/α · z_l[t]·δ_out[t]ᵀ − M_l ) / 2^averaging

    M becomes an estimate of ∂o/∂u at the same time step, averaged over samples: δ_out·T = o − y, and the label is
    independent of z. The surrogate stays a factor of Δw, unlike in the paper's membrane form: M's rows hold its mean,
    a positive number per neuron, and f(u) says for which samples the neuron counts.

    noise: α > 0 · averaging ≥ 1 · signs: function of the layer that gives the next z, ``(n,)`` · momentum: M at the
    start, ``(n_l, classes)`` per hidden layer, default 0. Source: OPZO (Xiao et al. 2024).
    """

    def __init__(
        self,
        weights: Sequence[np.ndarray],
        *,
        noise: float,
        averaging: int,
        signs: Callable[[int], np.ndarray],
        momentum: Sequence[np.ndarray] | None = None,
        **settings: Any,
    ) -> None:
        if not noise > 0 or averaging < 1:
            raise UsageError(f"noise, averaging: expected noise > 0 and averaging ≥ 1, got {noise} and {averaging}")
        classes = np.shape(weights[-1])[0]
        start = [np.zeros((w.shape[0], classes)) for w in weights[:-1]] if momentum is None else momentum
        super().__init__(weights, **settings, feedback=start)
        self.noise, self.averaging, self.signs = noise, averaging, signs
        self._z: list[np.ndarray] = [np.zeros(0)] * (self.num_layers - 1)
        self._error = np.zeros(classes)

    def fire(self, layer: int, u: np.ndarray) -> np.ndarray:
        if len(u) != 1:
            raise UsageError(f"OPZOLoop: expected batches of one, got {len(u)}")
        self._z[layer] = np.asarray(self.signs(layer), np.float64)
        return super().fire(layer, u + self.noise * self._z[layer])

    def apply(self, delta_w: Sequence[np.ndarray], delta_b: Sequence[np.ndarray | None] | None = None) -> None:
        super().apply(delta_w, delta_b)
        for matrix, z in zip(self.feedback, self._z):  # type: ignore[arg-type]
            matrix += (self.time_steps / self.noise * np.outer(z, self._error) - matrix) / 2**self.averaging

    def _errors(self, o: np.ndarray, target: np.ndarray, surrogate: list[np.ndarray]) -> list[np.ndarray]:
        delta = super()._errors(o, target, surrogate)
        self._error = delta[-1][0]
        return delta
