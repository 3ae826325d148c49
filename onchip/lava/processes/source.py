"""The sources: they hold all samples and labels, and stream them phase by phase, so that one run() covers many samples.

``SampleSource`` sends spikes; ``MessageSource`` graded messages, for a first layer that takes images as they are.
"""

from __future__ import annotations

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from ottt_loihi.onchip.network.schedule import SOURCE_PHASE, Clock, Turn

from ottt_loihi.errors import UsageError


class SampleSource(AbstractProcess):
    """Streams binary samples: time step τ of sample i is sent in Lava's step i·period + τ·epoch + 1; zeros otherwise.

    ===============  ==========================  =====================================================================
    parameter        dtype, shape                meaning
    ===============  ==========================  =====================================================================
    packed           uint8 ``(n, T, ⌈size/8⌉)``  spikes, ``np.packbits`` along the last axis
    size             int                         number of input channels
    labels           int32 ``(n,)``              class of each sample
    epoch            int                         Lava steps from time step to time step
    period           int                         from sample to sample; default: epoch·T
    learn            bool ``(n,)`` or True       which samples may be learnt from (the learning gate)
    ===============  ==========================  =====================================================================

    ``s_out`` (size) sends the spikes, ``label_out`` (2) label and gate of the running sample in every step. After the
    last sample it sends silence, label 0 and a closed gate.
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(
        self,
        packed: np.ndarray,
        size: int,
        labels: np.ndarray,
        epoch: int,
        learn: np.ndarray | bool = True,
        period: int | None = None,
        name: str = "source",
    ) -> None:
        if packed.dtype != np.uint8 or packed.ndim != 3 or packed.shape[2] != -(-size // 8):
            raise UsageError(
                f"packed: expected uint8 (n, T, {-(-size // 8)}), got {packed.dtype} {packed.shape}; use np.packbits"
            )
        if labels.shape != (len(packed),):
            raise UsageError(f"labels: expected shape ({len(packed)},), got {labels.shape}")
        gate = np.broadcast_to(np.asarray(learn, bool), labels.shape)
        num_steps = packed.shape[1]
        turn = Turn(SOURCE_PHASE, epoch, num_steps, epoch * num_steps if period is None else period)
        super().__init__(name=name, packed=packed, size=size, labels=labels, turn=turn, gate=gate)
        self.s_out = OutPort(shape=(size,))
        self.label_out = OutPort(shape=(2,))


class AbstractSampleSourceModel(Clock, PyLoihiProcessModel):
    """The same for both arithmetics."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, bool)
    label_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._packed, self._labels, self._gate = (proc_params[key] for key in ("packed", "labels", "gate"))
        self._size, self._turn = proc_params["size"], proc_params["turn"]
        self._silence = np.zeros(self._size, bool)

    def run_spk(self) -> None:
        sample, place = (self.time_step - 1) // self._turn.period, self._turn.time_step_at(self.time_step)
        if sample >= len(self._packed):
            self.s_out.send(self._silence)
            self.label_out.send(np.zeros(2, np.int32))
            return
        spikes = self._silence
        if place is not None:
            spikes = np.unpackbits(self._packed[place], count=self._size).view(bool)
        self.s_out.send(spikes)
        self.label_out.send(np.array([self._labels[sample], self._gate[sample]], np.int32))


@implements(proc=SampleSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class SampleSourceModelFloat(AbstractSampleSourceModel):
    pass


@implements(proc=SampleSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SampleSourceModelFixed(AbstractSampleSourceModel):
    pass


class MessageSource(AbstractProcess):
    """As :class:`SampleSource`, with integers ``messages`` ``(n, T, size)``.

    Attributes
    ----------
    labels
        int32 ``(n,)``
    epoch
        K
    learn
        bool ``(n,)`` or True
    """

    _runtime = None  # Lava's __del__ looks for it, even when __init__ refused its arguments

    def __init__(
        self,
        messages: np.ndarray,
        labels: np.ndarray,
        epoch: int,
        learn: np.ndarray | bool = True,
        name: str = "source",
    ) -> None:
        if messages.ndim != 3 or messages.dtype.kind not in "iu":
            raise UsageError(f"messages: expected integers (n, T, size), got {messages.dtype} {messages.shape}")
        if labels.shape != (len(messages),):
            raise UsageError(f"labels: expected shape ({len(messages)},), got {labels.shape}")
        gate = np.broadcast_to(np.asarray(learn, bool), labels.shape)
        super().__init__(name=name, messages=messages, labels=labels, epoch=epoch, gate=gate)
        self.s_out = OutPort(shape=(messages.shape[2],))
        self.label_out = OutPort(shape=(2,))


@implements(proc=MessageSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class MessageSourceModelFixed(Clock, PyLoihiProcessModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    label_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._messages, self._labels, self._gate = (proc_params[key] for key in ("messages", "labels", "gate"))
        self._epoch = proc_params["epoch"]

    def run_spk(self) -> None:
        time_step, phase = divmod(self.time_step - 1, self._epoch)
        sample, t = divmod(time_step, self._messages.shape[1])
        silence = np.zeros(self._messages.shape[2], np.int32)
        if sample >= len(self._messages):
            self.s_out.send(silence)
            self.label_out.send(np.zeros(2, np.int32))
            return
        self.s_out.send(self._messages[sample, t].astype(np.int32) if phase == 0 else silence)
        self.label_out.send(np.array([self._labels[sample], self._gate[sample]], np.int32))
