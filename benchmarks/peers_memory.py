"""Peak memory of a batch over T (``benchmarks/peers.py``): each reading is of a new process, which did one small batch.

A framework keeps memory for its next batch, and what it keeps cannot be told from what it needs. So the measured batch
is the first of its size in its process. A batch of 4 samples and 2 steps before it loads the libraries. The reading is
the largest resident memory during the batch, less that before it, with weights, inputs and labels there. BrainTrace
compiles for the size of the batch; what the compiler needs is in its reading.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from peers_process import Peer, verdict
from peers_training import chosen, write
from peers_worker import CONTENDERS

STEPS = (6, 12, 24, 48)
SMALL = {"steps": 2, "samples": 4}


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Return a row for each network, number of steps and contender; events, one thread."""
    result: dict[str, Any] = {"versions": {}, "missing": {}, "failed": {}, "rows": [], "wrong": []}
    names = chosen(arguments)
    with tempfile.TemporaryDirectory(prefix="ottt-peers-") as folder:
        for network, steps in product(arguments.networks, arguments.steps if arguments.short else STEPS):
            say(f"memory of {network}, events, T = {steps}")
            small = write(Path(folder), network, "events", **SMALL)
            path = write(Path(folder), network, "events", steps, 4 if arguments.short else None)
            for name in [name for name in names if name not in result["missing"] | result["failed"]]:
                peer = Peer(name, arguments.environments, 1)
                try:
                    peer.wait()
                    answer = peer.ask(do="memory", small=str(small), file=str(path))
                finally:
                    peer.close()
                result["versions"] |= peer.versions
                if "failed" in answer:
                    result[verdict(answer["failed"])][name] = answer["failed"]
                else:
                    row = {"network": network, "steps": steps, "contender": name}
                    result["rows"].append(row | answer)
    return result


def tables(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    found = {(row["network"], row["steps"], row["contender"]): row["bytes"] for row in result["rows"]}
    present = [name for name in CONTENDERS if any(key[2] == name for key in found)]
    text = [f"\nPeak memory of a batch in MiB\n\n| network | T | {' | '.join(present)} |"]
    text.append("|---|---:|" + "---:|" * len(present))
    for case in dict.fromkeys(key[:2] for key in found):
        cells = (f"{found[(*case, name)] / 2**20:.0f}" if (*case, name) in found else "" for name in present)
        text.append(f"| {' | '.join(map(str, case))} | {' | '.join(cells)} |")
    return "\n".join(text)
