"""The export's tables and figures, for the terminal and the report's page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ottt_loihi.converters.budget import LayerBudget
from ottt_loihi.converters.quantize.causes import Causes
from ottt_loihi.converters.verify import Agreement
from ottt_loihi.metrics import Metrics
from ottt_loihi.report import plots, report
from ottt_loihi.sim.network import ChipNetwork, Connection, Conv, Diagonal

if TYPE_CHECKING:
    from ottt_loihi.converters.export import Export


_UNTRACED = "Why spikes differ was not measured: the network is too large for it. "


def section(export: Export, files: dict[str, str]) -> report.Section:
    """Return the export's part of the report."""
    found, chip = export.agreement, export.quantized.chip
    facts = [
        ("layers", " - ".join(str(n) for n in (chip.input_size, *(layer.size for layer in chip.layers)))),
        ("time steps", str(chip.num_steps)),
        ("neuro cores", str(export.budget.cores)),
        ("latency", f"{export.budget.latency_steps} steps"),
    ]
    if found is not None:
        facts += [("same prediction", f"{found.predictions:.2%}"), ("samples compared", str(found.samples))]
        facts += [("accuracy, float", f"{found.accuracy_float:.2%}"), ("accuracy, chip", f"{found.accuracy_chip:.2%}")]
    return report.Section(
        name="export",
        title="Quantised for the chip",
        summary=_summary(export),
        facts=facts,
        tables=tables(export) + [_provenance_table(export, files)],
        figures=_figures(export),
    )


def tables(export: Export) -> list[report.Table]:
    """Return the tables of quantisation, agreement and budget, for the terminal and the page."""
    result = []
    if export.quantized.layers:
        result.append(_quantisation_table(export))
    if (found := export.agreement) is not None:
        result.append(_agreement_table(export, found))
        if export.causes is not None:
            result.append(_causes_table(export.causes, export.fitted is not None))
        if found.accuracy_chip < 1:
            result.append(_class_table(export, found))
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
        "scale: integer units per float unit. scale, vth: a range if each channel has its own value. clipped, zeroed: "
        "numbers of weights. rms error: relative to the weights. Rounding changed a threshold by "
        f"{_largest_error(export):.2%} at most.",
    )


def _range(values: Any, form: str) -> str:
    """Return a number as text; of several numbers the smallest and the largest, without fractions."""
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
        export.chip.layers,
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
        "Spike rate: spikes per neuron and step. silent, always firing: neurons that never fire on the chip, or in "
        "every step, in all samples. "
        + (f"First differing spike: {found.first}. " if found.first else "No spike differs. ")
        + (_UNTRACED if found.first and export.trained is not None and export.causes is None else "")
        + f"Float membranes exactly on the threshold: {found.ties}. Overflows: {overflows or 'none'}.",
    )


def _causes_table(found: Causes, fitted: bool) -> report.Table:
    rows = [
        [stage.name if not index else f"+ {stage.name}", f"{stage.spikes:.3%}", f"{stage.predictions:.2%}"]
        for index, stage in enumerate(found.stages)
    ]
    last = "sums and states as integers" + (", decays that fit the registers" if fitted else "")
    rows.append([f"+ {last}: the chip", "0.000%", "0.00%"])
    return report.Table(
        "Why spikes differ",
        ["trained network with the chip's …", "spikes that differ>", "predictions that differ>"],
        rows,
        f"Compared with the chip on {found.samples} samples. Each row rounds one more quantity, as on the chip.",
    )


def _class_table(export: Export, found: Agreement) -> report.Table:
    usage = export.quantized.chip.data
    names = usage.class_names if usage is not None else ()
    in_float, on_chip = (Metrics(np.array(matrix), names) for matrix in (found.classes_float, found.classes_chip))
    recalls = {row[0]: row[2] for row in in_float.rows()}
    rows = [[name, samples, recalls[name], *rest] for name, samples, *rest in on_chip.worst()]
    note = f"Balanced accuracy {in_float.balanced_accuracy:.2%} in float, {on_chip.balanced_accuracy:.2%} on the chip."
    if on_chip.warning:
        note += f" On the chip {on_chip.warning}."
    columns = ["class", "samples>", "recall, float>", "recall, chip>", "most frequent wrong class on the chip"]
    return report.Table("Recall of each class", columns, rows, note)


def _budget_note(export: Export) -> str:
    found, used = export.budget, export.activity
    note = f"Target {found.target}, {found.cores} cores, {found.chips} chip(s), latency {found.latency_steps} steps. "
    if any(isinstance(layer.vth, np.ndarray) for layer in export.quantized.chip.layers):
        note += (
            "Thresholds per channel run in Lava's simulator; a chip's neurons may have to be grouped by threshold "
            "(docs/hardware.md). "
        )
    if found.target != "loihi1":
        note += "Cores are counted with Loihi 1's limits: Loihi 2's axon limits and synapse layout are not public. "
    if used is not None:
        note += (
            f"A sample takes {used.spikes:,.0f} spikes and {used.synaptic_operations:,.0f} synaptic operations, an "
            f"estimated {used.energy_nj / 1000:,.2f} µJ (Loihi 1's published energies per operation and neuron update; "
            "no routing, no leakage, no host). "
        )
    if found.registers:
        note += f"Registers that the chip may not have: {'; '.join(map(str, found.registers))}. "
        note += "--fit-registers rounds them. "
    if export.fitted is not None:
        note += f"Fitted {export.fitted}. "
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
    chip, found = export.quantized.chip, export.agreement
    names = [layer.name for layer in chip.layers]
    figures = [(_drawing(chip), "The network on the chip.")]
    if found is not None:
        rates = {"float network": found.spike_rates_float, "chip": found.spike_rates_chip}
        picture = plots.bars(names, rates, "spikes per neuron and time step")
        figures.append((picture, "Spikes of each layer, in float and on the chip."))
    if export.spikes is not None:
        figures.append((plots.raster(export.spikes), "Spikes of the first test sample on the chip."))
    if weights := {r.name: pair for r, pair in zip(export.quantized.layers, export.quantized.weights)}:
        caption = "Weights of each layer's main connection before and after quantisation."
        figures.append((plots.weight_histograms(weights), caption))
    each = [layer.used for layer in export.budget.layers]
    used = {name: [100 * layer.get(name, 0.0) for layer in each] for name in dict.fromkeys(n for u in each for n in u)}
    picture = plots.bars(names, used, "share of a core's resource (%)", full=100)
    figures.append((picture, f"How full the cores of each layer are ({export.budget.target})."))
    if found is not None:
        caption = "Predictions of the float network against those of the chip; off the diagonal they differ."
        figures.append((plots.confusion(found.confusion), caption))
    return [report.Figure(*figure) for figure in figures]


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
