"""A frozen backbone before dense layers that learn: the same in sim, Lava's models and its runtime; what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from networks import random_messages
from ottt_loihi.onchip import Settings, fresh_network, learn, repeat_in_lava
from ottt_loihi.onchip.network.backbone import cut, packed_spikes, predictions, unpacked
from ottt_loihi.onchip.network.schedule import Schedule
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim import storage
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.learning.weight_formats import make_plastic, to_inference
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal

from ottt_loihi.errors import ChipError, UsageError

pytestmark = pytest.mark.lava
T = 3


def network(graded=False, reset="subtract", recurrent=False, seed=0, hidden=(7,)):
    """conv 2@5×5, conv 3@3×3 (biased, reset by subtraction), then dense layers, all with inference weights."""
    rng = np.random.default_rng(seed)
    even = lambda *shape: 2 * rng.integers(-60, 90, shape)  # noqa: E731
    bias = rng.integers(-30, 60, (3, 3, 3))
    subtract = reset == "subtract"
    vth = np.array([60, 55]).reshape(2, 1, 1) * (100 if graded else 1)
    layers = [
        LIF((2, 5, 5), 4095, 2048, vth, name="conv 1"),
        LIF((3, 3, 3), 2047, 4096, 120, bias, 6, -(bias << 6), name="conv 2")
        if subtract
        else LIF((3, 3, 3), 4095, 2048, 120, bias, 6, name="conv 2"),
    ]
    connections = [
        Conv(INPUT, 0, even(2, 1, 3, 3), (1, 5, 5), padding=(1, 1), num_message_bits=8 if graded else 0),
        Conv(0, 1, even(3, 2, 3, 3), (2, 5, 5)),
    ]
    if subtract:
        connections.append(Diagonal(1, 1, np.full(27, -60)))
    if recurrent:
        connections.append(Dense(0, 0, 2 * rng.integers(-20, 21, (50, 50))))
    tail = fresh_network((27,), hidden, 4, T, resolution=64, seed=seed)
    for c in to_inference(tail).chip.connections:
        connections.append(replace(c, pre=c.pre + 2, post=c.post + 2))
    scale = tail.logit_scale
    return ChipNetwork((1, 5, 5), (*layers, *tail.layers), tuple(connections), T, "sum_v", logit_scale=scale)


def data(chip, count=10, seed=0):
    x = random_messages(chip, count, seed, 0.6)
    return x, np.random.default_rng(seed).integers(0, 4, count)


def test_the_cut_is_where_the_first_plastic_connection_is():
    chip = make_plastic(network())
    backbone, tail = cut(chip)
    assert [layer.name for layer in backbone.layers] == ["conv 1", "conv 2"]
    assert tail.input_shape == (3, 3, 3)
    assert [c.pre for c in tail.connections if isinstance(c, Dense)] == [INPUT, 0]
    x, _ = data(chip)
    spikes = reference.run(chip, x, ("s",)).states["s"][1]
    assert spikes.any()
    assert not spikes.all()
    packed = packed_spikes(backbone, x)
    np.testing.assert_array_equal(unpacked(tail, packed), spikes.swapaxes(0, 1))
    np.testing.assert_array_equal(predictions(tail, packed), reference.run(chip, x).predictions)
    assert cut(network()) == (None, network())


@pytest.mark.parametrize("layers", [["readout"], [3]])
def test_only_what_is_chosen_becomes_plastic_and_back(layers):
    chip = network()
    plastic = make_plastic(chip, layers=layers)
    kinds = [c.weight_format for c in plastic.connections if isinstance(c, Dense)]
    assert kinds == ["inference8", "learning9"]
    backbone, tail = cut(plastic)
    assert (len(backbone.layers), len(tail.layers)) == (3, 1)
    both = make_plastic(chip)
    half = to_inference(both, layers).chip
    assert [c.weight_format for c in half.connections if isinstance(c, Dense)] == ["learning9", "inference8"]
    for wrong, message in (([9], "no layer 9; layers are 0 to 3"), (["conv 2"], "conv 2.* has no dense inference")):
        with pytest.raises(UsageError, match=message):
            make_plastic(chip, layers=wrong)


@pytest.mark.parametrize(
    ("backbone", "hidden", "feedback", "epoch"), [(0, 1, "direct", 4), (2, 0, "direct", 4), (3, 2, "layerwise", 9)]
)
def test_a_frozen_layer_takes_one_phase(backbone, hidden, feedback, epoch):
    schedule = Schedule(hidden, feedback, backbone)
    assert schedule.epoch == epoch
    assert [schedule.backbone_phase(f) for f in range(backbone)] == list(range(2, backbone + 2))
    assert schedule.pre_phase(0) == backbone + 1
    assert schedule.update_phase(hidden) == backbone + hidden + 2


@pytest.mark.slow
@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize(("reset", "recurrent"), [("subtract", False), ("zero", True)])
def test_every_state_of_the_front_and_every_weight_equal_lavas(graded, reset, recurrent):
    """Epoch by epoch: the backbone's u, v, s are the exact simulator's; at the end everything is sim.learn's."""
    pytest.importorskip("lava.magma.core.process.process")
    from ottt_loihi.converters.lava.inprocess import InProcessRun
    from ottt_loihi.onchip.stream import Stream

    chip = make_plastic(network(graded, reset, recurrent), layers=[2, 3])
    plan, settings = make_plan(chip), Settings(shuffle=False, learn_when="always")
    x, labels = data(chip, 8)
    stream = Stream(plan, (x, labels), 1, settings)
    states = reference.run(chip, x, ("u", "v", "s")).states
    graph = stream.build()
    learner = stream.learner()
    with InProcessRun(graph.source) as run:
        for sample in range(len(x)):
            for t in range(T):
                run.steps(graph.epoch)
                for layer, neuron in enumerate(graph.backbone):
                    for name in "uvs":
                        expected = states[name][layer][t, sample].reshape(-1)
                        np.testing.assert_array_equal(run.get(getattr(neuron, name)), expected, f"{name}{layer} {t}")
        found = {name: run.get(var) for name, var in graph.variables().items()}
    learner.learn(*stream.part(0, stream.total))
    for name, value in learner.variables().items():
        np.testing.assert_array_equal(found[name], value, name)
    assert states["s"][0].any()
    assert (found["plastic[0].weights"] != plan.dense[0].weight).any()


@pytest.mark.parametrize("feedback", [pytest.param("random", marks=pytest.mark.slow), "symmetric"])
def test_backends_give_the_same_network_which_exports(feedback, tmp_path):
    pytest.importorskip("lava.magma.core.process.process")
    chip = make_plastic(network(hidden=(7, 6)))
    x, labels = data(chip)
    settings = Settings(feedback=feedback)
    sim, inprocess = (
        learn(chip, (x, labels), test=(x, labels), settings=settings, backend=b) for b in ("sim", "inprocess")
    )
    assert sim.chip == inprocess.chip
    assert sim.curve == inprocess.curve
    assert sim.counters == inprocess.counters
    assert [c for c in sim.chip.connections if c.post < 2] == [c for c in chip.connections if c.post < 2]
    assert sim.chip.layers == chip.layers
    assert sim.accuracy == (reference.run(sim.chip, x).predictions == labels).mean()
    twice = 2  # a network that has learnt is tested with a sample, then learns from it
    assert sim.steps == twice * len(x) * T * (2 + 2 + (3 if feedback == "random" else 4))
    assert sim.warnings is not None
    storage.save(sim.chip, tmp_path / "learnt.h5")
    assert storage.load(tmp_path / "learnt.h5") == sim.chip
    assert {c.weight_format for c in to_inference(sim.chip).chip.connections} == {"inference8"}


@pytest.mark.slow
@pytest.mark.parametrize("graded", [False, True])
def test_a_stretch_in_the_lava_runtime(graded):
    pytest.importorskip("lava.magma.core.process.process")
    chip = make_plastic(network(graded))
    assert repeat_in_lava(chip, data(chip), 60).variables > 15


def test_stopped_and_resumed_is_not_stopped(tmp_path):
    pytest.importorskip("lava.magma.core.process.process")
    chip = make_plastic(network())
    run = lambda folder, epochs, backend="sim", resume=False: learn(  # noqa: E731
        chip, data(chip), epochs=epochs, backend=backend, evaluate_every=5, checkpoint=tmp_path / folder, resume=resume
    )
    whole = run("whole", 3)
    run("parts", 1)
    run("parts", 2, "inprocess", resume=True)
    assert run("parts", 3, resume=True).chip == whole.chip != chip


class TestRefuses:
    def changed(self, function):
        chip = make_plastic(network())
        return replace(chip, connections=tuple(c for old in chip.connections for c in function(old)))

    def test_a_frozen_connection_behind_a_plastic_one(self):
        with pytest.raises(ChipError, match=r"connection layer\[2\]→layer\[3\].*only the first layers can stay frozen"):
            make_plan(make_plastic(network(), layers=[2]))

    def test_feedback_into_the_front_delays_and_shortcuts(self):
        back = Dense(2, 0, np.zeros((50, 7), int))
        late = Dense(0, 0, np.zeros((50, 50), int), delay=1)
        short = Dense(0, 2, np.zeros((7, 50), int), delay=1)
        for extra, message in (
            (back, "back into the frozen backbone"),
            (late, r"layer\[0\]→layer\[0\]: delay 1, 2 time steps"),
            (short, r"layer\[2\]: learning needs exactly one dense or sparse connection"),
        ):
            chip = make_plastic(network(), layers=[2, 3])
            with pytest.raises(ChipError, match=message):
                make_plan(replace(chip, connections=(*chip.connections, extra)))

    def test_a_hosts_part(self):
        chip = make_plastic(network())
        host = ChipNetwork((5,), (LIF((25,), 4095, 4096, 100),), (Dense(INPUT, 0, np.zeros((25, 5), int)),), 1)
        with pytest.raises(ChipError, match="export it with --input graded"):
            make_plan(replace(chip, host=host))

    def test_messages_out_of_range(self):
        chip = make_plastic(network(graded=True))
        x, labels = data(chip)
        with pytest.raises(UsageError, match="expected messages in"):
            learn(chip, (x * 100, labels))


@pytest.mark.slow
def test_the_command_learns_behind_convolutions(tmp_path):
    """Trained, exported with graded images, learnt on upside down with HLOP; the convolutions stay."""
    import json
    import subprocess
    import sys
    from pathlib import Path

    pytest.importorskip("torch")
    from ottt_loihi.converters.export import Options, export

    from ottt_loihi.data import load_digits
    from ottt_loihi.nn.models import conv
    from ottt_loihi.rules import make_rule
    from ottt_loihi.training.checkpoint import load
    from ottt_loihi.training.trainer import Trainer

    split = load_digits().with_channels()
    net = conv("8C3-AP2-16C3", input_shape=(1, 8, 8), num_classes=10, time_steps=4, surrogate="sigmoid", bias=True)
    net.provenance["data"] = "digits"
    trainer = Trainer(net, make_rule("ottt", update="sequence"), encoding="constant")
    trainer.fit(split.x_train, split.y_train, 8, checkpoint=tmp_path / "model.pt")
    chip = export(load(tmp_path / "model.pt"), Options(input_form="graded")).quantized.chip
    assert chip.connections[0].num_message_bits
    storage.save(chip, tmp_path / "model.h5")
    program = Path(sys.executable).with_name("ottt-learn")
    options = ["--transform", "upside-down", "--hlop", "20", "--epochs", "1", "--repeat-in-lava", "50", "--json"]
    line = [str(program), str(tmp_path / "model.h5"), *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["accuracy"] > summary["accuracy_before"] + 0.1
    assert summary["directions_protected"] == [20]
    assert summary["repeated_in_lava"]["variables"] > 8
    learnt = storage.load(tmp_path / "drift-learnt.h5")
    assert [c for c in learnt.connections if c.post < 2] == [c for c in chip.connections if c.post < 2]
