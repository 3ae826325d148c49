"""The sources: they hold all samples and labels, and stream them phase by phase, so that one run() covers many samples.

``SampleSource`` sends spikes; ``MessageSource`` graded messages, for a first layer that takes images as they are.
"""

from __future__ import annotations

import numpy as np
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from ottt_loihi.onchip.lava import model_of
from ottt_loihi.onchip.network.schedule import Clock, Turn

from ottt_loihi.errors import UsageError


class Source(AbstractProcess):
    """Holds samples and labels; subclasses say in which form.

    ``s_out`` (size) sends a sample's time steps, ``label_out`` (2) label and gate of the running sample in every step.
    After the last sample it sends silence, label 0 and a closed gate.

    Parameters
    ----------
    samples
        ``(n, T, …)``
    size
        number of input channels
    labels
        int32 ``(n,)``, class of each sample
    turn
        when it sends a time step's input
    learn
        bool ``(n,)`` or True: which samples may be learnt from (the learning gate)
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(
        self,
        samples: np.ndarray,
        size: int,
        labels: np.ndarray,
        turn: Turn,
        learn: np.ndarray | bool,
        name: str = "source",
    ) -> None:
        if labels.shape != (len(samples),):
            raise UsageError(f"labels: expected shape ({len(samples)},), got {labels.shape}")
        gate = np.broadcast_to(np.asarray(learn, bool), labels.shape)
        super().__init__(name=name, samples=samples, size=size, labels=labels, turn=turn, gate=gate)
        self.s_out = OutPort(shape=(size,))
        self.label_out = OutPort(shape=(2,))


class SampleSource(Source):
    """A :class:`Source` of spikes ``packed``, uint8 ``(n, T, ⌈size/8⌉)``: ``np.packbits`` along the last axis."""

    def __init__(
        self, packed: np.ndarray, size: int, labels: np.ndarray, turn: Turn, learn: np.ndarray | bool = True
    ) -> None:
        if packed.dtype != np.uint8 or packed.ndim != 3 or packed.shape[2] != -(-size // 8):
            raise UsageError(
                f"packed: expected uint8 (n, T, {-(-size // 8)}), got {packed.dtype} {packed.shape}; use np.packbits"
            )
        super().__init__(packed, size, labels, turn, learn)


class MessageSource(Source):
    """A :class:`Source` of graded ``messages``, integers ``(n, T, size)``."""

    def __init__(self, messages: np.ndarray, labels: np.ndarray, turn: Turn, learn: np.ndarray | bool = True) -> None:
        if messages.ndim != 3 or messages.dtype.kind not in "iu":
            raise UsageError(f"messages: expected integers (n, T, size), got {messages.dtype} {messages.shape}")
        super().__init__(messages, messages.shape[2], labels, turn, learn)


class SourceModel(Clock, PyLoihiProcessModel):
    """The same for spikes and messages, in both arithmetics."""

    PARAMETERS = ("samples", "size", "labels", "turn", "gate")
    MESSAGE: type = bool
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, MESSAGE)
    label_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        sample, place = (self.time_step - 1) // self._turn.period, self._turn.time_step_at(self.time_step)
        runs = sample < len(self._samples)
        sent = self.sent(place) if runs and place is not None else np.zeros(self._size, self.MESSAGE)
        self.s_out.send(sent)
        self.label_out.send(np.array([self._labels[sample], self._gate[sample]] if runs else [0, 0], np.int32))

    def sent(self, place: tuple[int, int]) -> np.ndarray:
        """Return the spikes of a sample's time step."""
        return np.unpackbits(self._samples[place], count=self._size).view(bool)


@model_of(SampleSource, "floating_pt", "fixed_pt")
class SampleSourceModel(SourceModel):
    pass


@model_of(MessageSource, "fixed_pt")
class MessageSourceModelFixed(SourceModel):
    MESSAGE = np.int32
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, MESSAGE, precision=24)

    def sent(self, place: tuple[int, int]) -> np.ndarray:
        return self._samples[place].astype(self.MESSAGE)
