"""Training side by side (``benchmarks/peers.py``): every contender in a process of its own, one batch each in turns."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers_batch import Batch
from peers_process import Peer, verdict
from peers_reference import expected
from peers_worker import CONTENDERS
from training import inputs, let_fire, networks

TURNS, ENOUGH, LONGEST = 5, 10.0, 15.0  # seconds of CPU: of a contender's turns, and of one batch
TOLERANCE = {"snnTorch BPTT": 1e-7}  # its spikes are float32, and so is the gradient that goes through them
EXACT = 1e-10
ALWAYS = ("ours", "two forwards")  # the base of the ratios, and the measure of OTTT's gradients


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
    numbers = {name: error for name, error in errors.items() if isinstance(error, float)}
    bad = {
        name: error for name, error in numbers.items() if not error <= TOLERANCE.get(name, EXACT)
    }  # and not a number
    return [f"{name}: its gradients differ from what it claims by {error:.1e}" for name, error in bad.items()]


def take_turns(peers: dict[str, Peer], path: Path, turns: int) -> dict[str, dict[str, Any]]:
    """Return for each contender the medians of its batches and its ratios to ours."""
    times: dict[str, list[dict[str, float] | None]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, peer in peers.items():
        answer = peer.ask(do="prepare", file=str(path), dtype="float32")
        if "failed" in answer:
            rows[name] = {"failed": answer["failed"]}
        else:
            times[name] = []
    for turn in range(turns):
        for name in list(times) if turn % 2 == 0 else list(times)[::-1]:
            spent = [found["cpu"] for found in times[name] if found]
            enough = turn >= 2 and sum(spent) + spent[-1] > ENOUGH
            answer = None if enough else peers[name].ask(do="time")
            if answer is not None and "failed" in answer:
                rows[name] = {"failed": answer["failed"]}
                del times[name]
            else:
                times[name].append(answer)
    for name, found in times.items():
        done = [one for one in found if one]
        pairs = [(a, b) for a, b in zip(found, times.get(base(name), [])) if a and b]
        rows[name] = {"turns": len(done)}
        for clock in ("wall", "cpu"):
            rows[name][clock] = statistics.median(one[clock] for one in done)
            if pairs:
                rows[name][f"{clock} ratio"] = statistics.median(a[clock] / b[clock] for a, b in pairs)
    return rows


def base(name: str) -> str:
    """Return which of ours a contender's ratio is to: the one that computes the same, where there are two."""
    return "ours, input traced" if name.startswith("BrainTrace") else "ours"


def chosen(arguments: argparse.Namespace) -> list[str]:
    """Return the contenders that were asked for, with those that the others are measured against."""
    wanted = arguments.contenders or [""]
    return [name for name in CONTENDERS if name in ALWAYS or any(part in name for part in wanted)]


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the checks of the gradients and the table of times."""
    result: dict[str, Any] = {"versions": {}, "missing": {}, "failed": {}, "checks": [], "rows": [], "wrong": []}
    with tempfile.TemporaryDirectory(prefix="ottt-peers-") as folder:
        for threads in arguments.threads:
            started = {name: Peer(name, arguments.environments, threads) for name in chosen(arguments)}
            try:
                for name, peer in started.items():
                    peer.wait()
                    if peer.unavailable:
                        result[verdict(peer.unavailable)][name] = peer.unavailable
                peers = {name: peer for name, peer in started.items() if not peer.unavailable}
                result["versions"] |= {key: v for peer in peers.values() for key, v in peer.versions.items()}
                run = Run(peers, Path(folder), threads, arguments.short, say)
                if threads == arguments.threads[0]:
                    run.check(arguments, result)
                for case in product(arguments.networks, arguments.inputs, arguments.steps):
                    result["rows"] += run.rows(*case)
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
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)  # of CPU, for a step

    def check(self, arguments: argparse.Namespace, result: dict[str, Any]) -> None:
        """Add the errors of the gradients, and a line for each that is not what its contender claims."""
        for network, kind in product(arguments.networks, arguments.inputs):
            self.say(f"gradients of {network}, {kind}")
            errors = check(self.peers, self.folder, write(self.folder, network, kind, 2 if self.short else 6, 4))
            result["checks"].append({"network": network, "input": kind, "errors": errors})
            result["wrong"] += [f"{network}, {kind}: {line}" for line in wrong(errors)]

    def rows(self, network: str, kind: str, steps: int) -> list[dict[str, Any]]:
        """Return a row for each contender; one whose fewer steps say that a batch takes too long is not run."""
        self.say(f"{network}, {kind}, T = {steps}, threads: {self.threads}")
        path = write(self.folder, network, kind, steps, 4 if self.short else None)
        taking = {n: peer for n, peer in self.peers.items() if self.seconds.get((network, n), 0) * steps <= LONGEST}
        found = take_turns(taking, path, 1 if self.short else TURNS)
        for name in self.peers.keys() - taking.keys():
            found[name] = {"failed": f"over {LONGEST:.0f} s a batch"}
        self.seconds |= {(network, name): row["cpu"] / steps for name, row in found.items() if "cpu" in row}
        about = {"network": network, "input": kind, "steps": steps, "threads": self.threads}
        return [about | {"contender": name} | found[name] for name in self.peers]


def tables(result: dict[str, Any]) -> str:
    """Return the results as Markdown: seconds of the clock and of the CPU, and the errors of the gradients."""
    rows = result["rows"]
    present = [name for name in CONTENDERS if any(row["contender"] == name for row in rows)]
    found = {(r["network"], r["input"], r["steps"], r["threads"], r["contender"]): r for r in rows}
    cases = list(dict.fromkeys(key[:4] for key in found))
    text = []
    for clock, title, shown in (
        ("wall", "Milliseconds of the clock for a batch, and how many times ours they are", cases),
        ("cpu", "The same in milliseconds of CPU, one thread", [case for case in cases if case[3] == 1]),
    ):
        text.append(f"\n{title}\n\n| network | input | T | threads | {' | '.join(present)} |")
        text.append("|---|---|---:|---:|" + "---:|" * len(present))
        for case in shown:
            cells = [_cell(found[(*case, name)], clock) if (*case, name) in found else "" for name in present]
            text.append(f"| {' | '.join(map(str, case))} | {' | '.join(cells)} |")
    text.append(f"\nGradients in float64, the largest relative error\n\n| network | input | {' | '.join(present)} |")
    text.append("|---|---|" + "---:|" * len(present))
    for entry in result["checks"]:
        cells = [e if isinstance(e := entry["errors"][name], str) else f"{e:.0e}" for name in present]
        text.append(f"| {entry['network']} | {entry['input']} | {' | '.join(cells)} |")
    return "\n".join(text)


def _cell(row: dict[str, Any], clock: str) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    ratio = f" ({row[clock + ' ratio']:.2f}×)" if f"{clock} ratio" in row else ""
    return f"{1e3 * row[clock]:.1f}{ratio}"
