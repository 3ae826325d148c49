"""Import every module of the installed package: what CI does to the built wheel. Run in a clean environment."""

import argparse
import importlib
import pkgutil
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--dependencies", help="site-packages to take what the wheel needs from")
parser.add_argument("--not-from", help="a folder the package must not come from")
arguments = parser.parse_args()
if arguments.dependencies:
    sys.path.append(arguments.dependencies)  # after the wheel's own environment; .pth files there are not read

import ottt_loihi  # noqa: E402

expected = {
    "ottt_loihi.converters",
    "ottt_loihi.onchip.lava.processes",
    "ottt_loihi.sim",
    "ottt_loihi.rules",
    "ottt_loihi.cli",
}
modules = [module.name for module in pkgutil.walk_packages(ottt_loihi.__path__, "ottt_loihi.")]
for name in modules:
    module = importlib.import_module(name)
    assert not arguments.not_from or not str(module.__file__).startswith(f"{arguments.not_from}/ottt"), module.__file__
missing = expected - set(modules)
assert not missing, f"the wheel lacks {missing}"
print(f"{len(modules)} modules import from {ottt_loihi.__path__[0]}")
