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

import copy
import json
import math
import multiprocessing
import os
import re
import statistics
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ottt_loihi.data.images import ImageSplit
from ottt_loihi.data.sparse import pieces
from ottt_loihi.errors import OtttError, UsageError
from ottt_loihi.files import write_text
from ottt_loihi.rules import make_rule
from ottt_loihi.toml import read_tables
from ottt_loihi.training.callbacks import peak_memory
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.config import Config, make_config
from ottt_loihi.training.run import begin, make_trainer
from ottt_loihi.training.run import run as train
from ottt_loihi.training.trainer import Trainer

COMPARED = 64  # samples of the cosines
SEED = 0  # of their coding, and of the neurons that drop out


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
    """The contenders, in the order of the file, and the seeds that each of them trains with."""

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
    waiting, data = [], {}
    for contender, seed in product(comparison.contenders, comparison.seeds):
        tables = contender.config.tables()
        tables["training"] |= {"seed": seed}
        key = json.dumps(tables["data"], sort_keys=True)
        if key not in data:
            data[key] = _fingerprint(contender.config)
        place = str(folder / f"{contender.folder}-{seed}")
        job = {"label": contender.label, "tables": tables, "place": place, "seed": seed, "check": check}
        job["data"], found = data[key], _kept(job)
        if _of_this_job(found, job) and "cosines" in found:
            yield found
        else:
            waiting.append(job)
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
    """End this process when its parent ends, even if that is killed, so that no two processes train in one folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _of_this_job(found: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    """Whether a result was made with these settings, data and test samples."""
    return all(found.get(name) == job[name] for name in ("tables", "data", "check"))


def _kept(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result in the job's folder, of these or other settings; empty if there is none."""
    try:
        found = json.loads((Path(job["place"]) / "compared.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _fingerprint(config: Config) -> str:
    """Return a text that differs for other training or test samples or labels."""
    split = config.load_data()
    if isinstance(split, ImageSplit):  # too much to read before anything runs
        return f"{len(split.train)} and {len(split.test)} images"
    checksum = 0
    for array in (split.x_train, split.y_train, split.x_test, split.y_test):
        for part in pieces(array):
            checksum = zlib.crc32(np.ascontiguousarray(array[part]), checksum)
    return f"{len(split.x_train)} and {len(split.x_test)} samples, checksum {checksum:08x}"


def _finish(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train or resume, export, and store the result. Errors are returned as text: a pool cannot send all exceptions.

    If only the cosines are missing, because an older version stored the result, nothing is trained again.
    """
    kept = _kept(job)
    try:
        known = _of_this_job(kept, job)
        result = {**kept, **_cosines(make_config(job["tables"]))} if known else {**job, **_train(job)}
    except OtttError as error:
        return {"label": job["label"], "seed": job["seed"], "error": str(error)}
    write_text(Path(job["place"]) / "compared.json", json.dumps(result, indent=1))
    return result


def _train(job: Mapping[str, Any]) -> dict[str, Any]:
    place = Path(job["place"])
    changed = _kept(job).get("data", job["data"]) != job["data"]  # then the old run is replaced
    resume = (place / "training.pt").exists() and not changed
    found = train(make_config(job["tables"]), place, resume=resume, force=changed)
    memory = peak_memory()  # before anything else is computed
    net = load(place / "model.pt")
    neurons = [math.prod(block.shape) for block in net.blocks]
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
    config, data, net = begin(config)
    if isinstance(data.split, ImageSplit):
        return {"cosines": [], "no_cosines": "its images are read while it trains"}
    trainer = make_trainer(config, data, net)
    trainer.open(data.split, validation=config.training.validation or None)
    try:
        return {"cosines": cosines(trainer), "no_cosines": ""}
    except OtttError as error:  # a network that BPTT has no gradient for
        return {"cosines": [], "no_cosines": str(error)}


def cosines(trainer: Trainer) -> list[float | None]:
    """Return the cosine of each layer's gradient with BPTT's, the readout last; None where a layer learns nothing.

    Both are gradients of one batch, the first 64 training samples, in float64 on a copy of the network, and of the
    trainer's loss with its class weights and teacher. BPTT has the membrane's whole past, its reset is a constant.
    ``trainer``: after :meth:`~ottt_loihi.training.trainer.Trainer.open`.

    Raises
    ------
    UsageError
        for a network or loss that one of the rules does not fit
    """
    net, samples = copy.deepcopy(trainer.net).double().train(), trainer.data
    batch = next(iter(samples.in_order(COMPARED)))
    x = samples.encoded(batch, net.time_steps, SEED).to(torch.float64)
    loss, found = trainer.loss_of(x.to(trainer.net.readout.weight)), []
    for rule in (trainer.rule, make_rule("bptt")):
        net.zero_grad()
        with torch.random.fork_rng([]):
            torch.manual_seed(SEED)  # both rules drop the same neurons
            rule.backward(net, x, torch.from_numpy(batch.y), loss)
        weights = [layer.weight for layer in (*(block.connection for block in net.blocks), net.readout)]
        found.append([None if weight.grad is None else weight.grad.flatten().clone() for weight in weights])
    learnt = [a is not None and b is not None and a.any() and b.any() for a, b in zip(*found)]
    pairs = zip(*found, learnt, strict=True)
    return [float(torch.cosine_similarity(a, b, 0)) if learns else None for a, b, learns in pairs]


def _on_chip(net: Any, check: int) -> dict[str, Any]:
    """Return the accuracy of the network as integers on ``check`` test samples, or why it cannot be exported."""
    from ottt_loihi.converters.export import Options, export

    if not check:
        return {"accuracy_chip": None, "reason": "not asked for"}
    try:
        found = export(net, Options(check=check, allow_dead=True)).agreement
    except OtttError as error:
        return {"accuracy_chip": None, "reason": str(error)}
    return {"accuracy_chip": None if found is None else found.accuracy_chip, "reason": ""}


def summarise(label: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row of the table: means over the seeds, and the accuracy's standard deviation."""
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
