"""``ottt-export``: put a trained network on the chip."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ottt_loihi import checks
from ottt_loihi.cli import command
from ottt_loihi.cli.options import DEBUG, JSON, VERIFY, argument, option, with_options
from ottt_loihi.converters import replay
from ottt_loihi.errors import UsageError, VerificationError
from ottt_loihi.report import report

if TYPE_CHECKING:
    from ottt_loihi.converters.export import Export, Options


MAKERS = {  # ending → what makes such a file
    ".nir": "the exporter of the program that trained the network makes one, e.g. snntorch.export_to_nir",
    ".net": "export_hdf5 of lava-dl's SLAYER makes one",
    ".h5": "ottt-export makes one of a model.pt",
    **dict.fromkeys(
        (".pth", ".ckpt"), "torch.save(net.state_dict(), PATH) makes one, for mynet.py:build --weights PATH"
    ),
}
UNTRAINED = (
    "nothing in this file says that the network was trained; ottt-train -o FOLDER trains one, and in Python "
    "Trainer.fit(…, checkpoint='model.pt') saves it trained"
)


KINDS = {
    "module": "a module, mynet.py:build",
    ".nir": "a .nir",
    ".net": "a .net",
}
ONLY_FOR = {  # option → the kinds of networks that it is for; an option that is not here is for all
    **dict.fromkeys(("--weights", "--approximate", "--data", "--encoding", "--spikes-per-step"), ("module",)),
    **dict.fromkeys(("--from", "--reset", "--dt"), (".nir",)),
    "--readout": ("module", ".nir"),
    "--input-shape": ("module", ".net"),
    "--time-steps": ("module", ".nir", ".net"),
}
# options that --help lists by name only: title → parameters
GROUPS = {
    "Imported networks": "writer reset dt input_shape time_steps readout approximate data encoding spikes_per_step",
    "Rounding": "input_form scale thresholds",
    "Files": "no_net nir force_nir kit dry_run",
    "Chip": "target limit fit_registers",
    "Checks": "check no_check verify_samples allow_dead max_disagreement",
}


CHECKED = 360  # test samples
DISAGREEMENT = 0.05  # share of the predictions


@with_options
def export(
    model: Path = argument(
        "The trained network: model.pt of ottt-train, a .net of lava-dl, a .nir, a model.h5, or "
        "mynet.py:build, a function that returns a module of snnTorch, SpikingJelly, Norse or sinabs.",
        ...,
    ),
    output: Path | None = option("Where to write; default: beside the model.", None, "--output", "-o"),
    weight_bits: str = option("Bits of a weight: 2 to 8, ternary or binary; by layer: 8,4,8.", "8"),
    calibrate: int = option("Number of training samples to choose scales and thresholds.", 0, min=0),
    input_form: Literal["graded", "bias", "inject"] = option(
        "How constant images are sent: pixels at every step, a current as a bias, or once.", "graded", "--input"
    ),
    scale: Literal["free", "power-of-two"] = option("Integer units per float unit, chosen for each layer.", "free"),
    thresholds: Literal["channel", "layer"] = option(
        "For one-bit weights: ±1 and a threshold per channel, or 8 bits and one per layer.", "channel"
    ),
    no_net: bool = option("Write no .net. Weights may then have exponents, which a .net cannot hold.", False),
    nir: bool = option("Also write model.nir, for networks with reset=zero.", False),
    force_nir: bool = option("Write model.nir with reset=subtract as recurrent inhibition.", False),
    check: int | None = option("Number of test samples to compare float and chip on. [360]", min=1),
    no_check: bool = option("Do not compare.", False),
    target: Literal["loihi1", "loihi2"] = option("The chip that the network must fit.", "loihi2"),
    limit: list[str] | None = option("Set a limit of that chip: incoming_axons=8192. Repeatable."),
    fit_registers: bool = option("Round decays to the 12 bits of the chip, and count the changes.", False),
    kit: bool = option("Also write loihi2_kit: graph, samples, expected integers and a script to compare.", False),
    dry_run: bool = option("Write nothing.", False),
    verify: list[str] | None = VERIFY,
    verify_samples: int | None = option("Number of samples for --verify and for the kit. [20]", min=1),
    weights: Path | None = option("For mynet.py:build: the file of its state_dict, or a checkpoint."),
    readout: Literal["spikes", "last", "max", "sum"] | None = option(
        "For mynet.py:build or a .nir: what the scores are; default: by its last layer."
    ),
    approximate: bool = option("For mynet.py:build: replace what cannot be exact by the nearest operation.", False),
    data: str | None = option("For mynet.py:build: samples to compare on: a data set, an .npz file or a folder."),
    encoding: str | None = option("How --data becomes spikes, as in ottt-train. [by kind of data]"),
    spikes_per_step: int | None = option(
        "For mynet.py:build: the most spikes of a neuron in one step, if it may send several.", min=1
    ),
    time_steps: int | None = option("Time steps of a sample. A .net, a .nir and a module do not store them.", min=1),
    dt: float | None = option("For a .nir: seconds of a time step. The file does not store them."),
    writer: Literal["snntorch", "spikingjelly", "norse", "sinabs", "rockpool", "lava"] | None = option(
        "For a .nir: the program that wrote it. Its time step and reset are assumed.", None, "--from"
    ),
    reset: str | None = option("For a .nir: the reset, subtract or zero. For one layer: 3=zero."),
    input_shape: str | None = option("Such as 1,28,28: for a module, or a .net that begins with a convolution."),
    allow_dead: bool = option("Also export layers that fire no spike on the chip.", False),
    max_disagreement: float | None = option(
        "End with exit code 1 if more than this share of the predictions differ. [0.05]", min=0, max=1
    ),
    json: bool = JSON,
    debug: bool = DEBUG,
) -> None:
    """Put a trained network on the chip: model.h5 (exact integers), model.net (lava-dl), model_lava.py and report.html.

    Examples: ottt-export runs/demo/model.pt
    ottt-export model.pt --weight-bits 4 --calibrate 100
    ottt-export someones.net --time-steps 32 -o runs/someones
    ottt-export theirs.nir --time-steps 32 --from sinabs
    ottt-export mynet.py:build --weights net.pth --input-shape 784 --time-steps 25
    """
    from ottt_loihi.converters import export as exporter
    from ottt_loihi.converters.limits import TARGETS
    from ottt_loihi.report.export_section import section, tables

    for place in verify or []:
        replay.require(place)
    if kit and target != "loihi2":
        raise UsageError(f"--kit: is for --target loihi2, not {target}")
    if no_check and (check is not None or max_disagreement is not None):
        raise UsageError("--no-check: excludes --check and --max-disagreement; leave out one of them")
    verify_samples = command.repeated_samples(verify_samples, bool(verify) or kit)
    module = str(model).rpartition(":")[0].endswith(".py")
    kind = "module" if module else model.suffix
    given = {"--weights": weights, "--approximate": approximate or None, "--data": data, "--encoding": encoding}
    given |= {"--spikes-per-step": spikes_per_step, "--from": writer, "--reset": reset, "--dt": dt}
    given |= {"--readout": readout, "--input-shape": input_shape, "--time-steps": time_steps}
    for name, kinds in ONLY_FOR.items():
        if given[name] is not None and kind not in kinds:
            raise UsageError(f"{name}: for {' or '.join(KINDS[each] for each in kinds)}; leave it out")
    shape = None
    if input_shape is not None:
        shape = command.numbers(input_shape, "--input-shape: expected numbers like 1,28,28")
        shape = checks.sizes(shape, "--input-shape")
    if not module:
        cures = {
            "": MAKERS.get(model.suffix, "ottt-train -o FOLDER makes one"),
            ".py": "give mynet.py:build, the function",
        }
        command.expect_file(model, "model.pt", cures)
    options = exporter.Options(
        num_weight_bits=_bits(weight_bits),
        check=0 if no_check else check or CHECKED,
        calibrate=calibrate,
        input_form=input_form,
        scale=scale,
        for_netx=False if no_net else None,
        thresholds=thresholds,
        allow_dead=allow_dead,
        limits=TARGETS[target].overridden(_limits(limit or [])),
        fit_registers=fit_registers,
    )
    if module:
        from ottt_loihi.cli.export_module import read_module
        from ottt_loihi.training.checkpoint import save

        how = {"readout": readout, "spikes_per_step": spikes_per_step, "approximate": approximate}
        with contextlib.redirect_stdout(sys.stderr):  # what the user's own code prints
            imported = read_module(str(model), weights, shape, time_steps, how, (data, encoding), options)
        result = exporter.export_module(imported.network, options, weights)
    else:
        said = {"writer": writer, "reset": reset, "readout": readout}
        result = _export(model, options, time_steps, shape, dt, said)
    command.say("note", result.notes)
    warnings = _warnings(result)
    command.say("warning", warnings)
    if max_disagreement is not None and result.agreement is None:
        raise VerificationError(f"--max-disagreement: no predictions were compared: {result.unchecked}; leave it out")
    exporter.require_agreement(result, DISAGREEMENT if max_disagreement is None else max_disagreement)
    verified = [exporter.verify(result, place, verify_samples) for place in verify or []]
    files: dict[str, str] = {}
    if not dry_run:
        folder = output or model.parent
        files = exporter.write(result, folder, nir or force_nir, force_nir)
        if module:
            files["network"] = str(folder / "imported.pt")  # ottt-train --init goes on with it
            save(imported.network, files["network"])
        if kit:
            files["kit"] = str(folder / "loihi2_kit")
            command.say("kit", exporter.write_kit(result, folder / "loihi2_kit", verify_samples).notes)
        files["report"] = str(report.add(folder, section(result, files)))
    replays = {place: {"samples": verify_samples} | asdict(found) for place, found in zip(verify or [], verified)}
    if json:
        command.print_json(
            {
                "layers": [asdict(layer) for layer in result.quantized.layers],
                "agreement": asdict(result.agreement) if result.agreement else None,
                "warnings": warnings,
                "budget": asdict(result.budget),
                "activity": asdict(result.activity) if result.activity else None,
                "fitted": asdict(result.fitted) if result.fitted else None,
                "verified": replays,
                "files": files,
            }
        )
        return
    for part in tables(result):
        command.print_table(part)
    if found := result.agreement:
        said = f"{found.samples:,}" + ("" if found.samples == result.available else f" of {result.available:,}")
        accuracy = f"accuracy {found.accuracy_float:.2%} float, {found.accuracy_chip:.2%} chip; "
        command.out.print(f"{accuracy}same prediction on {found.predictions:.2%} of {said} test samples")
    else:
        command.out.print(f"not compared: {result.unchecked}")
    if result.fitted is not None:
        command.out.print(str(result.fitted))
    drawn = "random " if result.quantized.chip.data_set is None else ""
    for backend, found in replays.items():
        command.out.print(
            f"{backend}: 0 of {found['compared']:,} states differ from the simulator's, {verify_samples} {drawn}samples"
        )
    command.print_files(files)


def _warnings(result: Export) -> list[str]:
    """Return the warnings about the chip's predictions and its hidden layers."""
    import numpy as np

    from ottt_loihi.metrics import Metrics, warnings

    if (found := result.agreement) is None:
        return []
    names = () if result.chip.data is None else result.chip.data.class_names
    return warnings(Metrics(np.array(found.classes_chip), names), found.spike_rates_chip)


def _export(
    model: Path,
    options: Options,
    time_steps: int | None,
    input_shape: tuple[int, ...] | None,
    dt: float | None,
    said: dict[str, str | None],
) -> Export:
    """Return the export of a file of any kind; ``said``: options for a .nir."""
    from ottt_loihi.converters import export as exporter

    if model.suffix == ".h5":
        from ottt_loihi.sim import storage

        return exporter.export_chip(storage.load(model), options)
    if model.suffix == ".nir":
        from ottt_loihi.converters.nir import read as nir_reader
        from ottt_loihi.sim.network import ChipNetwork

        notes: list[str] = []
        try:
            network = nir_reader.read(model, time_steps, dt, notes=notes, check=bool(options.check), **said)
        finally:
            command.say("note", notes)
        if isinstance(network, ChipNetwork):
            return exporter.export_chip(network, options)
        return exporter.export_float(network, options, source=model)
    if model.suffix == ".net":
        from ottt_loihi.converters.netx import read as netx_reader

        if time_steps is None:
            raise UsageError(f"{model}: a .net does not hold the number of time steps; give --time-steps")
        imported = netx_reader.read(model, time_steps, input_shape)
        command.say("note", imported.notes)
        return exporter.export_chip(imported.chip, options)
    from ottt_loihi.training.checkpoint import load

    net = load(model)
    if not {"training", "imported"} & net.provenance.keys():
        command.say("note", [UNTRAINED])
    return exporter.export(net, options, source=model)


def _bits(text: str) -> int | str | list[int | str]:
    """Return 4 for ``"4"``, ``"ternary"`` as it is, a list for ``"8,4"``; the quantiser checks the values."""
    each: list[int | str] = [int(word) if word.strip().isdecimal() else word.strip() for word in text.split(",")]
    return each if len(each) > 1 else each[0]


def _limits(texts: list[str]) -> dict[str, int]:
    """Return ``{"incoming_axons": 8192}`` for ``["incoming_axons=8192"]``."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not value.isdecimal():
            raise UsageError(f"--limit: expected name=number, got {text!r}")
        found[name] = int(value)
    return found


main = partial(command.execute, export, "ottt-export", GROUPS)
