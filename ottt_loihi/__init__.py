"""Train spiking networks online with OTTT, put them on Loihi through Lava, and let them continue to learn there.

``import ottt_loihi as ol`` offers the names of ``__all__``; each one loads its module when it is first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_NAMES = {  # module: the names that come from it; an empty tuple offers the module itself
    "nn.models": ("mlp", "conv", "vgg", "vgg_f", "nf_resnet34", "dsr"),
    "nn.network": ("Network",),
    "nn.blocks": ("Block", "Branch", "Skip"),
    "nn.neurons": ("LIF", "Neuron"),
    "nn.cuba": ("CubaLIF",),
    "nn.connections": ("Connection", "Linear", "Conv2d", "Elementwise", "Readout"),
    "nn.inputs": ("ConstantInput",),
    "nn.surrogates": ("Rectangle", "Sigmoid", "Triangle"),
    "rules": ("OTTT", "BPTT", "SLTT", "SAFE", "SAFF", "DSR", "IDE", "SPIDE", "OPZO", "HLOP", "Rule"),
    "rules.losses": ("SquaredError", "CrossEntropy"),
    "training.engine": ("backward",),
    "training.trainer": ("Trainer",),
    "training.callbacks": ("Callback", "EarlyStopping", "TensorBoard"),
    "training.run_folder": ("RunFolder",),
    "training.evaluation": ("evaluate",),
    "training.checkpoint": ("save", "load"),
    "data": ("Split", "load_data", "from_arrays", "rate_code"),
    "converters.export": ("export",),
    "converters.frameworks.convert": ("from_module",),
    "onchip.learner": ("learn",),
    "sim": (),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names or (module,)}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOME[name]}")
    return getattr(module, name) if _NAMES[_HOME[name]] else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
