"""From ``model.pt`` to the chip's files: quantise, check against the float network, count, write, report."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters import lava, lava_script, netx, nir, plots, report, torch_integer
from ottt_loihi.converters import quantize as quantizing
from ottt_loihi.converters.budget import Activity, Budget, LayerBudget, activity, budget
from ottt_loihi.converters.calibrate import calibrate
from ottt_loihi.converters.contraction import require_contraction
from ottt_loihi.converters.float_network import FloatNetwork, from_torch
from ottt_loihi.converters.limits import LOIHI2, Limits
from ottt_loihi.converters.quantize import Quantized, quantize
from ottt_loihi.converters.verify import Agreement, Comparison, Tally, compare
from ottt_loihi.sim import storage
from ottt_loihi.sim.network import ChipNetwork, Connection, Conv, Diagonal

from ottt_loihi import sim
from ottt_loihi.data import load_data, rate_code
from ottt_loihi.errors import ChipError, UsageError, VerificationError

if TYPE_CHECKING:
    from ottt_loihi.data import Split
    from ottt_loihi.network import Network


@dataclass(frozen=True)
class Export:
    """Everything an export found out; ``agreement`` is None where nothing was checked, ``spikes`` one sample's raster.

    ``files`` maps "chip", "net" (absent when ``net_refused`` says why) and "report" to paths once :func:`write` ran.
    """

    trained: FloatNetwork | None
    quantized: Quantized
    budget: Budget
    agreement: Agreement | None = None
    unchecked: str = ""
    spikes: dict[str, np.ndarray] | None = None
    activity: Activity | None = None


def samples(
    data: str,
    num_steps: int,
    count: int,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    input_form: str | None = None,
    part: str = "test",
) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` test (or train) samples of a data set as messages ``(n, num_steps, *shape)``, and labels.

    Images are rate coded, uint8, or with an ``input_form`` graded (:func:`as_messages`); frames with a time axis are
    taken as they are; ``options``: of the data set's loader.
    """
    split = load_data(data, **(options or {}))
    if count < 1:
        raise UsageError(f"check: expected at least 1 sample, got {count}")
    x, y = (split.x_test, split.y_test) if part == "test" else (split.x_train, split.y_train)
    if input_form is not None:
        return as_messages(x[:count], num_steps, input_form), y[:count]
    return as_spikes(split, x[:count], num_steps, seed), y[:count]


def chip_samples(
    chip: ChipNetwork, data: str, count: int, seed: int = 0, part: str = "test"
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`samples` in the form and shape that an exported network was made for."""
    training = chip.provenance.get("training", {})
    options = training.get("data_options") if data == training.get("data") else None
    x, labels = samples(data, chip.num_steps, count, seed, options, chip.provenance.get("input_form"), part)
    frame = chip.input_shape if chip.host is None else chip.host.input_shape
    return sim.host_messages(chip, shaped(x, frame, data)), labels


def shaped(x: np.ndarray, input_shape: tuple[int, ...], data: str) -> np.ndarray:
    """Samples ``(n, T, …)`` in a network's input shape; grey images get and lose their channel so."""
    if x[0, 0].size != math.prod(input_shape):
        raise UsageError(f"data {data}: its samples are {x.shape[2:]}, the network expects {input_shape}")
    return x.reshape(len(x), x.shape[1], *input_shape)


def as_messages(images: np.ndarray, num_steps: int, input_form: str) -> np.ndarray:
    """Images in 0 … 1 as graded messages 0 … 255, int16 ``(n, num_steps, *shape)``: at every step, or injected once.

    With ``"bias"`` they go to the host's part of the network (:func:`ottt_loihi.sim.host_messages`).
    """
    pixels = np.round(np.asarray(images, np.float64) * quantizing.PIXEL_LEVELS)
    if pixels.min() < 0 or pixels.max() > quantizing.PIXEL_LEVELS:
        raise UsageError(f"images: expected values in 0 … 1, got {images.min():g} … {images.max():g}")
    x = np.zeros((len(images), num_steps, *images.shape[1:]), np.int16)
    if input_form == "inject":
        x[:, 0] = pixels
    else:
        x[:] = pixels[:, None]
    return x


def as_spikes(split: Split, images: np.ndarray, num_steps: int, seed: int) -> np.ndarray:
    """Samples of ``split`` as spikes: images rate coded, frames with a time axis as they are, if they are spikes."""
    if not split.time_axis:
        return rate_code(images, num_steps, seed)
    if images.shape[1] != num_steps or images.max() > 1 or images.dtype.kind not in "ub":
        raise UsageError(
            f"data {split.name}: expected frames of spikes, 0 or 1, with {num_steps} steps; got {images.dtype} up to "
            f"{images.max()} with {images.shape[1]}; load them with ceiling=1 and num_steps={num_steps}"
        )
    return images.astype(np.uint8)


EQUILIBRIUM_RULES = ("ide", "spide")  # their networks compute only where feedback contracts


@dataclass(frozen=True)
class Options:
    """What ``ottt-export`` can be asked for; see :func:`~ottt_loihi.converters.quantize.quantize`.

    check: test samples to compare float and chip on, 0 for none · calibrate: training samples that scales and
    thresholds are chosen on, 0 for none · thresholds: ``"channel"`` or ``"layer"``, of one-bit weights · allow_dead: a
    layer that never fires does not fail the export · limits: of the chip it has to fit on
    """

    num_weight_bits: int | str | Sequence[int | str] = 8
    check: int = 0
    calibrate: int = 0
    input_form: str = "graded"
    scale: str = "free"
    for_netx: bool | None = None
    thresholds: str = "channel"
    allow_dead: bool = False
    limits: Limits = LOIHI2

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``quantize`` but its bits."""
        return {name: getattr(self, name) for name in ("input_form", "scale", "for_netx", "thresholds")}


def export(net: Network, options: Options | None = None, source: str | os.PathLike[str] | None = None) -> Export:
    """Quantise a trained network, and replay test samples through the float and the integer network.

    ``source``: the checkpoint's path; its SHA-256 goes into the provenance.
    """
    options = options or Options()
    trained = from_torch(net)
    origin: dict[str, Any] = {"training": net.provenance}
    if source is not None:
        origin |= {"checkpoint": Path(source).name, "sha256": _sha256(source)}
    settings = options.settings
    if options.calibrate:
        images = _samples_of(net, options.calibrate, "train")
        settings["tuning"] = calibrate(
            trained,
            _float_spikes(net, images),
            _chip_input(trained, images, options),
            options.num_weight_bits,
            settings,
        )
        origin["calibrated"] = {str(i): [t.scale, t.v_threshold] for i, t in settings["tuning"].items()}
    quantized = quantize(trained, options.num_weight_bits, origin, **settings)
    if net.provenance.get("training", {}).get("rule", {}).get("name") in EQUILIBRIUM_RULES:
        require_contraction(quantized.chip)
    counted = budget(quantized.chip, options.limits)
    counted.raise_if_broken()
    if not options.check:
        return Export(trained, quantized, counted, unchecked="not asked for (--no-check)")
    if net.provenance.get("data") is None:
        return Export(trained, quantized, counted, unchecked="the checkpoint does not name its data set")
    found, spikes = _replay(net, trained, quantized, options)
    if found.dead and not options.allow_dead:
        raise VerificationError(
            f"{found.dead[0]} fires no spike in {found.samples} samples, as it does in the float network: try more "
            "weight bits, --calibrate, or fine-tuning with ottt-train --quantize; --allow-dead to export it anyway"
        )
    used = activity(quantized.chip, found.input_spikes, found.spikes, found.samples)
    return Export(trained, quantized, counted, found, spikes=spikes, activity=used)


@dataclass(frozen=True)
class _Samples:
    """What the float network sees ``(n, T, *input_shape)``, and labels."""

    x: np.ndarray
    labels: np.ndarray


def _samples_of(net: Network, count: int, part: str) -> _Samples:
    """Samples of the network's own data, as it was trained on them; images that stay constant are one frame."""
    known = net.provenance
    if known.get("data") is None:
        raise UsageError("the checkpoint does not name its data set; export it without --calibrate and with --no-check")
    data, options = known["data"], known.get("data_options")
    if known.get("encoding", {}).get("name") == "constant":
        split = load_data(data, **(options or {}))
        x, labels = (split.x_test, split.y_test) if part == "test" else (split.x_train, split.y_train)
        return _Samples(shaped(x[:count, None], tuple(net.input_shape), data), labels[:count])
    x, labels = samples(data, net.time_steps, count, options=options, part=part)
    return _Samples(shaped(x, tuple(net.input_shape), data), labels)


def _chip_input(trained: FloatNetwork, seen: _Samples, options: Options) -> np.ndarray:
    if trained.input == "spikes":
        return seen.x
    return as_messages(seen.x[:, 0], trained.num_steps, options.input_form)


@contextlib.contextmanager
def _evaluating(net: Network) -> Iterator[None]:
    """No neuron is dropped meanwhile."""
    was_training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(was_training)


def _run_float(net: Network, seen: _Samples, record: tuple[str, ...]) -> Iterator[Any]:
    """The trained network on the samples, in batches of bounded size; each a run."""
    import torch

    per_sample = sum(math.prod(block.shape) for block in net.blocks) * net.time_steps * len(record) * 4
    batch = max(1, min(256, (1 << 28) // max(per_sample, 1)))
    for start in range(0, len(seen.x), batch):
        x = torch.from_numpy(np.ascontiguousarray(seen.x[start : start + batch]))
        x = x.expand(-1, net.time_steps, *x.shape[2:]) if x.shape[1] == 1 != net.time_steps else x
        with torch.no_grad(), _evaluating(net):
            yield net.run(x, record=record)


def _float_spikes(net: Network, seen: _Samples) -> list[np.ndarray]:
    """bool ``(T, n, *shape)`` of every block."""
    runs = [[s.cpu().numpy() != 0 for s in run.states["s"]] for run in _run_float(net, seen, ("s",))]
    return [np.concatenate(parts, axis=1) for parts in zip(*runs)]


def _replay(
    net: Network, trained: FloatNetwork, quantized: Quantized, options: Options
) -> tuple[Agreement, dict[str, Any]]:
    """Float network, integer network in torch, and simulator, on the same samples."""
    seen = _samples_of(net, options.check, "test")
    chip = quantized.chip
    messages = sim.host_messages(chip, _chip_input(trained, seen, options))
    ties, scores, tally, raster, start = 0, [], Tally(chip), {}, 0
    for run in _run_float(net, seen, ("u", "s")):
        spikes = [s.cpu().numpy() != 0 for s in run.states["s"]]
        ties += sum(int((u == block.neuron.v_threshold).sum()) for u, block in zip(run.states["u"], net.blocks))
        scores.append(run.scores.cpu().numpy())
        part = slice(start, start + len(run.scores))
        result = sim.run(chip, messages[part], ("u", "v", "s"))
        tally.add(spikes, scores[-1], result, seen.labels[part], messages[part])
        if not raster:
            integer = torch_integer.run(chip, messages[part], ("u", "v", "s"))
            compare(chip, integer, result).raise_if_different("the integer network in torch and in sim")
            raster = {"input": messages[0] != 0}
            raster |= {layer.name: s[:, 0] for layer, s in zip(chip.layers[:-1], result.states["s"])}
        start = part.stop
    return tally.agreement(ties), raster


def export_chip(chip: ChipNetwork, limits: Limits = LOIHI2) -> Export:
    """An integer network that somebody else made, counted and ready to be written in every format."""
    counted = budget(chip, limits)
    counted.raise_if_broken()
    return Export(None, Quantized(chip, (), ()), counted, unchecked="it is an integer network already")


def export_float(trained: FloatNetwork, options: Options | None = None, source: Path | None = None) -> Export:
    """A float network from elsewhere, quantised and counted; it names no data to compare on, or calibrate with."""
    options = options or Options()
    if options.calibrate:
        raise UsageError("--calibrate: the file names no data set")
    origin = {} if source is None else {"source": source.name, "sha256": _sha256(source)}
    quantized = quantize(trained, options.num_weight_bits, origin, **options.settings)
    counted = budget(quantized.chip, options.limits)
    counted.raise_if_broken()
    return Export(trained, quantized, counted, unchecked="the file names no data set")


def _sha256(path: str | os.PathLike[str]) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def require_agreement(export: Export, max_disagreement: float) -> None:
    """Raise :class:`VerificationError` when float and chip predict differently on more than that share of samples."""
    found = export.agreement
    if found is not None and 1 - found.predictions > max_disagreement:
        raise VerificationError(
            f"float and chip predictions differ on {1 - found.predictions:.1%} of {found.samples} samples, "
            f"allowed are {max_disagreement:.1%}; the first differing spike: {found.first}; "
            "try more weight bits, or --max-disagreement"
        )


def verify(export: Export, backend: str, count: int) -> Comparison:
    """Replay test samples in the Lava runtime (``"lava"``) or lava-dl's netx (``"netx"``), and compare with sim.

    Raises :class:`VerificationError` naming the first state that differs.
    """
    chip = export.quantized.chip
    data = chip.provenance.get("training", {}).get("data")
    if data is None:
        raise UsageError("--verify: the network does not name its data set")
    x, _ = chip_samples(chip, data, count)
    record = ("u", "v", "s")
    if backend == "lava":
        found = lava.run(chip, x, record)
    else:
        with tempfile.TemporaryDirectory() as folder:
            netx.write(chip, Path(folder) / "model.net")
            found = netx.run(chip, Path(folder) / "model.net", x, record)
    comparison = compare(chip, sim.run(chip, x, record), found)
    comparison.raise_if_different(f"{backend} and sim")
    return comparison


def write(export: Export, folder: Path, with_nir: bool = False, force_nir: bool = False) -> dict[str, str]:
    """Write ``model.h5``, ``model.net``, ``model_lava.py``, if asked for ``model.nir``, and the report's section.

    Returns name → path, or why there is no ``.net``. Raises :class:`ChipError` for what NIR cannot express.
    """
    if with_nir:  # asked for: a refusal comes before anything is written
        nir.write(export.quantized.chip, folder / "model.nir", force=force_nir)
    files = {"chip": str(folder / "model.h5"), "lava script": str(folder / "model_lava.py")}
    lava_script.write(export.quantized.chip, folder / "model_lava.py")
    storage.save(export.quantized.chip, files["chip"])
    try:
        netx.write(export.quantized.chip, folder / "model.net")
        files["net"] = str(folder / "model.net")
    except ChipError as error:
        (folder / "model.net").unlink(missing_ok=True)  # an older one would not belong to this network
        files["no .net"] = str(error)
    if with_nir:
        files["nir"] = str(folder / "model.nir")
    files["report"] = str(report.add(folder, section(export, files)))
    return files


def section(export: Export, files: dict[str, str]) -> report.Section:
    """The export's part of the report."""
    found, chip = export.agreement, export.quantized.chip
    facts = [
        ("layers", " - ".join(str(n) for n in (chip.input_size, *(layer.size for layer in chip.layers)))),
        ("time steps", str(chip.num_steps)),
        ("neuro cores", str(export.budget.cores)),
        ("latency", f"{export.budget.latency_steps} steps"),
    ]
    if found is not None:
        facts += [("same prediction", f"{found.predictions:.2%}"), ("samples compared", str(found.samples))]
        if found.accuracy_float is not None and found.accuracy_chip is not None:
            facts += [
                ("accuracy, float", f"{found.accuracy_float:.2%}"),
                ("accuracy, chip", f"{found.accuracy_chip:.2%}"),
            ]
    return report.Section(
        name="export",
        title="Quantised for the chip",
        summary=_summary(export),
        facts=facts,
        tables=tables(export) + [_provenance_table(export, files)],
        figures=_figures(export),
    )


def tables(export: Export) -> list[report.Table]:
    """Quantisation, agreement and budget, for the terminal and the page."""
    result = []
    if export.quantized.layers:
        result.append(_quantisation_table(export))
    if (found := export.agreement) is not None:
        result.append(_agreement_table(export, found))
    return [*result, _budget_table(export)]


def _quantisation_table(export: Export) -> report.Table:
    return report.Table(
        "Quantisation",
        ["layer", "weights>", "bits>", "scale>", "vth>", "clipped>", "zeroed>", "rms error>"],
        [
            [r.name, "×".join(map(str, r.shape[::-1] if len(r.shape) == 2 else r.shape)), str(r.bits)]
            + [_range(r.scale, ".1f"), _range(r.vth, "d"), str(r.clipped), str(r.zeroed), f"{r.rms_error:.2%}"]
            for r in export.quantized.layers
        ],
        "scale: integer units per float unit; scale, vth: from–to where each channel has its own; clipped, zeroed: "
        f"numbers of weights; rms error: relative. Rounding moved thresholds by {_largest_error(export):.2%} at most.",
    )


def _range(values: Any, form: str) -> str:
    """A number, or the smallest and the largest of many, without fractions."""
    low, high = np.min(values), np.max(values)
    return format(low, form) if low == high else f"{low:.0f}–{high:.0f}"


def _largest_error(export: Export) -> float:
    return max(float(np.abs(r.vth_error).max()) for r in export.quantized.layers)


def _budget_table(export: Export) -> report.Table:
    rows = [
        [b.name, f"{b.neurons:,}", f"{b.synapses:,}", f"{b.synapse_bits / 8192:.1f}", str(b.cores), _tightest(b)]
        for b in export.budget.layers
    ]
    columns = ["layer", "neurons>", "synapses>", "KiB>", "cores>", "tightest resource of a core>"]
    return report.Table("On a chip", columns, rows, _budget_note(export))


def _agreement_table(export: Export, found: Agreement) -> report.Table:
    rows = zip(
        export.quantized.layers,
        found.spike_rates_float,
        found.spike_rates_chip,
        found.spikes_equal,
        found.silent,
        found.always,
    )
    overflows = ", ".join(f"{name} {count:,}" for name, count in found.overflows.items() if count)
    return report.Table(
        "Float network against chip",
        ["layer", "spike rate, float>", "spike rate, chip>", "change>", "equal spikes>", "silent>", "always firing>"],
        [
            [r.name, f"{f:.4f}", f"{c:.4f}", _change(f, c), f"{equal:.3%}", f"{silent:,}", f"{always:,}"]
            for r, f, c, equal, silent, always in rows
        ],
        "Spike rate: spikes per neuron and step; silent, always firing: neurons on the chip, in all samples. "
        + (f"First differing spike: {found.first}. " if found.first else "No spike differs. ")
        + f"Float membranes exactly on the threshold: {found.ties}. Overflows: {overflows or 'none'}.",
    )


def _budget_note(export: Export) -> str:
    found, used = export.budget, export.activity
    note = f"Target {found.target}, {found.cores} cores, {found.chips} chip(s), latency {found.latency_steps} steps. "
    if any(isinstance(layer.vth, np.ndarray) for layer in export.quantized.chip.layers):
        note += (
            "Thresholds per channel run in Lava's simulator; a chip's neurons may have to be grouped by threshold "
            "(docs/hardware.md). "
        )
    if found.target != "loihi1":
        note += "Cores are counted as Loihi 1's; Loihi 2's axon limits and synapse layout are not public. "
    if used is not None:
        note += (
            f"A sample takes {used.spikes:,.0f} spikes and {used.synaptic_operations:,.0f} synaptic operations, an "
            f"estimated {used.energy_nj / 1000:,.2f} µJ (Loihi 1's published energies per operation and neuron update; "
            "no routing, no leakage, no host). "
        )
    return note + " ".join(f"Warning: {v}." for v in found.violations)


def _tightest(layer: LayerBudget) -> str:
    name, used = max(layer.used.items(), key=lambda item: item[1])
    return f"{name} {used:.1%}"


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.2%}" if before else ("0" if not after else "was silent")


def _summary(export: Export) -> str:
    if (found := export.agreement) is None:
        return f"The integer network was not compared with the float network: {export.unchecked}."
    return (
        f"On {found.samples} test samples the integer network predicts the same class as the trained one on "
        f"{found.predictions:.2%}."
    )


def _figures(export: Export) -> list[report.Figure]:
    weights = {r.name: pair for r, pair in zip(export.quantized.layers, export.quantized.weights)}
    figures = [report.Figure(_drawing(export.quantized.chip), "The network on the chip.")]
    if weights:
        caption = "Weights of each layer's main connection before and after quantisation."
        figures.append(report.Figure(plots.weight_histograms(weights), caption))
    used = {layer.name: layer.used for layer in export.budget.layers}
    figures.append(report.Figure(plots.bars(used), f"How full the cores of each layer are ({export.budget.target})."))
    if export.agreement is not None:
        caption = "Predictions of the float network against those of the chip; off the diagonal they differ."
        figures.append(report.Figure(plots.confusion(export.agreement.confusion), caption))
    if export.spikes is not None:
        figures.append(report.Figure(plots.raster(export.spikes), "Spikes of the first test sample on the chip."))
    return figures


def _drawing(chip: ChipNetwork) -> str:
    shapes = [("input", chip.input_shape), *((layer.name, layer.shape) for layer in chip.layers)]
    boxes = [(name, "×".join(map(str, shape))) for name, shape in shapes]
    arrows = [(c.pre + 1, c.post + 1, _label(c)) for c in chip.connections]
    return plots.drawing(boxes, arrows)


def _label(c: Connection) -> str:
    if isinstance(c, Diagonal) and c.pre == c.post:
        return "reset"
    kernel = "×".join(map(str, c.weight.shape[2:])) if isinstance(c, Conv) else ""
    return f"{type(c).__name__.lower()} {kernel}" + (f" +{c.delay}" if c.delay else "")


def _provenance_table(export: Export, files: dict[str, str]) -> report.Table:
    provenance = export.quantized.chip.provenance
    rows = [[key, str(value)] for key, value in provenance.items() if key not in ("training", "scales")]
    rows += [[key, Path(value).name if key != "no .net" else value] for key, value in files.items()]
    return report.Table("Provenance", ["what", "value"], rows)
