"""The folder of a training run, and how a run is resumed from it.

==================  ==============================================================================================
file                content
==================  ==============================================================================================
``model.pt``        the network as it is at the end, or when Ctrl-C was pressed
``best.pt``         the network with the best validation accuracy so far; none without validation samples
``training.pt``     all that is needed to go on, bit for bit: weights, the data's description, the states of optimiser,
                    schedule, rule and callbacks, where the run is
``metrics.csv``     one line per epoch
==================  ==============================================================================================
"""

from __future__ import annotations

import copy
import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from ottt_loihi import checks
from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.files import write_text
from ottt_loihi.training.callbacks import Epoch, Fit, Progress, SaveModel
from ottt_loihi.training.checkpoint import assemble, metadata_of, read_tensors, save, tensors_of, write_tensors
from ottt_loihi.training.optimizers import OPTIMIZERS
from ottt_loihi.training.state import like, pack, unpack

FORMAT, VERSION = "ottt-loihi training", 2
DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, RuntimeError)


class RunFolder(SaveModel):
    """The folder of one run: a callback that saves the state after every epoch, the best network and the metrics.

    every: number of batches after which the state is saved, too; ``Trainer.fit`` sets it
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = checks.path(folder, "RunFolder")
        self.model, self.best = self.folder / "model.pt", self.folder / "best.pt"
        self.state, self.metrics = self.folder / "training.pt", self.folder / "metrics.csv"
        self.every = 0
        super().__init__(self.model)

    def on_batch_end(self, fit: Fit) -> None:
        done = fit.progress.batch
        if fit.leads and self.every and done % self.every == 0 and done < fit.batches:
            self.save_state(fit)

    def on_epoch_end(self, fit: Fit) -> None:
        if not fit.leads:
            return
        progress, last = fit.progress, fit.progress.history[-1]
        found = last.validation_accuracy
        if found is not None and (progress.best is None or found > progress.best):
            progress.best = found
            save(fit.trainer.net, self.best, fit.trainer.provenance(fit.epochs, progress.history))
        if progress.best is None:  # of a run that this one replaces
            self.best.unlink(missing_ok=True)
        self._write_metrics(progress.history)
        self.save_state(fit)

    def save_state(self, fit: Fit) -> None:
        """Write ``training.pt``."""
        trainer, net = fit.trainer, fit.trainer.net
        tensors = {f"net/{name}": value for name, value in tensors_of(net).items()}
        tensors |= {f"rule/{name}": value for name, value in trainer.rule.tensors().items()}
        states = {name: part.state_dict() for name, part in _parts(fit).items()}
        # functions in it are the new scheduler's own
        states["scheduler"] = {k: None if callable(v) else v for k, v in states["scheduler"].items()}
        metadata = {
            **metadata_of(net),
            "settings": trainer.settings(fit.epochs),
            "progress": asdict(fit.progress),
            "states": pack(states, "states", tensors),
        }
        write_tensors(self.state, FORMAT, VERSION, json.dumps(metadata, sort_keys=True), tensors)

    def load_state(self, fit: Fit) -> None:
        """Set network, rule, optimiser, schedule, callbacks and progress to where the run in this folder is.

        Raises
        ------
        FileError
            for a missing or damaged file, or one whose weights do not fit
        UsageError
            when the run in the folder has other settings or data; the message says which
        """
        metadata, tensors = read_tensors(self.state, FORMAT, VERSION)
        net = fit.trainer.net
        self._check_settings(metadata.get("settings"), fit.trainer.settings(fit.epochs))
        try:
            saved = assemble(self.state, metadata, _named(tensors, "net/"), copy.deepcopy(net))
            if saved.data and net.data and (found := saved.data.differences(net.data)):
                raise UsageError(f"{self.state}: a run with other data ({'; '.join(found)})")
            fit.trainer.rule.restore(_named(tensors, "rule/"))
            progress = _progress(metadata["progress"], metadata["settings"]["batch_size"])
            if "states" in metadata:
                states = unpack(metadata["states"], tensors)
            else:  # version 1
                states = _first_states(fit, progress, tensors, metadata["optimizer"])
            parts = _parts(fit)
            if other := sorted(states.keys() ^ parts.keys()):
                where = "it" if other[0] in states else "this call"
                raise UsageError(f"{self.state}: {', '.join(other)}: only in {where}")
            states["optimizer"] = _optimizer_state(fit.optimizer, states["optimizer"])
            states["scheduler"] = like(states["scheduler"], fit.scheduler.state_dict(), "scheduler")
            for name, part in parts.items():
                part.load_state_dict(states[name])
        except UsageError as error:
            raise UsageError(f"{error}; resume it with its own settings, or train into another folder") from None
        except DAMAGED as error:
            raise FileError(f"{self.state}: damaged, its state does not fit ({error})") from None
        net.load_state_dict(saved.state_dict())
        fit.progress = progress

    def _check_settings(self, found: Any, expected: Mapping[str, Any]) -> None:
        """Refuse other settings than the run's, apart from the number of epochs."""
        if not isinstance(found, dict):
            raise FileError(f"{self.state}: damaged, it lacks the settings")
        found, expected = dict(found), json.loads(json.dumps(expected))
        for name in ("engine", "samples"):  # runs of version 0.1.0 have neither, and the rule has `stretch`
            found.setdefault(name, expected.get(name))
        if isinstance(rule := found.get("rule"), dict):
            found["rule"] = {key: value for key, value in rule.items() if key != "stretch"}
        names = sorted((found.keys() | expected.keys()) - {"epochs"}, key=lambda name: (name == "engine", name))
        for name in names:  # the engine last: it follows from the other settings
            if found.get(name) != expected.get(name):
                raise UsageError(
                    f"{self.state}: this run was started with {name} = {found.get(name)!r}, now it is "
                    f"{expected.get(name)!r}; use the settings of the start, or another folder"
                )

    def _write_metrics(self, history: Sequence[Epoch]) -> None:
        text = io.StringIO()
        names = [f.name for f in fields(Epoch) if f.name != "spike_rates"]
        layers = len(history[-1].spike_rates)
        rows = csv.writer(text)
        rows.writerow([*names, *(f"spike_rate_{i + 1}" for i in range(layers))])
        for epoch in history:
            rows.writerow([*(getattr(epoch, name) for name in names), *epoch.spike_rates])
        write_text(self.metrics, text.getvalue())


def _parts(fit: Fit) -> dict[str, Any]:
    """Return the objects that have a state of their own, by name."""
    trainer = fit.trainer
    named = {f"callback {i + 1}, {type(c).__name__}": c for i, c in enumerate(trainer.callbacks)}
    return {"optimizer": fit.optimizer, "scheduler": fit.scheduler, "data": trainer.data, **named}


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _progress(saved: Mapping[str, Any], batch_size: int) -> Progress:
    history = [Epoch(**{**epoch, "spike_rates": tuple(epoch["spike_rates"])}) for epoch in saved["history"]]
    progress = Progress(**{"seen": saved["batch"] * batch_size, **saved, "history": history})
    if not (0 <= progress.epoch == len(history) and progress.batch >= 0 and progress.seen >= 0):
        raise ValueError(f"epoch {progress.epoch} of {len(history)}")
    return progress


def _optimizer_state(optimizer: torch.optim.Optimizer, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state if it fits this optimiser and its parameters, else raise a ValueError.

    What shapes optimisers of other classes than ours keep is not known (Adafactor: rows and columns).
    """
    known = type(optimizer) in OPTIMIZERS.values()
    shapes = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
    for index, values in found["state"].items():
        for key, value in values.items():
            shape = tuple(value.shape) if isinstance(value, Tensor) else ()
            fits = not known or shape in ((), shapes[int(index)])
            if not fits or (isinstance(value, Tensor) and not torch.isfinite(value).all()):
                raise ValueError(f"optimizer/{index}/{key} has shape {shape} or is not finite")
    groups = like(found["param_groups"], optimizer.state_dict()["param_groups"], "optimizer")
    return {"state": dict(found["state"]), "param_groups": groups}


def _first_states(
    fit: Fit, progress: Progress, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]
) -> dict[str, Any]:
    """Return the states of a file of version 1, which has only the optimiser's tensors and numbers."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*_named(tensors, "optimizer/").items(), *numbers.items()]:
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value.clone() if isinstance(value, Tensor) else float(value)
    for _ in range(progress.epoch):
        fit.scheduler.step()
    groups = fit.optimizer.state_dict()["param_groups"]
    states = {name: part.state_dict() for name, part in _parts(fit).items()}
    return {**states, "optimizer": {"state": state, "param_groups": groups}}
