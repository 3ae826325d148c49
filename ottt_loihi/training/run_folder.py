"""What a training run leaves in its folder, and how it goes on from there.

==================  ==============================================================================================
file                content
==================  ==============================================================================================
``model.pt``        the network as it is at the end, or when Ctrl-C was pressed
``best.pt``         the network with the best test accuracy so far
``training.pt``     all that is needed to go on, bit for bit: weights, the optimiser's state, where the run is
``metrics.csv``     one line per epoch
==================  ==============================================================================================
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.files import atomic_write
from ottt_loihi.nn.models import with_current_names
from ottt_loihi.nn.network import Network
from ottt_loihi.rules.base import Rule
from ottt_loihi.training.checkpoint import assemble, read_tensors, save, tensors_of, write_tensors

FORMAT, VERSION = "ottt-loihi training", 1


@dataclass(frozen=True)
class Epoch:
    """One epoch.

    loss: mean Σ_t L[t] · train_accuracy: over the batches as they came · test_accuracy, spike_rates (per block, spikes
    per neuron and step): of the test set after it, None and empty without one · seconds, samples_per_second: of the
    training alone
    """

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float | None
    seconds: float
    learning_rate: float = 0.0
    samples_per_second: float = 0.0
    spike_rates: tuple[float, ...] = ()


@dataclass
class Progress:
    """Where a run is: ``epoch`` full epochs and ``batch`` batches of the next are done.

    loss, correct, seconds: sums over those batches · history: the full epochs · best: the best test accuracy so far
    """

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best: float | None = None


class RunFolder:
    """The folder of one run. ``settings``: JSON values that a resumed run must share (architecture, rule, seed …)."""

    def __init__(self, folder: str | os.PathLike[str], *, tensorboard: bool = False) -> None:
        self.folder = Path(folder)
        self.model, self.best = self.folder / "model.pt", self.folder / "best.pt"
        self.state, self.metrics = self.folder / "training.pt", self.folder / "metrics.csv"
        self.open_writer, self.writer = _tensorboard() if tensorboard else None, None

    def save_state(
        self,
        net: Network,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        settings: Mapping[str, Any],
        rule: Rule,
    ) -> None:
        """Write ``training.pt``, in place of the one before."""
        tensors = {f"net/{name}": value for name, value in tensors_of(net).items()}
        tensors |= {f"rule/{name}": value for name, value in rule.tensors().items()}
        numbers: dict[str, float] = {}
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{key}"] = value
                elif value is not None:
                    numbers[f"{index}/{key}"] = value
        metadata = {
            "architecture": net.architecture,
            "provenance": net.provenance,
            "settings": settings,
            "progress": asdict(progress),
            "optimizer": numbers,
        }
        write_tensors(self.state, FORMAT, VERSION, json.dumps(metadata, sort_keys=True), tensors)

    def load_state(
        self, net: Network, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any], rule: Rule
    ) -> Progress:
        """Set the network, the optimiser and the rule to where the run in this folder is.

        Raises
        ------
        FileError
            for a missing or damaged file, or one whose weights do not fit
        UsageError
            when the run in the folder has other settings; the message says which
        """
        metadata, tensors = read_tensors(self.state, FORMAT, VERSION)
        _check_settings(self.state, metadata.get("settings"), settings)
        whole = {"architecture": metadata.get("architecture"), "provenance": metadata.get("provenance")}
        try:
            weights = {name[4:]: tensor for name, tensor in tensors.items() if name.startswith("net/")}
            saved = assemble(self.state, whole, weights)
            learnt = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("rule/")}
            rule.restore(learnt)
            progress = _progress(metadata["progress"])
            state = _optimizer_state(optimizer, tensors, metadata["optimizer"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise FileError(f"{self.state}: damaged, its state does not fit ({error})") from None
        net.load_state_dict(saved.state_dict())
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return progress

    def save_model(self, net: Network, provenance: Mapping[str, Any]) -> None:
        """``model.pt``."""
        save(net, self.model, provenance)

    def end_epoch(self, net: Network, provenance: Mapping[str, Any], progress: Progress) -> None:
        """Record the last epoch of ``progress.history``; ``best.pt`` if it was the best."""
        last = progress.history[-1]
        if last.test_accuracy is not None and (progress.best is None or last.test_accuracy > progress.best):
            progress.best = last.test_accuracy
            save(net, self.best, provenance)
        self._write_metrics(progress.history)
        if self.open_writer is not None:
            # purge_step: what an interrupted run wrote of this epoch and later is not drawn twice
            self.writer = self.writer or self.open_writer(str(self.folder), purge_step=last.epoch)
            for name in ("loss", "train_accuracy", "test_accuracy", "learning_rate", "samples_per_second"):
                if (value := getattr(last, name)) is not None:
                    self.writer.add_scalar(name, value, last.epoch)
            for index, rate in enumerate(last.spike_rates):
                self.writer.add_scalar(f"spike_rate/{index + 1}", rate, last.epoch)
            self.writer.flush()

    def close(self) -> None:
        """Close what is open; the next epoch opens it again."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _write_metrics(self, history: Sequence[Epoch]) -> None:
        text = io.StringIO()
        names = [f.name for f in fields(Epoch) if f.name != "spike_rates"]
        layers = len(history[-1].spike_rates)
        rows = csv.writer(text)
        rows.writerow([*names, *(f"spike_rate_{i + 1}" for i in range(layers))])
        for epoch in history:
            rows.writerow([*(getattr(epoch, name) for name in names), *epoch.spike_rates])
        with atomic_write(self.metrics) as temporary:
            temporary.write_text(text.getvalue())


def _check_settings(path: Path, found: Any, expected: Mapping[str, Any]) -> None:
    if not isinstance(found, dict):
        raise FileError(f"{path}: damaged, it lacks the settings")
    found, expected = dict(found), json.loads(json.dumps(expected))
    if isinstance(architecture := found.get("architecture"), dict) and isinstance(architecture.get("arguments"), dict):
        found["architecture"] = {**architecture, "arguments": with_current_names(architecture["arguments"])}
    found.setdefault("engine", expected.get("engine"))  # runs of version 0.1.0 do not say it, and the rule says stretch
    if isinstance(rule := found.get("rule"), dict):
        found["rule"] = {key: value for key, value in rule.items() if key != "stretch"}
    for key in sorted(
        found.keys() | expected.keys(), key=lambda key: (key == "engine", key)
    ):  # it follows from the rest
        if key != "epochs" and found.get(key) != expected.get(key):
            raise UsageError(
                f"{path}: a run with {key} = {found.get(key)!r}, asked for is {expected.get(key)!r}; "
                "resume it with its own settings, or train into another folder"
            )


def _progress(saved: Mapping[str, Any]) -> Progress:
    history = [Epoch(**{**epoch, "spike_rates": tuple(epoch["spike_rates"])}) for epoch in saved["history"]]
    progress = Progress(**{**saved, "history": history})
    if not (0 <= progress.epoch == len(history) and progress.batch >= 0):
        raise ValueError(f"epoch {progress.epoch} of {len(history)}")
    return progress


def _optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]
) -> dict[int, dict[str, Any]]:
    shapes = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *((f"optimizer/{k}", v) for k, v in numbers.items())]:
        if not name.startswith("optimizer/"):
            continue
        _, index, key = name.split("/")
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        if shape not in ((), shapes[int(index)]) or (isinstance(value, Tensor) and not torch.isfinite(value).all()):
            raise ValueError(f"{name} has shape {shape} or is not finite")
        state.setdefault(int(index), {})[key] = value.clone() if isinstance(value, Tensor) else float(value)
    return state


def _tensorboard() -> Any:
    """TensorBoard's writer class, or the error before anything is trained."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("tensorboard: not installed; pip install tensorboard, or read metrics.csv") from None
    return SummaryWriter
