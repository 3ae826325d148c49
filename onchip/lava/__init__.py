"""The learning network as Lava processes: graph, rule, executors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def model_of(process: Any, *arithmetics: str) -> Callable[[Any], Any]:
    """Return the decorator of a process's model on the CPU, for ``"floating_pt"`` or ``"fixed_pt"`` or both.

    Ports and Vars in the table ``BITS`` of the class, or of one that it is made of, are arrays of floats in floating
    point, and in fixed point of int32 with the number of bits that the table has before their names.
    """
    import numpy as np
    from lava.magma.core.decorator import implements, requires, tag
    from lava.magma.core.model.py.ports import PyInPort, PyOutPort
    from lava.magma.core.model.py.type import LavaPyType
    from lava.magma.core.resources import CPU
    from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

    def decorated(model: Any) -> Any:
        for part in reversed(model.__mro__):
            for bits, names in vars(part).get("BITS", {}).items():
                for name in names.split():
                    port = PyInPort if name.endswith("_in") else PyOutPort if "_out" in name else None
                    kind = np.ndarray if port is None else port.VEC_DENSE
                    integer = LavaPyType(kind, np.int32, precision=bits)
                    setattr(model, name, LavaPyType(kind, float) if "floating_pt" in arithmetics else integer)
        return implements(proc=process, protocol=LoihiProtocol)(requires(CPU)(tag(*arithmetics)(model)))

    return decorated
