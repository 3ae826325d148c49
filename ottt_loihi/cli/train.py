"""``ottt-train``: train a spiking network with OTTT and save it as ``model.pt``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ottt_loihi.cli.command import Debug, Json, Seed, err, execute, out, print_json, print_table


class Data(str, Enum):
    digits = "digits"


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


class LossName(str, Enum):
    squared_error = "squared-error"
    cross_entropy = "cross-entropy"


class Optimizer(str, Enum):
    adam = "adam"
    sgd = "sgd"


class Schedule(str, Enum):
    cosine = "cosine"
    constant = "constant"


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for model.pt.")] = Path("runs/train"),
    data: Annotated[Data, typer.Option(help="The data set.")] = Data.digits,
    hidden: Annotated[str, typer.Option(help="Neurons per hidden layer, separated by commas.")] = "128",
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    time_steps: Annotated[int, typer.Option("--time-steps", "-T", min=1, help="Time steps per sample, T.")] = 6,
    decay: Annotated[float, typer.Option(min=0, max=1, help="What a membrane keeps per step, λ.")] = 0.5,
    v_threshold: Annotated[float, typer.Option(help="Firing threshold, Vth.")] = 1.0,
    reset: Annotated[Reset, typer.Option(help="What a spike does to the membrane.")] = Reset.subtract,
    bias: Annotated[bool, typer.Option("--bias/--no-bias", help="Give every layer a bias.")] = False,
    surrogate: Annotated[SurrogateName, typer.Option(help="Derivative of the spike.")] = SurrogateName.rectangle,
    update: Annotated[Update, typer.Option(help="Learn at every time step, or once per sequence.")] = Update.step,
    convention: Annotated[
        Convention, typer.Option(help="OTTT as in the paper or the authors' code.")
    ] = Convention.paper,
    loss: Annotated[LossName, typer.Option(help="Loss of every time step.")] = LossName.squared_error,
    optimizer: Annotated[Optimizer, typer.Option()] = Optimizer.adam,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr")] = 0.005,
    momentum: Annotated[float, typer.Option(help="Of sgd.")] = 0.9,
    schedule: Annotated[Schedule, typer.Option(help="Of the learning rate.")] = Schedule.cosine,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; the result may depend on it.")] = 1,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a spiking network online with OTTT and save it as [bold]model.pt[/].

    Example: ottt-train -o runs/first

    Without options: scikit-learn's handwritten digits, a 64-128-10 network, a few seconds. Ctrl-C saves what there is.
    """
    import torch

    from ottt_loihi.architectures import mlp
    from ottt_loihi.data import load_digits
    from ottt_loihi.rules import OTTT
    from ottt_loihi.trainer import Trainer, evaluate

    torch.set_num_threads(threads)
    split = load_digits()
    net = mlp(
        (64, *_hidden_sizes(hidden), 10),
        decay=decay,
        v_threshold=v_threshold,
        reset=reset.value,
        bias=bias,
        surrogate=surrogate.value,
        convention=convention.value,
        time_steps=time_steps,
        input_shape=(8, 8),
        seed=seed,
    )
    trainer = Trainer(
        net,
        OTTT(update=update.value, convention=convention.value),
        loss=loss.value,
        optimizer=optimizer.value,
        learning_rate=learning_rate,
        momentum=momentum,
        schedule=schedule.value,
        batch_size=batch_size,
        seed=seed,
        progress=not json,
    )
    path = output / "model.pt"
    net.provenance["data"] = data.value
    _check_folder(output)
    try:
        history = trainer.fit(
            split.x_train, split.y_train, epochs, x_test=split.x_test, y_test=split.y_test, checkpoint=path
        )
    except KeyboardInterrupt as interrupt:
        if interrupt.args:
            err.print(f"interrupted; {interrupt}", markup=False, soft_wrap=True)
        raise
    evaluation = evaluate(net, split.x_test, split.y_test)
    result = {
        "model": str(path),
        "data": data.value,
        "sizes": net.architecture["arguments"]["sizes"],
        "test_accuracy": evaluation.accuracy,
        "train_accuracy": history[-1].train_accuracy,
        "spike_rates": evaluation.spike_rates,
        "epochs": len(history),
        "seconds": sum(epoch.seconds for epoch in history),
        "seed": seed,
    }
    if json:
        print_json(result)
    else:
        _show(result)


def main() -> None:
    execute(train, "ottt-train")


def _hidden_sizes(text: str) -> list[int]:
    from ottt_loihi.errors import UsageError

    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(
            f"--hidden: expected numbers separated by commas, such as 128 or 256,256; got {text!r}"
        ) from None


def _check_folder(folder: Path) -> None:
    """Find out before training, not after it, that nothing can be written there."""
    from ottt_loihi.files import atomic_write

    probe = folder / ".ottt-train"
    with atomic_write(probe):
        pass
    probe.unlink()


def _show(result: dict) -> None:
    from ottt_loihi.converters.report import Table

    rows = [
        ("network", "-".join(map(str, result["sizes"]))),
        ("test accuracy", f"{result['test_accuracy']:.2%}"),
        ("training accuracy", f"{result['train_accuracy']:.2%}"),
        ("spikes per neuron and step", ", ".join(f"{rate:.3f}" for rate in result["spike_rates"]) or "no hidden layer"),
        ("time", f"{result['seconds']:.1f} s for {result['epochs']} epochs"),
        ("saved as", result["model"]),
    ]
    print_table(Table(f"ottt-train · {result['data']}", ("", ">"), rows))
    out.print(f"next: ottt-export {result['model']}", style="dim")
