"""``ottt-train``: train a spiking network and save it as ``model.pt``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ottt_loihi.cli.command import Debug, Json, err, execute, out, print_json, print_table


class Update(str, Enum):
    step = "step"
    sequence = "sequence"


class Convention(str, Enum):
    paper = "paper"
    authors = "authors"


class Reset(str, Enum):
    subtract = "subtract"
    zero = "zero"


class SurrogateName(str, Enum):
    rectangle = "rectangle"
    sigmoid = "sigmoid"
    triangle = "triangle"
    fast_sigmoid = "fast-sigmoid"


class LossName(str, Enum):
    squared_error = "squared-error"
    cross_entropy = "cross-entropy"


class Optimizer(str, Enum):
    adam = "adam"
    adamw = "adamw"
    sgd = "sgd"


class Sampling(str, Enum):
    shuffled = "shuffled"
    balanced = "balanced"


class Schedule(str, Enum):
    cosine = "cosine"
    constant = "constant"


class EngineName(str, Enum):
    auto = "auto"
    plain = "plain"
    fast = "fast"


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
    time_axis: Annotated[
        bool | None,
        typer.Option(
            "--time-axis/--no-time-axis", help="Whether the first axis of a sample is time. [as the file says]"
        ),
    ] = None,
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
        Sampling | None,
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
    reset: Annotated[Reset | None, typer.Option(help="What a spike does to the membrane. [subtract]")] = None,
    bias: Annotated[bool | None, typer.Option("--bias/--no-bias", help="Give every layer a bias.")] = None,
    surrogate: Annotated[SurrogateName | None, typer.Option(help="Stand-in for the derivative of a spike.")] = None,
    update: Annotated[
        Update | None, typer.Option(help="Learn at every time step, or once after all steps. [step]")
    ] = None,
    convention: Annotated[
        Convention | None, typer.Option(help="OTTT as in the paper or the authors' code. [paper]")
    ] = None,
    loss: Annotated[LossName | None, typer.Option(help="Loss of every time step. [squared-error]")] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Optimiser. [adam]")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Step size of the optimiser. [0.005]")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of sgd. [0.9]")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="Weight decay of the optimiser. [0]")] = None,
    clip_norm: Annotated[
        float | None, typer.Option(min=0, help="Largest norm of the gradient; 0: no limit. [0]")
    ] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="Course of the learning rate. [cosine]")] = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(help="The fast engine if it can train the network, or always one of the two. [auto]"),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; the result may depend on it. [1]")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from the network of this model.pt.")] = None,
    quantize: Annotated[
        int | None, typer.Option(min=2, max=8, help="Train with rounded weights of 2 to 8 bits.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same bits. [0]")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Any other setting: network.dropout=0.1 …")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files too.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a spiking network and save it as [bold]model.pt[/].

    Example: ottt-train configs/mnist-mlp.toml -o runs/mnist

    Without options, a network 64-128-10 learns handwritten digits in seconds.
    Ctrl-C saves the network; --resume then gives the same bits as without a stop.
    Several processes: torchrun --nproc-per-node 2 -m ottt_loihi.cli.train …
    """
    from ottt_loihi.training.config import Config, override, read_config, with_changes
    from ottt_loihi.training.run import run

    values: dict[str, Any] = {
        "data.name": data,
        "data.encoding": encoding,
        "data.time_axis": time_axis,
        "data.scale": scale,
        "network.name": network,
        "network.hidden": None if hidden is None else _hidden_sizes(hidden),
        "network.features": features,
        "network.time_steps": time_steps,
        "network.beta": beta,
        "network.v_threshold": v_threshold,
        "network.reset": reset,
        "network.bias": bias,
        "network.surrogate": surrogate,
        "network.convention": convention,
        "rule.name": rule,
        "rule.update": update,
        "training.epochs": epochs,
        "training.batch_size": batch_size,
        "training.loss": loss,
        "training.optimizer": optimizer,
        "training.learning_rate": learning_rate,
        "training.momentum": momentum,
        "training.weight_decay": weight_decay,
        "training.clip_norm": clip_norm,
        "training.validation": validation,
        "training.stop_at": stop_at,
        "training.patience": patience,
        "training.class_weights": None if class_weights is None else _class_weights(class_weights),
        "training.sampling": sampling,
        "training.schedule": schedule,
        "training.engine": engine,
        "training.threads": threads,
        "training.seed": seed,
        "training.init": None if init is None else str(init),
        "training.quantize": quantize,
    }
    given = {k: v.value if isinstance(v, Enum) else v for k, v in values.items() if v is not None}
    given = with_changes(given, changes or ())
    settings = override(Config() if config is None else read_config(config), given)
    try:
        result = run(settings, output, resume=resume, tensorboard=tensorboard, progress=not json, force=force)
    except KeyboardInterrupt as interrupt:
        if interrupt.args:
            err.print(f"interrupted; {interrupt}; --resume goes on", markup=False, soft_wrap=True)
        raise
    if result is None:
        return
    if json:
        print_json(result)
    else:
        _show(result)


# options that --help lists by name only: title → parameters
GROUPS = {
    "Data": ("time_axis", "scale", "sampling"),
    "Network": ("features", "beta", "v_threshold", "reset", "bias", "surrogate"),
    "Learning": (
        "batch_size",
        "update",
        "convention",
        "loss",
        "class_weights",
        "optimizer",
        "momentum",
        "weight_decay",
        "clip_norm",
        "schedule",
        "validation",
        "stop_at",
        "patience",
    ),
    "Running": ("engine", "threads", "force", "tensorboard"),
}


def main() -> None:
    execute(train, "ottt-train", GROUPS)


def _hidden_sizes(text: str) -> list[int]:
    from ottt_loihi.errors import UsageError

    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(
            f"--hidden: expected numbers separated by commas, such as 128 or 256,256; got {text!r}"
        ) from None


def _class_weights(text: str) -> str | list[float]:
    from ottt_loihi.errors import UsageError

    try:
        return text if text == "balanced" else [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--class-weights: expected balanced, or numbers as 1,2.5,1; got {text!r}") from None


def _validation_row(result: dict[str, Any]) -> list[tuple[str, str]]:
    best = result["best_validation_accuracy"]
    return [] if best is None else [("best validation accuracy", f"{best:.2%}, best.pt")]


def _show(result: dict[str, Any]) -> None:
    from ottt_loihi.report.report import Table

    for warning in result["warnings"]:
        err.print(f"warning: {warning}", markup=False, soft_wrap=True)
    rates = result["spike_rates"]
    network = "-".join(map(str, result["sizes"])) if result["sizes"] else result["network"]
    rows = [
        ("network", f"{network}, {result['parameters']:,} parameters"),
        ("test accuracy", f"{result['test_accuracy']:.2%}"),
        *_validation_row(result),
        ("training accuracy", f"{result['train_accuracy']:.2%}"),
        ("spikes per neuron and step", ", ".join(f"{rate:.3f}" for rate in rates[:8]) or "no hidden layer"),
        ("synaptic operations per sample", f"{result['synaptic_operations']:,.0f}"),
        ("time", f"{result['seconds']:.1f} s for {result['epochs']} epochs"),
        ("saved as", result["model"]),
    ]
    print_table(Table(f"ottt-train · {result['data']}", ("", ">"), rows))
    out.print(f"next: ottt-export {result['model']}", style="dim")


if __name__ == "__main__":
    main()
