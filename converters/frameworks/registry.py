"""The frameworks whose modules are read, and how their neurons are recognised: by class name and home, not imported."""

from __future__ import annotations

from ottt_loihi.converters.frameworks import norse, sinabs, snntorch, spikingjelly
from ottt_loihi.converters.frameworks.neurons import Framework
from torch import nn

FRAMEWORKS: tuple[Framework, ...] = (
    snntorch.FRAMEWORK,
    spikingjelly.FRAMEWORK,
    norse.FRAMEWORK,
    sinabs.FRAMEWORK,
    spikingjelly.AUTHORS,
)


def framework_of(module: nn.Module) -> Framework | None:
    """Return the framework whose neuron, of a kind we know of, a module is."""
    for framework in FRAMEWORKS:
        name = framework.kind(module)
        known = name in framework.neurons or name in framework.refused
        if known and (framework.owns(module) or (framework is spikingjelly.AUTHORS and hasattr(module, "v_threshold"))):
            return framework
    return None


def neurons_of(net: nn.Module) -> dict[str, tuple[nn.Module, Framework]]:
    """Return the neurons of a module by path. Submodules of a neuron are left out."""
    found: dict[str, tuple[nn.Module, Framework]] = {}
    for path, module in net.named_modules():
        if any(path.startswith(f"{outer}.") for outer in found):
            continue
        if (framework := framework_of(module)) is not None:
            found[path] = (module, framework)
    return found
