"""A training run as a TOML file: which data, network, rule and settings.

::

    [data]                      [network]                   [rule]                  [training]
    name = "mnist"              name = "mlp"                name = "ottt"           epochs = 20
    encoding = "constant"       hidden = [800]              update = "sequence"     optimizer = "sgd"
                                time_steps = 6                                      learning_rate = 0.1

``[data]`` takes ``name``, ``encoding`` (a name, ``"delta:threshold=0.1"``, or a table
``{name = "delta", threshold = 0.1}``), ``scale`` and ``quantile`` (:func:`~ottt_loihi.data.prepare.prepare`),
``augmentations`` and the loader's own options; ``[network]``
the arguments of a function of ``ottt_loihi.nn.models`` (``mlp``: ``hidden`` in place of ``sizes``; the input's shape
and the number of classes come from the data); ``[rule]`` the settings of a class of ``ottt_loihi.rules``;
``[training]`` the fields of :class:`Training`. Everything has a default: an empty file is ``ottt-train`` without
options.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args, get_type_hints

from ottt_loihi import checks
from ottt_loihi.data import load_data
from ottt_loihi.data.codings import CODINGS, parse_coding
from ottt_loihi.data.prepare import Prepared, options_of, prepare
from ottt_loihi.data.registry import loader_options
from ottt_loihi.data.split import Split, held_out
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.models import ARCHITECTURES, PAPER, build, conv, with_current_names
from ottt_loihi.nn.network import Network
from ottt_loihi.rules import RULES, make_rule, rule_class
from ottt_loihi.rules.base import Rule
from ottt_loihi.rules.losses import CrossEntropy, Loss, make_loss
from ottt_loihi.toml import read_tables
from ottt_loihi.training.trainer import Trainer

TABLES = ("data", "network", "rule")  # and "training"


@dataclass(frozen=True)
class Training:
    """``[training]``: settings of :class:`~ottt_loihi.training.trainer.Trainer`, under their names, and of the run.

    None stands for the default of the loss, optimiser or teacher that has such a setting; a value for one that is not
    there is refused. 0 or an empty text stands for none.

    Attributes
    ----------
    validation
        share of the training samples that chooses ``best.pt`` and is not trained on, drawn with ``seed``
    stop_at, patience
        end the training at this validation accuracy, or after so many epochs without a better one
    mu, smoothing
        of the loss cross-entropy (:class:`~ottt_loihi.rules.losses.CrossEntropy`)
    threads
        of torch; the result may depend on it
    checkpoint_every
        batches between two saves of ``training.pt``, besides the one after every epoch
    freeze
        ``"hidden"``: hidden layers stay as they were drawn or loaded, and only the readout learns
    device
        torch's name, ``"cpu"`` or ``"cuda"``
    quantize
        bits of the weights in every product, as the chip will have them
    init, teacher
        a ``model.pt`` to start from, and one to learn from as well
    cuda_graph
        record the operations of a batch once and repeat them, on a GPU (:mod:`ottt_loihi.fast.cuda_graph`)
    """

    epochs: int = 60
    batch_size: int = 64
    validation: float = 0.1
    stop_at: float = 0.0
    patience: int = 0
    loss: str = "squared-error"
    mu: float | None = None
    smoothing: float | None = None
    class_weights: str | list = ""
    sampling: str = "shuffled"
    optimizer: str = "adam"
    learning_rate: float = 0.005
    momentum: float | None = None
    weight_decay: float = 0.0
    schedule: str = "cosine"
    clip_norm: float = 0.0
    clip_value: float = 0.0
    seed: int = 0
    workers: int = 0
    threads: int = 1
    checkpoint_every: int = 0
    freeze: str = ""
    device: str = "cpu"
    quantize: int = 0
    init: str = ""
    teacher: str = ""
    kappa: float | None = None
    temperature: float | None = None
    autocast: str = ""
    cuda_graph: bool = False
    engine: str = "auto"
    chunk: int = 0


@dataclass(frozen=True)
class Config:
    """The configuration of a run; ``data``, ``network`` and ``rule`` are the tables of the file."""

    data: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)
    training: Training = Training()

    def tables(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {**{name: dict(getattr(self, name)) for name in TABLES}, "training": asdict(self.training)}

    def load_data(self, folder: str | os.PathLike[str] | None = None) -> Split:
        """Return the data set, with a channel axis if the network has convolutions."""
        options, name = options_of(self.data), self.data.get("name", "digits")
        asked = self.data.get("encoding")
        timed = asked is not None and CODINGS[parse_coding(asked).name].time == "axis"
        if timed and "time_axis" in loader_options(name, folder):
            options.setdefault("time_axis", True)
        split = load_data(name, folder, **options)
        return split if self.network.get("name", "mlp") == "mlp" else split.with_channels()

    def prepare(self, split: Split) -> Prepared:
        """Return the data in the range of their coding, and the record of both."""
        quantile = checks.number(self.data.get("quantile", 0.0), "data.quantile", 0, 0.5, below=True)
        share, seed = self.training.validation, self.training.seed
        held = held_out(split.y_train, share, seed) if share else None
        return prepare(split, self.data.get("encoding"), self.data.get("scale", "auto"), quantile, held)

    def make_network(self, input_shape: tuple[int, ...], num_classes: int, num_steps: int | None = None) -> Network:
        """Return the network for such samples; ``num_steps``: T of samples with a time axis, else None."""
        name, arguments = _named(with_current_names(self.network), "mlp")
        checks.one_of(name, "network.name", tuple(ARCHITECTURES))
        known = _parameters(ARCHITECTURES[name])
        given = {"input_shape": list(input_shape), "seed": self.training.seed}
        if name == "mlp":
            hidden = arguments.pop("hidden", [128])
            if not isinstance(hidden, (list, tuple)):
                raise UsageError(f"network.hidden: expected a list of sizes, got {hidden!r}")
            given["sizes"], known = [math.prod(input_shape), *hidden, num_classes], [*known, "hidden"]
        else:
            given["num_classes"] = num_classes
        if num_steps is not None and arguments.setdefault("time_steps", num_steps) != num_steps:
            raise UsageError(
                f"network.time_steps: the samples have {num_steps} time steps, got {arguments['time_steps']}; "
                "leave it out, T is the data's"
            )
        _require_known("network", arguments, [k for k in known if k not in given])
        return build(name, {**arguments, **given})

    def make_loss(self) -> Loss:
        """Return the loss of every time step; :class:`UsageError` for an unknown one, or a setting that it has not."""
        given = {name: getattr(self.training, name) for name in ("mu", "smoothing")}
        given = {name: value for name, value in given.items() if value is not None}
        if self.training.loss == CrossEntropy.name:
            return CrossEntropy(**given)
        for name in given:
            raise UsageError(f"training.{name}: of the loss cross-entropy, got {self.training.loss!r}; leave it out")
        return make_loss(self.training.loss)

    def trainer_settings(self) -> dict[str, Any]:
        """Return the arguments of a :class:`~ottt_loihi.training.trainer.Trainer` that are settings."""
        names = inspect.signature(Trainer).parameters.keys() & {f.name for f in fields(Training)} - {"loss", "teacher"}
        settings = {name: getattr(self.training, name) for name in names}
        settings |= {name: settings[name] or None for name in ("chunk", "clip_norm", "clip_value", "class_weights")}
        return {"loss": self.make_loss(), "augmentations": self.data.get("augmentations", ()), **settings}

    def make_rule(self, convention: str) -> Rule:
        """Return the rule; ``convention``, the network's, is its default."""
        name, settings = _named(self.rule, "ottt")
        checks.one_of(name, "rule.name", tuple(RULES))
        known = _parameters(rule_class(name))
        _require_known("rule", settings, known)
        if "convention" in known and rule_class(name).shares_convention:
            settings.setdefault("convention", convention)
        return make_rule(name, **settings)


def read_config(path: str | os.PathLike[str]) -> Config:
    """Return the configuration of a TOML file.

    Raises
    ------
    FileError
        if it cannot be read or is no TOML
    UsageError
        for an unknown table or key (the message names the nearest known one) or a value of a wrong type
    """
    try:
        return make_config(read_tables(path))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def make_config(tables: Mapping[str, Any]) -> Config:
    """Return the configuration of a TOML file's tables."""
    _require_known("", tables, [f.name for f in fields(Config)])
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise UsageError(f"{name}: expected a table [{name}], got {table!r}")
    tables = _without_stretch(tables)
    training = dict(tables.get("training", {}))
    _require_known("training", training, [f.name for f in fields(Training)])
    kinds = get_type_hints(Training)
    for name, value in training.items():
        training[name] = _typed(f"training.{name}", value, get_args(kinds[name]) or (kinds[name],))
    parts = {name: dict(tables.get(name, {})) for name in TABLES}
    for name, table in parts.items():
        if not isinstance(table.get("name", ""), str):
            raise UsageError(f"{name}.name: expected a text, got {table['name']!r}")
    for name, low, high in (("seed", 0, checks.LARGEST_SEED), ("threads", 1, None)):  # before the trainer's own checks
        checks.integer(training.get(name, low), f"training.{name}", low, high)
    return Config(**parts, training=Training(**training))


def _without_stretch(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace ``rule.stretch`` of files of version 0.1.0 by ``training.chunk``."""
    rule = dict(tables.get("rule", {}))
    if "stretch" not in rule:
        return tables
    chunk = checks.integer(rule.pop("stretch"), "rule.stretch")
    warnings.warn(
        f"rule.stretch = {chunk} is training.chunk = {chunk} now; the default fits most networks", stacklevel=4
    )
    return {**tables, "rule": rule, "training": {"chunk": chunk, **tables.get("training", {})}}


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return ``config`` with changed values; ``changes``: ``"table.key"`` → value."""
    tables = config.tables()
    for place, value in changes.items():
        table, dot, key = place.partition(".")
        if not dot or table not in tables:
            raise UsageError(f"{place}: expected table.key, the table one of {', '.join(tables)}")
        tables[table][key] = value
    return make_config(tables)


def _named(table: Mapping[str, Any], default: str) -> tuple[str, dict[str, Any]]:
    """Return the entry ``name`` of a table, and the other entries."""
    rest = dict(table)
    return rest.pop("name", default), rest


def _parameters(function: Any) -> list[str]:
    """Return the names of a function's parameters; ``**settings`` stands for parameters of ``conv`` but ``PAPER``'s."""
    signature = inspect.signature(function).parameters
    names = [name for name, p in signature.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    if len(names) < len(signature):
        names += [name for name in inspect.signature(conv).parameters if name not in (*PAPER, *names)]
    return names


def _require_known(table: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse an unknown key of a table, naming the most similar known one."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known) or 'none'}"
            raise UsageError(f"{f'{table}.' if table else ''}{key}: unknown; {hint}")


def _typed(where: str, value: Any, kinds: tuple[type, ...]) -> Any:
    """Return a value of one of these types, or raise; an integer is a float too, a bool is no integer."""
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds):
        return value
    names = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
    raise UsageError(f"{where}: expected {names}, got {value!r}")
