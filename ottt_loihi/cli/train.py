"""``ottt-train``: train a spiking network and save it as ``model.pt``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ottt_loihi.cli import command

# tables of the configuration → options that are their keys, separated by blanks
TABLES = {
    "data": "encoding time_axis scale",
    "network": "hidden features time_steps beta v_threshold reset bias surrogate convention",
    "rule": "update",
    "training": "epochs batch_size loss optimizer learning_rate momentum weight_decay clip_norm validation stop_at "
    "patience class_weights sampling schedule engine threads seed init quantize",
}
# options that --help lists by name only: title → parameters
GROUPS = {
    "Data": "time_axis scale sampling",
    "Network": "features beta v_threshold reset bias surrogate",
    "Learning": "batch_size update convention loss class_weights optimizer momentum weight_decay clip_norm schedule "
    "validation stop_at patience",
    "Running": "engine threads force tensorboard",
}


def train(
    config: Annotated[Path | None, typer.Argument(help="A TOML file (configs/*.toml); options override it.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for model.pt.")] = Path("runs/train"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in the output folder.")] = False,
    data: Annotated[
        str | None, typer.Option(help="A data set (ottt-data lists them), an .npz file or a folder. [digits]")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Values to spikes: rate, regular, latency, delta, population, thermometer, graded, frames, delays, "
            "slots, constant. Option: delta:threshold=0.1. [by data]"
        ),
    ] = None,
    time_axis: command.TimeAxis = None,
    scale: Annotated[
        str | None, typer.Option(help="Scale values to 0 … 1: each channel, all together, or none. [where needed]")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="mlp, conv, vgg, vgg_f, nf_resnet34, dsr or slayer. [mlp]")
    ] = None,
    hidden: Annotated[str | None, typer.Option(help="Hidden neurons of mlp: 256,256. [128]")] = None,
    features: Annotated[str | None, typer.Option(help="For conv: layers, such as 16C3-AP2-32C3-GAP.")] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="ottt, bptt, sltt, saf-e, saf-f, ide, spide, dsr, opzo, s-tllr, tess, a-otpe, otpe. [ottt]"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training samples. [60]")] = None,
    validation: Annotated[
        float | None,
        typer.Option(min=0, help="Share of the training samples that is held out and chooses best.pt. [0.1]"),
    ] = None,
    stop_at: Annotated[float | None, typer.Option(min=0, max=1, help="End at this validation accuracy.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="End after so many epochs without a better validation accuracy.")
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option(help="Weights of the classes in the loss: balanced, or numbers such as 1,2.5,1.")
    ] = None,
    sampling: Annotated[
        Literal["shuffled", "balanced"] | None,
        typer.Option(help="In an epoch, draw each sample once, or all classes equally often. [shuffled]"),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples per batch. [64]")] = None,
    time_steps: Annotated[
        int | None, typer.Option("--time-steps", "-T", min=1, help="Time steps per sample, T. [the data's, or 6]")
    ] = None,
    beta: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the membrane that is left after a step, λ. [0.5]")
    ] = None,
    v_threshold: Annotated[float | None, typer.Option(help="Firing threshold, Vth. [1]")] = None,
    reset: Annotated[
        Literal["subtract", "zero"] | None, typer.Option(help="What a spike does to the membrane. [subtract]")
    ] = None,
    bias: Annotated[bool | None, typer.Option("--bias/--no-bias", help="Give every layer a bias.")] = None,
    surrogate: Annotated[
        Literal["rectangle", "sigmoid", "triangle", "fast-sigmoid"] | None,
        typer.Option(help="Stand-in for the derivative of a spike."),
    ] = None,
    update: Annotated[
        Literal["step", "sequence"] | None,
        typer.Option(help="Learn at every time step, or once after all steps. [step]"),
    ] = None,
    convention: Annotated[
        Literal["paper", "authors"] | None, typer.Option(help="OTTT as in the paper or the authors' code. [paper]")
    ] = None,
    loss: Annotated[
        Literal["squared-error", "cross-entropy"] | None, typer.Option(help="Loss of every time step. [squared-error]")
    ] = None,
    optimizer: Annotated[Literal["adam", "adamw", "sgd"] | None, typer.Option(help="Optimiser. [adam]")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Step size of the optimiser. [0.005]")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of sgd. [0.9]")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="Weight decay of the optimiser. [0]")] = None,
    clip_norm: Annotated[
        float | None, typer.Option(min=0, help="Largest norm of the gradient; 0: no limit. [0]")
    ] = None,
    schedule: Annotated[
        Literal["cosine", "constant"] | None, typer.Option(help="Course of the learning rate. [cosine]")
    ] = None,
    engine: Annotated[
        Literal["auto", "plain", "fast"] | None,
        typer.Option(help="The fast engine if it can train the network, or always one of the two. [auto]"),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; the result may depend on it. [1]")] = None,
    init: Annotated[str | None, typer.Option(help="Start from the network of this model.pt.")] = None,
    quantize: Annotated[
        int | None, typer.Option(min=2, max=8, help="Train with rounded weights of 2 to 8 bits.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same bits. [0]")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Any other setting: network.dropout=0.1 …")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files too.")] = False,
    json: command.Json = False,
    debug: command.Debug = False,
) -> None:
    """Train a spiking network and save it as [bold]model.pt[/].

    Example: ottt-train configs/mnist-mlp.toml -o runs/mnist

    Without options, a network 64-128-10 learns handwritten digits in seconds.
    Ctrl-C saves the network; --resume then gives the same bits as without a stop.
    Several processes: torchrun --nproc-per-node 2 -m ottt_loihi.cli.train …
    """
    options = dict(locals())  # by name, for TABLES
    from ottt_loihi.training.config import Config, override, read_config, with_changes
    from ottt_loihi.training.run import run

    if hidden is not None:
        example = "--hidden: expected numbers separated by commas, such as 128 or 256,256"
        options["hidden"] = command.numbers(hidden, example) if hidden else []
    if class_weights not in (None, "balanced"):
        example = "--class-weights: expected balanced, or numbers such as 1,2.5,1"
        options["class_weights"] = command.numbers(class_weights, example, float)
    values = {"data.name": data, "network.name": network, "rule.name": rule}
    values |= {f"{table}.{name}": options[name] for table, names in TABLES.items() for name in names.split()}
    given = with_changes({place: value for place, value in values.items() if value is not None}, changes or ())
    settings = override(Config() if config is None else read_config(config), given)
    try:
        result = run(settings, output, resume=resume, tensorboard=tensorboard, progress=not json, force=force)
    except KeyboardInterrupt as interrupt:
        if interrupt.args:
            command.err.print(f"interrupted; {interrupt}; --resume goes on", markup=False, soft_wrap=True)
        raise
    if result is None:
        return
    if json:
        command.print_json(result)
    else:
        _show(result)


def main() -> None:
    command.execute(train, "ottt-train", GROUPS)


def _show(result: dict[str, Any]) -> None:
    from ottt_loihi.report.report import Table

    command.say("warning", result["warnings"])
    best = result["best_validation_accuracy"]
    rates = result["spike_rates"]
    network = "-".join(map(str, result["sizes"])) if result["sizes"] else result["network"]
    rows = [
        ("network", f"{network}, {result['parameters']:,} parameters"),
        ("test accuracy", f"{result['test_accuracy']:.2%}"),
        *([] if best is None else [("best validation accuracy", f"{best:.2%}, best.pt")]),
        ("training accuracy", f"{result['train_accuracy']:.2%}"),
        ("spikes per neuron and step", ", ".join(f"{rate:.3f}" for rate in rates[:8]) or "no hidden layer"),
        ("synaptic operations per sample", f"{result['synaptic_operations']:,.0f}"),
        ("time", f"{result['seconds']:.1f} s for {result['epochs']} epochs"),
        ("saved as", result["model"]),
    ]
    command.print_table(Table(f"ottt-train · {result['data']}", ("", ">"), rows))
    command.out.print(f"next: ottt-export {result['model']}", style="dim")


if __name__ == "__main__":
    main()
