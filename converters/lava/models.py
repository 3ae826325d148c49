"""ProcessModels that the processes of a graph may get: Lava's run configuration, and a check of its choice.

Lava's run configurations fall back in silence: to an untagged model, and on a chip to a Python model on the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ottt_loihi.errors import LavaError

if TYPE_CHECKING:
    from lava.magma.compiler.executable import Executable

ADAPTERS = "lava.proc.embedded_io"  # Intel's processes between host and cores; not in the public lava-nc


@dataclass(frozen=True)
class SimulatorModels:
    """Lava's models for the CPU.

    Attributes
    ----------
    tag
        ``"fixed_pt"`` or ``"floating_pt"``; every selected model has to carry it
    own
        ProcessModel by Process class, where another model than the tagged one is wanted, or one without a tag
    """

    tag: str = "fixed_pt"
    own: Mapping[type, type] = field(default_factory=dict)

    def config(self) -> Any:
        """Return the run configuration that selects these models."""
        from lava.magma.core.run_configs import Loihi2SimCfg

        return Loihi2SimCfg(select_tag=self.tag, exception_proc_model_map=dict(self.own))

    def check(self, executable: Executable) -> None:
        """Raise :class:`LavaError` unless every Process got a model that was asked for."""
        check_models(executable, self.tag, self.own)


@dataclass(frozen=True)
class ChipModels:
    """Models for the neuro cores of a Loihi 2; Python models for the host's source and sink alone.

    Attributes
    ----------
    own
        ProcessModel by Process class, in place of what ``Loihi2HwCfg`` would select
    host
        ProcessModel by Process class, of what runs on the host beside Lava's source and sink
    """

    own: Mapping[type, type] = field(default_factory=dict)
    host: Mapping[type, type] = field(default_factory=dict)

    def config(self) -> Any:
        """Return the run configuration that selects these models."""
        from lava.magma.core.run_configs import Loihi2HwCfg
        from lava.proc.io import sink, source

        ends = {source.RingBuffer: source.PySendModelFixed, sink.RingBuffer: sink.PyReceiveModelFixed}
        return Loihi2HwCfg(exception_proc_model_map={**ends, **self.host, **self.own})

    def check(self, executable: Executable) -> None:
        """Raise :class:`LavaError` where a Process of the network got a Python model that needs no neuro core."""
        from lava.magma.core.model.py.model import AbstractPyProcessModel
        from lava.magma.core.resources import ECPU, NeuroCore
        from lava.proc.io import sink, source

        ends, wrong = (source.RingBuffer, sink.RingBuffer, *self.host), []
        for process, builder in executable.proc_builders.items():
            model = getattr(builder, "proc_model", None)  # builders for the cores belong to Intel's extension
            in_python = isinstance(model, type) and issubclass(model, AbstractPyProcessModel)
            if not in_python or isinstance(process, ends) or type(process).__module__.startswith(ADAPTERS):
                continue
            if not any(issubclass(resource, (NeuroCore, ECPU)) for resource in model.required_resources):
                wrong.append(f"{process.name} ({type(process).__name__}) got {model.__name__}")
        if wrong:
            raise LavaError(f"Lava selected Python models of the host in place of the chip's: {'; '.join(wrong)}")


def check_models(executable: Executable, tag: str, models: Mapping[type, type] | None = None) -> None:
    """Raise :class:`LavaError` unless every Process of the graph got a ProcessModel that was asked for.

    A model is asked for when ``models`` names it for its Process class, or else when it carries ``tag``. Untagged
    models, which Lava takes without a word, have to be named.
    """
    models = dict(models or {})
    wrong = []
    for process, builder in executable.proc_builders.items():
        selected = builder.proc_model
        wanted = models.get(type(process))
        if selected is not wanted if wanted else tag not in selected.tags:
            expected = wanted.__name__ if wanted else f"a model tagged {tag!r}"
            wrong.append(f"{process.name} ({type(process).__name__}) got {selected.__name__}, not {expected}")
    if wrong:
        raise LavaError("Lava selected unexpected ProcessModels: " + "; ".join(wrong))
