"""The three-factor rule as a plain NumPy loop: slow, obvious, and the oracle for torch, for Lava and for sim.

No torch and no Lava is imported here. All arithmetic is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ottt_loihi import checks
from ottt_loihi.errors import UsageError


def sigmoid(u: np.ndarray, v_threshold: float) -> np.ndarray:
    """Return α·σ(α(u − Vth))·(1 − σ(α(u − Vth))) with α = 4."""
    sigma = 1 / (1 + np.exp(-4.0 * (u - v_threshold)))
    return 4.0 * sigma * (1 - sigma)


SURROGATES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {  # f(u) for u and Vth
    "rectangle": lambda u, v_threshold: (np.abs(u - v_threshold) < v_threshold).astype(np.float64),
    "sigmoid": sigmoid,
    "triangle": lambda u, v_threshold: np.maximum(0, 1 - np.abs(u - v_threshold) / v_threshold),
    "fast-sigmoid": lambda u, v_threshold: 1 / (25.0 * np.abs(u - v_threshold) + 1) ** 2,
}


@dataclass(frozen=True)
class Factors:
    """One time step of all layers, the readout last. Arrays are float64; ``n_pre``, ``n_post`` are a layer's sizes.

    ===========  =================================  ==================================================================
    field        shape per layer                    meaning
    ===========  =================================  ==================================================================
    s, u         ``(batch, n_post)``                spikes and membrane before the reset; the readout: both o[t]
    trace        ``(batch, n_pre)``                 first factor: â_i[t] (the readout's: spikes, or â if asked for)
    surrogate    ``(batch, n_post)``                second factor: f(u_j[t]); the readout's: 1
    delta        ``(batch, n_post)``                third factor: δ_j[t] = ∂L[t]/∂s_j[t] as the feedback delivers it
    delta_w      ``(n_post, n_pre)``                Δw = −η · mean over the batch of (f·δ)ᵀ·â
    delta_b      ``(n_post,)`` or None              Δb = −η · Λ_t · mean over the batch of f·δ; the readout: Λ = 1
    ===========  =================================  ==================================================================
    """

    s: list[np.ndarray]
    u: list[np.ndarray]
    trace: list[np.ndarray]
    surrogate: list[np.ndarray]
    delta: list[np.ndarray]
    delta_w: list[np.ndarray]
    delta_b: list[np.ndarray | None]

    @property
    def o(self) -> np.ndarray:
        """The readout, ``(batch, classes)``."""
        return self.s[-1]


class ThreeFactorLoop:
    """OTTT (``convention="paper"``) in a fully connected network with squared error, one time step at a time.

    ::

        u[t] = λ·v[t−1] + W·x[t] + b       s[t] = H(u[t] − Vth), H(0) = 0        o[t] = W_out·s[t] + b_out
        v[t] = u[t] − Vth·s[t]   (reset="subtract")      or      u[t]·(1 − s[t])   (reset="zero")
        â[t] = λ·â[t−1] + x[t]             Λ_t = λ·Λ_{t−1} + 1
        δ_out[t] = (o[t] − y)/T
        δ_l[t] = W_{l+1}ᵀ·(f(u_{l+1}[t])·δ_{l+1}[t])      feedback="symmetric"
        δ_l[t] = B_l·δ_out[t]                             feedback="random": direct feedback alignment
        Δw = −η · â_i[t] · f(u_j[t]) · δ_j[t]             (eq. 7)

    A step changes nothing but membranes and traces: :meth:`apply` its Δw at once to learn online (the paper's OTTT_O),
    or add them up over a sequence first (OTTT_A). :meth:`learn` does either for a batch of samples.

    Parameters
    ----------
    weights
        float64 ``(n_post, n_pre)`` per layer, the readout last; copied
    biases
        ``(n_post,)`` per layer, or None
    beta, v_threshold, reset, surrogate
        of all hidden layers; surrogate is a name in :data:`SURROGATES`
    feedback
        ``"symmetric"``, ``"random"``, or a list of matrices B_l ``(hidden_l, classes)``, one per hidden layer
    feedback_seed
        for ``"random"``: B_l is uniform in ±1/√classes, drawn layer after layer from ``default_rng(feedback_seed)``
    learning_rate
        η
    time_steps
        T in the loss's 1/T; 1 leaves it out
    readout_trace
        give the readout's weights the trace, with λ, as the authors' code does, in place of the bare spikes

    Raises
    ------
    UsageError
        for shapes that do not fit together, or names and numbers out of range

    Source: OTTT (arXiv 2210.04195) eq. 2, 4, 5 and 7.
    """

    def __init__(
        self,
        weights: Sequence[np.ndarray],
        biases: Sequence[np.ndarray] | None = None,
        *,
        beta: float = 0.5,
        v_threshold: float = 1.0,
        reset: str = "subtract",
        surrogate: str = "rectangle",
        feedback: str | Sequence[np.ndarray] = "symmetric",
        feedback_seed: int = 0,
        learning_rate: float = 0.1,
        time_steps: int = 1,
        readout_trace: bool = False,
    ) -> None:
        self.reset = checks.one_of(reset, "reset", ("zero", "subtract"))
        self.surrogate = SURROGATES[checks.one_of(surrogate, "surrogate", tuple(SURROGATES))]
        self.beta = checks.number(beta, "beta", 0, 1)
        self.v_threshold = checks.number(v_threshold, "v_threshold", 0, above=True)
        checks.number(time_steps, "time_steps", 1)
        self.learning_rate, self.time_steps, self.readout_trace = learning_rate, time_steps, readout_trace
        self.weights = [np.array(w, np.float64) for w in weights]
        self.biases = None if biases is None else [np.array(b, np.float64) for b in biases]
        _check_layers(self.weights, self.biases)
        self.feedback = _feedback_matrices(feedback, feedback_seed, self.weights)
        self.start()

    @property
    def num_layers(self) -> int:
        """Return the number of weight matrices, that of the readout included."""
        return len(self.weights)

    @property
    def backward_weights(self) -> list[np.ndarray]:
        """Return the matrix of every layer except the first that sends the error to the previous layer."""
        return self.weights[1:]

    def start(self) -> None:
        """Set membranes and traces to 0, as before a sample."""
        self.v: list[np.ndarray] = [np.zeros(1)] * (self.num_layers - 1)
        self.trace: list[np.ndarray] = [np.zeros(1)] * self.num_layers
        self.bias_trace = 0.0

    def step(self, x: np.ndarray, target: np.ndarray) -> Factors:
        """Run one time step forward, send the error back, and return the change of every weight.

        Parameters
        ----------
        x
            ``(batch, inputs)`` 0 or 1
        target
            y, one-hot ``(batch, classes)``. Nothing is learnt before :meth:`apply`.
        """
        x, target = np.asarray(x, np.float64), np.asarray(target, np.float64)
        expected = (len(x), self.weights[0].shape[1]), (len(x), self.weights[-1].shape[0])
        if (x.shape, target.shape) != expected:
            raise UsageError(f"step: expected x and target of shapes {expected}, got {x.shape} and {target.shape}")
        s, u, trace = self._forward(x)
        surrogate = [self.surrogate(membrane, self.v_threshold) for membrane in u[:-1]] + [np.ones_like(target)]
        delta = self._errors(s[-1], target, surrogate)
        post = [f * d for f, d in zip(surrogate, delta)]
        rate = -self.learning_rate / len(x)
        delta_w = [rate * p.T @ a for p, a in zip(post, trace)]
        lengths = [self.bias_trace] * (self.num_layers - 1) + [1.0]
        delta_b = [None if self.biases is None else rate * n * p.sum(0) for p, n in zip(post, lengths)]
        return Factors(s, u, trace, surrogate, delta, delta_w, delta_b)

    def fire(self, layer: int, u: np.ndarray) -> np.ndarray:
        """Return ``H(u − Vth)`` of a hidden layer."""
        return (u > self.v_threshold).astype(np.float64)

    def apply(self, delta_w: Sequence[np.ndarray], delta_b: Sequence[np.ndarray | None] | None = None) -> None:
        """Add the changes: ``w ← w + Δw``, ``b ← b + Δb``."""
        for weight, change in zip(self.weights, delta_w, strict=True):
            weight += change
        if self.biases is not None and delta_b is not None:
            for bias, bias_change in zip(self.biases, delta_b, strict=True):
                if bias_change is not None:
                    bias += bias_change

    def learn(self, x: np.ndarray, target: np.ndarray, update: str = "step") -> np.ndarray:
        """Learn from one batch of samples, from rest; return Σ_t o[t], ``(batch, classes)``.

        Parameters
        ----------
        x
            ``(batch, T, inputs)``
        target
            ``(batch, classes)``
        update
            ``"step"`` applies Δw after every time step, ``"sequence"`` their sum after the last.
        """
        checks.one_of(update, "update", ("step", "sequence"))
        self.start()
        steps: list[Factors] = []
        scores = np.zeros(np.shape(target))
        for t in range(x.shape[1]):
            steps.append(self.step(x[:, t], target))
            scores += steps[-1].o
            if update == "step" or t == x.shape[1] - 1:
                for factors in steps:
                    self.apply(factors.delta_w, factors.delta_b)
                steps = []
        return scores

    def _forward(self, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        spikes, membranes, traces = [], [], []
        self.bias_trace = self.beta * self.bias_trace + 1
        for layer, weight in enumerate(self.weights):
            self.trace[layer] = self.beta * self.trace[layer] + x
            traces.append(self.trace[layer])
            s = u = x @ weight.T if self.biases is None else x @ weight.T + self.biases[layer]
            if layer < self.num_layers - 1:
                u = self.beta * self.v[layer] + u
                s = self.fire(layer, u)
                self.v[layer] = u - self.v_threshold * s if self.reset == "subtract" else u * (1 - s)
            elif not self.readout_trace:
                traces[-1] = x
            spikes.append(s)
            membranes.append(u)
            x = s
        return spikes, membranes, traces

    def _errors(self, o: np.ndarray, target: np.ndarray, surrogate: list[np.ndarray]) -> list[np.ndarray]:
        delta = [(o - target) / self.time_steps]
        for layer in range(self.num_layers - 2, -1, -1):
            if self.feedback is None:
                delta.insert(0, (surrogate[layer + 1] * delta[0]) @ self.backward_weights[layer])
            else:
                delta.insert(0, delta[-1] @ self.feedback[layer].T)
        return delta


class KolenPollackLoop(ThreeFactorLoop):
    """Layerwise feedback through separate matrices, which learn as the weights do.

    ::

        δ_l[t] = A_{l+1}ᵀ·(f(u_{l+1}[t])·δ_{l+1}[t])          ΔA_{l+1} = ΔW_{l+1}

    Both factors of ΔA are there: the trace of layer l, which the feedback reaches, and f·δ of layer l + 1, where it
    comes from. A − W never changes, so what both learn makes them alike; with a weight decay they become equal.

    Source: Kolen and Pollack 1994; Akrout et al. 2019.

    Parameters
    ----------
    twins
        A per hidden layer, ``(n_{l+1}, n_l)`` as the weights above it
    settings
        as in :class:`ThreeFactorLoop`
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

    @property
    def backward_weights(self) -> list[np.ndarray]:
        return self.twins


class OPZOLoop(ThreeFactorLoop):
    """Direct feedback through matrices M that learn from noise in the forward pass, for batches of one.

    ::

        s[t] = H(u[t] + α·z[t] − Vth),  z = ±1            the noise stirs the comparison, not the membrane
        δ_l[t] = M_l·δ_out[t]
        M_l ← M_l + ( T/α · z_l[t]·δ_out[t]ᵀ − M_l ) / 2^averaging

    M becomes an estimate of ∂o/∂u at the same time step, averaged over samples: δ_out·T = o − y, and the label is
    independent of z. The surrogate stays a factor of Δw, unlike in the paper's membrane form: M's rows hold its mean,
    a positive number per neuron, and f(u) says for which samples the neuron counts.

    Source: OPZO (Xiao et al. 2024).

    Parameters
    ----------
    noise
        α > 0
    averaging
        ≥ 1
    signs
        function of the layer's index that returns the next z, ``(n_l,)``
    momentum
        M at the start, ``(n_l, classes)`` per hidden layer, default 0
    settings
        as in :class:`ThreeFactorLoop`
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


def _check_layers(weights: list[np.ndarray], biases: list[np.ndarray] | None) -> None:
    if not weights or any(w.ndim != 2 or 0 in w.shape for w in weights):
        raise UsageError(f"weights: expected one or more matrices, got shapes {[w.shape for w in weights]}")
    for layer, (below, above) in enumerate(pairwise(weights), start=1):
        if above.shape[1] != below.shape[0]:
            raise UsageError(f"weights[{layer}]: expected {below.shape[0]} columns, got shape {above.shape}")
    if biases is not None and [b.shape for b in biases] != [w.shape[:1] for w in weights]:
        raise UsageError(f"biases: expected shapes {[w.shape[:1] for w in weights]}, got {[b.shape for b in biases]}")


def _feedback_matrices(
    feedback: str | Sequence[np.ndarray], seed: int, weights: list[np.ndarray]
) -> list[np.ndarray] | None:
    """Return None for symmetric feedback, otherwise B_l ``(hidden_l, classes)`` per hidden layer."""
    classes = weights[-1].shape[0]
    expected = [(w.shape[0], classes) for w in weights[:-1]]
    if isinstance(feedback, str):
        if feedback == "symmetric":
            return None
        if feedback != "random":
            raise UsageError(f"feedback: expected symmetric, random or matrices, got {feedback!r}")
        rng = np.random.default_rng(seed)
        return [rng.uniform(-1, 1, shape) / math.sqrt(classes) for shape in expected]
    matrices = [np.array(b, np.float64) for b in feedback]
    if [b.shape for b in matrices] != expected:
        raise UsageError(f"feedback: expected matrices of shapes {expected}, got {[b.shape for b in matrices]}")
    return matrices
