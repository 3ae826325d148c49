"""The package under the names of a tree: of ca2cd2d, or of today. Who renames or moves something adapts this file.

:func:`open_tree` imports the package from a folder, installed or not; ``names.mlp`` … then are what both sides offer,
called as today's tree calls it.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# name here: (where it was in ca2cd2d, where it is today)
PLACES = {
    "mlp": ("architectures:mlp", "nn.models:mlp"),
    "conv": ("architectures:conv", "nn.models:conv"),
    "nf_resnet34": ("architectures:nf_resnet34", "nn.models:nf_resnet34"),
    "dsr": ("architectures:dsr", "nn.models:dsr"),
    "make_rule": ("rules:make_rule", "rules:make_rule"),
    "make_loss": ("losses:make_loss", "rules.losses:make_loss"),
    "Distilled": ("losses:Distilled", "rules.losses:Distilled"),
    "Trainer": ("trainer:Trainer", "training.trainer:Trainer"),
    "RunFolder": ("run_folder:RunFolder", "training.run_folder:RunFolder"),
    "evaluate": ("evaluation:evaluate", "training.evaluation:evaluate"),
    "load_data": ("data:load_data", "data:load_data"),
    "UsageError": ("errors:UsageError", "errors:UsageError"),
    "TrainingError": ("errors:TrainingError", "errors:TrainingError"),
    "ChipError": ("errors:ChipError", "errors:ChipError"),
    "from_torch": ("converters.float_network:from_torch", "converters.quantize.float_network:from_torch"),
    "quantize": ("converters.quantize:quantize", "converters.quantize.quantize:quantize"),
    "export": ("converters.export:export", "converters.export:export"),
    "ExportOptions": ("converters.export:Options", "converters.export:Options"),
    "host_messages": ("sim:host_messages", "sim:host_messages"),
    "as_messages": ("converters.samples:as_messages", "converters.samples:as_messages"),
    "run": ("sim:run", "sim:run"),
    "arithmetic": ("sim.arithmetic", "sim.arithmetic"),
    "network": ("sim.network", "sim.network"),
    "fresh_network": ("onchip.fresh:fresh_network", "onchip.network.fresh:fresh_network"),
    "make_plan": ("onchip.plan:make_plan", "onchip.network.trainable:make_plan"),
    "learning_network": ("onchip.scales:learning_network", "onchip.network.scales:learning_network"),
    "FEEDBACKS": ("onchip.plan:FEEDBACKS", "sim.learning.rule:FEEDBACKS"),
    "learn": ("onchip:learn", "onchip:learn"),
    "Settings": ("onchip:Settings", "onchip:Settings"),
    "ROUNDINGS": ("sim.learning:ROUNDINGS", "sim.learning.rule:ROUNDINGS"),
    "Learner": ("sim.learning:Learner", "sim.learning.learner:Learner"),
    "Rule": ("sim.learning_options:Options", "sim.learning.rule:Rule"),
    "Subspace": ("sim.subspace:Subspace", "sim.learning.subspace:Subspace"),
}
ARGUMENTS = {"mlp": {"beta": "decay"}, "conv": {"beta": "decay"}, "nf_resnet34": {"beta": "decay"}}
ARGUMENTS["learn"] = {"epochs": "passes"}  # today: ca2cd2d
PARAMETERS = {"synapse": "connection"}  # parts of a parameter's name, ca2cd2d: today


def open_tree(tree: Path) -> SimpleNamespace:
    """Return the package's objects, imported from this folder; an installed version of it plays no part."""
    package = tree / "ottt_loihi"
    spec = importlib.util.spec_from_file_location(
        "ottt_loihi", package / "__init__.py", submodule_search_locations=[str(package), str(tree)]
    )
    sys.modules["ottt_loihi"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    today = (package / "nn").is_dir()
    names = SimpleNamespace(**{name: _import(places[today]) for name, places in PLACES.items()})
    for name, renamed in {} if today else ARGUMENTS.items():
        setattr(names, name, _renaming(getattr(names, name), renamed))
    if today:  # the gain of all layers was 2
        names.fresh_network = partial(names.fresh_network, gain=2.0)
    names.learning_network = _learning_network(names, today)
    names.train_batch = lambda rule, net, x, labels, loss, optimizer: rule.train_batch(net, x, labels, loss, optimizer)
    if today:
        _choose_engines(names)
        names.host_messages = lambda chip, x: x  # every run applies the host's part itself
    names.parameters = parameters
    names.constant = _import("nn.inputs:ConstantInput") if today else _stretched
    return names


def _learning_network(names: SimpleNamespace, today: bool) -> Callable[..., Any]:
    """Return today's ``learning_network``, with the fields of its rule as arguments."""
    make = names.learning_network

    def before(plan: Any, rates: Any, *, subspaces: Any, feedback: str, seed: int, **others: Any) -> Any:
        more = others.pop("halve_every"), others.pop("rounding"), subspaces, names.Rule(**others)
        return make(plan, rates, feedback, seed, *more)

    def now(plan: Any, rates: Any, *, subspaces: Any, **rule: Any) -> Any:
        return make(plan, rates, names.Rule(**rule), subspaces)

    return now if today else before


def _choose_engines(names: SimpleNamespace) -> None:
    """Let a rule's ``stretch`` of ca2cd2d be the fast engine's chunk; all else runs on the plain engine."""
    make_rule, trainer, choose = names.make_rule, names.Trainer, _import("training.engine:choose")

    def settings(rule: Any) -> dict[str, Any]:
        return {"engine": "fast", "chunk": rule.stretch} if rule.stretch else {"engine": "plain"}

    def make(name: str, stretch: int = 0, **others: Any) -> Any:
        rule = make_rule(name, **others)
        rule.stretch = stretch
        return rule

    def train_batch(rule: Any, net: Any, x: Any, labels: Any, loss: Any, optimizer: Any) -> Any:
        engine = choose(net, rule, loss, x.shape[1], **settings(rule))
        if optimizer is None:
            return engine.backward(net, rule, x, labels, loss)
        return engine.train_batch(net, rule, x, labels, loss, optimizer)

    names.make_rule, names.train_batch = make, train_batch
    names.Trainer = lambda net, rule, **others: trainer(net, rule, **settings(rule), **others)


def parameters(net: Any) -> dict[str, Any]:
    """Return a network's parameters under today's names, sorted by them."""
    pattern = re.compile("|".join(PARAMETERS))
    found = {pattern.sub(lambda match: PARAMETERS[match[0]], name): p for name, p in net.named_parameters()}
    return dict(sorted(found.items()))


def _stretched(frame: Any, num_steps: int) -> Any:
    """Return a constant input as ca2cd2d knows it: a time axis of stride 0."""
    return frame.unsqueeze(1).expand(-1, num_steps, *frame.shape[1:])


def _import(place: str) -> Any:
    module, _, name = place.partition(":")
    found = importlib.import_module(f"ottt_loihi.{module}")
    return getattr(found, name) if name else found


def _renaming(function: Callable[..., Any], renamed: dict[str, str]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        return function(*arguments, **{renamed.get(name, name): value for name, value in settings.items()})

    return call
