"""``ottt-export``: put a trained network on the chip."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ottt_loihi.cli import command


def export(
    model: Annotated[Path, typer.Argument(help="The trained network, model.pt of ottt-train.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; default: beside the model.")
    ] = None,
    weight_bits: Annotated[int, typer.Option(min=2, max=8, help="Bits of a weight on the chip.")] = 8,
    check: Annotated[int, typer.Option(min=1, help="Test samples to compare float and chip on.")] = 360,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not compare.")] = False,
    max_disagreement: Annotated[
        float, typer.Option(min=0, max=1, help="Exit 1 when more predictions than this share differ.")
    ] = 0.05,
    json: command.Json = False,
    debug: command.Debug = False,
) -> None:
    """Put a trained network on the chip: model.h5 (exact integers), model.net (lava-dl) and report.html.

    Example: ottt-export runs/demo/model.pt
    """
    from ottt_loihi.checkpoint import load
    from ottt_loihi.converters import export as exporter

    net = load(model)
    result = exporter.export(net, weight_bits, 0 if no_check else check, source=model)
    exporter.require_agreement(result, max_disagreement)
    files = exporter.write(result, output or model.parent)
    if json:
        command.print_json(
            {
                "layers": [asdict(layer) for layer in result.quantized.layers],
                "agreement": asdict(result.agreement) if result.agreement else None,
                "budget": asdict(result.budget),
                "files": files,
            }
        )
        return
    for part in exporter.tables(result):
        command.print_table(part)
    if found := result.agreement:
        accuracy = f"accuracy {found.accuracy_float:.2%} float, {found.accuracy_chip:.2%} chip; "
        command.out.print(f"{accuracy}same prediction on {found.predictions:.2%} of {found.samples} samples")
    else:
        command.out.print(f"not compared: {result.unchecked}")
    command.print_files(files)


def main() -> None:
    """Entry point of the console script."""
    command.execute(export, "ottt-export")
