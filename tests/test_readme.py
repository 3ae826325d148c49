"""The README's example runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_example_runs_and_learns():
    code = re.search(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 15
    assert len(re.findall(r"^(?:import|from) ", code, re.M)) == 1
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    accuracies = [float(x) for x in re.findall(r"0\.\d+", done.stdout)]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.9, done.stdout


def test_every_path_the_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:docs|benchmarks|notebooks)/[\w./-]+|[A-Z]+\.md)`|\]\((?!http)([^)]+)\)", text):
        name = path[0] or path[1]
        assert (ROOT / name).exists(), name


def test_the_citation_is_the_same_everywhere():
    bibtex, cff = ((ROOT / name).read_text() for name in ("README.md", "CITATION.cff"))
    for pattern in (r"arXiv:\d+\.\d+", r"Online Training Through Time for Spiking Neural Networks"):
        assert re.search(pattern, bibtex).group() == re.search(pattern, cff).group()
    authors = re.search(r"author\s+= \{(.+?)\}", bibtex).group(1).split(" and ")
    assert authors == [", ".join(name) for name in re.findall(r"family-names: (\w+), given-names: (\w+)", cff)]
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M).group(1)
    assert f"\nversion: {version}\n" in cff
