"""``make demo``: the whole path on real images: train, export, run in Lava, learn on the chip.

Each step is one of the four commands, run as a person would type it; then one table of what came out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from ottt_loihi.cli import command
from ottt_loihi.cli.options import DEBUG, option, with_options
from ottt_loihi.report.report import Table

# name → description, and the command line, with names of files in the folder of the demo
STEPS = {
    "train": ("Train 64-128-10 with OTTT on scikit-learn's digits", "ottt-train --encoding regular -T 12"),
    "export": ("Export it to the chip's integers", "ottt-export model.pt"),
    "run": ("Run it in the Lava runtime and through lava-dl's netx", "ottt-run model.h5 --verify lava --verify netx"),
    "scratch": ("Learn on the chip from scratch", "ottt-learn --repeat-in-lava 2000"),
    "drift": (
        "Turn the images upside down and let the deployed network learn again",
        "ottt-learn model.h5 --transform upside-down --changed --repeat-in-lava 2000",
    ),
}


@with_options
def demo(
    output: Path = option("Folder for everything.", Path("runs/demo"), "--output", "-o"), debug: bool = DEBUG
) -> None:
    """The whole path on scikit-learn's digits, in a few minutes.

    Example: python -m ottt_loihi.cli.demo
    """
    results: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    for number, (name, (what, words)) in enumerate(STEPS.items(), 1):
        line = [str(output / word) if word.startswith("model.") else word for word in words.split()]
        line += ["-o", str(output)]
        command.out.print(f"\n[bold]{number}/{len(STEPS)}  {what}[/]")
        command.out.print(f"      $ {' '.join(line)}", style="dim", markup=False, soft_wrap=True)
        begin = time.perf_counter()
        with command.err.status("working …"):
            results[name] = _run(line)
        seconds[name] = time.perf_counter() - begin
        command.out.print(f"      {_say(name, results[name])}  [dim]({seconds[name]:.0f} s)[/]", soft_wrap=True)
    _summarise(output, results, seconds, time.perf_counter() - started)


def _run(line: list[str]) -> dict[str, Any]:
    """Run a command with --json and return its result; if it fails, end the demo with its exit code."""
    program = Path(sys.executable).with_name(line[0])
    done = subprocess.run([str(program), *line[1:], "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def _say(name: str, result: dict[str, Any]) -> str:
    """Return one line about a step's result."""
    if name == "train":
        return f"test accuracy {result['test_accuracy']:.2%}"
    if name == "export":
        found = result["agreement"]
        return f"float and chip predict the same on {found['predictions']:.2%} of {found['samples']} test images"
    if name == "run":
        checks = [f"{c['backend']}: {c['different']} of {c['compared']:,} states differ" for c in result["verified"]]
        return "; ".join(checks)
    return _say_learned(result)


def _say_learned(result: dict[str, Any]) -> str:
    shown = [f"{accuracy:.1%}" for accuracy in result["accuracies"]]
    whose = ("before", "after learning") if len(shown) == 2 else ("deployed", "upside down", "after learning")
    curve = ", ".join(f"{accuracy} {what}" for accuracy, what in zip(shown, whose))
    if result["world_changed"]:
        curve += f", {result['accuracy_in_the_old_world']:.1%} upright again"
    repeated = result["repeated_in_lava"]
    return f"accuracy {curve}; {repeated['steps']:,} steps repeated in the Lava runtime: equal weights"


def _summarise(output: Path, results: dict[str, Any], seconds: dict[str, float], total: float) -> None:
    rows = [[what, _say(name, results[name]), f"{seconds[name]:.0f}"] for name, (what, _) in STEPS.items()]
    command.out.print()
    command.print_table(Table("What you saw", ["step", "result", "seconds>"], rows, f"{total:.0f} seconds in all."))
    command.print_files(
        {"report": str(output / "report.html"), "network": str(output / "model.pt")}
        | {"chip": str(output / "model.h5"), "net": str(output / "model.net")}
    )
    command.out.print(
        f"next: open {output / 'report.html'}; docs/tutorial.md explains each step", style="dim", soft_wrap=True
    )


main = partial(command.execute, demo, "ottt-demo")


if __name__ == "__main__":
    main()
