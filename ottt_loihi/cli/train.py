"""``ottt-train``: train a spiking network and save it as ``model.pt``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from ottt_loihi.checks import LARGEST_SEED
from ottt_loihi.cli import command
from ottt_loihi.cli.options import DEBUG, JSON, TIME_AXIS, argument, option, with_options
from ottt_loihi.report.report import Table
from ottt_loihi.toml import with_changes

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
    "Running": "seed engine threads force tensorboard",
}


@with_options
def train(
    config: Path | None = argument("A TOML file (configs/*.toml); options override it."),
    output: Path = option("Folder for model.pt.", Path("runs/train"), "--output", "-o"),
    resume: bool = option("Continue the run in the output folder.", False),
    force: bool = option("Replace the run in the output folder.", False),
    data: str | None = option("A data set of ottt-data's list, a file or a folder. [digits]"),
    encoding: str | None = option(
        "Values to spikes: rate, regular, latency, delta, population, thermometer, graded, frames, delays, "
        "slots, constant. [by data]"
    ),
    time_axis: bool | None = TIME_AXIS,
    scale: str | None = option("Scale values to 0 … 1: each channel, all together, or none. [where needed]"),
    network: str | None = option("mlp, conv, vgg, vgg_f, nf_resnet34, dsr or slayer. [mlp]"),
    hidden: str | None = option("Hidden neurons of mlp: 256,256. [128]"),
    features: str | None = option("For conv: layers, such as 16C3-AP2-32C3-GAP."),
    rule: str | None = option(
        "ottt, bptt, sltt, saf-e, saf-f, ide, spide, dsr, opzo, s-tllr, tess, a-otpe, otpe. [ottt]"
    ),
    epochs: int | None = option("Passes over the training samples. [60]", min=1),
    validation: float | None = option(
        "Share of the training samples that is held out and chooses best.pt. [0.1]", min=0
    ),
    stop_at: float | None = option("End at this validation accuracy.", min=0, max=1),
    patience: int | None = option("End after so many epochs without a better validation accuracy.", min=0),
    class_weights: str | None = option("Weights of the classes in the loss: balanced, or numbers such as 1,2.5,1."),
    sampling: Literal["shuffled", "balanced"] | None = option(
        "In an epoch, draw each sample once, or all classes equally often. [shuffled]"
    ),
    batch_size: int | None = option("Samples per batch. [64]", min=1),
    time_steps: int | None = option("Time steps per sample, T. [the data's, or 6]", None, "--time-steps", "-T", min=1),
    beta: float | None = option("Share of the membrane that is left after a step, λ. [0.5]", min=0, max=1),
    v_threshold: float | None = option("Firing threshold, Vth. [1]"),
    reset: Literal["subtract", "zero"] | None = option("What a spike does to the membrane. [subtract]"),
    bias: bool | None = option("Give every layer a bias.", None, "--bias/--no-bias"),
    surrogate: Literal["rectangle", "sigmoid", "triangle", "fast-sigmoid"] | None = option(
        "Stand-in for the derivative of a spike."
    ),
    update: Literal["step", "sequence"] | None = option("Learn at every time step, or once after all steps. [step]"),
    convention: Literal["paper", "authors"] | None = option("OTTT as in the paper or the authors' code. [paper]"),
    loss: Literal["squared-error", "cross-entropy"] | None = option("Loss of every time step. [squared-error]"),
    optimizer: Literal["adam", "adamw", "sgd"] | None = option("Optimiser. [adam]"),
    learning_rate: float | None = option("Step size of the optimiser. [0.005]", None, "--learning-rate", "--lr"),
    momentum: float | None = option("Momentum of sgd. [0.9]"),
    weight_decay: float | None = option("Weight decay of the optimiser. [0]", min=0),
    clip_norm: float | None = option("Largest norm of the gradient; 0: no limit. [0]", min=0),
    schedule: Literal["cosine", "constant"] | None = option("Course of the learning rate. [cosine]"),
    engine: Literal["auto", "plain", "fast"] | None = option(
        "The fast engine if it can train the network, or always one of the two. [auto]"
    ),
    threads: int | None = option("CPU threads; the result may depend on it. [1]", min=1),
    init: str | None = option("Begin with the network of this model.pt."),
    quantize: int | None = option("Train with rounded weights of 2 to 8 bits.", min=2, max=8),
    seed: int | None = option("The same seed gives the same bits. [0]", min=0, max=LARGEST_SEED),
    changes: list[str] | None = option("Any other setting: network.dropout=0.1 …", None, "--set"),
    tensorboard: bool = option("Write TensorBoard files too.", False),
    json: bool = JSON,
    debug: bool = DEBUG,
) -> None:
    """Train a spiking network and save it as [bold]model.pt[/].

    Example: ottt-train configs/mnist-mlp.toml -o runs/mnist
    Without options, a network 64-128-10 learns handwritten digits in seconds.
    Ctrl-C saves the run; --resume continues it and ends with the same bits as without a stop.
    """
    options = dict(locals())  # by name, for TABLES
    from ottt_loihi.training.config import Config, override, read_config
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
            command.err.print(f"interrupted; {interrupt}; --resume continues the run", markup=False, soft_wrap=True)
        raise
    if result is None:
        return
    if json:
        command.print_json(result)
    else:
        _show(result)


main = partial(command.execute, train, "ottt-train", GROUPS)


def _show(result: dict[str, Any]) -> None:
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
