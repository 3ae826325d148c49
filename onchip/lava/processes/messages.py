"""The source of graded messages, for networks whose first layer takes images as they are."""

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
from ottt_loihi.onchip.network.schedule import Clock

from ottt_loihi.errors import UsageError


class MessageSource(AbstractProcess):
    """As :class:`~ottt_loihi.onchip.lava.processes.source.SampleSource`, with integers ``messages`` ``(n, T, size)``.

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
        frame, phase = divmod(self.time_step - 1, self._epoch)
        sample, t = divmod(frame, self._messages.shape[1])
        silence = np.zeros(self._messages.shape[2], np.int32)
        if sample >= len(self._messages):
            self.s_out.send(silence)
            self.label_out.send(np.zeros(2, np.int32))
            return
        self.s_out.send(self._messages[sample, t].astype(np.int32) if phase == 0 else silence)
        self.label_out.send(np.array([self._labels[sample], self._gate[sample]], np.int32))
