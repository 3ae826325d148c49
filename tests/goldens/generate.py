"""Compute all goldens with the package of one tree, and write them to one file, a pickled dictionary.

    python tests/goldens/generate.py --tree PATH --out FILE [--only TEXT]

The same cases, called by the same names (names.py), run on any tree. A network that a tree refuses has no golden there.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import numpy as np
import torch

from goldens import chips, names, trainings


def generate(tree: Path, only: str = "") -> dict[str, np.ndarray]:
    """Return ``case|array`` → array; ``case|refused`` says why a tree does not do it, ``case|failed`` that it broke."""
    package = names.open_tree(tree)
    found: dict[str, np.ndarray] = {}
    for module in (trainings, chips):
        for name, compute in module.every(package):
            if only not in name:
                continue
            try:
                arrays = compute()
            except (package.UsageError, package.TrainingError, package.ChipError) as error:
                arrays = {"refused": np.array(str(error))}
            except Exception:
                arrays = {"failed": np.array(traceback.format_exc())}
            found |= {f"{name}|{key}": np.asarray(a) for key, a in arrays.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # rules warn of equilibria that they do not solve
    torch.set_num_threads(1)
    started = time.perf_counter()
    found = generate(arguments.tree.resolve(), arguments.only)
    arguments.out.write_bytes(pickle.dumps(found))  # an .npz of so many arrays takes minutes to read
    print(f"{arguments.tree}: {len({key.split('|')[0] for key in found})} cases, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
