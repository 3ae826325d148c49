"""Stand-ins for what is not public: Intel's adapters, and models of Lava's processes that ask for a neuro core.

The models are Lava's own for the CPU, with another requirement; so ``Loihi2HwCfg`` has to select them, and the
results are those of the simulator. Lava executes every file beside a Process: this folder holds nothing else.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import LMT, Loihi2NeuroCore
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv.models import PyConvModelFixed
from lava.proc.conv.process import Conv
from lava.proc.dense.models import PyDelayDenseModelBitAcc, PyDenseModelBitAcc, PyLearningDenseModelBitApproximate
from lava.proc.dense.process import DelayDense, Dense, LearningDense
from lava.proc.lif.models import PyLifModelBitAcc, PyLifResetModelBitAcc
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.models import PyDelaySparseModelBitAcc, PySparseModelBitAcc
from lava.proc.sparse.process import DelaySparse, Sparse


class _Adapter(AbstractProcess):
    delay = 0  # steps that a message takes; a test may say otherwise

    def __init__(self, *, shape, num_message_bits=0):
        super().__init__(shape=shape, delay=self.delay, num_message_bits=num_message_bits)
        self.inp = InPort(shape=shape)
        self.out = OutPort(shape=shape)


class PyToNxAdapter(_Adapter):
    """Host to cores."""


class NxToPyAdapter(_Adapter):
    """Cores to host."""


class _AdapterModel(PyLoihiProcessModel):
    inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self._waiting = [np.zeros(proc_params["shape"], np.int32)] * proc_params["delay"]

    def run_spk(self):
        self._waiting.append(self.inp.recv())
        self.out.send(self._waiting.pop(0))


@implements(proc=PyToNxAdapter, protocol=LoihiProtocol)
@requires(LMT)
class PyToNxModel(_AdapterModel):
    pass


@implements(proc=NxToPyAdapter, protocol=LoihiProtocol)
@requires(LMT)
class NxToPyModel(_AdapterModel):
    pass


def on_a_core(model):
    """The same model, which asks for a neuro core of a Loihi 2."""
    return type(f"Nc{model.__name__}", (model,), {"required_resources": [Loihi2NeuroCore], "tags": []})


MODELS = {PyToNxAdapter: PyToNxModel, NxToPyAdapter: NxToPyModel} | {
    process: on_a_core(model)
    for process, model in (
        (LIF, PyLifModelBitAcc),
        (LIFReset, PyLifResetModelBitAcc),
        (Dense, PyDenseModelBitAcc),
        (DelayDense, PyDelayDenseModelBitAcc),
        (Sparse, PySparseModelBitAcc),
        (DelaySparse, PyDelaySparseModelBitAcc),
        (Conv, PyConvModelFixed),
        (LearningDense, PyLearningDenseModelBitApproximate),
    )
}


def learning_models():
    """Those of our own neurons as well, which would be microcode on a chip."""
    from ottt_loihi.onchip.lava.processes import feedback, neuron, readout

    ours = {
        neuron.OTTTNeuron: neuron.OTTTNeuronModelFixed,
        readout.OTTTReadout: readout.OTTTReadoutModelFixed,
        feedback.MomentumFeedback: feedback.MomentumFeedbackModelFixed,
    }
    return MODELS | {process: on_a_core(model) for process, model in ours.items()}


def install(monkeypatch):
    """Put the adapters where Intel's would be."""
    name = "lava.proc.embedded_io"
    module, spike = ModuleType(name), ModuleType(f"{name}.spike")
    spike.PyToNxAdapter, spike.NxToPyAdapter = PyToNxAdapter, NxToPyAdapter
    module.spike, module.__spec__, spike.__spec__ = spike, ModuleSpec(name, None), ModuleSpec(f"{name}.spike", None)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, f"{name}.spike", spike)
