"""NIR files of other programs are read as these mean them, and what a file says too little of is named."""

import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from commands import assert_one_line, run_here
from ottt_loihi.converters.nir import dialects, operations
from ottt_loihi.converters.nir import read as nir_reader
from ottt_loihi.converters.quantize.float_connection import FloatConnection
from ottt_loihi.converters.quantize.float_network import FloatLayer, FloatNetwork
from ottt_loihi.converters.quantize.float_run import agreement, run
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.converters.quantize.reach import lost, most, require_firing
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.network import INPUT

from ottt_loihi import sim
from ottt_loihi.errors import ChipError, UsageError

nir = pytest.importorskip("nir")
VECTORS = Path(os.environ.get("OTTT_DATA_DIR", "/nowhere")).parent / "cases" / "dialects" / "nir.npz"
CASES = VECTORS.parents[1] / "nir"
DT = 1e-4


@pytest.mark.parametrize(
    ("case", "reset"),
    [
        ("snntorch_mlp", "3=zero"),
        ("snntorch_rleaky", None),
        ("spikingjelly_mlp", None),
        ("spikingjelly_conv", None),
        ("norse_box", None),
        ("norse_cuba", None),
        ("sinabs_lif", None),
        ("sinabs_iaf", None),
        ("rockpool_neuron", None),
    ],
)
def test_the_files_of_every_program_have_its_spikes(case, reset, tmp_path):
    """Written by the programs themselves, spikes recorded in them."""
    if not VECTORS.exists():
        pytest.skip(f"{VECTORS} is not here")
    arrays = np.load(VECTORS)
    known = next(c for c in json.loads(str(arrays["meta"]))["cases"] if c["name"] == case)
    path = tmp_path / "a.nir"
    path.write_bytes(arrays[f"{case}/nir"].tobytes())
    notes = []
    net = nir_reader.read(path, known["T"], reset=reset, notes=notes)
    assert f"it looks like a file of {case.split('_')[0]}" in notes[0]
    found = run(net, arrays[f"{case}/input"].swapaxes(0, 1))
    paths = [layer["path"] for layer in known["layers"] if f"{case}/{layer['path']}/spikes" in arrays]
    assert len(paths) == len(net.layers)
    for name, spikes in zip(paths, found, strict=True):
        expected = arrays[f"{case}/{name}/spikes"]
        assert np.array_equal(spikes.reshape(expected.shape), expected), name


def lif(n, dt=DT, beta=0.5, **changes):
    tau = dt / (1 - beta)
    values = {"tau": tau, "r": tau / dt, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    return nir.LIF(**{name: np.full(n, value) if np.ndim(value) == 0 else value for name, value in values.items()})


def write(path, nodes, edges):
    nir.write(path, nir.NIRGraph(nodes, edges, type_check=False))
    return path


def chain(path, *nodes, shape=(4,)):
    """The nodes in a row."""
    named = {"input": nir.Input(input_type=np.array(shape))} | {str(i): node for i, node in enumerate(nodes)}
    size = nodes[-1].weight.shape[0] if hasattr(nodes[-1], "weight") else nodes[-1].v_threshold.size
    named["output"] = nir.Output(output_type=np.array([size]))
    names = list(named)
    return write(path, named, list(itertools.pairwise(names)))


def grid(rng, *shape):
    return rng.integers(-8, 10, shape) / 8


@pytest.mark.parametrize(
    ("writer", "reset", "kept", "gain", "reset_is", "taken", "at"),
    [
        ("snntorch", None, 0.5, 1.0, "subtract", 1.0, False),
        ("snntorch", "zero", 0.5, 1.0, "zero", None, False),
        ("spikingjelly", None, 0.5, 1.0, "zero", None, True),
        ("spikingjelly", "subtract", 0.5, 1.0, "subtract", None, True),
        ("sinabs", None, np.exp(-0.5), 1 - np.exp(-0.5), "subtract", None, True),
        ("rockpool", None, np.exp(-0.5), 1.0, "subtract", None, True),
        ("lava", None, 0.5, 1.0, "zero", None, False),
        ("norse", None, 0.5, 1.0, "zero", None, False),
    ],
)
def test_each_program_means_its_own(writer, reset, kept, gain, reset_is, taken, at, tmp_path):
    path = chain(tmp_path / "a.nir", nir.Linear(np.eye(4)), lif(4))
    net = nir_reader.read(path, 5, DT, writer=writer, reset=reset)
    (layer,), (connection,) = net.layers, net.connections
    assert np.isclose(layer.beta, kept) and np.allclose(connection.weight, np.eye(4) * gain)  # noqa: PT018
    assert (layer.reset, layer.taken, layer.at_threshold) == (reset_is, taken, at)


def test_the_chip_is_the_float_network_on_a_grid(tmp_path):
    """Resets, thresholds met exactly, sums and recurrence, with nothing to round."""
    rng = np.random.default_rng(0)
    for writer in ("snntorch", "spikingjelly", "lava"):
        weights = [grid(rng, 6, 5), grid(rng, 4, 6), grid(rng, 6, 6) / 2]
        for weight in weights:
            weight.flat[0] = 127 / 64
        nodes = {
            "input": nir.Input(input_type=np.array([5])),
            "a": nir.Linear(weights[0]),
            "one": lif(6),
            "back": nir.Linear(weights[2]),
            "b": nir.Linear(weights[1]),
            "two": lif(4),
            "output": nir.Output(output_type=np.array([4])),
        }
        edges = [("input", "a"), ("a", "one"), ("one", "back"), ("back", "one"), ("one", "b"), ("b", "two")]
        net = nir_reader.read(write(tmp_path / "a.nir", nodes, [*edges, ("two", "output")]), 7, DT, writer=writer)
        chip = quantize(net).chip
        x = (rng.random((20, 7, 5)) < 0.4).astype(np.uint8)
        result, oracle = sim.run(chip, x, ("s",)).states["s"], reference.run(chip, x, ("s",)).states["s"]
        for layer, expected in enumerate(run(net, x)):
            assert 0.02 < expected.mean() < 0.98
            assert np.array_equal(result[layer].reshape(expected.shape), expected != 0), writer
            assert np.array_equal(oracle[layer], result[layer])
        assert "the chip has every spike of the float network" in agreement(net, chip)


def test_single_numbers_batch_axes_and_flattened_axes(tmp_path):
    rng = np.random.default_rng(1)
    dense = grid(rng, 3, 4)
    plain = nir_reader.read(chain(tmp_path / "a.nir", nir.Linear(dense), lif(3)), 5, DT)
    for shape, size in (((4,), (1,)), ((1, 4), (3,)), ((1, 4), (1, 3))):
        net = nir_reader.read(chain(tmp_path / "b.nir", nir.Linear(dense), lif(size), shape=shape), 5, DT)
        assert net.layers[0].shape == (3,) and net.input_shape == (4,)  # noqa: PT018
        assert np.array_equal(net.connections[0].weight, plain.connections[0].weight)
    conv = nir.Conv2d((4, 4), grid(rng, 2, 1, 3, 3), 1, 1, 1, 1, np.zeros(2))
    nodes = [conv, lif((2, 4, 4)), nir.Flatten(np.array([2, 4, 4]), start_dim=1), nir.Linear(grid(rng, 3, 32)), lif(3)]
    net = nir_reader.read(chain(tmp_path / "c.nir", *nodes, shape=(1, 1, 4, 4)), 5, DT)
    assert [layer.shape for layer in net.layers] == [(2, 4, 4), (3,)]


def test_a_one_dimensional_convolution_is_torchs(tmp_path):
    import torch

    rng = np.random.default_rng(2)
    weight, bias = grid(rng, 4, 1, 3), grid(rng, 4)
    conv = nir.Conv1d(10, weight, 2, 1, 2, 2, bias)
    path = chain(tmp_path / "a.nir", conv, lif((4, 4), beta=0.0), shape=(2, 10))
    net = nir_reader.read(path, 3, DT)
    assert net.input_shape == (2, 1, 10)
    x = (rng.random((2, 3, 2, 1, 10)) < 0.5).astype(np.uint8)
    current = torch.nn.functional.conv1d(
        torch.from_numpy(x[:, 0, :, 0]).double(), torch.from_numpy(weight), torch.from_numpy(bias), 2, 1, 2, 2
    )
    assert np.array_equal(run(net, x)[0][0], (current.flatten(1) > 1).double().numpy())


def test_several_edges_into_a_linear_node_add_up(tmp_path):
    rng = np.random.default_rng(3)
    nodes = {
        "input": nir.Input(input_type=np.array([4])),
        "a": nir.Linear(grid(rng, 5, 4)),
        "one": lif(5),
        "b": nir.Linear(grid(rng, 5, 5)),
        "two": lif(5),
        "c": nir.Affine(grid(rng, 3, 5), grid(rng, 3)),
        "last": lif(3),
        "output": nir.Output(output_type=np.array([3])),
    }
    edges = [("input", "a"), ("a", "one"), ("one", "b"), ("b", "two"), ("one", "c"), ("two", "c"), ("c", "last")]
    net = nir_reader.read(write(tmp_path / "a.nir", nodes, [*edges, ("last", "output")]), 5, DT)
    both = net.inputs_of(2)
    assert [c.pre for c in both] == [1, 0]
    assert all(np.array_equal(c.weight, nodes["c"].weight) for c in both)
    assert np.array_equal(net.layers[2].bias, nodes["c"].bias)  # once
    nodes["c2"] = nir.Linear(grid(rng, 3, 3))
    cycle = [*edges, ("c", "c2"), ("c2", "c"), ("last", "output")]
    with pytest.raises(ChipError, match="a cycle without neurons, whose signal no layer holds; put neurons into it"):
        nir_reader.read(write(tmp_path / "b.nir", nodes, cycle), 5, DT)


def test_a_layer_that_only_its_bias_drives_fires(tmp_path):
    nodes = [nir.Affine(np.zeros((3, 4)), np.array([0.75, 0.25, 0.5])), lif(3), nir.Linear(np.eye(3) * 2), lif(3)]
    notes = []
    net = nir_reader.read(chain(tmp_path / "a.nir", *nodes), 8, DT, notes=notes)
    assert notes[-1] == "1: all of its weights are zero"
    chip = quantize(net).chip
    x = np.zeros((1, 8, 4), np.uint8)
    found, expected = sim.run(chip, x, ("s",)).states["s"], run(net, x)
    assert expected[0].any()
    assert all(np.array_equal(s.reshape(e.shape), e != 0) for s, e in zip(found, expected))
    nodes[0] = nir.Linear(np.zeros((3, 4)))
    with pytest.raises(ChipError, match="1: all weights that lead here are zero, and so is its bias"):
        nir_reader.read(chain(tmp_path / "b.nir", *nodes), 8, DT)


def test_potentials_of_spikingjelly(tmp_path):
    path = chain(tmp_path / "a.nir", nir.Linear(np.eye(4)), lif(4, v_leak=0.25, v_reset=0.25))
    net = nir_reader.read(path, 5, writer="spikingjelly")
    assert net.layers[0].bias is None and net.layers[0].v_threshold == 0.75  # noqa: PT018


def test_whose_file_it_is_may_be_said_or_guessed(tmp_path):
    path = chain(tmp_path / "a.nir", nir.Linear(np.eye(4)), lif(4, dt=1.0, r=1.0))
    notes = []
    assert nir_reader.read(path, 5, notes=notes).layers[0].taken is None
    assert "it looks like a file of sinabs, and is read as such" in notes[0]
    nir_reader.read(path, 5, 1.0, notes=(notes := []))
    assert "--from sinabs reads it so" in notes[0]
    nir_reader.read(path, 5, writer="sinabs", notes=(notes := []))
    assert notes == ["a step of 1 s, a reset by subtraction, decays exp(−dt/τ)"]
    for bad in ("both", "7=zero", "zero,subtract"):
        with pytest.raises(UsageError, match="--reset"):
            nir_reader.read(path, 5, 1.0, reset=bad)
    assert set(dialects.DIALECTS) == {"snntorch", "spikingjelly", "norse", "sinabs", "rockpool", "lava"}


@pytest.mark.parametrize(
    ("r", "pooled", "says"),
    [
        (np.array(1.0), False, "a file of norse"),
        (np.ones(4), True, "a file of sinabs"),
        (np.ones(4), False, "give --dt"),
    ],
)
def test_neurons_without_leak_are_of_norse_or_of_sinabs(r, pooled, says, tmp_path):
    """Files of Norse's IAFCell were read as those of sinabs, with another reset; their vectors are alike."""
    pool = [
        nir.SumPool2d(np.array([1, 1]), np.array([1, 1]), np.array([0, 0])),
        nir.Flatten({"input": np.array([1, 2, 2])}),
    ]
    layers, shape = (pool, (1, 2, 2)) if pooled else ([], (4,))
    path = tmp_path / "a.nir"
    chain(path, *layers, nir.Linear(np.eye(4)), nir.IF(np.ones(4), np.ones(4)), shape=shape)
    with h5py.File(path, "r+") as file:
        for group in file["node/nodes"].values():
            if "r" in group:
                del group["r"]
                group["r"] = r
    notes = []
    try:
        nir_reader.read(path, 5, notes=notes)
    except UsageError as refusal:
        notes.append(str(refusal))
    assert says in notes[0]


def test_the_axis_of_steps_in_files_of_sinabs_is_left_out(tmp_path):
    """Its exporter leaves out the axis of samples alone, and was run on a sequence."""
    path = chain(tmp_path / "a.nir", nir.Linear(np.eye(4)), lif(4, dt=1.0, r=1.0), shape=(5, 4))
    notes = []
    net = nir_reader.read(path, 9, writer="sinabs", notes=notes)
    assert net.input_shape == (4,)
    assert "input/shape (5, 4) begins with the axis of steps, which is left out" in notes[-1]
    with pytest.raises(ChipError, match=r"expected \(outputs, 20\) behind \(5, 4\)"):
        nir_reader.read(path, 9, writer="norse")


def test_a_dead_layer_is_named_by_the_command_and_nothing_is_written(tmp_path):
    path = chain(tmp_path / "a.nir", nir.Linear(np.full((3, 4), 1e-30)), lif(3))
    done = run_here("ottt-export", path, "--time-steps", 9, "--from", "snntorch", "-o", tmp_path / "out")
    assert_one_line(done, 4, "1: no input of 0 and 1 can make it fire: in 9 steps its membranes reach", "--allow-dead")
    assert not (tmp_path / "out").exists()


def test_what_a_layer_can_reach_is_reached():
    """By the input that has every spike of a positive weight and no other."""
    rng = np.random.default_rng(4)
    for alpha, beta in ((0.0, 0.5), (0.75, 0.5), (0.0, 1.0)):
        weight = rng.normal(0, 1, (3, 6))
        layer = FloatLayer("l", (3,), np.array([0.1, -0.1, 0.0]), "zero", beta, 1e9, alpha)
        silent = FloatLayer("l", (3,), layer.bias, None, beta, 1.0, alpha)
        for neuron in range(3):
            x = np.broadcast_to((weight[neuron] > 0), (1, 11, 6)).astype(np.uint8)
            connections = (FloatConnection(INPUT, 0, weight),)
            membranes = run(FloatNetwork((6,), 11, (silent,), connections), x)[0][:, 0, neuron]
            assert np.isclose(membranes.max(), most(FloatNetwork((6,), 11, (layer,), connections), 0)[neuron])
    net = FloatNetwork(
        (6,), 11, (FloatLayer("l", (3,), None, "zero", 1 - 1e-5, 1e9),), (FloatConnection(INPUT, 0, weight),)
    )
    with pytest.raises(ChipError, match="l: no input of 0 and 1 can make it fire"):
        require_firing(net)
    assert lost(net) == ["l: its leak of 1e-05 a step rounds to none, in 1/4096 as the chip has it"]


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("zero", 4, "all weights that lead here are zero"),
        ("zerolast", 4, "all weights that lead here are zero"),
        ("bias_only", 0, "all of its weights are zero"),
        ("zerorec", 0, "those of 1 of its connections are zero"),
        ("two_groups", 0, ""),
        ("sinabs_iaf", 4, "no input of 0 and 1 can make it fire"),
        ("norse_cuba", 4, "shorter than a time step"),
        ("scalar1", 0, ""),
        ("batchaxis", 0, "begins with a batch axis"),
        ("flat1", 0, ""),
        ("conv1d", 0, ""),
        ("sew", 0, ""),
        ("slow", 0, "rounds to none"),
        ("tiny", 4, "no input of 0 and 1 can make it fire"),
    ],
)
def test_inputs_that_once_failed(name, code, says):
    if not CASES.exists():
        pytest.skip(f"{CASES} is not here")
    done = run_here("ottt-export", CASES / f"{name}.nir", "--time-steps", 16, "--dt", "1e-4", "--dry-run")
    assert_one_line(done, code, says)
    assert "Warning" not in done.stderr
    if name == "two_groups":
        net = nir_reader.read(CASES / f"{name}.nir", 16, DT)
        x = (np.random.default_rng(0).random((4, 16, *net.input_shape)) < 0.4).astype(np.uint8)
        chip = quantize(net).chip
        both = [engine(chip, x, ("s",)).states["s"][0] for engine in (sim.run, reference.run)]
        assert np.array_equal(*both)


def test_a_foreign_file_has_the_spikes_of_its_program():
    path = CASES / "norse_cuba.nir"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    arrays = np.load(CASES / "x.npz")
    x = arrays[arrays.files[0]].reshape(20, 16, 64)
    expected = np.load(CASES / "norse_out.npy")
    found = run(nir_reader.read(path, 16), x)[-1].swapaxes(0, 1)
    assert expected.any()
    assert np.array_equal(found, expected.reshape(found.shape))


def test_padding_same_of_an_even_kernel_is_refused(tmp_path):
    """It pads one end more than the other, which no padding of ours does."""
    settings = {"weight": np.ones((3, 2, 4), np.float32), "stride": 1, "dilation": 1, "groups": 1, "padding": "same"}
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_group("conv")
        for name, value in settings.items():
            file["conv"][name] = value
    with h5py.File(tmp_path / "c.h5") as file:
        node = SimpleNamespace(name="conv", kind="Conv1d", group=file["conv"])
        with pytest.raises(ChipError, match="odd kernel"):
            operations.operation(node, (2, 9))
