"""Simulation side by side (``benchmarks/peers.py``): one integer network and its spikes in every simulator of Loihi.

Spikes and membranes of every neuron and step are compared, not only times. Those are seconds of the processor, which
other work on the machine changes little; Lava's processes wait for one another, so its time is the clock's. Simulators
count the steps differently (a spike takes one step from layer to layer on the chip and in Lava); each layer is shifted
by its depth before.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.inference.simulator import Simulator
from ottt_loihi.sim.network import ChipNetwork
from peers_process import HERE, output_of, python_of, verdict

_spec = importlib.util.spec_from_file_location("benchmarks_sim", HERE / "sim.py")  # `sim` is also a folder of the root
assert _spec is not None and _spec.loader is not None  # noqa: PT018
_sim = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_sim)
NETWORKS, firing, lava_rate = _sim.NETWORKS, _sim.firing, _sim.lava_rate
median_seconds, spikes = _sim.median_seconds, _sim.spikes
PEERS = {"nengo-loihi": "nengo", "brian2-loihi": "brian"}  # and the names of their environments
CASES, STEPS = ("64-128-10", "784-256-10"), 64
DENSITY = 0.1
VARIABLES = ("s", "v")
States = dict[str, list[np.ndarray]]  # "s" and "v", one (T, neurons) a layer


def divergence(found: States, ours: States) -> str:
    """Return where the states differ first, by time, or that they do not."""
    first: list[tuple[int, int, str]] = []
    for layer, (s, v) in enumerate(zip(ours["s"], ours["v"])):
        for variable, wanted in (("s", s), ("v", v)):
            got = np.asarray(found[variable][layer][: len(wanted)])
            differ = np.argwhere(got != wanted)
            if len(differ):
                t, neuron = (int(place) for place in differ[0])
                values = f"{float(got[t, neuron]):g} instead of {int(wanted[t, neuron])}"
                first.append((t, layer, f"{variable} of neuron {neuron} of layer {layer} at step {t}: {values}"))
    return min(first)[2] if first else ""


def states_of(result: Any) -> States:
    """Return the spikes and membranes of the only sample of a run."""
    states = result.states
    return {name: [np.asarray(v[:, 0]).reshape(len(v), -1) for v in states[name]] for name in VARIABLES}


def write(chip: ChipNetwork, x: np.ndarray, path: Path) -> None:
    weights = {f"weight{i}": np.asarray(c.weight) for i, c in enumerate(chip.connections)}
    neurons = {name: [getattr(layer, name) for layer in chip.layers] for name in ("du", "dv", "vth")}
    np.savez(path, x=x[0], layers=len(chip.layers), **neurons, **weights)


def ask(name: str, environments: Path, path: Path, short: bool) -> dict[str, Any]:
    """Return the states and steps per second of a peer, or ``{"failed": why}``."""
    python = python_of(environments, PEERS[name]) or sys.executable
    target = path.with_name(f"{name}.npz")
    worker = [str(HERE / "peers_simulation_worker.py"), name, str(path), str(target)]
    printed, failed = output_of([str(python), "-W", "ignore", *worker, *(["--short"] if short else [])])
    if failed:
        return {"failed": failed}
    with np.load(target) as file:
        layers = sum(key.startswith("s") and key != "seconds" for key in file.files)
        states = {variable: [file[f"{variable}{i}"] for i in range(layers)] for variable in VARIABLES}
        rate = 1 / float(np.median(file["seconds"]))
    return {"states": states, "rate": rate, "versions": json.loads(printed.splitlines()[-1])}


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Return a row for each network and simulator: steps per second, and where its states differ first."""
    short = arguments.short
    result: dict[str, Any] = {"versions": {}, "missing": {}, "failed": {}, "rows": [], "wrong": []}
    for network in CASES[: 1 if short else None]:
        chip = replace(firing(NETWORKS[network](np.random.default_rng(0)), DENSITY), num_steps=16 if short else STEPS)
        x = spikes(chip, 1, DENSITY)
        rows = here(chip, x, short, lambda line: say(f"{network}: {line}"))  # noqa: B023, called at once
        result["wrong"] += [f"{network} in {name}: {where}" for name, _, where in rows if where]
        wanted = states_of(Simulator(chip, 1).run(x, VARIABLES))
        with tempfile.TemporaryDirectory(prefix="ottt-peers-") as folder:
            path = Path(folder, "network.npz")
            write(chip, x, path)
            for name in PEERS:
                say(f"{network}: {name}")
                answer = ask(name, arguments.environments, path, short)
                if "failed" in answer:
                    result[verdict(answer["failed"])][name] = f"{network}: {answer['failed']}"
                    continue
                result["versions"] |= answer["versions"]
                rows.append((name, answer["rate"], divergence(answer["states"], wanted)))
        for name, rate, where in rows:
            about = {"network": network, "simulator": name, "steps": chip.num_steps, "rate": rate}
            result["rows"].append(about | {"times": rows[0][1] / rate, "differs": where})
    return result


def here(chip: ChipNetwork, x: np.ndarray, short: bool, say: Callable[[str], None]) -> list[tuple[str, float, str]]:
    """Return the names, the rates and the divergences of sim.run, of its NumPy reference and of Lava."""
    from ottt_loihi.converters.lava.backends import BACKENDS

    say("ours and the reference")
    simulator = Simulator(chip, 1)
    wanted = states_of(simulator.run(x, VARIABLES))
    rate = chip.num_steps / median_seconds(lambda: simulator.run(x), clock=time.process_time)
    plain = chip.num_steps / median_seconds(lambda: reference.run(chip, x), 1, time.process_time)
    differs = divergence(states_of(reference.run(chip, x, VARIABLES)), wanted)
    say("Lava")
    in_lava = states_of(BACKENDS["lava"].run(chip, x, VARIABLES))
    lava = "Lava, by the clock", lava_rate(chip, DENSITY, 0.2 if short else 1.0), divergence(in_lava, wanted)
    return [("ours", rate, ""), ("our NumPy reference", plain, differs), lava]


def tables(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    columns = ("network", "simulator", "steps/s", "ours is faster by", "states of all neurons and steps")
    text = [f"\n| {' | '.join(columns)} |", "|---|---|---:|---:|---|"]
    for row in result["rows"]:
        where = f"first differ in {row['differs']}" if row["differs"] else "equal"
        times = f"{row['times']:,.0f}×" if row["simulator"] != "ours" else ""
        text.append(f"| {row['network']} | {row['simulator']} | {row['rate']:,.0f} | {times} | {where} |")
    return "\n".join(text)
