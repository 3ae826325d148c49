"""``ottt-learn``: learn on the chip, from scratch or after a deployed network's world has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from ottt_loihi.cli import command
from ottt_loihi.cli.options import DEBUG, JSON, LOADER_OPTIONS, SEED, argument, option, with_options
from ottt_loihi.converters.lava.backends import find
from ottt_loihi.errors import UsageError
from ottt_loihi.files import require_writable

EPOCHS, EPOCHS_FROM_SCRATCH, EPOCHS_OF_0_1 = 2, 6, 2


# options that go into Settings as they are
CHOICES = (
    "lambda_pre lambda_post alpha_post kappa loss learn_when learn_bias encoding schedule silent_epochs input_lag "
    "feedback rounding balanced readout_rate hidden_rate halve_every seed"
)
# options that --help lists by name only: title → parameters
GROUPS = {
    "Rule": "loss learn_when learn_bias encoding schedule rounding",
    "S-TLLR and TESS": "lambda_pre lambda_post alpha_post kappa",
    "Rates": "readout_rate hidden_rate halve_every",
    "Network": "hidden density current_decay membrane_decay plastic",
    "Old data": "hlop replay",
    "Stream": "in_order prequential label_share balanced changes",
    "Running": "seed stop_at checkpoint_every repeat_in_lava",
    "Chip": "silent_epochs input_lag",
}


@with_options
def learn(
    model: Path | None = argument("An exported network, model.h5 of ottt-export. Without it: from scratch."),
    transform: Literal["none", "upside-down"] = option("What changes: upside-down turns images by 180°.", "none"),
    epochs: int | None = option("Passes over the training samples; default: 6 from scratch, else 2.", min=1),
    backend: str = option("sim (fast); inprocess or lava (same result); loihi2 (a chip).", "sim"),
    feedback: Literal["kolen-pollack", "random", "symmetric", "opzo", "local"] | None = option(
        "How hidden layers get the error: kolen-pollack (default), random, symmetric, opzo; local for tess."
    ),
    rounding: Literal["per-synapse", "per-synapse-1", "lava"] = option(
        "Random numbers that round weights: one per synapse (per-synapse-1: as in 0.1), or Lava's.", "per-synapse"
    ),
    hidden: int | None = option("From scratch: hidden neurons; default: 128 to 1024, more for more inputs.", min=1),
    density: float = option("From scratch: share of the synapses that exist.", 1.0, min=0, max=1),
    current_decay: float = option(
        "From scratch: share of the synaptic current that is left after a step; above 0, neurons reset to zero.",
        0.0,
        min=0,
        max=1,
    ),
    membrane_decay: float | None = option(
        "From scratch: share of the membrane that is left after a step; default: 0.5, with a current 0.8.", min=0, max=1
    ),
    readout_rate: float | None = option(
        "Share of the readout's error that one time step removes; default: 0.12/T from scratch, else "
        "0.1/T times signal over noise, at most 1/T."
    ),
    hidden_rate: float | None = option("The same for hidden layers; default: from their effect on the readout."),
    halve_every: int | None = option(
        "Samples after which all rates are halved; default: two epochs from scratch, else never (0).", min=0
    ),
    rule: Literal["ottt", "s-tllr", "tess"] = option(
        "ottt; s-tllr (also inputs after a spike); tess (local errors).", "ottt"
    ),
    lambda_pre: float | None = option("S-TLLR, TESS: decay of the input's trace, at most 1 - 1/127; default: 0.5."),
    lambda_post: float | None = option("S-TLLR, TESS: decay of the trace of a neuron's surrogate; default: 0.2."),
    alpha_post: float | None = option("S-TLLR, TESS: weight of inputs that come after the neuron; default: 1."),
    kappa: float | None = option("TESS: gain of a layer's class neurons; default: a quarter of its neurons."),
    loss: Literal["mse", "softmax"] | None = option(
        "The readout's error: squared, or cross-entropy (from scratch and of --changed)."
    ),
    learn_when: Literal["always", "mistaken"] | None = option(
        "Learn from every sample, or only from those answered wrongly at a first presentation; default: "
        "always from scratch, else mistaken."
    ),
    learn_bias: bool = option("Biases learn, too, inside their neurons.", False),
    encoding: Literal["factored", "signed", "split"] = option(
        "How surrogate and error are sent: as two factors, as one signed number, or unsigned.", "factored"
    ),
    schedule: Literal["phased", "pipelined"] = option(
        "phased: one time step after the other, exact. pipelined: overlapping, faster, only nearly OTTT.", "phased"
    ),
    silent_epochs: int = option(
        "Learning epochs without spikes after a sample, in place of clearing the trace (loihi2).", 0, min=0, max=255
    ),
    input_lag: int = option("Lava steps that a chip's adapters take on the way in (loihi2).", 0, min=0, max=31),
    plastic: int | None = option("Number of last layers that learn; default: all dense layers.", min=1),
    hlop: int = option("Number of directions that HLOP protects for the old data.", 0, min=0),
    repeat_in_lava: int = option(
        "Repeat at least so many steps in Lava's runtime, and compare every variable.", 0, min=0
    ),
    changed: bool = option(
        "The data have changed: learn from every sample, with cross-entropy, falling rates and replay.", False
    ),
    replay: float | None = option(
        "Old training samples for each new one, drawn anew each epoch; default: 0.", min=0, max=10
    ),
    in_order: bool = option("Keep the order of the samples; default: each epoch is shuffled.", False),
    prequential: bool = option("One epoch in order: each sample is answered first and learnt from afterwards.", False),
    label_share: float = option("With --prequential: share of the samples that have a label.", 1.0),
    balanced: bool = option("Learn equally often from each class: samples of frequent classes are left out.", False),
    resume: bool = option("Continue the run in the folder, or add epochs to it.", False),
    checkpoint_every: int | None = option("Save the state after so many samples; default: a tenth of an epoch.", min=1),
    stop_at: float | None = option(
        "Stop at this accuracy, 0 to 1, on a tenth of the training samples that is held out.", min=0, max=1
    ),
    data: str | None = option("Data set; default: the model's, or digits."),
    changes: list[str] | None = LOADER_OPTIONS,
    output: Path | None = option("Folder; default: the model's.", None, "--output", "-o"),
    seed: int = SEED,
    json: bool = JSON,
    debug: bool = DEBUG,
) -> None:
    """Let a network learn on the chip, in the integers of Lava's learning engine, one sample after the other.

    Example: ottt-learn runs/demo/model.h5 --transform upside-down
    Without a model, a new 64-128-10 network learns handwritten digits.
    Ctrl-C saves the state; --resume continues, also with another backend.
    """
    from ottt_loihi.cli import learn_prequential as stream
    from ottt_loihi.cli.learn_report import story, summarise, table, write
    from ottt_loihi.cli.learn_scenario import REPLAY, evened, make_scenario, scenario_name, watched, with_replay
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
        loss, learn_when = loss or "softmax", learn_when or "always"
        replay = REPLAY if replay is None else replay
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
        (current_decay, membrane_decay),
        loss or "mse",
        old,
        tuple(changes or ()),
        validate=stop_at is not None,
    )
    scenario = with_replay(scenario, replay or 0.0)
    epochs = epochs or (EPOCHS_OF_0_1 if old else EPOCHS if model else EPOCHS_FROM_SCRATCH)
    if halve_every is None:
        halve_every = 0 if model and not changed else scenario.samples * (1 if earlier or changed else 2)
    given = dict(locals())  # by name, for CHOICES
    settings = Settings.of_rule(
        rule,
        logit_scale=scenario.logit_scale,
        shuffle=not (in_order or prequential),
        tested=prequential,
        average_every=0 if earlier or prequential else None,
        **{name: given[name] for name in CHOICES.split()},
    )
    scenario = evened(scenario, settings)
    require_writable(folder)
    if not resume and (kept := state.with_name(f"{state.name}.h5")).exists():
        command.say("note", [f"the run in {kept} is replaced; --resume would continue it"])
    training = stream.shown(scenario, label_share, seed) if prequential else scenario.training
    started = time.perf_counter()
    subspaces = watched(scenario, hlop, settings, json)
    shared = {"settings": settings, "subspaces": subspaces, "known": scenario.known}
    with _progress(not json) as show:
        result = learn_on_chip(
            scenario.chip,
            training,
            test=scenario.test,
            epochs=epochs,
            backend=backend,
            progress=show,
            checkpoint=state,
            checkpoint_every=checkpoint_every,
            resume=resume,
            stop_at=stop_at,
            validation=scenario.validation,
            **shared,
        )
    repeated = None
    if repeat_in_lava and not result.interrupted:
        command.begin(f"the same {repeat_in_lava:,} steps in the Lava runtime", json)
        repeated = repeat(scenario.chip, training, repeat_in_lava, **shared)
    summary = summarise(scenario, result, repeated) | {"seconds": time.perf_counter() - started}
    summary["prequential"] = stream.summary(scenario, result, label_share, seed) if prequential else None
    summary["files"] = write(folder, scenario, result, summary)
    if json:
        command.print_json(summary)
    else:
        command.say("warning", summary["warnings"])
        command.out.print(story(summary))
        command.print_table(table(summary))
        command.print_files(summary["files"])
    if result.interrupted:
        command.err.print("interrupted; what was learnt until then is saved")
        raise KeyboardInterrupt


main = partial(command.execute, learn, "ottt-learn", GROUPS)


@contextmanager
def _progress(visible: bool) -> Iterator[Callable[[int, int, float | None], None] | None]:
    """Show a bar on stderr, drawn when learning reports: a drawing thread would be running when Lava forks."""
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
