"""What is said where Lava cannot run: one line with the remedy for this Python. And where it can, all of it imports."""

import subprocess
import sys

import pytest
from ottt_loihi.converters.lava import installed as module


@pytest.fixture
def environment(monkeypatch):
    """Set the Python and the versions of packages that the module finds."""

    def set_up(python, **versions):
        monkeypatch.setattr(sys, "version_info", (*python, 0))
        found = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(module, "installed", found.get)
        monkeypatch.setattr(module.importlib, "import_module", lambda name: None)

    return set_up


def test_nothing_is_wrong_with_the_tested_versions(environment):
    for python, lava in (((3, 10), "0.10.0"), ((3, 13), "0.10.0+ottt.1")):
        environment(python, lava_nc=lava, numpy="1.26.4")
        assert module.lava_problem() == ""


@pytest.mark.parametrize(
    ("python", "versions", "said"),
    [
        ((3, 14), {"lava_nc": "0.10.0"}, "tried on Python 3.10 to 3.13, this is 3.14"),
        ((3, 10), {}, "Lava is not installed: pip install -e '.[lava]'"),
        ((3, 13), {}, "Lava is not installed: pip install ./packaging/lava-nc ./packaging/lava-dl"),
        ((3, 12), {"lava_nc": "0.9.0", "numpy": "1.26.4"}, "lava-nc 0.9.0 is installed, ottt-loihi needs 0.10.0: pip"),
        ((3, 10), {"lava_nc": "0.11.0.dev0", "numpy": "1.26.4"}, "lava-nc 0.11.0.dev0 is installed"),
        ((3, 12), {"lava_nc": "0.10.0+ottt.1", "numpy": "2.4.0"}, "NumPy 2.4.0 is installed"),
        ((3, 12), {"lava_nc": "0.10.0+ottt.1", "numpy": "2.4rc1"}, "NumPy 2.4rc1 is installed"),
        ((3, 12), {"lava_nc": "0.10.0+ottt.1", "numpy": "3.0"}, "pip install 'numpy<2.4'"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_remedy(environment, python, versions, said):
    environment(python, **versions)
    assert said in module.lava_problem()
    assert "\n" not in module.lava_problem()


def test_intels_own_wheel_on_a_newer_python_is_named(environment, monkeypatch):
    environment((3, 12), lava_nc="0.10.0", numpy="1.26.4")

    def refuse(name):
        raise ValueError("mutable default ByteEncoder for field x is not allowed")

    monkeypatch.setattr(module.importlib, "import_module", refuse)
    assert "lava-nc 0.10.0 does not import on Python 3.12 (ValueError" in module.lava_problem()
    assert "./packaging/lava-nc" in module.lava_problem()


def test_what_lava_dl_lacks(environment, monkeypatch):
    environment((3, 12), lava_dl="0.5.0")
    assert "lava-dl 0.5.0 is installed, ottt-loihi needs 0.6.0" in module.lava_dl_problem()
    environment((3, 12), lava_dl="0.6.0+ottt.1")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert "pip install setuptools" in module.lava_dl_problem()
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: module)
    assert module.lava_dl_problem() == ""


IMPORT_ALL = """
import importlib, sys
from importlib.metadata import files
for path in map(str, files(sys.argv[1])):
    if path.startswith("lava/") and path.endswith(".py"):
        importlib.import_module(path[:-3].replace("/", ".").removesuffix(".__init__"))
        print(path)
"""


@pytest.mark.slow
@pytest.mark.lava
@pytest.mark.parametrize(("package", "least"), [("lava-nc", 139), ("lava-dl", 82)])
def test_every_module_imports(package, least):
    if module.installed(package) is None:
        pytest.skip(f"{package} is not installed")
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, package], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) >= least


@pytest.mark.lava
@pytest.mark.parametrize(
    ("used", "says"), [("get_start_method()", ""), ("set_start_method('spawn')", "'spawn', and Lava")]
)
def test_a_program_that_has_started_processes_before(used, says):
    """Lava sets how processes start when it is imported; joblib, below scikit-learn, has used the default by then."""
    code = (
        f"import multiprocessing\nmultiprocessing.{used}\n"
        "from ottt_loihi.converters.lava.installed import lava_problem\nfound = lava_problem()\n"
        f"assert {says!r} in found and bool(found) == {bool(says)}, found\n"
        "if not found:\n    from lava.proc.lif.process import LIF\n"
        "    assert multiprocessing.get_start_method() == 'fork'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
