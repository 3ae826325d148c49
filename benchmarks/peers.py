"""This toolkit beside others, in one run: training, simulation, accuracy through the export, memory over T.

    make peers                                          the environments, and all parts
    python benchmarks/peers.py --only training --threads 1 --json peers.json

Every framework works in a process of its own, and in an environment of its own below ``.venv-peers`` (``make peers``
makes them). One that is not installed, fails or takes too long is named in a line with the reason, and the rest goes
on. Contenders take turns; times are medians, ratios are medians of the ratios within a turn, above 1 ours is faster.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

PARTS = ("training", "memory", "simulation", "accuracy")
ROOT = Path(__file__).resolve().parents[1]


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-peers", help="the frameworks' environments")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="only these parts")
    parser.add_argument("--contenders", nargs="+", help="of the training: only those whose names contain one of these")
    parser.add_argument(
        "--networks", nargs="+", choices=("MLP", "conv"), default=("MLP", "conv"), help="of the training"
    )
    parser.add_argument("--inputs", nargs="+", choices=("events", "constant"), default=("events", "constant"))
    parser.add_argument("--steps", type=int, nargs="+", default=(6, 48), help="T of the training, the fewest first")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures")
    parser.add_argument("--short", action="store_true", help="the same code in seconds; its figures are no measurement")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.networks, arguments.inputs, arguments.steps, arguments.threads = ["MLP"], ["events"], [2], [1]
    return arguments


def main() -> None:
    arguments = asked()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    result: dict[str, Any] = {**machine, "load before": os.getloadavg()}
    versions: dict[str, str] = {}
    out: dict[str, dict[str, str]] = {"missing": {}, "failed": {}}
    wrong: list[str] = []
    for part in arguments.only:
        module = importlib.import_module(f"peers_{part}")
        result[part] = found = module.measure(arguments, say)
        print(module.tables(found))
        versions |= found["versions"]
        wrong += found["wrong"]
        for kind in out:
            out[kind] |= found[kind]
    print(f"\nversions: {', '.join(f'{name} {number}' for name, number in versions.items())}")
    for name, why in out["missing"].items():
        print(f"missing: {name} ({why}); `make peers` installs it where it can")
    for name, why in out["failed"].items():
        print(f"failed: {name}: {why}")
    result["load after"] = os.getloadavg()
    print(f"load {result['load before'][0]:.1f} before, {result['load after'][0]:.1f} after")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    if arguments.pictures:
        importlib.import_module("peers_pictures").draw(result, arguments.pictures)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
