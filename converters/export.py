"""From ``model.pt`` to the chip's files: quantise, check against the float network, count, write, report."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ottt_loihi.converters import registers
from ottt_loihi.converters.budget import Activity, Budget, activity, budget
from ottt_loihi.converters.lava import kit
from ottt_loihi.converters.lava import script as lava_script
from ottt_loihi.converters.lava.board import Prepared
from ottt_loihi.converters.limits import LOIHI2, Limits
from ottt_loihi.converters.netx import write as netx
from ottt_loihi.converters.netx.read import from_slayer
from ottt_loihi.converters.nir import write as nir
from ottt_loihi.converters.quantize import reach
from ottt_loihi.converters.quantize.calibrate import calibrate
from ottt_loihi.converters.quantize.causes import Causes, causes
from ottt_loihi.converters.quantize.contraction import require_contraction
from ottt_loihi.converters.quantize.float_network import FloatNetwork, from_torch
from ottt_loihi.converters.quantize.float_run import agreement
from ottt_loihi.converters.quantize.quantize import INPUT_FORMS, SCALES, THRESHOLDS, Quantized, quantize
from ottt_loihi.converters.registers import Fitted
from ottt_loihi.converters.replay import fired, replay, replay_trained, run_trained
from ottt_loihi.converters.samples import chip_samples, samples_of
from ottt_loihi.converters.verify import Agreement, Comparison
from ottt_loihi.sim import storage
from ottt_loihi.sim.network import ChipNetwork

from ottt_loihi import checks, sim
from ottt_loihi.data import Step
from ottt_loihi.errors import ChipError, FileError, UsageError, VerificationError

if TYPE_CHECKING:
    from ottt_loihi.nn.network import Network


@dataclass(frozen=True)
class Export:
    """Everything an export found out.

    Attributes
    ----------
    trained
        the float network, None where the file held an integer one
    quantized, budget
        the integer network, and what it takes on a chip
    agreement
        of float and chip; None where nothing was compared
    unchecked
        why nothing was compared
    spikes
        of one sample, for a raster
    causes
        what each kind of rounding changes; None where no spike differs, or nothing was compared
    activity
        what a sample costs; None where nothing was run
    fitted
        what ``fit_registers`` changed; None where it was not asked for
    available
        test samples that those compared were drawn from
    notes
        what a user has to know of an import, one line each
    """

    trained: FloatNetwork | None
    quantized: Quantized
    budget: Budget
    agreement: Agreement | None = None
    unchecked: str = ""
    spikes: dict[str, np.ndarray] | None = None
    causes: Causes | None = None
    activity: Activity | None = None
    fitted: Fitted | None = None
    available: int = 0
    notes: tuple[str, ...] = ()

    @property
    def chip(self) -> ChipNetwork:
        """The integer network: what runs on the chip."""
        return self.quantized.chip


EQUILIBRIUM_RULES = ("ide", "spide")  # their networks compute only where feedback contracts


@dataclass(frozen=True)
class Options:
    """The settings of an export, apart from those of :func:`~ottt_loihi.converters.quantize.quantize.quantize`.

    Attributes
    ----------
    check
        number of test samples on which float network and chip are compared; 0: none
    calibrate
        number of training samples that choose scales and thresholds; 0: none
    thresholds
        ``"channel"`` or ``"layer"``: how many thresholds one-bit weights get
    allow_dead
        export layers that never fire
    limits
        limits of the chip
    fit_registers
        keep du and dv within the chip's 12-bit registers
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
    fit_registers: bool = False

    def __post_init__(self) -> None:
        for name in ("check", "calibrate"):
            checks.integer(getattr(self, name), name, 0)
        for name in ("allow_dead", "fit_registers", *(() if self.for_netx is None else ("for_netx",))):
            checks.flag(getattr(self, name), name)
        for name, allowed in (("input_form", INPUT_FORMS), ("scale", SCALES), ("thresholds", THRESHOLDS)):
            checks.one_of(getattr(self, name), name.removesuffix("_form"), allowed)
        checks.instance(self.limits, "limits", Limits)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``quantize`` except the number of bits."""
        return {name: getattr(self, name) for name in ("input_form", "scale", "for_netx", "thresholds")}


DEFAULTS = Options()
ROUNDING = {  # field of Options → option of ottt-export
    "num_weight_bits": "--weight-bits",
    "calibrate": "--calibrate",
    "input_form": "--input",
    "scale": "--scale",
    "thresholds": "--thresholds",
}


def export(net: Network, options: Options | None = None, source: str | os.PathLike[str] | None = None) -> Export:
    """Quantise a trained network, and compare the float and the integer network on test samples.

    Parameters
    ----------
    net
        a trained network
    options
        bits, scales, checks and the target (:class:`Options`); default: 8 bits
    source
        path of the checkpoint, whose SHA-256 is added to the provenance

    Returns
    -------
    the integer network as ``chip``, and what was measured: ``agreement``, ``budget``, ``activity``
    """
    from ottt_loihi.nn.slayer_blocks import is_slayer

    options = _chosen(options)
    if not hasattr(net, "blocks"):
        raise UsageError(
            f"export: expected a Network, got {type(net).__name__}; ol.load reads a model.pt, and ol.from_module makes "
            "a network of a module of another framework"
        )
    trained = None if is_slayer(net) else from_torch(net)
    origin: dict[str, Any] = {"training": net.provenance}
    if source is not None:
        origin |= {"checkpoint": checks.path(source, "source").name, "sha256": _sha256(source)}
    settings = options.settings
    if options.calibrate and trained is not None:
        images = samples_of(net, options.calibrate, "train", options.input_form)
        runs = [fired(net, run, trained.layers) for run in run_trained(net, images, ("s",))]
        spikes = [np.concatenate(parts, axis=1) for parts in zip(*runs)]
        settings["tuning"] = calibrate(trained, spikes, images.messages, options.num_weight_bits, settings)
        origin["calibrated"] = {str(i): [t.scale, t.v_threshold] for i, t in settings["tuning"].items()}
    if trained is None:
        exact = _integers_of(net, options, origin)
    else:
        exact = quantize(trained, options.num_weight_bits, origin, **settings)
    exact = _described(exact, net)
    result = _counted(exact, options, trained, () if trained is None else trained.notes)
    quantized, fitted = result.quantized, result.fitted
    if net.provenance.get("training", {}).get("rule", {}).get("name") in EQUILIBRIUM_RULES:
        require_contraction(quantized.chip)
    if not options.check:
        return replace(result, unchecked="not asked for (--no-check)")
    if net.provenance.get("data") is None:
        return replace(result, unchecked="the checkpoint does not name its data set")
    seen = samples_of(net, options.check, "test", options.input_form)
    messages = seen.messages
    found, spikes = replay_trained(net, quantized.chip, seen)
    if fitted is not None:
        fitted = registers.count(fitted, exact.chip, quantized.chip, messages)
    if found.dead and not options.allow_dead:
        raise VerificationError(
            f"{found.dead[0]} fires no spike in {found.samples} samples, as it does in the float network: try more "
            "weight bits, --calibrate, or fine-tuning with ottt-train --quantize; --allow-dead to export it anyway"
        )
    used = activity(quantized.chip, found.input_spikes, found.spikes, found.samples)
    why = None if trained is None or found.first is None else causes(trained, quantized, seen.values, messages)
    measured = {"agreement": found, "spikes": spikes, "causes": why, "activity": used}
    return replace(result, **measured, fitted=fitted, available=seen.total)


def _chosen(options: Options | None) -> Options:
    return checks.instance(options, "options", Options, none=True) or Options()


def _integers_of(net: Network, options: Options, origin: dict[str, Any]) -> Quantized:
    """Return the integers of a SLAYER network as they are, because SLAYER trains with those of the chip."""
    for name in ("num_weight_bits", "scale", "calibrate"):
        if getattr(options, name) != getattr(Options(), name):
            raise UsageError(f"{name}: SLAYER's weights are the chip's integers already, nothing is quantised")
    found = from_slayer(net, net.time_steps)
    return Quantized(replace(found.chip, provenance={**origin, "notes": found.notes}), (), ())


def _described(quantized: Quantized, net: Network) -> Quantized:
    """Return the integer network with its loss and its data, which ``model.pt`` names."""
    known = net.provenance
    loss = known.get("training", {}).get("loss", {}).get("name")
    data_set = Step(known["data"], known.get("data_options", {})) if known.get("data") is not None else None
    return replace(quantized, chip=replace(quantized.chip, loss=loss, data=net.data, data_set=data_set))


def _counted(
    exact: Quantized, options: Options, trained: FloatNetwork | None = None, notes: Sequence[str] = (), why: str = ""
) -> Export:
    """Return the export of an integer network: fitted to the chip's registers if asked for, and counted.

    Raises :class:`ChipError` for a network that breaks a limit. ``why``: the reason why nothing is compared.
    """
    chip, fitted = registers.fit(exact.chip, options.limits) if options.fit_registers else (exact.chip, None)
    used = budget(chip, options.limits)
    used.raise_if_broken()
    return Export(trained, replace(exact, chip=chip), used, unchecked=why, fitted=fitted, notes=tuple(notes))


def export_module(net: Network, options: Options | None = None, source: Path | None = None) -> Export:
    """Export a network read from another framework's module; compare it on its data, else on random spikes.

    Raises
    ------
    ChipError
        as :func:`~ottt_loihi.converters.quantize.quantize.quantize`, and for a layer that no input can make fire
    """
    from ottt_loihi.nn.slayer_blocks import is_slayer

    options = _chosen(options)
    if is_slayer(net):
        return export(net, options, source)
    trained = from_torch(net)
    if net.provenance.get("data") is None:
        return export_float(trained, options, source, {"training": net.provenance})
    _require_firing(trained, options)
    result = export(net, options, source)
    return replace(result, notes=(*result.notes, *reach.lost(trained, result.quantized.layers)))


def export_chip(chip: ChipNetwork, options: Options | None = None) -> Export:
    """Count an integer network that was made elsewhere, so that it can be written in every format.

    Raises
    ------
    UsageError
        for options of rounding and calibration: the network holds integers already
    """
    options = _chosen(options)
    for field, name in ROUNDING.items():
        if getattr(options, field) != getattr(DEFAULTS, field):
            raise UsageError(f"{name}: the network holds integers already, which are not rounded again; leave it out")
    return _counted(Quantized(chip, (), ()), options, why="it is an integer network already")


def export_float(
    trained: FloatNetwork,
    options: Options | None = None,
    source: Path | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Export:
    """Quantise and count a float network from elsewhere, which names no data to compare on, or calibrate with.

    Parameters
    ----------
    origin
        added to the provenance

    Raises
    ------
    ChipError
        for a layer that no input can make fire, and as the quantiser
    """
    options = _chosen(options)
    if options.calibrate:
        raise UsageError("--calibrate: the file names no data set")
    _require_firing(trained, options)
    origin = dict(origin or {})
    origin |= {} if source is None else {"source": source.name, "sha256": _sha256(source)}
    exact = quantize(trained, options.num_weight_bits, origin, **options.settings)
    notes = (*trained.notes, *reach.lost(trained, exact.layers))
    result = _counted(exact, options, trained, notes, why="the file names no data set")
    return replace(result, notes=(*notes, agreement(trained, result.chip))) if options.check else result


def _require_firing(trained: FloatNetwork, options: Options) -> None:
    if not options.allow_dead:
        reach.require_firing(trained, "; --allow-dead exports it anyway")


def _sha256(path: str | os.PathLike[str]) -> str:
    try:
        return hashlib.sha256(checks.path(path, "source").read_bytes()).hexdigest()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None


def require_agreement(export: Export, max_disagreement: float) -> None:
    """Raise :class:`VerificationError` when float and chip predict differently on more than that share of samples."""
    found = checks.instance(export, "export", Export).agreement
    checks.number(max_disagreement, "max_disagreement", 0, 1)
    if found is not None and round((1 - found.predictions) * found.samples) > max_disagreement * found.samples + 1e-9:
        raise VerificationError(
            f"float and chip predictions differ on {1 - found.predictions:.1%} of {found.samples} samples, "
            f"allowed are {max_disagreement:.1%}; the first differing spike: {found.first}; "
            "try more weight bits, or --max-disagreement"
        )


def verify(export: Export, backend: str, count: int) -> Comparison:
    """Replay test samples in a backend, or through a .net in lava-dl's netx (``"netx"``), and compare with sim.

    The samples are random where the network names no data.

    Raises :class:`VerificationError` naming the first state that differs.
    """
    chip = export.quantized.chip
    if chip.data_set is None and chip.host is not None:
        raise UsageError("--verify: the network does not name its data set, and its host needs samples of it")
    if chip.data_set is None:
        x = kit.random_messages(chip, count)
    else:
        x, _ = chip_samples(chip, chip.data_set.name, count)
    comparison = replay(chip, backend, x)
    comparison.raise_if_different(f"{backend} and sim")
    return comparison


def write_kit(export: Export, folder: Path, count: int) -> Prepared:
    """Write what to take to a machine with a Loihi 2 into a folder (``converters/lava/kit.py``).

    ``count``: test samples in it; random ones where the network names no data.

    Raises
    ------
    ChipError
        for a network that cannot run there
    """
    chip = export.chip
    alone = replace(chip, host=None)  # what goes along are the host's messages, computed here
    if chip.data_set is None:
        of = "random messages, because the file names no data set"
        return kit.write(alone, folder, kit.random_messages(alone, count), of=of)
    x, labels = chip_samples(chip, chip.data_set.name, count)
    return kit.write(alone, folder, sim.host_messages(chip, x), labels, of=chip.data_set.name)


def write(export: Export, folder: Path, with_nir: bool = False, force_nir: bool = False) -> dict[str, str]:
    """Write ``model.h5``, ``model.net``, ``model_lava.py`` and, if asked for, ``model.nir``.

    Returns name → path, or why there is no ``.net``. Raises :class:`ChipError` for what NIR cannot express.
    """
    checks.instance(export, "export", Export)
    folder = checks.path(folder, "folder")
    if with_nir:  # asked for: a refusal comes before anything is written
        nir.write(export.quantized.chip, folder / "model.nir", force=force_nir)
    files = {"chip": str(folder / "model.h5"), "lava script": str(folder / "model_lava.py")}
    storage.save(export.quantized.chip, files["chip"])  # first: the others are views of it
    lava_script.write(export.quantized.chip, folder / "model_lava.py")
    try:
        netx.write(export.quantized.chip, folder / "model.net")
        files["net"] = str(folder / "model.net")
    except ChipError as error:
        (folder / "model.net").unlink(missing_ok=True)  # an older one would not belong to this network
        files["no .net"] = str(error)
    if with_nir:
        files["nir"] = str(folder / "model.nir")
    return files
