"""Build Intel's wheel for today's Python: the original from your index, with the change that ``pyproject.toml`` lists.

A PEP 517 backend for ``pip install ./packaging/lava-nc`` and for uv. It takes the original wheel from a folder
(``LAVA_WHEELS=/folder``, or pip's ``--config-settings wheels=/folder``) or from the index that pip's configuration or
uv's environment variables name, compares its SHA-256, applies each ``[[tool.repair.change]]`` where the text stands
exactly once, leaves out ``[tool.repair] drop`` and writes the metadata of ``[project]``. Nothing is written before
all of that has worked. The same file serves lava-nc and lava-dl.
"""

import base64
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

UV_VARIABLES = {
    "UV_DEFAULT_INDEX": "--index-url",
    "UV_INDEX_URL": "--index-url",
    "UV_INDEX": "--extra-index-url",
    "UV_EXTRA_INDEX_URL": "--extra-index-url",
    "UV_FIND_LINKS": "--find-links",
}
REPLACED = (
    "Version:",
    "Requires-Python:",
    "Requires-Dist:",
    "Provides-Extra:",
    "Classifier: Programming Language :: Python :: 3",
)


def get_requires_for_build_wheel(config_settings=None):
    """Return what fetching needs, pip; nothing where it is there or the original lies in a folder (PEP 517)."""
    return [] if _folder(config_settings) or _own_pip() else ["pip>=23"]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Write the repaired wheel into ``wheel_directory`` and return its name (PEP 517)."""
    settings = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    project, repair = settings["project"], settings["tool"]["repair"]
    wheels = _folder(config_settings)
    with tempfile.TemporaryDirectory() as folder:
        original = Path(wheels or folder, repair["wheel"])
        if not wheels:
            _download(original, project["name"])
        if not original.is_file():
            _stop(f"{original.parent.absolute()} does not hold {original.name}; put it there, or unset LAVA_WHEELS")
        found = hashlib.sha256(original.read_bytes()).hexdigest()
        if found != repair["sha256"]:
            _stop(f"{original.name} has SHA-256 {found}, not {repair['sha256']} of Intel's release: remove it")
        with zipfile.ZipFile(original) as wheel:
            files = _changed({name: wheel.read(name) for name in wheel.namelist()}, project, repair)
        name = f"{project['name'].replace('-', '_')}-{project['version']}"
        done = Path(folder, "done.whl")
        with zipfile.ZipFile(done, "w", zipfile.ZIP_DEFLATED) as wheel:
            for path, content in sorted(files.items()):
                wheel.writestr(zipfile.ZipInfo(path, (2026, 11, 28, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
        target = Path(wheel_directory, f"{name}-py3-none-any.whl")
        target.write_bytes(done.read_bytes())
    return target.name


def _folder(config_settings):
    """Return the folder with Intel's wheels that somebody named, or nothing."""
    return (config_settings or {}).get("wheels") or os.environ.get("LAVA_WHEELS")


def _own_pip():
    """Return the command of the environment's own pip, if it has one: a build environment hides it, ``-I`` finds it."""
    line = [sys.executable, "-I", "-m", "pip"]
    return line if subprocess.run([*line, "--version"], capture_output=True).returncode == 0 else None


def _download(wheel, name):
    """Let pip fetch the original; its Requires-Python is that of Python 3.10."""
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.10", "--quiet", f"--dest={wheel.parent}"]
    for variable, option in UV_VARIABLES.items():
        urls = re.split(r"[\s,]+", os.environ.get(variable, "").strip())
        options += [option + "=" + re.sub(r"^[\w.-]+=(?=[a-z]+:|/)", "", url) for url in urls if url]  # uv: name=url
    pip = _own_pip() or [sys.executable, "-m", "pip"]
    requirement = f"{name}=={wheel.name.split('-')[1]}"
    done = subprocess.run([*pip, "download", *options, requirement], capture_output=True, text=True)
    if done.returncode:
        said = [text for text in done.stderr.splitlines() if text.strip()] or ["pip gave no reason"]
        reason = [text for text in said if text.startswith("ERROR")] or said
        _stop(f"{wheel.name} cannot be fetched ({reason[-1]}); set LAVA_WHEELS to a folder that holds it")


def _changed(files, project, repair):
    """The wheel's files with the change, without what is dropped, with new metadata and RECORD."""
    files = {path: text for path, text in files.items() if not path.startswith(tuple(repair["drop"]))}
    for change in repair.get("change", ()):
        text = files.get(change["file"], b"").decode()
        if text.count(change["before"]) != 1:
            _stop(f"{change['file']} holds {change['before']!r} {text.count(change['before'])} times, expected once")
        files[change["file"]] = text.replace(change["before"], change["after"]).encode()
    old, new = (
        f"{project['name'].replace('-', '_')}-{version}.dist-info"
        for version in (repair["wheel"].split("-")[1], project["version"])
    )
    files = {path.replace(old, new): text for path, text in files.items()}
    head, _, body = files[f"{new}/METADATA"].decode().partition("\n\n")
    kept = [line for line in head.splitlines() if not line.startswith(REPLACED)]
    kept[2:2] = [f"Version: {project['version']}", f"Requires-Python: {project['requires-python']}"]
    kept += [f"Requires-Dist: {need}" for need in project["dependencies"]]
    files[f"{new}/METADATA"] = "\n".join([*kept, "", repair["note"], "", body]).encode()
    del files[f"{new}/RECORD"]
    record = [f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in sorted(files.items())]
    return {**files, f"{new}/RECORD": "".join([*record, f"{new}/RECORD,,\n"]).encode()}


def _digest(content):
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _stop(message):
    raise SystemExit(f"{Path.cwd().name}: {message}")
