"""lava-dl's .net: what we write netx runs, what lava-dl wrote we run, and damaged files are refused."""

import contextlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import assert_one_line, run_here
from corruption import assert_only_our_errors
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_messages
from ottt_loihi.converters.netx import read as netx_reader
from ottt_loihi.converters.netx import weights as netx_weights
from ottt_loihi.converters.netx import write as netx
from ottt_loihi.converters.samples import chip_samples, drawn
from ottt_loihi.converters.verify import compare
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal

from ottt_loihi import sim
from ottt_loihi.data import load_data
from ottt_loihi.errors import ChipError, FileError, UnsafeFileError, UsageError


@st.composite
def netx_networks(draw):
    """What .net can hold: convolutions, then dense layers, some with recurrence or reset by subtraction."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layers, connections, shape = [], [], (draw(st.integers(1, 3)),)
    if draw(st.booleans()):
        shape = (draw(st.sampled_from([1, 2])), 5, 6)
        groups = draw(st.sampled_from([1, shape[0]]))
        weight = even(rng, (2 * groups, shape[0] // groups, 3, 2))
        stride, padding = (draw(st.integers(1, 2)), 1), (1, draw(st.integers(0, 1)))
        conv = Conv(INPUT, 0, weight, shape, stride, padding, (1, 1), groups)
        connections.append(conv)
        bias = rng.integers(-50, 50, (conv.output_shape[0], 1, 1)) if draw(st.booleans()) else 0
        layers.append(LIF(conv.output_shape, 4095, 1024, draw(st.integers(50, 400)), bias, 6))
    input_shape, size = shape, layers[-1].size if layers else shape[0]
    for _ in range(draw(st.integers(1, 2))):
        index, wide = len(layers), draw(st.integers(1, 5))
        connections.append(Dense(index - 1 if index else INPUT, index, even(rng, (wide, size))))
        kind = draw(st.sampled_from(["plain", "subtract", "recurrent"]))
        vth = 2 * draw(st.integers(20, 200))
        if kind == "subtract":
            connections.append(Diagonal(index, index, np.full(wide, -vth // 2 // 2 * 2)))
        elif kind == "recurrent":
            connections.append(Dense(index, index, even(rng, (wide, wide))))
        du, dv = (2047, 4096) if kind == "subtract" else (4095, 2048)
        layers.append(LIF((wide,), du, dv, vth, rng.integers(-30, 30, wide) * draw(st.integers(0, 1)), 6))
        size = wide
    return ChipNetwork(input_shape, tuple(layers), tuple(connections), draw(st.integers(2, 5)), "spike_count")


def even(rng, shape):
    """Mixed weights of at least one positive and one negative, as netx wants them."""
    weight = 2 * rng.integers(-100, 100, shape)
    weight.reshape(-1)[0] = 200
    weight.reshape(-1)[-1] = -200 if weight.size > 1 else 200
    return weight


def plain(chip):
    """The network without what .net does not hold: provenance and names; a diagonal as the matrix that it is."""
    connections = tuple(
        Dense(c.pre, c.post, np.diag(c.weight)) if isinstance(c, Diagonal) else c for c in chip.connections
    )
    layers = tuple(replace(layer, name="layer", bias_exp=6) for layer in chip.layers)
    return replace(chip, layers=layers, connections=connections, provenance={})


@settings(max_examples=60, deadline=None)
@given(chip=netx_networks())
def test_there_and_back(chip, tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "a.net"
    netx.write(chip, path)
    again = netx_reader.read(path, chip.num_steps, chip.input_shape, chip.readout)
    assert again.notes == []
    assert plain(again.chip) == plain(chip)


@pytest.mark.lava
@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(chip=netx_networks(), seed=st.integers(0, 100))
def test_netx_runs_the_same_states(chip, seed, tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "a.net"
    netx.write(chip, path)
    x = random_messages(chip, 2, seed)
    found = netx.run(chip, path, x, ("u", "v", "s"))
    comparison = compare(chip, sim.run(chip, x, ("u", "v", "s")), found)
    assert comparison.different == 0, str(comparison.first)


@pytest.fixture(scope="module")
def lava_dl(real_data, tmp_path_factory):
    """lava-dl's own ground truths."""
    archive = real_data("lava-dl") / "lava-dl" / "tinynet_dense.tar.xz"
    folder = tmp_path_factory.mktemp("ground_truth")
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if member.isfile():
                (folder / Path(member.name).name).parent.mkdir(exist_ok=True)
                name = "-".join(Path(member.name).parts[-2:])
                (folder / name).write_bytes(tar.extractfile(member).read())
    return folder


def test_lava_dls_convolutional_ground_truth(lava_dl):
    """Three layers with biases and odd weights: every spike of lava-dl's files, whose first frame is before step 1."""
    imported = netx_reader.read(lava_dl / "tinynet-tiny.net", 15)
    assert imported.chip.input_transform == (36.0, 34.0)
    current = np.load(lava_dl / "tinynet-input_bias.npy").astype(np.int32).transpose(2, 1, 0)
    result = sim.run(imported.chip, np.broadcast_to(current, (1, 15, 3, 16, 16)), ("s",))
    for found, name in zip(result.states["s"], ("input", "layer1", "output"), strict=True):
        truth = np.load(lava_dl / f"tinynet-{name}.npy")[0] > 0
        np.testing.assert_array_equal(np.moveaxis(found[:, 0], 0, -1), truth[..., 1:])
        assert truth.mean() > 0.1


def test_lava_dls_dense_ground_truth(lava_dl, tmp_path):
    """200 → 256 over 2,000 steps."""
    weight = np.load(lava_dl / "dense-weight.npy")
    with h5py.File(tmp_path / "dense.net", "w") as file:
        for name, value in {"shape": [256], "weight": weight}.items():
            file[f"layer/0/{name}"] = value
        file["layer/0/type"] = "dense"
        for name, value in {"type": "CUBA", "iDecay": 4096, "vDecay": 415, "vThMant": 6}.items():
            file[f"layer/0/neuron/{name}"] = value
    chip = netx_reader.read(tmp_path / "dense.net", 1999).chip
    x = np.load(lava_dl / "dense-in.npy").T[None].astype(np.uint8)
    found = sim.run(chip, x[:, :-1], ("s",)).states["s"][0][:, 0]
    np.testing.assert_array_equal(found, np.load(lava_dl / "dense-out.npy").T[1:] > 0)


@pytest.fixture
def net_file(tmp_path):
    rng = np.random.default_rng(0)
    conv = Conv(INPUT, 0, even(rng, (2, 1, 3, 3)), (1, 4, 4))
    layers = (LIF((2, 2, 2), 4095, 1024, 100, 3, 6), LIF((3,), 4095, 2048, 90))
    chip = ChipNetwork((1, 4, 4), layers, (conv, Dense(0, 1, even(rng, (3, 8)))), 4, "spike_count")
    netx.write(chip, tmp_path / "a.net")
    return tmp_path / "a.net"


def test_damaged_files_are_refused(net_file, tmp_path):
    content = net_file.read_bytes()
    assert assert_only_our_errors(lambda p: _read(p), tmp_path / "b.net", content, count=150) > 20


def _read(path):
    with contextlib.suppress(ChipError):  # a readable file of something else
        netx_reader.read(path, 4)


def edited(path, **changes):
    """The file with datasets replaced (``layer__1__weight=…``), or removed where None is given."""
    with h5py.File(path, "a") as file:
        for name, value in changes.items():
            place = name.replace("__", "/")
            if place in file:
                del file[place]
            if value is not None:
                file[place] = value
    return path


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"layer__1__type": "pool"}, ChipError, r"netx itself cannot load .* 'pool'; fold"),
        ({"layer__1__type": "warp"}, ChipError, "'warp' is unknown"),
        ({"layer__3__neuron__type": "SDNN"}, ChipError, "'SDNN' has no counterpart"),
        ({"layer__3__neuron__gradedSpike": True}, ChipError, "graded spikes"),
        ({"layer__3__neuron__vThMant": np.arange(3)}, ChipError, "one number for all neurons"),
        ({"layer__3__weight": np.full((3, 8), 0.5)}, FileError, "whole numbers"),
        ({"layer__3__weight": np.full((3, 9), 2)}, FileError, "9 inputs, but the layer before has 8"),
        ({"layer__1__shape": [2, 3, 3]}, FileError, "but the convolution gives"),
        ({"layer__3__neuron__vDecay": 5000}, ChipError, "dv"),
        ({"layer__1__weight": h5py.SoftLink("/layer/3/weight")}, UnsafeFileError, "refused"),
        ({"layer__1__weight": h5py.ExternalLink("other.h5", "/x")}, UnsafeFileError, "refused"),
        ({"layer__3": None}, None, ""),
        ({"layer": None}, FileError, "missing"),
    ],
)
def test_what_cannot_be_read_is_named(net_file, changes, error, says):
    edited(net_file, **changes)
    if error is None:
        assert len(netx_reader.read(net_file, 4).chip.layers) == 1
        return
    with pytest.raises(error, match=says):
        netx_reader.read(net_file, 4)


def test_texts_of_both_kinds_are_read_and_none_that_is_too_long(net_file):
    edited(net_file, layer__1__type=np.array([b"conv"], "S10"))
    assert isinstance(netx_reader.read(net_file, 4).chip.connections[0], Conv)
    edited(net_file, layer__1__type="x" * 70_000)
    with pytest.raises(FileError, match="heap is damaged"):
        netx_reader.read(net_file, 4)


def test_delays_and_an_integrator(net_file):
    """Axonal delays become one connection for each; a layer without neurons integrates."""
    edited(net_file, layer__3__delay=[0, 2, 2], layer__3__neuron=None)
    imported = netx_reader.read(net_file, 4)
    assert [c.delay for c in imported.chip.connections[1:]] == [0, 2]
    assert imported.chip.readout == "last_v"
    assert (imported.chip.layers[1].du, imported.chip.layers[1].dv) == (-1, 4096)
    assert any("integrates" in note for note in imported.notes)


def test_weights_that_netx_changes_are_counted(net_file):
    edited(net_file, layer__3__weight=np.array([[201, -300, 4, 4, 4, 4, 4, 4]] * 3))
    imported = netx_reader.read(net_file, 4)
    assert imported.chip.connections[1].weight[0].tolist() == [200, -256, 4, 4, 4, 4, 4, 4]
    assert imported.notes == [
        "layer/3: netx changes 3 of 24 weights, which do not fit into 8 bits",
        "layer/3: 3 of 24 weights are odd and of 9 bits, which no chip has: rounded down",
    ]


KINDS_OF_WEIGHTS = {
    "even": lambda rng, size, top: 2 * rng.integers(-top // 2, top // 2 + 1, size),
    "mixed": lambda rng, size, top: rng.integers(-top, top + 1, size),
    "excitatory": lambda rng, size, top: rng.integers(0, top + 1, size),
    "inhibitory": lambda rng, size, top: -rng.integers(0, top + 1, size),
    "negative": lambda rng, size, top: -rng.integers(1, top + 1, size),
    "diagonal": lambda rng, size, top: -top * np.eye(*size, dtype=int),
}


@pytest.mark.lava
@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(sorted(KINDS_OF_WEIGHTS)), min_size=1, max_size=2),
    st.tuples(*[st.sampled_from([1, 3, 31, 32, 63, 64, 100, 127, 128, 130, 200, 254, 255, 256, 300])] * 2),
)
def test_loaded_weights_are_those_of_lava_dl_and_lava(seed, kinds, tops):
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.utils import weightutils

    rng = np.random.default_rng(seed)
    parts = [KINDS_OF_WEIGHTS[kind](rng, (3, 3), top) for kind, top in zip(kinds, tops)]
    if not np.hstack(parts).any():
        with pytest.raises(ChipError, match="all 0"):
            netx_weights.loaded(*parts)
        return
    with np.errstate(divide="ignore"):
        whole, bits, exponent, _ = optimize_weight_bits(np.hstack(parts))
    expected = []
    for part in np.split(whole, len(parts), axis=1):
        mode = weightutils.determine_sign_mode(part)
        expected.append(weightutils.truncate_weights(weightutils.clip_weights(part, mode, 8), mode, bits))
    found, found_exponent = netx_weights.loaded(*parts)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a * 2.0**found_exponent, b * 2.0**exponent)


def soft_reset(weight, inhibition, vth=200):
    layers = (LIF((2,), 2047, 4096, vth, 0, 6),)
    connections = (Dense(INPUT, 0, np.array(weight)), Diagonal(0, 0, np.full(2, -inhibition)))
    return ChipNetwork((2,), layers, connections, 5, "spike_count")


def test_a_reset_that_netx_would_change_is_refused(tmp_path):
    """Weights of 7 bits are doubled there, the inhibition to −256, which a matrix of one sign does not hold."""
    chip = soft_reset([[100, -100], [60, 100]], 128)
    says = r"layer\[0\]→layer\[0\]: netx would compute with -126 in place of the weight -128; use model.h5, or export"
    with pytest.raises(ChipError, match=says):
        netx.write(chip, tmp_path / "a.net")
    assert not (tmp_path / "a.net").exists()
    netx.write(soft_reset([[100, -100], [60, 100]], 126), tmp_path / "a.net")
    netx.write(soft_reset([[130, -100], [60, 100]], 128), tmp_path / "a.net")
    with pytest.raises(ChipError, match="netx does not load a layer whose weights are all 0"):
        netx.write(replace(chip, connections=(Dense(INPUT, 0, np.zeros((2, 2), int)),)), tmp_path / "b.net")


@pytest.mark.lava
@pytest.mark.parametrize("weight", [[[100, -100], [60, 100]], [[101, -99], [61, 100]], [[201, -100], [60, 101]]])
def test_a_file_with_such_a_reset_is_read_as_netx_runs_it(weight, tmp_path):
    path = tmp_path / "a.net"
    netx.write(soft_reset([[130, -100], [60, 100]], 128), path)
    edited(path, layer__0__weight=np.array(weight))
    imported = netx_reader.read(path, 5, (2,))
    assert imported.notes
    odd = "9 bits" in " ".join(imported.notes)  # Lava's simulator has them
    x = np.ones((1, 5, 2), np.int32)
    found = netx.run(imported.chip, path, x, ("u", "v", "s"))
    comparison = compare(imported.chip, sim.run(imported.chip, x, ("u", "v", "s")), found)
    assert (comparison.different == 0) is not odd


def test_what_net_cannot_hold_is_refused():
    conv = Conv(INPUT, 0, np.full((2, 1, 3, 3), 2), (1, 4, 4))
    chip = ChipNetwork((1, 4, 4), (LIF((2, 2, 2), 2047, 4096, 8),), (conv, Diagonal(0, 0, np.full(8, -4))), 4)
    with pytest.raises(ChipError, match="no recurrent connection of a convolution"):
        netx.write(chip, io.BytesIO())


def scaling_net(path):
    """64 inputs of weight·x + bias = 20·x − 3, read by ten neurons."""
    rng = np.random.default_rng(3)
    neuron = {"type": "CUBA", "iDecay": 4096, "vDecay": 1000, "vThMant": 20}
    with h5py.File(path, "w") as file:
        for index, (kind, parts) in enumerate(
            (
                ("input", {"shape": [64], "weight": [20.0], "bias": [-3.0]}),
                ("dense", {"shape": [10], "weight": even(rng, (10, 64))}),
            )
        ):
            for name, value in {"type": kind, **parts}.items():
                file[f"layer/{index}/{name}"] = value
            for name, value in neuron.items():
                file[f"layer/{index}/neuron/{name}"] = value
    return path


def test_a_scaling_that_the_file_describes_is_applied(tmp_path):
    chip = netx_reader.read(scaling_net(tmp_path / "a.net"), 4).chip
    with pytest.raises(UsageError, match=r"computes 20·x \+ -3 of its input.*--input-range"):
        chip_samples(chip, "digits", 5)
    x, labels = chip_samples(chip, "digits", 5, input_range=(-1, 1))
    split, chosen = load_data("digits"), drawn(len(load_data("digits").x_test), 5)
    images = split.x_test[chosen].reshape(5, 64)
    np.testing.assert_array_equal(labels, split.y_test[chosen])
    for step in range(4):
        np.testing.assert_array_equal(x[:, step], np.round(20 * (2 * images - 1) - 3))
    assert (chip_samples(chip, "digits", 5, input_range=(0, 1))[0][:, 0] == np.round(20 * images - 3)).all()
    with pytest.raises(UsageError, match=r"a bias holds -4096 … 4095; is --input-range -999,1 right"):
        chip_samples(chip, "digits", 5, input_range=(-999, 1))
    other = replace(chip, input_transform=None)
    with pytest.raises(UsageError, match="describes no scaling"):
        chip_samples(other, "digits", 5, input_range=(0, 1))
    with pytest.raises(ChipError, match=r"input_transform: weight: expected a number"):
        replace(chip, input_transform=([1], None))


def test_the_commands_do_not_ignore_a_scaling(tmp_path):
    net = scaling_net(tmp_path / "a.net")
    run_here("ottt-export", net, "--time-steps", 4)
    model = tmp_path / "model.h5"
    assert_one_line(run_here("ottt-run", model, "--data", "digits"), 2, "--input-range")
    assert_one_line(run_here("ottt-learn", model, "--data", "digits"), 2, "its input layer scales its input")
    done = run_here("ottt-run", model, "--data", "digits", "--samples", 20, "--input-range=-1,1", "--json")
    assert json.loads(done.stdout)["spikes_per_sample"][0] > 0
    wrong = run_here("ottt-run", model, "--data", "digits", "--input-range", "1")
    assert_one_line(wrong, 2, "expected two numbers like -1,1")
