"""The README's example runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_example_runs_and_learns():
    code = re.search(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 15
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
