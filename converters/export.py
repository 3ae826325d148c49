"""From ``model.pt`` to the chip's files: quantise, check against the float network, count, write, report."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters import netx, plots, report
from ottt_loihi.converters.budget import Budget, LayerBudget, budget
from ottt_loihi.converters.float_network import FloatNetwork, from_torch
from ottt_loihi.converters.quantize import Quantized, quantize
from ottt_loihi.converters.verify import Agreement, agreement
from ottt_loihi.sim import reference, storage

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

    trained: FloatNetwork
    quantized: Quantized
    budget: Budget
    agreement: Agreement | None = None
    unchecked: str = ""
    spikes: dict[str, np.ndarray] | None = None


def samples(
    data: str, num_steps: int, count: int, seed: int = 0, options: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` test samples of a data set as spikes, uint8 ``(n, num_steps, *shape)``, and labels.

    Images are rate coded, frames with a time axis are taken as they are; ``options``: of the data set's loader.
    """
    split = load_data(data, **(options or {}))
    if count < 1:
        raise UsageError(f"check: expected at least 1 sample, got {count}")
    return as_spikes(split, split.x_test[:count], num_steps, seed), split.y_test[:count]


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


def export(
    net: Network, num_weight_bits: int = 8, check: int = 0, source: str | os.PathLike[str] | None = None
) -> Export:
    """Quantise a trained network, and replay ``check`` test samples through the float and the integer network.

    ``source``: the checkpoint's path; its SHA-256 goes into the provenance.
    """
    trained = from_torch(net)
    origin: dict[str, Any] = {"training": net.provenance}
    if source is not None:
        origin |= {"checkpoint": Path(source).name, "sha256": hashlib.sha256(Path(source).read_bytes()).hexdigest()}
    quantized = quantize(trained, num_weight_bits, origin)
    counted = budget(quantized.chip)
    data = net.provenance.get("data")
    if not check:
        return Export(trained, quantized, counted, unchecked="not asked for (--no-check)")
    if data is None:
        return Export(trained, quantized, counted, unchecked="the checkpoint does not name its data set")
    if net.provenance.get("encoding", {}).get("name") == "constant":
        raise ChipError(
            "the network was trained on images that are constant in time, a direct current; only spikes can be "
            "exported yet: train it with --encoding rate, or export without comparing (--no-check)"
        )
    x, labels = samples(data, trained.num_steps, check, options=net.provenance.get("data_options"))
    found, spikes = _replay(net, quantized, x, labels)
    return Export(trained, quantized, counted, found, spikes=spikes)


def _replay(net: Network, quantized: Quantized, x: np.ndarray, labels: np.ndarray) -> tuple[Agreement, dict[str, Any]]:
    import torch

    with torch.no_grad():
        run = net.run(torch.from_numpy(x), record=("u", "s"))
    spikes = [s.cpu().numpy() for s in run.states["s"]]
    ties = sum(int((u == block.neuron.v_threshold).sum()) for u, block in zip(run.states["u"], net.blocks))
    result = reference.run(quantized.chip, x, record=("s",))
    found = agreement(quantized.chip, run.scores.cpu().numpy(), spikes, result, labels, ties)
    hidden = quantized.chip.layers[: len(spikes)]
    raster = {"input": x[0] != 0} | {layer.name: s[:, 0] for layer, s in zip(hidden, result.states["s"])}
    return found, raster


def require_agreement(export: Export, max_disagreement: float) -> None:
    """Raise :class:`VerificationError` when float and chip predict differently on more than that share of samples."""
    found = export.agreement
    if found is not None and 1 - found.predictions > max_disagreement:
        raise VerificationError(
            f"float and chip predictions differ on {1 - found.predictions:.1%} of {found.samples} samples, "
            f"allowed are {max_disagreement:.1%}; the first differing spike: {found.first}; "
            "try more weight bits, or --max-disagreement"
        )


def write(export: Export, folder: Path) -> dict[str, str]:
    """Write ``model.h5``, ``model.net`` and the report's section; returns name → path, or why there is no ``.net``."""
    files = {"chip": str(folder / "model.h5")}
    storage.save(export.quantized.chip, files["chip"])
    try:
        netx.write(export.quantized.chip, folder / "model.net")
        files["net"] = str(folder / "model.net")
    except ChipError as error:
        (folder / "model.net").unlink(missing_ok=True)  # an older one would not belong to this network
        files["no .net"] = str(error)
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
    result = [
        report.Table(
            "Quantisation",
            ["layer", "weights>", "scale>", "vth>", "clipped>", "zeroed>", "rms error>"],
            [
                [r.name, f"{r.shape[1]}×{r.shape[0]}", f"{r.scale:.1f}", str(r.vth), str(r.clipped), str(r.zeroed)]
                + [f"{r.rms_error:.2%}"]
                for r in export.quantized.layers
            ],
            "scale: integer units per float unit; clipped, zeroed: numbers of weights; rms error: relative.",
        )
    ]
    if (found := export.agreement) is not None:
        rows = zip(export.quantized.layers, found.spike_rates_float, found.spike_rates_chip, found.spikes_equal)
        result.append(
            report.Table(
                "Float network against chip",
                ["layer", "spike rate, float>", "spike rate, chip>", "change>", "equal spikes>"],
                [[r.name, f"{f:.4f}", f"{c:.4f}", _change(f, c), f"{equal:.3%}"] for r, f, c, equal in rows],
                "Spike rate: spikes per neuron and step. "
                + (f"First differing spike: {found.first}. " if found.first else "No spike differs. ")
                + f"Float membranes exactly on the threshold: {found.ties}.",
            )
        )
    result.append(
        report.Table(
            "On a chip",
            ["layer", "neurons>", "synapses>", "KiB>", "cores>", "tightest resource of a core>"],
            [
                [
                    b.name,
                    f"{b.neurons:,}",
                    f"{b.synapses:,}",
                    f"{b.synapse_bits / 8192:.1f}",
                    str(b.cores),
                    _tightest(b),
                ]
                for b in export.budget.layers
            ],
            "Counted with Loihi 1's published core limits; Loihi 2's are not public.",
        )
    )
    return result


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
    dense = [c for c in export.quantized.chip.connections if c.pre == c.post - 1]
    weights = {
        layer.name: (layer.weight, c.weight / r.scale)
        for layer, c, r in zip(export.trained.layers, dense, export.quantized.layers)
    }
    figures = [report.Figure(plots.weight_histograms(weights), "Weights of each layer before and after quantisation.")]
    if export.spikes is not None:
        figures.append(report.Figure(plots.raster(export.spikes), "Spikes of the first test sample on the chip."))
    return figures


def _provenance_table(export: Export, files: dict[str, str]) -> report.Table:
    provenance = export.quantized.chip.provenance
    rows = [[key, str(value)] for key, value in provenance.items() if key not in ("training", "scales")]
    rows += [[key, Path(value).name if key != "no .net" else value] for key, value in files.items()]
    return report.Table("Provenance", ["what", "value"], rows)
