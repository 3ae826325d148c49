"""``ottt-learn``: learn on the chip, from scratch or after a deployed network's world has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottt_loihi.cli import command
from ottt_loihi.cli import learn_options as options
from ottt_loihi.cli import learn_prequential as stream
from ottt_loihi.cli.learn_report import SEEN, story, table, write
from ottt_loihi.cli.learn_scenario import REPLAY, Scenario, Transform, make_scenario, scenario_name, with_replay
from ottt_loihi.converters.lava.backends import find

if TYPE_CHECKING:
    import numpy as np

    from ottt_loihi.onchip.lava.executors import Repetition
    from ottt_loihi.onchip.result import LearningResult
    from ottt_loihi.onchip.settings import Settings
    from ottt_loihi.sim.learning.subspace import Subspace
    from ottt_loihi.sim.network import ChipNetwork


EPOCHS, EPOCHS_FROM_SCRATCH, EPOCHS_OF_0_1 = 2, 6, 2


class Rounding(str, Enum):
    per_synapse = "per-synapse"
    per_synapse_1 = "per-synapse-1"
    lava = "lava"


class Feedback(str, Enum):
    kolen_pollack = "kolen-pollack"
    random = "random"
    symmetric = "symmetric"
    opzo = "opzo"
    local = "local"


def learn(
    model: Annotated[
        Path | None, typer.Argument(help="An exported network, model.h5 of ottt-export. Without it: from scratch.")
    ] = None,
    transform: Annotated[
        Transform, typer.Option(help="What changes: upside-down turns images by 180°.")
    ] = Transform.none,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the training samples; default: 6 from scratch, else 2."),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(help="sim is the fast simulator; inprocess and lava give the same result; loihi2 is a chip."),
    ] = "sim",
    feedback: Annotated[
        Feedback | None,
        typer.Option(
            help="How hidden layers get the error: kolen-pollack (default), random, symmetric, opzo; local for tess."
        ),
    ] = None,
    rounding: Annotated[
        Rounding,
        typer.Option(help="Random numbers that round weights: one per synapse (per-synapse-1: as in 0.1), or Lava's."),
    ] = Rounding.per_synapse,
    hidden: Annotated[
        int | None,
        typer.Option(min=1, help="From scratch: hidden neurons; default: 128 to 1024, more for more inputs."),
    ] = None,
    density: Annotated[float, typer.Option(min=0, max=1, help="From scratch: share of the synapses that exist.")] = 1.0,
    current_decay: options.CurrentOption = 0.0,
    membrane_decay: options.MembraneOption = None,
    readout_rate: Annotated[
        float | None,
        typer.Option(
            help="Share of the readout's error that one time step removes; default: 0.12/T from scratch, else "
            "0.1/T times signal over noise, at most 1/T."
        ),
    ] = None,
    hidden_rate: Annotated[
        float | None, typer.Option(help="The same for hidden layers; default: from their effect on the readout.")
    ] = None,
    halve_every: Annotated[
        int | None,
        typer.Option(
            min=0, help="Samples after which all rates are halved; default: two epochs from scratch, else never (0)."
        ),
    ] = None,
    rule: options.RuleOption = options.Rule.ottt,
    lambda_pre: options.LambdaPreOption = None,
    lambda_post: options.LambdaPostOption = None,
    alpha_post: options.AlphaPostOption = None,
    kappa: options.KappaOption = None,
    loss: options.LossOption = None,
    learn_when: options.WhenOption = None,
    learn_bias: options.BiasOption = False,
    encoding: options.EncodingOption = options.Encoding.factored,
    schedule: options.ScheduleOption = options.Schedule.phased,
    silent_epochs: options.SilentOption = 0,
    input_lag: options.LagOption = 0,
    plastic: Annotated[
        int | None,
        typer.Option(min=1, help="Number of last layers that learn; default: all dense layers."),
    ] = None,
    hlop: Annotated[
        int,
        typer.Option(min=0, help="Number of directions that HLOP protects for the old data."),
    ] = 0,
    repeat_in_lava: Annotated[
        int,
        typer.Option(min=0, help="Repeat at least so many steps in Lava's runtime, and compare every variable."),
    ] = 0,
    changed: Annotated[
        bool,
        typer.Option(
            "--changed",
            help="The data have changed: learn from every sample, with cross-entropy, falling rates and replay.",
        ),
    ] = False,
    replay: Annotated[
        float | None,
        typer.Option(min=0, max=10, help="Old training samples for each new one, drawn anew each epoch; default: 0."),
    ] = None,
    in_order: Annotated[
        bool, typer.Option("--in-order", help="Keep the order of the samples; default: each epoch is shuffled.")
    ] = False,
    prequential: Annotated[
        bool,
        typer.Option(
            "--prequential", help="One epoch in order: each sample is answered first and learnt from afterwards."
        ),
    ] = False,
    label_share: Annotated[
        float, typer.Option(help="With --prequential: share of the samples that have a label.")
    ] = 1.0,
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced", help="Learn equally often from each class: samples of frequent classes are left out."
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the folder, or add epochs to it.")
    ] = False,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(min=1, help="Save the state after so many samples; default: a tenth of an epoch."),
    ] = None,
    stop_at: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Stop at this accuracy, 0 to 1, on a tenth of the training samples that is held out.",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set; default: the model's, or digits.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Another option of the data's loader: data.train=[2].")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; default: the model's.")] = None,
    seed: command.Seed = 0,
    json: command.Json = False,
    debug: command.Debug = False,
) -> None:
    """Let a network learn on the chip, in the integers of Lava's learning engine, one sample after the other.

    Example: ottt-learn runs/demo/model.h5 --transform upside-down

    Without a model, a new 64-128-10 network learns handwritten digits.
    Ctrl-C saves the state; --resume continues, also with another backend.
    """
    from ottt_loihi.errors import UsageError
    from ottt_loihi.onchip.checkpoint import curve_version
    from ottt_loihi.onchip.lava.executors import repeat_in_lava as repeat
    from ottt_loihi.onchip.learner import learn as learn_on_chip
    from ottt_loihi.onchip.settings import Settings

    find(backend, "--backend").require()
    stream.check(prequential, label_share, epochs, stop_at)
    epochs = 1 if prequential else epochs
    if (changed or replay) and (in_order or prequential):
        raise UsageError("--changed, --replay: belong to shuffled epochs; leave out --in-order and --prequential")
    if changed:
        loss, learn_when = loss or options.Loss.softmax, learn_when or options.When.always
        replay = REPLAY if replay is None else replay
    decays = current_decay, membrane_decay
    folder = output or (model.parent if model else Path("runs/learn"))
    state = folder / f"{scenario_name(model, transform)}-state"
    began = curve_version(state) if resume else None
    old, earlier = began == 1, began in (1, 2)
    scenario = make_scenario(
        model,
        transform,
        hidden,
        density,
        data,
        seed,
        plastic,
        decays,
        (loss or options.Loss.mse).value,
        old,
        tuple(changes or ()),
        validate=stop_at is not None,
    )
    scenario = with_replay(scenario, replay or 0.0)
    rates = {"readout_rate": readout_rate, "hidden_rate": hidden_rate}
    epochs = epochs or (EPOCHS_OF_0_1 if old else EPOCHS if model else EPOCHS_FROM_SCRATCH)
    if halve_every is None:
        halve_every = 0 if model and not changed else scenario.samples * (1 if earlier or changed else 2)
    settings = Settings.of_rule(
        rule.value,
        lambda_pre=lambda_pre,
        lambda_post=lambda_post,
        alpha_post=alpha_post,
        kappa=kappa,
        halve_every=halve_every,
        feedback=feedback and feedback.value,
        seed=seed,
        logit_scale=scenario.logit_scale,
        shuffle=not (in_order or prequential),
        tested=prequential,
        balanced=balanced,
        rounding=rounding.value,
        loss=loss and loss.value,
        learn_when=learn_when and learn_when.value,
        learn_bias=learn_bias,
        encoding=encoding.value,
        schedule=schedule.value,
        silent_epochs=silent_epochs,
        input_lag=input_lag,
        average_every=0 if earlier or prequential else None,
        **{k: v for k, v in rates.items() if v is not None},
    )
    scenario = _even(scenario, settings)
    _check_folder(folder)
    training = stream.shown(scenario, label_share, seed) if prequential else scenario.training
    started = time.perf_counter()
    subspaces = _watched(scenario, hlop, settings, json)
    with _progress(not json) as show:
        result = learn_on_chip(
            scenario.chip,
            training,
            test=scenario.test,
            epochs=epochs,
            backend=backend,
            settings=settings,
            progress=show,
            checkpoint=state,
            checkpoint_every=checkpoint_every,
            resume=resume,
            stop_at=stop_at,
            subspaces=subspaces,
            known=scenario.known,
            validation=scenario.validation,
        )
    repeated = None
    if repeat_in_lava and not result.interrupted:
        command.begin(f"the same {repeat_in_lava:,} steps in the Lava runtime", json)
        repeated = repeat(
            scenario.chip,
            training,
            repeat_in_lava,
            settings=settings,
            subspaces=subspaces,
            known=scenario.known,
        )
    summary = _summary(scenario, result, settings, repeated) | {"seconds": time.perf_counter() - started}
    summary["prequential"] = stream.summary(scenario, result, label_share, seed) if prequential else None
    summary["files"] = write(folder, scenario, result, summary)
    if json:
        command.print_json(summary)
    else:
        _show(summary)
    if result.interrupted:
        command.err.print("interrupted; what was learnt until then is saved")
        raise KeyboardInterrupt


# options that --help lists by name only: title → parameters
GROUPS = {
    "Rule": ("loss", "learn_when", "learn_bias", "encoding", "schedule", "rounding"),
    "S-TLLR and TESS": ("lambda_pre", "lambda_post", "alpha_post", "kappa"),
    "Rates": ("readout_rate", "hidden_rate", "halve_every"),
    "Network": ("hidden", "density", "current_decay", "membrane_decay", "plastic"),
    "Chip": ("silent_epochs", "input_lag"),
    "Old data": ("hlop", "replay"),
    "Stream": ("in_order", "prequential", "label_share", "balanced", "changes"),
    "Running": ("checkpoint_every", "stop_at", "repeat_in_lava", "seed"),
}


def main() -> None:
    """Entry point of the console script."""
    command.execute(learn, "ottt-learn", GROUPS)


def _watched(scenario: Scenario, rows: int, settings: Settings, quiet: bool) -> tuple[Subspace, ...] | None:
    """Return the subspace of the deployed network's traces on its old data, at most ``rows`` directions."""
    from ottt_loihi.errors import UsageError
    from ottt_loihi.onchip import watch
    from ottt_loihi.onchip.network.trainable import make_plan

    if not rows:
        return None
    if scenario.old_world is None:
        raise UsageError("--hlop: a network that starts from scratch has nothing to protect; give a deployed model.h5")
    counts = [min(rows, c.shape[1] // 2) for c in make_plan(scenario.chip, 1).dense]
    with command.err.status("HLOP watches the old data …") if not quiet else nullcontext():
        return watch(scenario.chip, scenario.old_world[1], counts, feedback=settings.feedback, seed=settings.seed)


def _even(scenario: Scenario, settings: Settings) -> Scenario:
    """The scenario with the weights that Lava's own connection begins with, where that is chosen."""
    from ottt_loihi.onchip.lava import stock

    if not stock.is_chosen(settings):
        return scenario
    chip, changed = stock.even_weights(scenario.chip)
    if changed:
        command.err.print(f"note: {changed:,} odd weights are lowered by 1: Lava's LearningDense begins with even ones")
    return replace(scenario, chip=chip)


def _check_folder(folder: Path) -> None:
    """Find out before learning, not after it, that nothing can be written there."""
    from ottt_loihi.files import atomic_write

    probe = folder / ".ottt-learn"
    with atomic_write(probe):
        pass
    probe.unlink()


@contextmanager
def _progress(visible: bool) -> Iterator[Callable[[int, int, float | None], None] | None]:
    """A bar on stderr, drawn when learning reports: a thread that draws would be running when Lava forks."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("learning"), BarColumn(), MofNCompleteColumn(), TextColumn("samples · {task.description}"))
    columns += (TimeRemainingColumn(),)
    with Progress(*columns, console=command.err, disable=not visible, auto_refresh=False) as bar:
        task, drawn = bar.add_task("", total=None), 0.0

        def show(done: int, total: int, accuracy: float | None) -> None:
            nonlocal drawn
            known = "" if accuracy is None else f"test accuracy {accuracy:.1%}"
            if due := done == total or time.perf_counter() - drawn > 0.1:
                drawn = time.perf_counter()
            bar.update(task, completed=done, total=total, description=known, refresh=due)

        yield show


def _summary(
    scenario: Scenario, result: LearningResult, settings: Settings, repeated: Repetition | None
) -> dict[str, Any]:
    from ottt_loihi.onchip.learner import accuracy
    from ottt_loihi.onchip.result import one_sided, recalls
    from ottt_loihi.sim import Simulator
    from ottt_loihi.sim.learning.weight_formats import to_inference

    frozen, (x, labels) = to_inference(result.inference_chip), scenario.test
    answers = Simulator(frozen.chip).run(x).predictions
    inference = float((answers == labels).mean())
    said = one_sided(answers, labels)
    deployed = old_world = None
    changed = False
    if scenario.old_world is not None:
        before = scenario.old_world[0]
        changed = before is not scenario.test
        deployed, old_world = result.curve[0].accuracy, inference
        if changed:
            deployed, old_world = accuracy(scenario.chip, *before), accuracy(frozen.chip, *before)
    story = [*([] if deployed is None else [deployed]), result.curve[0].accuracy, inference]
    return {
        "scenario": scenario.name,
        "world_changed": changed,
        "accuracies": story,
        "accuracy_deployed": deployed,
        "accuracy_before": result.curve[0].accuracy,
        "accuracy_learning_weights": result.accuracy,
        "accuracy": inference,
        "recall": recalls(answers, labels, frozen.chip.layers[-1].size),
        "accuracy_in_the_old_world": old_world,
        "directions_protected": [s.fixed for s in result.subspaces or ()],
        "weights_averaged": result.averaged is not None,
        "weights_changed_by_freezing": frozen.changed,
        "samples": result.samples,
        "samples_replayed": scenario.replayed * result.samples // scenario.samples,
        "data_notes": list(scenario.notes),
        "steps": result.steps,
        "steps_per_second": result.steps_per_second,
        "rates": list(result.rates),
        "saturated": result.counters,
        "messages": result.messages,
        "weights_at_rails": list(result.rails),
        "weights_moved": list(result.moved),
        "silent_neurons": _silent(result.chip, scenario.test[0]),
        "warnings": result.warnings + ([said] if said else []),
        "settings": result.settings,
        "interrupted": result.interrupted,
        "repeated_in_lava": None if repeated is None else vars(repeated),
        "curve": {"samples": [p.samples for p in result.curve], "accuracy": [p.accuracy for p in result.curve]},
    }


def _silent(chip: ChipNetwork, x: np.ndarray) -> list[int]:
    """Hidden neurons of each layer that fire for none of the first test samples."""
    from ottt_loihi import sim

    states = sim.run(chip, x[:SEEN], {"s": list(range(len(chip.layers) - 1))}).states["s"]
    return [int((~s.any(axis=(0, 1))).sum()) for s in states[:-1]]


def _show(summary: dict[str, Any]) -> None:
    for warning in summary["warnings"]:
        command.err.print(f"warning: {warning}")
    command.out.print(story(summary))
    command.print_table(table(summary))
    command.print_files(summary["files"])
