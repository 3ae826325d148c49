"""Small graphs of stock Lava processes, stepped in this process: the same integers on every Python that Lava runs on.

``python tests/lava_scenarios.py`` writes ``tests/fixtures/lava_goldens.json``: hashes of every variable after every
step in ``fixed_pt``, numbers of the last step in ``floating_pt``, and the versions they were made with.
"""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np

GOLDENS = Path(__file__).parent / "fixtures" / "lava_goldens.json"
STEPS, SEED = 40, 20261128


def scenarios():
    """Return name → function of a tag that builds a graph: ``(process, variables to watch)``."""
    found = {}
    for neuron in ("LIF", "LIFReset"):
        for connection in ("Dense", "Sparse", "Conv", "DelayDense", "DelaySparse"):
            found[f"{connection} to {neuron}"] = lambda tag, n=neuron, c=connection: _inference(n, c, tag)
    for rule in ("two-factor", "three-factor", "traces decay"):
        found[f"LearningDense, {rule}"] = lambda tag, r=rule: _learning("LearningDense", r, tag)
    found["LearningSparse, three-factor"] = lambda tag: _learning("LearningSparse", "three-factor", tag)
    return found


def _spikes(rng, *shape):
    from lava.proc.io.source import RingBuffer

    return RingBuffer(data=rng.integers(0, 4, (*shape, STEPS)) // 3)


def _neurons(kind, shape, tag):
    from lava.proc.lif import process

    integers = {"du": 1500, "dv": 400, "vth": 60, "bias_mant": 3, "bias_exp": 2}
    settings = integers if tag == "fixed_pt" else {"du": 0.35, "dv": 0.1, "vth": 60.0, "bias_mant": 0.3}
    if kind == "LIFReset":
        settings |= {"reset_interval": 16, "reset_offset": 3}
    return getattr(process, kind)(shape=shape, **settings)


def _inference(neuron, connection, tag):
    from lava.proc.conv.process import Conv
    from lava.proc.dense.process import DelayDense, Dense
    from lava.proc.sparse.process import DelaySparse, Sparse
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(SEED)
    if connection == "Conv":
        source = _spikes(rng, 6, 5, 2)
        between = Conv(weight=rng.integers(-30, 31, (3, 3, 3, 2)), input_shape=(6, 5, 2), padding=(1, 1), stride=(2, 1))
    else:
        source, weights = _spikes(rng, 7), rng.integers(-60, 61, (5, 7))
        delays = rng.integers(0, 4, (5, 7))
        if "Sparse" in connection:
            weights[rng.integers(0, 2, (5, 7)) == 0] = 0
            delays = csr_matrix(np.where(weights, delays, 0))
            weights = csr_matrix(weights)
        delayed = {"delays": delays, "max_delay": 4} if connection.startswith("Delay") else {}
        kinds = {"Dense": Dense, "DelayDense": DelayDense, "Sparse": Sparse, "DelaySparse": DelaySparse}
        between = kinds[connection](weights=weights, **({"weight_exp": 1} if tag == "fixed_pt" else {}), **delayed)
    neurons = _neurons(neuron, between.a_out.shape, tag)
    source.s_out.connect(between.s_in)
    between.a_out.connect(neurons.a_in)
    return neurons, [neurons.u, neurons.v]


def _learning(connection, rule, tag):
    from lava.magma.core.learning.learning_rule import Loihi2FLearningRule, Loihi3FLearningRule
    from lava.proc.dense.process import LearningDense
    from lava.proc.io.source import RingBuffer
    from lava.proc.sparse.process import LearningSparse

    rng = np.random.default_rng(SEED + 1)
    common = {"x1_impulse": 24, "x1_tau": 5, "y1_impulse": 20, "y1_tau": 9, "t_epoch": 2, "rng_seed": 7}
    if rule == "three-factor":
        learned = Loihi3FLearningRule(dw="2^-4*u0*x1*y1", **{k: v for k, v in common.items() if k[:2] != "y1"})
    elif rule == "traces decay":
        learned = Loihi2FLearningRule(dw="2^-3*x0*y1 - 2^-3*y0*x1", x2_impulse=9, x2_tau=30, **common)
    else:
        learned = Loihi2FLearningRule(dw="2^-2*u0*x1*y1 - 2^-5*u0*w", **common)
    weights = rng.integers(2, 60, (4, 6))
    kind = {"LearningDense": LearningDense, "LearningSparse": LearningSparse}[connection]
    if connection == "LearningSparse":
        from scipy.sparse import csr_matrix

        weights = csr_matrix(weights)
    between = kind(weights=weights, learning_rule=learned)
    neurons = _neurons("LIF", (4,), tag)
    _spikes(rng, 6).s_out.connect(between.s_in)
    between.a_out.connect(neurons.a_in)
    if rule == "three-factor":
        error = RingBuffer(data=rng.integers(-40, 41, (4, STEPS)))
        error.s_out.connect(between.s_in_y1)
    else:
        neurons.s_out.connect(between.s_in_bap)
    return neurons, [neurons.u, neurons.v, between.weights, between.x1]


def run(build, tag):
    """Return every watched variable after every step, ``{name: (STEPS, *shape)}``."""
    from ottt_loihi.converters.lava.inprocess import InProcessRun

    process, variables = build(tag)
    seen = {f"{var.process.__class__.__name__}.{var.name}": [] for var in variables}
    with InProcessRun(process, tag) as stepped:
        for _ in range(STEPS):
            stepped.steps(1)
            for name, var in zip(seen, variables, strict=True):
                seen[name].append(np.asarray(stepped.get(var)))
    return {name: np.stack(values) for name, values in seen.items()}


def digest(values):
    """SHA-256 of integers, whatever their dtype was."""
    assert np.array_equal(values, np.round(values))
    return hashlib.sha256(np.ascontiguousarray(values, np.int64).tobytes()).hexdigest()


def goldens():
    """Return what the file holds, made anew."""
    fixed, floating = {}, {}
    for name, build in scenarios().items():
        fixed[name] = {var: digest(values) for var, values in run(build, "fixed_pt").items()}
        floating[name] = {var: values[-1].ravel().tolist() for var, values in run(build, "floating_pt").items()}
    versions = {name: version(name) for name in ("lava-nc", "numpy", "scipy")} | {"python": platform.python_version()}
    return {
        "generator": "tests/lava_scenarios.py",
        "seed": SEED,
        "versions": versions,
        "fixed": fixed,
        "float": floating,
    }


if __name__ == "__main__":
    GOLDENS.write_text(json.dumps(goldens(), indent=1) + "\n", encoding="utf-8")
