"""The rules of docs/design.md that a machine can hold: who imports whom, what the package holds, what --help loads."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "ottt_loihi.sim": "sim",
    "ottt_loihi.converters": "converters",
    "ottt_loihi.onchip": "onchip",
    "ottt_loihi": "ottt_loihi",
}
# neutral ground: no torch, no Lava, nobody else's business
COMMON = tuple(f"ottt_loihi.{name}" for name in ("checks", "errors", "files", "metrics", "safe_hdf5", "toml", "data"))
MAY_IMPORT = {
    "sim": (*COMMON, "ottt_loihi.sim"),
    "converters": (
        *COMMON,
        "ottt_loihi.sim",
        "ottt_loihi.converters",
        "ottt_loihi.nn",
        "ottt_loihi.torch_files",
    ),
    "onchip": (*COMMON, "ottt_loihi.sim", "ottt_loihi.onchip", "ottt_loihi.converters"),
}
FORBIDDEN = {"sim": ("torch", "lava"), "onchip/lava/processes": ("torch",)}
SCREEN = {80: 50, 100: 40}  # columns of a terminal → lines of --help
COMMANDS = [f"ottt-{name}" for name in ("train", "export", "run", "learn", "doctor", "data", "eval", "compare")]


def imports(path):
    """(module, line) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def python_files(*folders):
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_who_imports_whom(folder):
    for path in python_files(folder):
        for module, line in imports(path):
            if module.startswith("ottt_loihi."):
                assert module.startswith(MAY_IMPORT[folder]), f"{path}:{line}: {folder}/ must not import {module}"


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_what_a_folder_must_never_import(folder):
    for path in python_files(folder):
        for module, line in imports(path):
            assert module.split(".")[0] not in FORBIDDEN[folder], f"{path}:{line}: {module} in {folder}/"


LAYERS = ("nn", "rules", "fast", "training", "cli")  # each may import those before it
ALLOWED = {
    ("ottt_loihi/rules/base.py", "ottt_loihi.fast.chunks"),  # until training chooses the engine
}


def test_the_library_imports_downwards_only():
    """nn knows no rule, rules know no fast engine, nothing in the library knows a command."""
    for rank, layer in enumerate(LAYERS):
        above = tuple(f"ottt_loihi.{name}" for name in LAYERS[rank + 1 :])
        for path in python_files(f"ottt_loihi/{layer}"):
            for module, line in imports(path):
                found = module.startswith(above) if above else False
                name = str(path.relative_to(ROOT)), ".".join(module.split(".")[:3])
                assert not found or name in ALLOWED, f"{path}:{line}: {layer}/ must not import {module}"


def test_only_commands_import_commands():
    for path in python_files("ottt_loihi", "sim", "converters", "onchip"):
        for module, line in imports(path):
            inside = path.is_relative_to(ROOT / "ottt_loihi/cli")
            assert inside or not module.startswith("ottt_loihi.cli"), f"{path}:{line}: {module}"


def test_no_module_of_the_library_is_in_a_circle():
    """Imports inside functions count."""
    graph = {}
    for path in python_files("ottt_loihi/nn", "ottt_loihi/rules"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = {module for module, _ in imports(path)}
    done, active = set(), []

    def visit(name):
        assert name not in active, " → ".join([*active[active.index(name) :], name])
        if name in done:
            return
        active.append(name)
        for other in sorted(graph[name] & graph.keys()):
            visit(other)
        active.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_nobody_imports_the_root_folders_bare():
    """``import sim`` works from the repository's root, and is another module than ``ottt_loihi.sim``."""
    for path in python_files("ottt_loihi", "sim", "converters", "onchip", "tests", "benchmarks", "notebooks"):
        for module, line in imports(path):
            assert module.split(".")[0] not in ("sim", "converters", "onchip"), f"{path}:{line}: import {module}"


def test_every_subpackage_is_listed():
    """setuptools drops an unlisted one from the wheel in silence."""
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join([package, *inside]))
    assert listed == found


def test_process_folder_holds_processes_only():
    """Lava executes every file beside a Process, so each file there must define one."""
    for path in python_files("onchip/lava/processes"):
        if path.name != "__init__.py":
            bases = r"AbstractProcess|LearningDense|LearningSparse|OTTTDense"
            assert re.search(rf"^class \w+\(((Plastic|Sender), )?({bases})\)", path.read_text(), re.MULTILINE), path
            assert "@model_of" in path.read_text(), path


def test_the_names_at_the_top_load_nothing_before_they_are_used():
    code = (
        "import sys\nimport ottt_loihi as ol\nassert set(ol.__all__) <= set(dir(ol))\n"
        "heavy = {'torch', 'lava', 'numpy', 'numba'} & set(sys.modules)\nassert not heavy, heavy\n"
        "for name in ol.__all__:\n    getattr(ol, name)\nassert 'lava' not in sys.modules\n"
        "try:\n    ol.nothing\nexcept AttributeError as error:\n    assert 'nothing' in str(error)\n"
        "else:\n    raise AssertionError('no error')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("columns", SCREEN)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_neither_torch_nor_lava(command, columns):
    module = command.replace("ottt-", "ottt_loihi.cli.")
    code = (
        f"import sys\nsys.argv = ['{command}', '--help']\nfrom {module} import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert done.code == 0, done.code\n"
        "heavy = {'torch', 'lava', 'matplotlib', 'sklearn', 'h5py'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    terminal = {**os.environ, "COLUMNS": str(columns)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False, env=terminal
    )
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
    assert "--json" in done.stdout
    assert len(done.stdout.splitlines()) <= SCREEN[columns], f"{command}: give its less common options a group"


def test_the_short_form_of_a_benchmark_loads_few_samples():
    """A configuration imports ``load_data`` by name, so that a whole MNIST was trained on."""
    program = (
        "import short; from ottt_loihi.training import config; short.use(); assert config.load_data is short.load_data"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
