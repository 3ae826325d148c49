"""Learning without Lava: the phased three-factor rule, one fused update per time step, bit for bit Lava's engine.

On the chip one time step is a learning epoch of K Lava steps (``onchip/network/schedule.py``). Within an epoch no
weight changes, so the phases are only an order of computations, and that order is a loop over layers:
:func:`ottt_loihi.sim.learning.kernels.learn`. Phases leave behind how often a trace has decayed, and which of
Lava's random numbers rounds it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from ottt_loihi.sim.learning import encodings, integers
from ottt_loihi.sim.learning.network import LearningNetwork
from ottt_loihi.sim.learning.program import program
from ottt_loihi.sim.learning.subspace import Subspace

from ottt_loihi import checks
from ottt_loihi.errors import FileError, UsageError

FORMAT = "ottt-loihi learning state"
VERSION = 1
LAVA_WEIGHT_SEED = 2  # whatever rng_seed says (lava/magma/core/learning/random.py)
MEAN_BITS = 12  # behind the point, of the running mean
MEAN_POINTS = 16
LOSSLESS = 127  # up to here inference weights hold every learning weight, above the even ones
TRACES = 0, integers.TRACE_MAX  # the kernels index tables with them
MEAN = -256 << MEAN_BITS, 256 << MEAN_BITS
LIMITS = {"weights": (-256, 255), "trace": TRACES, "slow": TRACES, "mean": MEAN}  # of arrays; weights: feedback too
CHUNK_STEPS = 1 << 14  # time steps whose random numbers are made at once


class RunningMean:
    """A mean of weights that keep moving around what they should be: point n moves it by 1/n of the way, later by 1/16.

    Source: Polyak and Juditsky 1992.

    Attributes
    ----------
    points
        how many there were
    weights
        of every connection, int32 ``(post, pre)`` in 1/2^12 steps; empty before the first point
    """

    def __init__(self, points: int = 0, weights: Sequence[np.ndarray] = ()) -> None:
        self.points, self.weights = points, list(weights)

    def copy(self) -> RunningMean:
        """Return the same mean, which moves on without this one."""
        return RunningMean(self.points, self.weights)  # ``move`` makes new weights

    def move(self, weights: Sequence[np.ndarray]) -> None:
        """Move the mean towards the present weights, integers −256 … 255."""
        wide = [w.astype(np.int32) << MEAN_BITS for w in weights]
        self.points += 1
        part = min(self.points, MEAN_POINTS)
        self.weights = wide if part == 1 else [mean + (w - mean) // part for mean, w in zip(self.weights, wide)]

    def rounded(self) -> list[np.ndarray]:
        """Return the mean as learning weights, int32, that inference weights hold without loss."""
        found = []
        for mean in self.weights:
            step = 1 if np.abs(mean).max() <= LOSSLESS << MEAN_BITS else 2
            found.append(step * np.clip(np.round(mean / (step << MEAN_BITS)), -128, 127).astype(np.int32))
        return found


class Learner:
    """A network that learns, sample by sample; its state is saved and resumed bit for bit.

    Attributes
    ----------
    network
        the :class:`LearningNetwork` it was made from, with the weights it started from
    samples
        how many it has learnt from, or seen with a closed gate
    state
        :class:`~ottt_loihi.sim.learning.kernels.State`
    mean
        running mean of the weights, of the points at which its owner moved it
    """

    def __init__(self, network: LearningNetwork) -> None:
        from ottt_loihi.sim.learning.state import pack, places

        self.network, self.samples = network, 0
        self._constants, self.state = pack(network)
        self._places = places(network, self._constants.layers, self.state)
        self._actions = program(network)
        self._stepped: np.ndarray | None = None
        self.mean = RunningMean()

    def copy(self) -> Learner:
        """Return a learner in the same state, which learns on without changing this one."""
        found = Learner(self.network)
        found.samples, found._stepped, found.mean = self.samples, self._stepped, self.mean.copy()
        for array, mine in zip(found.state, self.state, strict=True):
            array[...] = mine
        return found

    def step(self, x: np.ndarray) -> int:
        """Return the class predicted for one sample, for example of a sensor, and change no weight.

        Parameters
        ----------
        x
            spikes 0 or 1 ``(T, …)``

        Raises
        ------
        UsageError
            for another number of time steps or inputs, and for values that are no spikes; the state stays as it was
        """
        x, shape = np.asarray(x), (self.network.num_steps, self.network.inputs)
        if x.ndim < 2 or x.shape[0] != shape[0] or x[0].size != shape[1]:
            raise UsageError(f"x: expected a sample of {shape[0]} time steps and {shape[1]} inputs, got {x.shape}")
        if not np.isin(x, (0, 1)).all():
            raise UsageError("x: expected spikes 0 or 1; encode the sample first")
        packed = np.packbits(x.reshape(1, *shape).astype(np.uint8), axis=-1)
        found = int(self.learn(packed, np.zeros(1, int), gate=False)[0])
        self._stepped = packed
        return found

    def teach(self, label: int) -> None:
        """Learn the label of the sample of the last :meth:`step`, which is presented once more; it may never come.

        Raises :class:`UsageError` for a label out of range, and where no sample came since the last label or since the
        state was loaded.
        """
        if self._stepped is None:
            raise UsageError("teach: expected a sample first, there was none since the last label; call step")
        self.learn(self._stepped, np.array([checks.integer(label, "label", 0, self.network.classes - 1)]))
        self._stepped = None

    def learn(self, packed: np.ndarray, labels: np.ndarray, gate: np.ndarray | bool = True) -> np.ndarray:
        """Learn from samples in their order; returns the class predicted for each while it was learnt from.

        The label has changed weights before a sample's last time step, so these predictions are no test;
        :meth:`step` is one.

        Parameters
        ----------
        packed
            uint8 ``(n, T, ⌈inputs/8⌉)``: spikes, ``np.packbits`` along the last axis
        labels
            integers ``(n,)``, 0 … classes − 1
        gate
            bool ``(n,)`` or for all: which samples are learnt from; others pass through

        Raises
        ------
        UsageError
            for a wrong shape, dtype or label
        """
        from ottt_loihi.sim.learning import kernels

        labels, gate = self._checked(packed, labels, gate)
        predictions = np.empty(len(packed), np.int32)
        size = max(1, CHUNK_STEPS // self.network.num_steps)
        for begin in range(0, len(packed), size):
            part = slice(begin, min(begin + size, len(packed)))
            data = packed[part], labels[part], gate[part], self.samples, *self._random(part.stop - part.start)
            constants = self._actions, self._constants, self.state, np.zeros(1, kernels.NOW)
            try:  # Ctrl-C during the kernel is raised when it has returned: its samples have been learnt
                kernels.learn(*constants, *data, predictions[part])
            finally:
                self.samples += part.stop - part.start
        return predictions

    def weights(self) -> list[np.ndarray]:
        """Return the weights of every connection as they are now, int32 ``(post, pre)``; 0 where no synapse is."""
        return [self._of(index, "weights").astype(np.int32) for index in range(len(self.network.layers))]

    def biases(self) -> list[np.ndarray] | None:
        """Return the effective biases of every layer as they are now, int32 ``(neurons,)``; None if none learn."""
        if not self.network.rule.learn_bias:
            return None
        return [value.copy() for name, value in self._places.items() if name.endswith(".bias")]

    def subspaces(self) -> tuple[Subspace | None, ...]:
        """Return HLOP's subspaces with their rows as they are now."""
        return tuple(
            None if part.subspace is None else replace(part.subspace, rows=self._of(index, "rows"))
            for index, part in enumerate(self.network.layers)
        )

    def variables(self, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return copies of all variables, or of the named ones, with the values of Lava's processes after an epoch.

        ==================  ========================================================================================
        process             variables
        ==================  ========================================================================================
        ``plastic[l]``      weights, x1, y1; y2 and y3 of its encoding; with HLOP rows
        ``neuron[l]``       u, v, s, y1, rng; with S-TLLR h; bias and u_init if biases learn
        ``readout[0]``      v, y1, rng, scores, correct; bias if biases learn; trial if it learns when mistaken
        both                y1_saturated, error_saturated: counts
        ``feedback[l]``     weights; with OPZO noise and saturated, a count
        ==================  ========================================================================================
        """
        found = dict(self._places)
        for index in range(len(self.network.layers)):
            found |= {f"plastic[{index}].{port}": value for port, value in self._messages(index).items()}
        return {
            k: v.astype(np.int32) if k.endswith(".weights") else v.copy()
            for k, v in found.items()
            if names is None or k.rsplit(".", 1)[1] in names
        }

    def assign(self, samples: int, variables: Mapping[str, np.ndarray]) -> None:
        """Set the variables, named as in :meth:`variables`, and the number of samples: from Lava, or another learner.

        Raises :class:`UsageError` for a variable that is missing, or whose shape or values do not fit.
        """
        for name, place in self._places.items():
            value = np.asarray(variables[name]) if name in variables else None
            if value is None or value.shape != place.shape:
                found = "nothing" if value is None else value.shape
                raise UsageError(f"{name}: expected {place.dtype} {place.shape}, got {found}; give all of variables()")
            place[...] = value
            if not np.array_equal(place, value):
                raise UsageError(f"{name}: expected values of {place.dtype}, got {value.min()} … {value.max()}")
        self.samples, self._stepped = samples, None

    def _of(self, index: int, name: str) -> np.ndarray:
        """Return a variable of a connection as it lies in the state."""
        return self._places[f"plastic[{index}].{name}"]

    def _messages(self, index: int) -> dict[str, np.ndarray]:
        """Return the messages of a layer's neurons to their connection in the last Lava step, by port."""
        at, state, network = self._constants.layers[index], self.state, self.network
        neurons = slice(at["neuron"], at["neuron"] + at["size"])
        surrogate = np.abs(state.membrane[neurons] - at["vth"]) < at["half_width"]
        reward = state.reward[neurons]
        earlier = index < len(network.layers) - 2 if network.travels == "local" else index and not at["direct"]
        if network.rule.silent_epochs or (network.rule.schedule == "pipelined" and earlier):
            surrogate = np.zeros_like(surrogate)  # there was no answer in the last step, or of an earlier time step
        if index == len(network.layers) - 1:
            surrogate, reward = np.ones_like(surrogate), state.y1[neurons]
        sent = encodings.messages(network.rule.encoding, state.y1[neurons], surrogate, reward)
        return sent if network.layers[index].after is None else sent | {"y2": state.y2[neurons]}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to ``path``, whole or not at all; raises :class:`FileError` if it cannot be written."""
        from ottt_loihi import safe_hdf5

        with safe_hdf5.new_hdf5(path) as file:
            file.attrs["format"] = np.bytes_(FORMAT.encode())
            file.attrs["version"] = VERSION
            file.attrs["network"] = np.bytes_(self.network.digest().encode())
            file.attrs["samples"] = self.samples
            file.attrs["points"] = self.mean.points
            for name, array in self._kept():
                file.create_dataset(name, data=array, fletcher32=True, compression="gzip", shuffle=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *networks: LearningNetwork) -> Learner:
        """Return a learner in the state of :meth:`save`. It learns the same weights as without a stop.

        A state of version 0.1 continues with the defaults of that version; the learner's ``network`` contains them.

        Parameters
        ----------
        path
            file of :meth:`save`
        networks
            the network that it was saved with, or several that it may have been

        Raises
        ------
        FileError
            for a missing, damaged or foreign file, a newer version, or the state of another network or rule
        """
        from ottt_loihi import safe_hdf5

        with safe_hdf5.open_hdf5(path) as file:
            safe_hdf5.version(file, FORMAT, VERSION, "not a learning state; Learner.save writes them")
            digest = safe_hdf5.attribute(file, "network", str)
            meanings = (one for network in networks for one in network.meanings())
            found = next((one for one in meanings if one.digest() == digest), None)
            if found is None:
                raise FileError("the state of another network or rule; give the one it was saved with")
            learner = cls(found)
            numbers = {"samples": safe_hdf5.attribute(file, "samples", int)}
            numbers["points"] = safe_hdf5.attribute(file, "points", int) if "points" in file.attrs else 0
            for name, number in numbers.items():
                if number < 0:
                    raise FileError(f"/@{name}: expected a number ≥ 0, found {number}; the file is damaged")
            learner.samples = numbers["samples"]
            if numbers["points"]:
                shapes = [layer.connection.shape for layer in found.layers]
                learner.mean = RunningMean(numbers["points"], [np.zeros(shape, np.int32) for shape in shapes])
            for name, array in learner._kept():
                stored = safe_hdf5.integers(file, name)
                if stored.shape != array.shape or stored.dtype != array.dtype:
                    raise FileError(
                        f"/{name}: expected {array.dtype} {array.shape}, found {stored.dtype} {stored.shape}"
                    )
                low, high = LIMITS.get(name.rstrip("0123456789"), (-(1 << 31), (1 << 32) - 1))
                if stored.min() < low or stored.max() > high:
                    raise FileError(f"/{name}: expected {low} … {high}, found {stored.min()} … {stored.max()}")
                array[...] = stored
        return learner

    def _kept(self) -> Iterator[tuple[str, np.ndarray]]:
        """Return the arrays that are saved: those in use, so that states from before an option existed can be read."""
        rule = self.network.rule
        fixed = () if rule.learn_bias else ("bias", "u_init")
        fixed += () if rule.encoding == "factored" else ("reward",)
        arrays = {name: array for name, array in self.state._asdict().items() if array.size and name not in fixed}
        yield from arrays.items()
        yield from ((f"mean{index}", mean) for index, mean in enumerate(self.mean.weights))

    def _checked(
        self, packed: np.ndarray, labels: np.ndarray, gate: np.ndarray | bool
    ) -> tuple[np.ndarray, np.ndarray]:
        network, labels = self.network, np.asarray(labels)
        shape = (network.num_steps, -(-network.inputs // 8))
        if packed.dtype != np.uint8 or packed.ndim != 3 or packed.shape[1:] != shape:
            raise UsageError(f"packed: expected uint8 (n, {shape[0]}, {shape[1]}), got {packed.dtype} {packed.shape}")
        if labels.dtype.kind not in "iu" or labels.shape != (len(packed),):
            raise UsageError(f"labels: expected integers ({len(packed)},), got {labels.dtype} {labels.shape}")
        if len(labels) and not (labels.min() >= 0 and labels.max() < network.classes):
            raise UsageError(f"labels: expected 0 … {network.classes - 1}, got {labels.min()} … {labels.max()}")
        gate = np.asarray(gate, bool)
        if gate.shape not in ((), labels.shape):
            raise UsageError(f"gate: expected a bool or shape {labels.shape}, got {gate.shape}")
        return labels.astype(np.int64), np.ascontiguousarray(np.broadcast_to(gate, labels.shape))

    def _random(self, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Return Lava's random numbers of the epochs to come: of each trace's decay, and of the weights' rounding."""
        steps, epoch = self.network.epochs_per_sample, self.network.epoch
        first, count = self.samples * steps, samples * steps
        decay = [lava_trace_random(layer.trace_seed, epoch, first, count) for layer in self.network.layers]
        return np.ascontiguousarray(np.stack(decay, axis=1)), lava_weight_random(first, count)


def learn(network: LearningNetwork, packed: np.ndarray, labels: np.ndarray, gate: np.ndarray | bool = True) -> Learner:
    """Learn from samples one after the other, from the network's own weights on; arguments as in :meth:`Learner.learn`.

    Returns the :class:`Learner`, with its weights; it can learn on and be saved.
    """
    learner = Learner(network)
    learner.learn(packed, labels, gate)
    return learner


def lava_trace_random(seed: int, epoch: int, first: int, count: int) -> np.ndarray:
    """Return the numbers that round x1 in ``count`` epochs from epoch ``first`` = 0, 1, … on: float64.

    ``default_rng(seed)`` is drawn from once when Lava builds the connection and twice in each of an epoch's K steps;
    the last value serves all K decays of the epoch. Source: ``TraceRandom``, ``PyLearningConnection.recv_traces``.
    """
    generator = np.random.default_rng(seed)
    generator.bit_generator.advance(2 * epoch * first + 1)  # type: ignore[attr-defined]
    return np.ascontiguousarray(generator.random((count, 2 * epoch))[:, -1])


def lava_weight_random(first: int, count: int) -> np.ndarray:
    """Return the numbers r, int32 0 … 127, that round the weights, ``⌊w + (k + r)/128⌋``, in ``count`` epochs.

    Lava adds 1 where the epoch's number of ``default_rng(2)``, whose first is lost, is below k/128.
    Source: ``ConnVarRandom``.
    """
    generator = np.random.default_rng(LAVA_WEIGHT_SEED)
    generator.bit_generator.advance(first + 1)  # type: ignore[attr-defined]
    fractions = 1 << integers.FRACTION_BITS
    return (fractions - 1 - np.floor(fractions * generator.random(count))).astype(np.int32)
