"""``ottt-eval``: test a trained network, also with other numbers of time steps than it was trained with."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ottt_loihi.cli import command
from ottt_loihi.cli.options import DEBUG, JSON, argument, option, with_options
from ottt_loihi.report.report import Table


@with_options
def evaluate_model(
    model: Path = argument("The trained network, model.pt.", ...),
    time_steps: list[int] | None = option("Time steps to test with. Repeatable.", None, "--time-steps", "-T", min=1),
    data: str | None = option("Data set; default: that of the training."),
    plot: Path | None = option("Draw each layer's firing rate over time (.svg)."),
    json: bool = JSON,
    debug: bool = DEBUG,
) -> None:
    """Test a trained network: accuracy, firing rates of each layer and synaptic operations.

    Example: ottt-eval runs/first/model.pt -T 2 -T 6 -T 12 --plot rates.svg
    """
    from ottt_loihi import metrics
    from ottt_loihi.data import load_like
    from ottt_loihi.training.checkpoint import load
    from ottt_loihi.training.evaluation import evaluate

    cures = {"": "ottt-train -o FOLDER makes one", ".h5": "ottt-run classifies with the integer network"}
    command.expect_file(model, "model.pt", cures)
    net = load(model)
    name = data or net.provenance.get("data", "digits")
    split, notes = load_like(name, net.data, net.provenance.get("data_options"))
    if net.data is None and len(net.input_shape) == 3:
        split = split.with_channels()
    encoding = net.data.coding if net.data is not None else net.provenance.get("encoding", {}).get("name")
    if net.data is None:
        encoding = "frames" if split.time_axis else encoding if encoding != "frames" else None
    command.say("data", notes)
    rows: list[dict[str, Any]] = []
    for steps in time_steps or [split.num_steps or net.time_steps]:
        found = evaluate(net, split.x_test, split.y_test, encoding=encoding, time_steps=steps)
        measured = metrics.measure(found.predictions, split.y_test, net.num_classes, split.class_names)
        rows.append(
            {
                "time_steps": steps,
                "accuracy": found.accuracy,
                "spike_rates": found.spike_rates,
                "rates_over_time": found.rates_over_time,
                "synaptic_operations": found.synaptic_operations,
                "samples": len(split.y_test),
                **measured.to_json(),
                "warnings": metrics.warnings(measured, found.spike_rates),
            }
        )
    if plot is not None:
        command.write_plot(plot, lambda: _drawing(rows[-1]["rates_over_time"]))
    if json:
        command.print_json({"model": str(model), "data": str(name), "trained_time_steps": net.time_steps, "runs": rows})
    else:
        _show(rows, str(name), net.time_steps)
        command.say("warning", rows[-1]["warnings"])
        note = f"Balanced accuracy {measured.balanced_accuracy:.2%}, with T = {rows[-1]['time_steps']}."
        command.print_table(command.recall_table(measured, note))
        if plot is not None:
            command.out.print(f"firing rates: {plot}", style="dim")


main = partial(command.execute, evaluate_model, "ottt-eval")


def _drawing(rates: Any) -> str:
    """Return the curves of firing rates ``(blocks, T)`` as SVG."""
    from ottt_loihi.report import plots

    steps = list(range(1, rates.shape[1] + 1))
    series = {f"hidden {index + 1}": (steps, rate) for index, rate in enumerate(rates)}
    return plots.curves(series, "time step", "spikes per neuron and step")


def _show(rows: list[dict[str, Any]], data: str, trained: int) -> None:
    table = [
        [
            str(row["time_steps"]),
            f"{row['accuracy']:.2%}",
            f"{row['balanced_accuracy']:.2%}",
            ", ".join(f"{rate:.3f}" for rate in row["spike_rates"][:6]) + ("…" if len(row["spike_rates"]) > 6 else ""),
            f"{row['synaptic_operations']:,.0f}",
        ]
        for row in rows
    ]
    columns = ["T>", "accuracy>", "balanced>", "spikes per neuron and step>", "synaptic operations per sample>"]
    note = f"{rows[0]['samples']:,} test samples, all of them. Trained with T = {trained}."
    command.print_table(Table(f"ottt-eval · {data}", columns, table, note))
