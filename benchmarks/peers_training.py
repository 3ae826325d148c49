"""Training side by side (``benchmarks/peers.py``): every contender in a process of its own, one batch each in turns."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers_reference import expected
from peers_worker import CONTENDERS, Batch
from training import inputs, let_fire, networks

HERE = Path(__file__).resolve().parent
STEPS, KINDS, NETWORKS = (6, 48), ("events", "constant"), ("MLP", "conv")
OVER_TIME = (6, 12, 24, 48)
TURNS, ENOUGH, LONGEST = 5, 10.0, 15.0  # seconds of CPU: of a contender's turns, and of one batch
TOLERANCE = {"snnTorch BPTT": 1e-7}  # its spikes are float32, and so is the gradient that goes through them
EXACT = 1e-10
ALWAYS = ("ours", "two forwards")  # the base of the ratios, and the measure of OTTT's gradients


class Peer:
    """The process of one contender.

    Attributes
    ----------
    versions
        of its packages
    missing
        one line: why it cannot run here; empty where it can
    """

    def __init__(self, name: str, environments: Path, threads: int) -> None:
        self.name = name
        folder = environments / ("jax" if name.startswith("BrainTrace") else "torch")
        borrows = name.startswith(("ours", "two forwards"))
        python = folder / "bin" / "python" if (folder / "bin" / "python").exists() and not borrows else sys.executable
        self.process = subprocess.Popen(
            [str(python), "-W", "ignore", str(HERE / "peers_worker.py"), name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.versions: dict[str, str] = {}
        self.missing = ""

    def wait(self) -> None:
        """Wait until the framework is imported, or is known to be missing."""
        answer = self._answer()
        self.versions, self.missing = answer.get("versions", {}), answer.get("missing", answer.get("failed", ""))

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": "its process ended"}

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to one request; ``{"failed": why}`` where the contender could not."""
        assert self.process.stdin is not None
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return {"failed": "its process ended"}
        return self._answer()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def write(folder: Path, network: str, kind: str, steps: int, samples: int | None = None) -> Path:
    """Write a batch: weights scaled until 10 % of every layer fire, and inputs of which 10 % are events."""
    path = folder / f"{network}-{kind}-{steps}-{samples}.npz"
    if path.exists():
        return path
    torch.manual_seed(0)
    net, batch = next(found for name, found in networks("authors").items() if name.startswith(network))
    x, labels = inputs(net, samples or batch, steps, kind == "constant", "cpu")
    let_fire(net, x, 0.1)
    weights = {f"weight{i}": c.weight.detach().numpy() for i, c in enumerate(net.connections())}
    given = x.frame.numpy() if kind == "constant" else x.numpy().astype(np.uint8)
    about = {"steps": steps, "constant": kind == "constant", "layers": len(weights)}
    np.savez(path, x=given, labels=labels.numpy(), **about, **weights)
    return path


def check(peers: dict[str, Peer], folder: Path, path: Path) -> dict[str, float | str]:
    """Return for each contender the relative error of its float64 gradients; a line where it has none.

    OTTT is measured against the two-forward formulation, all others against ``peers_reference.py``.
    """
    found: dict[str, list[np.ndarray] | str] = {}
    for name, peer in peers.items():
        target = folder / "gradients.npz"
        answers = peer.ask(do="prepare", file=str(path), dtype="float64"), peer.ask(do="gradients", to=str(target))
        if failed := [answer["failed"] for answer in answers if "failed" in answer]:
            found[name] = failed[0]
            continue
        with np.load(target) as file:
            found[name] = [file[key] for key in file.files]
    errors: dict[str, float | str] = {}
    for name, gradients in found.items():
        wanted = expected(name, Batch.read(str(path), "float64"))
        claims = found["two forwards"] if wanted is None else [gradient.numpy() for gradient in wanted]
        if isinstance(gradients, str) or isinstance(claims, str):
            errors[name] = f"not compared: {gradients if isinstance(gradients, str) else claims}"
            continue
        parts = zip(gradients, claims, strict=True)
        errors[name] = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in parts)
    return errors


def wrong(errors: dict[str, float | str]) -> list[str]:
    """Return a line for each contender whose gradients are not what it claims."""
    bad = {name: e for name, e in errors.items() if isinstance(e, float) and e > TOLERANCE.get(name, EXACT)}
    return [f"{name}: its gradients differ from what it claims by {error:.1e}" for name, error in bad.items()]


def take_turns(peers: dict[str, Peer], path: Path, turns: int, memory: bool) -> dict[str, dict[str, Any]]:
    """Return for each contender the medians of its batches, its ratios to ours, and its peak memory."""
    times: dict[str, list[dict[str, float] | None]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, peer in peers.items():
        answer = peer.ask(do="prepare", file=str(path), dtype="float32")
        if "failed" in answer:
            rows[name] = {"failed": answer["failed"]}
        else:
            times[name] = []
    order = list(times)
    for turn in range(turns):
        for name in order if turn % 2 == 0 else order[::-1]:
            spent = [found["cpu"] for found in times[name] if found]
            enough = turn >= 2 and sum(spent) + spent[-1] > ENOUGH
            times[name].append(None if enough else peers[name].ask(do="time"))
    for name, found in times.items():
        done = [one for one in found if one]
        base = times.get("ours, input traced" if name.startswith("BrainTrace") else "ours", [])
        pairs = [(a, b) for a, b in zip(found, base) if a and b]
        rows[name] = {"turns": len(done)}
        for clock in ("wall", "cpu"):
            rows[name][clock] = statistics.median(one[clock] for one in done)
            if pairs:
                rows[name][f"{clock} ratio"] = statistics.median(a[clock] / b[clock] for a, b in pairs)
        if memory:
            rows[name]["bytes"] = peers[name].ask(do="memory").get("bytes")
    return rows


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the checks, the table of times and memory, and memory over T."""
    wanted = arguments.contenders or [""]
    names = [name for name in CONTENDERS if name in ALWAYS or any(part in name for part in wanted)]
    result: dict[str, Any] = {"versions": {}, "missing": {}, "checks": [], "rows": [], "memory": [], "wrong": []}
    with tempfile.TemporaryDirectory(prefix="ottt-peers-") as folder:
        for threads in [1] if arguments.short else arguments.threads:
            started = {name: Peer(name, arguments.environments, threads) for name in names}
            try:
                for peer in started.values():
                    peer.wait()
                result["missing"] |= {name: peer.missing for name, peer in started.items() if peer.missing}
                peers = {name: peer for name, peer in started.items() if not peer.missing}
                result["versions"] |= {key: v for peer in peers.values() for key, v in peer.versions.items()}
                Run(peers, Path(folder), threads, arguments.short, say).fill(result, threads == arguments.threads[0])
            finally:
                for peer in started.values():
                    peer.close()
    return result


@dataclass
class Run:
    """All measurements with one number of threads."""

    peers: dict[str, Peer]
    folder: Path
    threads: int
    short: bool
    say: Callable[[str], None]
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)  # of CPU, of the fewest steps

    def fill(self, result: dict[str, Any], first: bool) -> None:
        """Add the rows; the checks and memory only in the first run."""
        if first:
            for network, kind in [("MLP", "events")] if self.short else list(product(NETWORKS, KINDS)):
                self.say(f"gradients of {network}, {kind}")
                errors = check(self.peers, self.folder, write(self.folder, network, kind, 2 if self.short else 6, 4))
                result["checks"].append({"network": network, "input": kind, "errors": errors})
                result["wrong"] += [f"{network}, {kind}: {line}" for line in wrong(errors)]
        for case in [("MLP", "events", 2)] if self.short else list(product(NETWORKS, KINDS, STEPS)):
            result["rows"] += self.rows(*case, memory=first)
        for steps in OVER_TIME if first and not self.short else ():
            result["memory"] += self.memory(steps)

    def too_long(self, network: str, name: str, steps: int) -> bool:
        """Return whether a batch of so many steps would take too long, as fewer steps say."""
        return self.seconds.get((network, name), 0) * steps / STEPS[0] > LONGEST

    def rows(self, network: str, kind: str, steps: int, memory: bool) -> list[dict[str, Any]]:
        """Return a row for each contender."""
        self.say(f"{network}, {kind}, T = {steps}, threads: {self.threads}")
        path = write(self.folder, network, kind, steps, 4 if self.short else None)
        taking = {name: peer for name, peer in self.peers.items() if not self.too_long(network, name, steps)}
        found = take_turns(taking, path, 1 if self.short else TURNS, memory)
        for name in self.peers.keys() - taking.keys():
            found[name] = {"failed": f"over {LONGEST:.0f} s a batch"}
        if steps == STEPS[0]:
            self.seconds |= {(network, name): row["cpu"] for name, row in found.items() if "cpu" in row}
        about = {"network": network, "input": kind, "steps": steps, "threads": self.threads}
        return [about | {"contender": name} | row for name, row in found.items()]

    def memory(self, steps: int) -> list[dict[str, Any]]:
        """Return the peak memory of a batch of the convolutional network with events, a row for each contender."""
        self.say(f"memory of conv, events, T = {steps}")
        path, rows = write(self.folder, "conv", "events", steps), []
        for name, peer in self.peers.items():
            if not self.too_long("conv", name, steps):
                peer.ask(do="prepare", file=str(path), dtype="float32")
                rows.append({"steps": steps, "contender": name, "bytes": peer.ask(do="memory").get("bytes")})
        return rows


def tables(result: dict[str, Any]) -> str:
    """Return the results as Markdown: times, CPU times, peak memory, and the errors of the gradients."""
    present = [name for name in CONTENDERS if name in result["checks"][0]["errors"]]
    rows = result["rows"]
    cases = list(dict.fromkeys((r["network"], r["input"], r["steps"], r["threads"]) for r in rows))
    found = {(r["network"], r["input"], r["steps"], r["threads"], r["contender"]): r for r in rows}
    text = []

    def table(title: str, keys: list[Any], cell: Callable[[dict[str, Any]], str]) -> None:
        text.append(f"\n{title}\n\n| network | input | T | threads | {' | '.join(present)} |")
        text.append("|---|---|---:|---:|" + "---:|" * len(present))
        for case in keys:
            cells = [cell(found[(*case, name)]) if (*case, name) in found else "" for name in present]
            text.append(f"| {' | '.join(map(str, case))} | {' | '.join(cells)} |")

    def time(clock: str) -> Callable[[dict[str, Any]], str]:
        def cell(row: dict[str, Any]) -> str:
            if "failed" in row:
                return row["failed"]
            ratio = f" · {row[clock + ' ratio']:.2f}×" if f"{clock} ratio" in row else ""
            return f"{1e3 * row[clock]:.1f} ms{ratio}"

        return cell

    table("Seconds of the clock, and how many times ours they are", cases, time("wall"))
    one = [case for case in cases if case[3] == 1]
    if one:
        table("Seconds of CPU of one thread", one, time("cpu"))
    first = [case for case in cases if case[3] == cases[0][3]]
    table(
        "Peak memory of a batch",
        first,
        lambda row: f"{row['bytes'] / 2**20:.0f} MiB" if row.get("bytes") is not None else "",
    )
    text.append(f"\nGradients in float64, the largest relative error\n\n| network | input | {' | '.join(present)} |")
    text.append("|---|---|" + "---:|" * len(present))
    for entry in result["checks"]:
        cells = [e if isinstance(e := entry["errors"][name], str) else f"{e:.0e}" for name in present]
        text.append(f"| {entry['network']} | {entry['input']} | {' | '.join(cells)} |")
    return "\n".join(text)
