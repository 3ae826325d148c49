"""Several rules on the same data: what ``ottt-compare`` runs.

A comparison is a configuration as for ``ottt-train`` (:mod:`ottt_loihi.training.config`) with two more entries::

    seeds = [0, 1, 2]

    [[rules]]
    name = "ottt"                    # a rule's name and settings
    update = "sequence"

    [[rules]]
    label = "DSR"                    # how it is called in the table; default: its name
    name = "dsr"
    network = { name = "dsr" }       # tables that are changed for this rule alone; another name replaces the table
    training = { learning_rate = 1e-3 }

Every run is a folder as ``ottt-train`` makes it, in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import statistics
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ottt_loihi.errors import OtttError, UsageError
from ottt_loihi.files import atomic_write
from ottt_loihi.training.config import Config, make_config, read_tables


@dataclass(frozen=True)
class Contender:
    """One rule of a comparison: ``label``, and the configuration it trains with (without a seed)."""

    label: str
    config: Config

    @property
    def folder(self) -> str:
        """The label as a folder's name."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


@dataclass(frozen=True)
class Comparison:
    """The contenders and seeds of one comparison.

    Attributes
    ----------
    contenders
        in the order of the file
    seeds
        of every one of them
    """

    contenders: tuple[Contender, ...]
    seeds: tuple[int, ...]


def read_comparison(path: str | os.PathLike[str]) -> Comparison:
    """A comparison from a TOML file.

    Raises
    ------
    FileError
        if it cannot be read or is no TOML
    UsageError
        for what is missing, unknown or of a wrong type
    """
    tables = dict(read_tables(path))
    seeds, rules = tables.pop("seeds", [0]), tables.pop("rules", None)
    if not isinstance(seeds, list) or not seeds or any(isinstance(s, bool) or not isinstance(s, int) for s in seeds):
        raise UsageError(f"seeds: expected a list of integers, got {seeds!r}")
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds: expected different integers ≥ 0, got {seeds}")
    if not isinstance(rules, list) or not rules or any(not isinstance(rule, dict) for rule in rules):
        raise UsageError("rules: expected a [[rules]] table for each rule to compare")
    if "rule" in tables:
        raise UsageError("[rule]: a comparison names its rules as [[rules]]")
    contenders = tuple(_contender(tables, rule) for rule in rules)
    folders = [contender.folder for contender in contenders]
    if len(set(folders)) < len(folders) or "" in folders:
        raise UsageError(f"rules: expected different labels, got {', '.join(c.label for c in contenders)}")
    return Comparison(contenders, tuple(seeds))


def _contender(tables: Mapping[str, Any], rule: Mapping[str, Any]) -> Contender:
    settings = dict(rule)
    label = str(settings.pop("label", settings.get("name", "ottt")))
    merged = {name: dict(table) for name, table in tables.items()}
    for name in ("data", "network", "training"):
        change = settings.pop(name, {})
        if not isinstance(change, dict):
            raise UsageError(f"rules, {label}: {name}: expected a table, got {change!r}")
        same = change.get("name", merged.get(name, {}).get("name")) == merged.get(name, {}).get("name")
        merged[name] = {**(merged.get(name, {}) if same else {}), **change}
    config = make_config({**merged, "rule": settings})
    config.make_rule("paper")  # a wrong setting is found before anything runs
    return Contender(label, config)


def run(comparison: Comparison, folder: Path, processes: int, check: int) -> Iterator[dict[str, Any]]:
    """Yield the result of every run as it ends; those that are in ``folder`` already come first.

    Parameters
    ----------
    processes
        how many at once
    check
        test samples for the accuracy on the chip
    """
    jobs, data = [], {}
    for contender in comparison.contenders:
        for seed in comparison.seeds:
            tables = contender.config.tables()
            tables["training"] |= {"seed": seed}
            place = folder / f"{contender.folder}-{seed}"
            key = json.dumps(tables["data"], sort_keys=True)
            if key not in data:
                data[key] = _fingerprint(contender.config)
            job = {"label": contender.label, "tables": tables, "place": str(place), "seed": seed, "check": check}
            jobs.append({**job, "data": data[key]})
    waiting = []
    for job in jobs:
        known = _known(job)
        if known is None:
            waiting.append(job)
        else:
            yield known
    if not waiting:
        return
    failed = []
    with multiprocessing.get_context("spawn").Pool(min(processes, len(waiting)), end_with_parent, (), 1) as pool:
        for result in pool.imap_unordered(_finish, waiting):
            if "error" in result:
                failed.append(f"{result['label']}, seed {result['seed']}: {result['error']}")
            else:
                yield result
    if failed:  # not before the others are done: their work is kept
        raise UsageError("; ".join(failed))


def end_with_parent() -> None:
    """Let this process end when the one that started it has ended, however: started again, it shall train alone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _known(job: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result that is there already, of the same settings and data."""
    found = _kept(job)
    return found if _of_this_job(found, job) and "cosines" in found else None


def _of_this_job(found: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    """Whether a result was made with these settings, data and test samples."""
    return all(found.get(name) == job[name] for name in ("tables", "data")) and found.get("checked") == job["check"]


def _kept(job: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads((Path(job["place"]) / "compared.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _fingerprint(config: Config) -> str:
    """Return a text that is another one for other data, labels and test samples included."""
    from ottt_loihi.data.images import ImageSplit
    from ottt_loihi.data.sparse import pieces

    split = config.load_data()
    if isinstance(split, ImageSplit):  # too much to read before anything runs
        return f"{len(split.train)} and {len(split.test)} images"
    checksum = 0
    for array in (split.x_train, split.y_train, split.x_test, split.y_test):
        for part in pieces(array):
            checksum = zlib.crc32(np.ascontiguousarray(array[part]), checksum)
    return f"{len(split.x_train)} and {len(split.x_test)} samples, checksum {checksum:08x}"


def _finish(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train (or go on), export, keep the result; errors come back as text, because a pool cannot send all of them.

    A result of a version without cosines gets them, and is not trained again.
    """
    kept = _kept(job)
    try:
        if _of_this_job(kept, job):
            result = {**kept, **_cosines(make_config(job["tables"]))}
        else:
            result = {**job, **_train(job), "checked": job["check"]}
    except OtttError as error:
        return {"label": job["label"], "seed": job["seed"], "error": str(error)}
    with atomic_write(Path(job["place"]) / "compared.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def _train(job: Mapping[str, Any]) -> dict[str, Any]:
    from ottt_loihi.training.checkpoint import load
    from ottt_loihi.training.run import run as train

    place = Path(job["place"])
    changed = _kept(job).get("data", job["data"]) != job["data"]  # then what is there is of no use
    resume = (place / "training.pt").exists() and not changed
    found = train(make_config(job["tables"]), place, resume=resume, force=changed)
    assert found is not None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    net = load(place / "model.pt")
    sizes = [block.shape for block in net.blocks]
    neurons = [_size(shape) for shape in sizes]
    spikes = sum(n * r for n, r in zip(neurons, found["spike_rates"])) * net.time_steps
    return {
        "accuracy": found["test_accuracy"],
        "seconds": found["seconds"],
        "memory": memory,
        "spikes": spikes,
        "synaptic_operations": found["synaptic_operations"],
        **_cosines(make_config(job["tables"])),
        **_on_chip(net, job["check"]),
    }


def _cosines(config: Config) -> dict[str, Any]:
    """Return the cosines with BPTT's gradient by layer, at the start of the training, or the reason why there are none.

    Network and loss are those of the training: its initial weights, quantised or frozen, class weights and teacher.
    """
    from ottt_loihi.data.images import ImageSplit
    from ottt_loihi.training.checkpoint import load
    from ottt_loihi.training.cosines import cosines
    from ottt_loihi.training.run import begin
    from ottt_loihi.training.trainer import Trainer

    config, data, net = begin(config)
    if isinstance(data.split, ImageSplit):
        return {"cosines": [], "no_cosines": "its images are read while it trains"}
    training = config.training
    teacher = load(training.teacher) if training.teacher else None
    rule = config.make_rule(net.convention)
    trainer = Trainer(net, rule, encoding=data.record.coding, teacher=teacher, **config.trainer_settings())
    trainer.open(data.split, validation=training.validation or None)
    try:
        return {"cosines": cosines(trainer), "no_cosines": ""}
    except OtttError as error:  # a network that BPTT has no gradient for
        return {"cosines": [], "no_cosines": str(error)}


def _on_chip(net: Any, check: int) -> dict[str, Any]:
    """The accuracy of the network as integers, on as many test samples; or why it cannot go there."""
    from ottt_loihi.converters.export import Options, export

    if not check:
        return {"accuracy_chip": None, "reason": "not asked for"}
    try:
        found = export(net, Options(check=check, allow_dead=True)).agreement
    except OtttError as error:
        return {"accuracy_chip": None, "reason": str(error)}
    return {"accuracy_chip": None if found is None else found.accuracy_chip, "reason": ""}


def _size(shape: Sequence[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def summarise(label: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of the table: means over the seeds, and the accuracy's standard deviation."""
    accuracies = [result["accuracy"] for result in results]
    chips = [result["accuracy_chip"] for result in results if result["accuracy_chip"] is not None]
    means = {k: statistics.mean(r[k] for r in results) for k in ("seconds", "spikes", "synaptic_operations")}
    return {
        "rule": label,
        "seeds": [result["seed"] for result in results],
        "accuracy": statistics.mean(accuracies),
        "deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        **means,
        "memory": max(result["memory"] for result in results),
        "accuracy_chip": statistics.mean(chips) if len(chips) == len(results) else None,
        "deviation_chip": statistics.stdev(chips) if len(chips) > 1 else 0.0,
        "reason": next((r["reason"] for r in results if r["reason"]), ""),
        "no_cosines": next((r["no_cosines"] for r in results if r.get("no_cosines")), ""),
        "cosines": [_mean(layer) for layer in zip(*(r["cosines"] for r in results))],  # none where one seed has none
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None
