"""Compare all goldens of this tree with those of an earlier commit, computed now, in this environment.

    python tests/goldens/compare.py [--base ca2cd2d] [--only TEXT]

Weights depend on the versions of torch and NumPy and on the processor, so no golden is stored: the commit's files are
unpacked below build/, and generate.py computes the same cases with both packages, each in a process of its own.

============  ==========================================================================================================
status        meaning
============  ==========================================================================================================
equal         every bit
rounding      within 1e-12 of the array's norm (float32: 1e-6): sums in another order
on purpose    different, and CHANGED below says why
refused       by both: a rule or an export that does not fit the network
new           the commit refused this case, this tree does not
different     everything else, also a case that is now refused or fails
stale         CHANGED has a pattern for it, but no case of that pattern is different
============  ==========================================================================================================

Whoever changes a result on purpose adds a line to CHANGED: a pattern of the cases' names (``fnmatch``; the table that
this program prints has them) and the reason, as the changelog says it. A name that moved goes into names.py instead.
The last two statuses fail.
"""

from __future__ import annotations

import argparse
import pickle
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BASE = "ca2cd2d"
ROUNDING = {"float64": 1e-12, "float32": 1e-6}  # of an array's norm
FAILURES = ("different", "stale")

CHANGED: dict[str, str] = {  # pattern of names of cases: why their results are others than in BASE
    "export checked and calibrated": "calibration draws its samples over the whole set",
    "training/*/opzo random step*": "random feedback depends on seed and layer; equal layers had equal matrices",
    "training/mlp ties/saf-*": "Λ·(W·â/Λ + b) rounds otherwise, which decides membranes at exactly the threshold",
    "training/mlp ties/*/authors": "the released code's rectangle holds its edges",
    "training/recurrent/*/authors": "the released code's feedback does not act before the first spikes, nor its bias",
    "training/equilibrium/*/authors": "the released code's feedback does not act before the first spikes, nor its bias",
    "training/vgg_f*/*/authors": "the released code's feedback does not act before the first spikes, nor its bias",
    "training/resnet/*/authors": "the released network has no neurons before its classifier; its gains have no trace",
    "trainer*/constant": "a network is evaluated with the coding that it was trained with",
    "export/equilibrium/*": "a recurrent connection beside larger input weights has an exponent, and bits, of its own",
    "sim/conv [014589]": "convolutions with other groups into one layer were simulated wrong",
}


def has_commit(base: str = BASE) -> bool:
    """Whether this clone's history holds the commit; a shallow clone may not, an archive has none."""
    found = subprocess.run(["git", "-C", ROOT, "cat-file", "-e", f"{base}^{{commit}}"], capture_output=True)
    return found.returncode == 0


def unpack(base: str = BASE) -> Path:
    """Return a folder with the commit's files, below build/: always the same one, so that numba keeps its kernels."""
    folder = ROOT / "build" / "goldens" / base
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = tempfile.mkdtemp(dir=folder.parent)
        archive = subprocess.run(["git", "-C", ROOT, "archive", base], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", part], input=archive, check=True)
        Path(part).rename(folder)
    return folder


def results(tree: Path, only: str = "") -> dict[str, np.ndarray]:
    """Return the goldens of a tree, ``case|array`` → array."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "goldens.pickle"
        command = [sys.executable, HERE / "generate.py", "--tree", tree, "--out", out, "--only", only]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return pickle.loads(out.read_bytes())


def both(base: str = BASE, only: str = "") -> Iterator[dict[str, np.ndarray]]:
    """Return the goldens of the commit and of this tree, computed at the same time."""
    with ThreadPoolExecutor(2) as pool:
        return pool.map(partial(results, only=only), (unpack(base), ROOT))


def compare(base: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> dict[str, tuple[str, str]]:
    """Return case → (status, detail)."""
    found: dict[str, tuple[str, str]] = {}
    needed: set[str] = set()
    spared: dict[str, str] = {}  # pattern: a case of it that is not different
    for name, keys in _cases(base | now).items():
        if f"{name}|refused" in base and f"{name}|refused" in now:
            found[name] = "refused", str(now[f"{name}|refused"])
            continue
        status, detail = _case({k: base.get(f"{name}|{k}") for k in keys}, {k: now.get(f"{name}|{k}") for k in keys})
        pattern = next((pattern for pattern in CHANGED if fnmatch(name, pattern)), None)
        if pattern is not None and status == "different":
            status, detail = "on purpose", CHANGED[pattern]
            needed.add(pattern)
        elif pattern is not None:
            spared.setdefault(pattern, name)
        found[name] = status, detail
    stale = {name: pattern for pattern, name in spared.items() if pattern not in needed}
    return found | {
        name: ("stale", f"CHANGED has {pattern!r}, but nothing of it differs") for name, pattern in stale.items()
    }


def _cases(results: dict[str, np.ndarray]) -> dict[str, list[str]]:
    cases: dict[str, list[str]] = {}
    for key in results:
        name, _, part = key.partition("|")
        cases.setdefault(name, []).append(part)
    return cases


def _case(base: dict[str, np.ndarray | None], now: dict[str, np.ndarray | None]) -> tuple[str, str]:
    for side, arrays in (("base", base), ("now", now)):
        if (failed := arrays.get("failed")) is not None:
            return "different", f"{side} fails: {str(failed).strip().splitlines()[-1]}"
    if base.get("refused") is not None:
        return "new", str(base["refused"])
    if now.get("refused") is not None:
        return "different", f"now refused: {now['refused']}"
    status, worst = "equal", 0.0
    for key, before in base.items():
        after = now[key]
        if before is None or after is None or before.shape != after.shape or before.dtype != after.dtype:
            return "different", f"{key}: {_kind(before)} became {_kind(after)}"
        if before.tobytes() == after.tobytes():
            continue
        distance = _distance(before, after)
        if not distance <= ROUNDING.get(str(before.dtype), 0.0):
            return "different", f"{key}: by {distance:.2g} of its norm"
        status, worst = "rounding", max(worst, distance)
    return status, f"by {worst:.2g} of the norm" if worst else ""


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.dtype.kind not in "fiub":
        return float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(a - b) / (np.linalg.norm(a) or 1.0))


def _kind(a: np.ndarray | None) -> str:
    return "nothing" if a is None else f"{a.dtype} {a.shape}"


def report(found: dict[str, tuple[str, str]]) -> str:
    """Return one line for every group of cases, and one for every case that is neither equal nor new."""
    groups: dict[str, Counter[str]] = {}
    for name, (status, _) in found.items():
        groups.setdefault("/".join(name.split("/")[:2]), Counter())[status] += 1
    lines = [
        f"{group:<44} {', '.join(f'{n} {status}' for status, n in counts.items())}" for group, counts in groups.items()
    ]
    lines += [
        f"{status}: {name} ({detail})"
        for name, (status, detail) in found.items()
        if status not in ("equal", "refused", "new")
    ]
    return "\n".join([*lines, _counts(Counter(status for status, _ in found.values()))])


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {status}" for status, n in counts.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    if not has_commit(arguments.base):
        sys.exit(f"{arguments.base}: not in this clone's history; git fetch --unshallow")
    found = compare(*both(arguments.base, arguments.only))
    print(report(found))
    sys.exit(any(status in FAILURES for status, _ in found.values()))


if __name__ == "__main__":
    main()
