"""Accuracy through the export (``benchmarks/peers.py``): in the framework, in our floating point, and on the chip.

A recurrent network on Braille letters that snnTorch trains; ``make frameworks`` shows the same of twelve networks of
four frameworks on digits. The letters are the 1,158 training and validation samples of the NIR paper's events, split
here; its test samples are not at hand, so the figures stand beside each other and not beside the paper's. Each eighth
of a sample arrives on lines of its own (coding ``slots``); a network without them stayed at 56 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers_process import LIMIT, output_of, python_of, verdict

EPOCHS, STEPS, PARTS, HIDDEN = 80, 32, 8, 64
TAXELS = 12
LONGEST = 3600.0  # seconds for the trainings


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Return a row for each network, made in the environment that has the frameworks."""
    result: dict[str, Any] = {"versions": {}, "missing": {}, "failed": {}, "rows": [], "wrong": []}
    python = python_of(arguments.environments, "torch") or sys.executable
    say("accuracy through the export")
    with tempfile.TemporaryDirectory(prefix="ottt-peers-") as folder:
        target = Path(folder, "rows.json")
        command = [str(python), "-W", "ignore", __file__, str(target), *(["--short"] if arguments.short else [])]
        failed = output_of(command, LIMIT if arguments.short else LONGEST)[1]
        if failed:
            return result | {verdict(failed): {"accuracy through the export": failed}}
        return result | json.loads(target.read_text())


def braille_network() -> Any:
    import snntorch as snn
    from torch import nn

    recurrent = snn.RLeaky(beta=0.9, linear_features=HIDDEN, init_hidden=True)
    return nn.Sequential(
        nn.Linear(PARTS * TAXELS, HIDDEN), recurrent, nn.Linear(HIDDEN, 7), snn.Leaky(beta=0.9, init_hidden=True)
    )


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
    import numpy as np
    import torch
    from ottt_loihi.converters.samples import drawn

    import ottt_loihi as ol
    from ottt_loihi.data.codings import encode, parse_coding

    class Letters(frameworks.Digits):
        def batches(self) -> list[tuple[Any, Any]]:
            order = torch.randperm(len(self.x), generator=self.generator).split(64)
            return [(self.x[rows], self.y[rows]) for rows in order]

    split = ol.load_data("braille", num_steps=16 if short else STEPS)
    train = drawn(len(split.x_train), 128 if short else len(split.x_train))  # the parts are in the order of the letters
    test = drawn(len(split.x_test), 32 if short else len(split.x_test))

    def coded(x: np.ndarray) -> np.ndarray:
        spikes = encode(x, parse_coding(f"slots:parts={PARTS}"), x.shape[1], time_axis=True)
        return spikes.reshape(*spikes.shape[:2], -1).astype(np.float32)

    given = (coded(split.x_train[train]), split.y_train[train])
    asked = (coded(split.x_test[test]), split.y_test[test])
    return Letters(*map(torch.from_numpy, (*given, *asked)), torch.Generator().manual_seed(1))


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
        title = f"snnTorch {PARTS * TAXELS}-{HIDDEN} (recurrent)-7, Braille letters"
        rows.append(row(title, braille_network(), letters(short), 10 if short else EPOCHS))
    except FileError as error:
        missing["Braille letters"] = str(error).splitlines()[0]
    versions = {name: version(name) for name in ("snntorch", "torch")}
    target.write_text(json.dumps({"rows": rows, "missing": missing, "versions": versions}))


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
