"""Trainings whose results are compared: every rule on every kind of network in float64, and the Trainer's runs."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

Arrays = dict[str, np.ndarray]
STEPS, SAMPLES, BATCHES = 4, 3, 2
IMAGE = {"input_shape": (2, 6, 6), "num_classes": 4, "time_steps": STEPS}
HLOP = {"rows": [3, 3, 3], "learning_rate": 0.02}

NETWORKS: dict[str, Any] = {
    "readout": lambda n, **s: n.mlp((12, 4), time_steps=STEPS, bias=True, **s),
    "mlp": lambda n, **s: n.mlp((12, 20, 16, 4), time_steps=STEPS, bias=True, **s),
    "mlp lambda 1": lambda n, **s: n.mlp((12, 20, 16, 4), time_steps=STEPS, bias=True, beta=1.0, **s),
    "mlp ties": lambda n, **s: n.mlp((12, 20, 16, 4), time_steps=STEPS, bias=True, **s),
    "standardized": lambda n, **s: n.mlp((12, 20, 16, 4), time_steps=STEPS, standardized=True, v_init=0.25, **s),
    "recurrent": lambda n, **s: n.mlp((12, 20, 16, 4), time_steps=STEPS, recurrent=True, **s),
    "equilibrium": lambda n, **s: n.mlp((12, 20, 4), time_steps=STEPS, recurrent=True, v_threshold=2.0, **s),
    "binary": lambda n, **s: n.mlp((12, 16, 16, 16, 4), time_steps=STEPS, binary="channel", shortcuts=True, **s),
    "conv": lambda n, **s: n.conv("6C3-AP2-8C3G2-12F", **IMAGE, **s),
    "stride": lambda n, **s: n.conv("6C3S2-5C2-GAP", bias=False, **IMAGE, **s),
    "vgg": lambda n, **s: n.conv("8C3-AP2-8C3-GAP", standardized=True, **IMAGE, **s),
    "vgg_f": lambda n, **s: n.conv("8C3-AP2-8C3-GAP", standardized=True, feedback=True, **IMAGE, **s),
    "vgg_f chip": lambda n, **s: n.conv(
        "8C3-AP2-8C3-GAP", standardized=True, feedback=True, feedback_delay="chip", **IMAGE, **s
    ),
    "resnet": lambda n, **s: n.nf_resnet34(4, input_shape=(2, 12, 12), stages=((4, 1), (6, 2)), time_steps=STEPS, **s),
    "dsr if": lambda n, **s: n.dsr((20, 16), input_shape=(12,), num_classes=4, v_threshold=1.0, time_steps=STEPS, **s),
    "dsr lif": lambda n, **s: n.dsr(
        (20, 16), input_shape=(12,), num_classes=4, kind="lif", v_threshold=0.3, alpha=0.3, time_steps=STEPS, **s
    ),
}
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "ottt step": ("ottt", {"update": "step"}),
    "ottt sequence": ("ottt", {"update": "sequence"}),
    "ottt stretch 2": ("ottt", {"update": "sequence", "stretch": 2}),
    "ottt stretch 8": ("ottt", {"update": "sequence", "stretch": 8}),
    "ottt hlop": ("ottt", {"update": "sequence", "hlop": HLOP}),
    "sltt step": ("sltt", {"update": "step"}),
    "sltt sequence": ("sltt", {"update": "sequence"}),
    "sltt k 2": ("sltt", {"k": 2}),
    "sltt stretch 8": ("sltt", {"stretch": 8}),
    "bptt detached": ("bptt", {"reset": "detached"}),
    "bptt attached": ("bptt", {"reset": "attached"}),
    "saf-e step": ("saf-e", {"update": "step"}),
    "saf-e sequence": ("saf-e", {"update": "sequence"}),
    "saf-f": ("saf-f", {}),
    "opzo estimated": ("opzo", {"momentum": 0.9}),
    "opzo random step": ("opzo", {"feedback": "random", "update": "step"}),
    "dsr exact": ("dsr", {"gradients": "exact"}),
    "dsr released": ("dsr", {"gradients": "released"}),
    "ide broyden": ("ide", {"not_converged": "continue"}),
    "ide damped": ("ide", {"solver": "damped", "not_converged": "continue"}),
    "spide": ("spide", {"not_converged": "continue"}),
}
CENTRAL = ("ottt step", "ottt sequence", "ottt stretch 8", "bptt detached")  # in all variants on every network
SMALL = ("readout", "mlp", "mlp ties", "recurrent")  # networks that all rules train in all variants
AUTHORS = ("ottt", "opzo")  # rules that know the convention of the released code


def every(names: SimpleNamespace) -> Iterator[tuple[str, Any]]:
    """Yield (name, function that returns arrays) of every training."""
    for network in NETWORKS:
        yield f"initial weights/{network}", lambda network=network: initial(names, network)
        for rule, (kind, _) in RULES.items():
            if network.startswith("dsr") and kind.startswith("saf"):  # ca2cd2d ends in an AttributeError
                continue
            yield f"training/{network}/{rule}", lambda a=(network, rule): training(names, *a)
            if network in SMALL or rule in CENTRAL:
                if not network.startswith("dsr"):
                    yield f"training/{network}/{rule}/zero", lambda a=(network, rule, "zero"): training(names, *a)
                if kind in AUTHORS:
                    case = network, rule, "subtract", "authors"
                    yield f"training/{network}/{rule}/authors", lambda a=case: training(names, *a)
    for surrogate in ("rectangle", "triangle", "sigmoid"):
        yield f"surrogate/{surrogate}", lambda s=surrogate: training(names, "mlp", "ottt step", surrogate=s)
    for rule in ("ottt sequence", "ottt stretch 2", "ottt step", "bptt detached", "opzo estimated"):
        yield f"constant input/{rule}", lambda rule=rule: training(names, "conv", rule, constant=True)
        yield f"dropout/{rule}", lambda rule=rule: training(names, "mlp", rule, dropout=0.3)
    yield "distilled", lambda: training(names, "mlp", "ottt sequence", distilled=True)
    for kind, options in TRAINERS.items():
        yield f"trainer/{kind}", lambda options=options: trainer(names, **options)
        yield f"trainer resumed/{kind}", lambda options=options: trainer(names, stop_after=5, **options)


def initial(names: SimpleNamespace, network: str) -> Arrays:
    """The weights a network begins with."""
    net = NETWORKS[network](names, seed=3)
    return {name: p.detach().numpy() for name, p in names.parameters(net).items()}


def make(names: SimpleNamespace, network: str, **settings: Any) -> Any:
    """A network in float64 whose weights follow from their names alone, so that many neurons fire."""
    net = NETWORKS[network](names, **settings).double()
    with torch.no_grad():
        for name, p in names.parameters(net).items():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            if p.ndim > 1:
                values = rng.normal(0.05, 1.5 / np.sqrt(p[0].numel()), p.shape)
                values *= 0.2 if network == "equilibrium" and "branches" in name else 1.0
            elif p.ndim == 1:
                values = rng.uniform(0.5, 2.0, p.shape) if "gain" in name else rng.uniform(-0.1, 0.4, p.shape)
            else:
                continue
            p.copy_(torch.from_numpy(np.round(values * 4) / 4 if network.endswith("ties") else values))
    return net


def batch(names: SimpleNamespace, net: Any, number: int, constant: bool = False) -> tuple[Any, torch.Tensor]:
    """Spikes, or pixels that stay constant, float64; labels."""
    rng = np.random.default_rng([7, number])
    labels = torch.from_numpy(rng.integers(0, net.num_classes, SAMPLES))
    if constant:
        return names.constant(torch.from_numpy(rng.random((SAMPLES, *net.input_shape))), STEPS), labels
    x = rng.random((SAMPLES, STEPS, *net.input_shape))
    return torch.from_numpy((x < 0.4).astype(np.float64)), labels


def training(
    names: SimpleNamespace,
    network: str,
    rule_name: str,
    reset: str = "subtract",
    convention: str = "paper",
    constant: bool = False,
    distilled: bool = False,
    **settings: Any,
) -> Arrays:
    """Gradients of one batch, then the weights after some with momentum."""
    kind, options = RULES[rule_name]
    if not network.startswith("dsr"):
        settings |= {"reset": reset, "convention": convention}
    net = make(names, network, **settings).train()
    options = options | ({"convention": convention} if kind in AUTHORS else {})
    rule = names.make_rule(kind, **options)
    loss = names.make_loss("cross-entropy" if rule_name.endswith("step") else "squared-error")
    if distilled:
        teacher = torch.from_numpy(np.random.default_rng(2).normal(size=(SAMPLES, net.num_classes)))
        loss = names.Distilled(loss, teacher, 0.5, 2.0)
    torch.manual_seed(11)  # of dropout, of SLTT-K's steps and of OPZO's noise
    found: Arrays = {}
    if "hlop" not in rule_name:  # which learns from its own inputs, with an optimiser or without
        names.train_batch(rule, net, *batch(names, net, 0, constant), loss, None)
        found["gradients"] = _flat([p.grad for p in names.parameters(net).values()])
    rate = 0.005 if network.startswith("dsr") else 0.05
    optimizer = torch.optim.SGD(net.parameters(), rate, 0.9)
    losses = []
    for number in range(BATCHES):
        if "hlop" in rule_name and number == 1:  # the second task begins, with an optimiser of its own
            rule.hlop.end_task()
            optimizer = torch.optim.SGD(net.parameters(), rate, 0.9)
        result = names.train_batch(rule, net, *batch(names, net, number, constant), loss, optimizer)
        losses.append(result.loss.reshape(1))
    found["weights"] = _flat(names.parameters(net).values())
    found["losses"], found["scores"] = _flat(losses), result.scores.detach().numpy()
    found |= {f"rule {key}": value.numpy() for key, value in sorted(rule.tensors().items())}
    net.eval()
    with torch.no_grad():
        run = net.run(batch(names, net, 9)[0], record=("u", "s"))
    found["spikes"] = np.array([int(s.sum()) for s in run.states["s"]])
    if network.endswith("ties"):
        found["ties"] = _ties(names, make(names, network, **settings).eval())
    return found


def _ties(names: SimpleNamespace, net: Any) -> np.ndarray:
    """How many membranes of every block meet the threshold exactly."""
    with torch.no_grad():
        states = net.run(batch(names, net, 0)[0], record=("u",)).states["u"]
    ties = np.array([int((u == 1).sum()) for u in states])
    if not ties.all():
        raise AssertionError(f"no membrane is at the threshold: {ties}")
    return ties


TRAINERS: dict[str, dict[str, Any]] = {
    "rate": {},
    "rate sgd": {"optimizer": "sgd", "learning_rate": 0.1},
    "constant": {"encoding": "constant", "rule": ("ottt", {"update": "step"})},
    "stretch": {"rule": ("ottt", {"update": "sequence", "stretch": 4})},
    "saf-f": {"rule": ("saf-f", {})},
    "opzo": {"rule": ("opzo", {})},
    "dsr": {"rule": ("dsr", {}), "network": "dsr"},
    "conv augmented": {"network": "conv", "augmentations": ("flip",)},
    "4 bits": {"bits": 4},
    "teacher": {"teacher": True},
    "dropout": {"dropout": 0.3},
}


class Stopped(Exception):
    """A run ends in the middle of an epoch."""


def trainer(
    names: SimpleNamespace,
    *,
    network: str = "mlp",
    rule: tuple[str, dict[str, Any]] = ("ottt", {}),
    bits: int | None = None,
    teacher: bool = False,
    dropout: float = 0.0,
    stop_after: int = 0,
    **settings: Any,
) -> Arrays:
    """Two epochs on 60 digits in float32; with ``stop_after`` batches a run that is stopped then, and resumed."""
    split = names.load_data("digits").first(60, 40)
    shape = tuple(split.x_train.shape[1:])

    def new() -> Any:
        if network == "conv":
            net = names.conv("4C3-AP2-8F", input_shape=(1, 8, 8), time_steps=STEPS, seed=2)
        elif network == "dsr":
            net = names.dsr((20,), input_shape=shape, v_threshold=1.0, time_steps=STEPS, seed=2)
        else:
            net = names.mlp((64, 20, 10), input_shape=shape, time_steps=STEPS, dropout=dropout, bias=True, seed=2)
        if bits is not None:
            net.quantize(bits)
        return net

    def trainer_of(net: Any) -> Any:
        more = {"teacher": names.mlp((64, 12, 10), input_shape=shape, time_steps=STEPS, seed=5)} if teacher else {}
        return names.Trainer(net, names.make_rule(rule[0], **rule[1]), batch_size=8, seed=4, **settings, **more)

    x = split.x_train.reshape(-1, 1, 8, 8) if network == "conv" else split.x_train
    x_test = split.x_test.reshape(-1, 1, 8, 8) if network == "conv" else split.x_test
    net = new()
    with tempfile.TemporaryDirectory() as folder:
        if stop_after:
            first = trainer_of(new())
            _stop_after(first, stop_after)
            try:
                first.fit(x, split.y_train, 2, run=names.RunFolder(folder), checkpoint_every=3)
            except Stopped:
                pass
            else:
                raise AssertionError("the run was not stopped")
        history = trainer_of(net).fit(
            x, split.y_train, 2, run=names.RunFolder(folder), resume=bool(stop_after), checkpoint_every=3
        )
    found = names.evaluate(net, x_test, split.y_test)
    return {
        "weights": _flat(names.parameters(net).values()),
        "losses": np.array([epoch.loss for epoch in history], np.float32),
        "test": np.array([found.accuracy, *found.spike_rates]),
    }


def _stop_after(trainer: Any, batches: int) -> None:
    done, learn = [], trainer._batch

    def stopping(*arguments: Any) -> Any:
        done.append(1)
        if len(done) > batches:
            raise Stopped
        return learn(*arguments)

    trainer._batch = stopping


def _flat(tensors: Any) -> np.ndarray:
    return np.concatenate([np.asarray(t.detach()).reshape(-1) for t in tensors])
