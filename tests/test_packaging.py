"""The wheels of Lava for Python ≥ 3.11 are Intel's own, but for one line, the metadata and the package ``tests``."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")


def settings(name):
    return tomllib.loads((ROOT / "packaging" / name / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_sdist_holds_what_a_clone_holds(tmp_path):
    """Else neither ``make demo`` nor the tests nor the README's configurations work in it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    files = [name for name in listed.stdout.split("\0") if name]
    for name in files:
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    code = f"import setuptools.build_meta as build; build.build_sdist({str(tmp_path)!r})"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=tmp_path / "clone", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in files if not name.startswith((".ci/", ".gitignore"))} <= packed


@pytest.fixture(scope="module")
def repair():
    """The build backend as a module."""
    spec = importlib.util.spec_from_file_location("repair", ROOT / "packaging" / "lava-nc" / "repair.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def backend(repair, monkeypatch):
    """A function that builds a package's wheel from a folder with Intel's."""

    def build(name, out, wheels):
        monkeypatch.chdir(ROOT / "packaging" / name)
        return out / repair.build_wheel(str(out), {"wheels": str(wheels)})

    return build


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """The folder with Intel's wheels: LAVA_WHEELS, or fetched from the index; skip without either."""
    folder = Path(os.environ.get("LAVA_WHEELS") or tmp_path_factory.mktemp("wheels"))
    if not all((folder / settings(name)["tool"]["repair"]["wheel"]).is_file() for name in ("lava-nc", "lava-dl")):
        options = ["--no-deps", "--only-binary=:all:", "--python-version=3.10", "--quiet", f"--dest={folder}"]
        line = [sys.executable, "-m", "pip", "download", *options, "lava-nc==0.10.0", "lava-dl==0.6.0"]
        if subprocess.run(line, capture_output=True).returncode:
            pytest.skip("no index reachable, and LAVA_WHEELS names no folder with Intel's wheels")
    return folder


def test_one_backend_serves_both():
    assert (ROOT / "packaging/lava-nc/repair.py").read_bytes() == (ROOT / "packaging/lava-dl/repair.py").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "files"), [("lava-nc", ["lava/magma/compiler/var_model.py"]), ("lava-dl", [])])
def test_the_wheel_differs_from_intels_by_one_line(backend, original, tmp_path, name, files):
    """And by metadata, and by ``tests``; so it holds no file that Intel's wheel does not, and overwrites no other."""
    built = backend(name, tmp_path, original)
    parts = settings(name)
    before, after = (zipfile.ZipFile(path) for path in (original / parts["tool"]["repair"]["wheel"], built))
    kept = [n for n in before.namelist() if not n.startswith("tests/") and ".dist-info/" not in n]
    assert {n for n in after.namelist() if ".dist-info/" not in n} == set(kept)
    assert [n for n in kept if before.read(n) != after.read(n)] == files
    for file in files:
        old, new = (wheel.read(file).decode().splitlines() for wheel in (before, after))
        lines = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        assert len(lines) == 1
        assert lines[0][0] == "@dataclass"
        assert lines[0][1].startswith("@dataclass(unsafe_hash=True)  # changed 2026-")
    metadata = after.read(f"{name.replace('-', '_')}-{parts['project']['version']}.dist-info/METADATA").decode()
    assert "Requires-Python: >=3.10\n" in metadata
    assert "unittest2" not in metadata
    assert "Changed on 2026-" in metadata
    assert "BSD-3-Clause" in metadata


def pip_install(wheels, target):
    """Run ``pip install ./packaging/lava-nc`` without an index, with Intel's wheel from a folder."""
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    line = [sys.executable, "-m", "pip", "install", *options, str(ROOT / "packaging/lava-nc")]
    return subprocess.run(line, env={**os.environ, "LAVA_WHEELS": str(wheels)}, capture_output=True, text=True)


@pytest.mark.slow
def test_pip_installs_it_without_an_index(original, tmp_path):
    done = pip_install(original, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "site" / "tests").exists()
    text = (tmp_path / "site/lava/magma/compiler/var_model.py").read_text()
    assert text.count("unsafe_hash=True") == 1
    assert (tmp_path / "site/lava_nc-0.10.0+ottt.1.dist-info").is_dir()


@pytest.mark.slow
def test_pip_says_one_line_and_installs_nothing_of_another_wheel(original, tmp_path):
    name = settings("lava-nc")["tool"]["repair"]["wheel"]
    (tmp_path / name).write_bytes((original / name).read_bytes() + b"x")
    done = pip_install(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert [line.split(" has ")[0].split()[-1] for line in done.stderr.splitlines() if "SHA-256" in line] == [name]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "site").exists()


@pytest.mark.slow
def test_one_changed_byte_is_refused(backend, original, tmp_path):
    name = settings("lava-nc")["tool"]["repair"]["wheel"]
    content = bytearray((original / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit, match=r"lava-nc: lava_nc-0\.10\.0-py3-none-any\.whl has SHA-256 .*, not d646723e"):
        backend("lava-nc", tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_a_folder_without_the_wheel_is_named(backend, tmp_path):
    with pytest.raises(SystemExit, match=r"does not hold lava_dl-0\.6\.0-py3-none-any\.whl; put it there"):
        backend("lava-dl", tmp_path, tmp_path)


def test_a_text_that_does_not_fit_is_refused(repair):
    """As it would be with a wheel whose file has changed."""
    parts = settings("lava-nc")
    path = parts["tool"]["repair"]["change"][0]["file"]
    with pytest.raises(SystemExit, match=r"var_model\.py holds .* 0 times, expected once"):
        repair._changed({path: b"nothing of it"}, parts["project"], parts["tool"]["repair"])


def test_without_an_index_it_is_one_line(tmp_path):
    """pip runs the backend in an environment of its own; here the backend runs as pip would call it."""
    code = "import repair; repair.build_wheel('.')"
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PYTHONPATH": "."}
    environment.pop("LAVA_WHEELS", None)
    folder, line = ROOT / "packaging/lava-nc", [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "lava-nc: lava_nc-0.10.0-py3-none-any.whl cannot be fetched (ERROR" in done.stderr
    assert "LAVA_WHEELS" in done.stderr
    assert "Traceback" not in done.stderr
