"""Accuracy through the export (``benchmarks/peers.py``): in the framework, in our floating point, and on the chip.

A recurrent network on Braille letters that snnTorch trains; ``make frameworks`` shows the same of twelve networks of
four frameworks on digits. The letters are the 1,158 training and validation samples of the NIR paper's events, split
here; its test samples are not at hand, so the figures stand beside each other and not beside the paper's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

EPOCHS, STEPS, HIDDEN = 40, 64, 38


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Return a row for each network, made in the environment that has the frameworks."""
    result: dict[str, Any] = {"versions": {}, "missing": {}, "rows": [], "wrong": []}
    python = arguments.environments / "torch" / "bin" / "python"
    if not python.exists():
        return result | {"missing": {"snnTorch": f"no torch in {arguments.environments.name}"}}
    say("accuracy through the export")
    with tempfile.TemporaryDirectory(prefix="ottt-peers-") as folder:
        target = Path(folder, "rows.json")
        command = [str(python), "-W", "ignore", __file__, str(target), *(["--short"] if arguments.short else [])]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            return result | {"wrong": ["accuracy through the export: its process failed, see above"]}
        return result | json.loads(target.read_text())


def braille_network() -> Any:
    import snntorch as snn
    from torch import nn

    recurrent = snn.RLeaky(beta=0.9, linear_features=HIDDEN, init_hidden=True)
    return nn.Sequential(nn.Linear(12, HIDDEN), recurrent, nn.Linear(HIDDEN, 7), snn.Leaky(beta=0.9, init_hidden=True))


def row(title: str, net: Any, data: Any, epochs: int) -> dict[str, Any]:
    """Train a network in its framework, read it, quantise it to 8 bits, and count in all three."""
    import frameworks
    import numpy as np
    import torch

    import ottt_loihi as ol

    make = frameworks.snntorch  # says how its user runs a network
    frameworks.train(make, net, data, epochs)
    with torch.no_grad():
        theirs = frameworks.run(make, net, data.test)
    frameworks.forget(net)
    here = ol.from_module(net, tuple(data.test.shape[2:]), data.test.shape[1])
    with torch.no_grad():
        found = here.run(data.test, record="s")
    _, on_chip, fired = frameworks.on_chip(here, data)
    differ = np.mean([((a != 0) != (b.numpy().reshape(a.shape) != 0)).mean() for a, b in zip(fired, found.states["s"])])
    accuracies = {"framework": data.accuracy(theirs), "here": data.accuracy(found.scores), "chip": on_chip}
    return {"network": title, "samples": len(data.labels), **accuracies, "spikes that differ": float(differ)}


def letters(short: bool) -> Any:
    """Return the Braille letters in the form of ``frameworks.Digits``: their spikes are given, not drawn."""
    import frameworks
    import torch

    import ottt_loihi as ol

    class Letters(frameworks.Digits):
        def batches(self) -> list[tuple[Any, Any]]:
            order = torch.randperm(len(self.x), generator=self.generator).split(64)
            return [(self.x[rows], self.y[rows]) for rows in order]

    split = ol.load_data("braille", num_steps=16 if short else STEPS)
    train, test = (128, 32) if short else (None, None)
    x, y, x_test, y_test = (torch.from_numpy(a) for a in (split.x_train, split.y_train, split.x_test, split.y_test))
    generator = torch.Generator().manual_seed(1)
    return Letters(x[:train].float(), y[:train], x_test[:test].float(), y_test[:test], generator)


def main() -> None:
    """Write the rows; runs where the frameworks are."""
    import torch

    from ottt_loihi.errors import FileError

    warnings.filterwarnings("ignore")
    target, short = Path(sys.argv[1]), "--short" in sys.argv
    torch.set_num_threads(1)
    rows, missing = [], {}
    try:
        torch.manual_seed(0)
        title = f"snnTorch 12-{HIDDEN} (recurrent)-7, Braille letters"
        rows.append(row(title, braille_network(), letters(short), 1 if short else EPOCHS))
    except FileError as error:
        missing["Braille letters"] = str(error).splitlines()[0]
    target.write_text(json.dumps({"rows": rows, "missing": missing}))


def tables(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    names = (
        "network",
        "test samples",
        "framework",
        "our floating point",
        "chip, 8 bits",
        "spikes that differ on the chip",
    )
    text = [f"\n| {' | '.join(names)} |", "|---|---:|---:|---:|---:|---:|"]
    for found in result["rows"]:
        cells = (f"{100 * found[key]:.2f} %" for key in ("framework", "here", "chip", "spikes that differ"))
        text.append(f"| {found['network']} | {found['samples']} | {' | '.join(cells)} |")
    return "\n".join(text)


if __name__ == "__main__":
    main()
