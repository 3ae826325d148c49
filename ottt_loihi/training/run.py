"""A training from a configuration, in a folder: the work of ``ottt-train``."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ottt_loihi import checks
from ottt_loihi.data.codings import parse_coding
from ottt_loihi.data.description import DataDescription
from ottt_loihi.data.images import ImageSplit
from ottt_loihi.data.prepare import Prepared, options_of, prepare_like
from ottt_loihi.data.registry import located
from ottt_loihi.errors import UsageError, first_line
from ottt_loihi.files import require_writable
from ottt_loihi.nn.network import Network
from ottt_loihi.terminal import say
from ottt_loihi.training import distributed
from ottt_loihi.training.callbacks import Callback, EarlyStopping, Epoch, TensorBoard
from ottt_loihi.training.checkpoint import load
from ottt_loihi.training.config import Config, override
from ottt_loihi.training.distributed import Group
from ottt_loihi.training.encoding import choose_encoding
from ottt_loihi.training.evaluation import Evaluation, evaluate_samples
from ottt_loihi.training.run_folder import RunFolder
from ottt_loihi.training.sources import keep_description
from ottt_loihi.training.trainer import Trainer


def run(
    config: Config,
    output: Path,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    progress: bool = False,
    force: bool = False,
) -> dict[str, Any] | None:
    """Train as ``config`` says, in the folder ``output``; return the results, or None in any but the first process."""
    torch.set_num_threads(config.training.threads)
    group = distributed.join()
    try:
        return _train(config, output, group, resume, tensorboard, progress, force)
    finally:
        distributed.leave()


def _train(
    config: Config, output: Path, group: Group, resume: bool, tensorboard: bool, progress: bool, force: bool
) -> dict[str, Any] | None:
    training = config.training
    config, data, net = begin(config)
    split = data.split
    _move(net, training.device)
    net.provenance["data"] = located(str(config.data.get("name", "digits")))
    if options := options_of(config.data):
        net.provenance["data_options"] = options
    if note := keep_description(net, data.record):
        data = replace(data, notes=(*data.notes, note))
    if progress and group.leads:
        for note in data.notes:
            say(f"data: {note}")
        frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
        if training.init and frozen and not training.freeze:
            say(f"init: {', '.join(frozen)} are frozen in {training.init} and do not learn")
    folder = RunFolder(output)
    callbacks: list[Callback] = [TensorBoard(output)] if tensorboard else []
    if training.stop_at or training.patience:
        callbacks.append(EarlyStopping(training.stop_at or None, training.patience or None))
    if resume and force:
        raise UsageError("--resume continues the run and --force replaces it; choose one of the two")
    if group.leads:
        if folder.state.exists() and not (resume or force):
            raise UsageError(
                f"{output}: contains a run; --resume continues it, --force replaces it, -o names another folder"
            )
        require_writable(output)
    trainer = make_trainer(config, data, net, progress=progress, callbacks=callbacks, group=group)
    if training.cuda_graph:
        from ottt_loihi.fast.cuda_graph import GraphedRule

        trainer.rule = GraphedRule(trainer.rule)
    history = trainer.fit(
        split,
        epochs=training.epochs,
        validation=training.validation or None,
        run=folder,
        resume=resume,
        checkpoint_every=training.checkpoint_every,
    )
    if not group.leads:
        return None
    evaluation = evaluate_samples(net, trainer.test)
    return _result(config, trainer, history, evaluation, output) | {"notes": [*data.notes, *trainer.notes]}


def begin(config: Config) -> tuple[Config, Prepared, Network]:
    """Return what a training begins with: ``config`` with what ``training.init`` brings, the data, and the network.

    The network has the weights of ``training.init`` or new ones, ``training.quantize`` and ``training.freeze``.
    """
    training = config.training
    known = load(training.init) if training.init else None
    config = config if known is None else _continued(config, known)
    data = _data(config, known)
    net = known or config.make_network(data.input_shape, data.split.num_classes, data.split.num_steps)
    _require_fit(net, data)
    if training.quantize:
        net.quantize(training.quantize)
    freeze(net, training.freeze)
    return config, data, net


def make_trainer(config: Config, data: Prepared, net: Network, **more: Any) -> Trainer:
    """Return the trainer of a configuration; ``more``: arguments that no configuration has."""
    teacher, rule = config.training.teacher, config.make_rule(net.convention)
    more["teacher"] = load(teacher) if teacher else None
    return Trainer(net, rule, encoding=data.record.coding, **more, **config.trainer_settings())


def freeze(net: Network, layers: str) -> None:
    """Let only the readout learn if ``layers`` is ``"hidden"``; an empty text changes nothing."""
    if checks.one_of(layers or None, "training.freeze", ("hidden",), none=True):
        for block in net.blocks:
            block.requires_grad_(False)


def _data(config: Config, known: Network | None) -> Prepared:
    """Return the data as the configuration says, or in the form that a trained network has recorded."""
    split = config.load_data()
    if isinstance(split, ImageSplit):
        return _streamed(config, split)
    if known is not None and len(known.input_shape) == 3:
        split = split.with_channels()
    if known is None or known.data is None or not _same_coding(config, known.data):
        return config.prepare(split)
    split, notes = prepare_like(split, known.data)
    return Prepared(split, known.data, (*notes, f"{split.name}: as the network was trained: {known.data}"))


def _streamed(config: Config, split: ImageSplit) -> Prepared:
    """Return images that are read when they are needed, in [0, 1]."""
    coding = choose_encoding(config.data.get("encoding"), False)
    record = DataDescription(split.input_shape, split.num_classes, coding, "analog", (0.0, 1.0), None, None)
    record = replace(record, class_names=split.class_names)
    counts = f"{len(split.train):,} training and {len(split.test):,} test images, read when they are needed"
    return Prepared(split, record, (f"{split.name}: {counts}: {record}",))


def _same_coding(config: Config, record: DataDescription) -> bool:
    """Whether the configuration asks for no other coding than the recorded one."""
    asked = config.data.get("encoding")
    same = asked is None or parse_coding(asked) == record.coding or (asked == "frames" and record.time_axis)
    return same and not {"scale", "quantile"} & set(config.data)


def _require_fit(net: Network, data: Prepared) -> None:
    """Refuse data of another shape or number of time steps than the network takes."""
    if tuple(net.input_shape) != data.input_shape:
        raise UsageError(
            f"data: the network takes input of shape {tuple(net.input_shape)}, these give {data.input_shape}"
        )
    if data.record.time_axis and net.time_steps != data.record.time_steps:
        raise UsageError(
            f"data: the network takes {net.time_steps} time steps, the samples have {data.record.time_steps}"
        )


def _move(net: Network, device: str) -> None:
    """Move the network to a device of torch: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``."""
    try:
        if torch.device(device).type not in ("cpu", "cuda"):
            raise RuntimeError("no other kind is supported")
        net.to(device)
    except (RuntimeError, AssertionError) as error:  # torch's, for no driver, no such GPU, or a build without any
        raise UsageError(
            "training.device: expected 'cpu', 'cuda' or 'cuda:1', and it must be here; got "
            f"{device!r} ({first_line(error)}); ottt-doctor says what torch sees"
        ) from None


def _continued(config: Config, net: Network) -> Config:
    """Return ``config`` with the data and encoding of a trained network, unless it has others."""
    if config.network:
        raise UsageError(f"--init: the network comes from the model.pt; remove {', '.join(config.network)}")
    brought: dict[str, Any] = {}
    if "name" not in config.data and net.provenance.get("data") is not None:
        brought["data.name"] = net.provenance["data"]
        brought |= {f"data.{key}": value for key, value in net.provenance.get("data_options", {}).items()}
    encoding = net.provenance.get("encoding", {})
    if "encoding" not in config.data and encoding.get("name") is not None:
        brought["data.encoding"] = {key: encoding[key] for key in ("name", "options") if key in encoding}
    return override(config, brought)


def _result(
    config: Config, trainer: Trainer, history: list[Epoch], evaluation: Evaluation, output: Path
) -> dict[str, Any]:
    net = trainer.net
    read = [(net.num_classes,)] if net.readout.weight.numel() else []  # a readout may only count spikes
    layers = [net.input_shape, *(block.shape for block in net.blocks), *read]
    rows = [math.prod(layers[0]), *(shape[0] for shape in layers[1:] if len(shape) == 1)]
    validated = [epoch.validation_accuracy for epoch in history if epoch.validation_accuracy is not None]
    return {
        "model": str(output / "model.pt"),
        "data": net.provenance["data"],
        "network": net.provenance.get("network", "by hand"),
        "rule": net.provenance["training"]["rule"]["name"],
        "sizes": rows if len(rows) == len(layers) else None,
        "parameters": sum(p.numel() for p in net.parameters()),
        "time_steps": net.time_steps,
        "test_accuracy": evaluation.accuracy,
        "warnings": evaluation.warnings(() if net.data is None else net.data.class_names),
        "best_test_accuracy": max(epoch.test_accuracy or 0.0 for epoch in history),
        "best_validation_accuracy": max(validated, default=None),
        "train_accuracy": history[-1].train_accuracy,
        "spike_rates": evaluation.spike_rates,
        "synaptic_operations": evaluation.synaptic_operations,
        "epochs": len(history),
        "seconds": sum(epoch.seconds for epoch in history),
        "seed": config.training.seed,
    }
