"""NIR files of random graphs: the float network that is read has the spikes of the file's equations."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ottt_loihi.converters.nir import equations
from ottt_loihi.converters.nir import graph as nir_graph
from ottt_loihi.converters.nir import read as nir_reader
from ottt_loihi.converters.nir import write as nir_writer
from ottt_loihi.converters.nir.dialects import DIALECTS
from ottt_loihi.converters.nir.foreign import Import
from ottt_loihi.converters.quantize.float_run import run, scores
from ottt_loihi.converters.quantize.quantize import quantize

from ottt_loihi import safe_hdf5, sim
from ottt_loihi.errors import ChipError, FileError, UsageError, VerificationError

nir = pytest.importorskip("nir")
DT, STEPS = 1e-3, 8


def neurons(draw, rng, shape, writer, silent=False):
    """Draw a node. Its constants differ between neurons where the chip allows that. It may be one that never fires."""
    kind = draw(st.sampled_from(["LIF", "IF", "CubaLIF"]))

    def each(low, high):
        return rng.uniform(low, high, shape)

    dt = DIALECTS[writer].dt or DT
    tau = np.full(shape, dt * rng.uniform(1.5, 5))
    common = {} if silent else {"v_threshold": each(0.5, 1.5), "v_reset": np.zeros(shape)}
    r = each(0.8, 1.6)
    if kind == "IF":
        return (nir.I if silent else nir.IF)(r=r / dt, **common)
    if kind == "LIF":
        return (nir.LI if silent else nir.LIF)(tau=tau, r=tau / dt * r, v_leak=each(-0.2, 0.2), **common)
    syn = np.full(shape, dt * rng.uniform(1.5, 5))
    names = {"tau_syn": syn, "tau_mem": tau, "r": tau / dt * r, "v_leak": np.zeros(shape), "w_in": syn / dt * r}
    return (nir.CubaLI if silent else nir.CubaLIF)(**names, **common)


@st.composite
def graphs(draw):
    """Draw one to three layers of neurons, chains of linear nodes before them, shortcuts, feedback and a readout."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    writer = draw(st.sampled_from([*DIALECTS]))
    shape = draw(st.sampled_from([(2, 4, 5), (2, 7), (6,)]))  # an image, a line with channels, a vector
    nodes, edges, last, layers = {"input": nir.Input(input_type=np.array(shape))}, [], "input", []

    def add(node, before, name=None):
        name = name or f"n{len(nodes)}"
        nodes[name] = node
        edges.append((before, name))
        return name

    def weight(*sizes):
        return rng.normal(0.1, 1.5 / math.sqrt(math.prod(sizes[1:])), sizes)

    for _ in range(draw(st.integers(1, 3))):
        arriving = last
        if len(shape) == 3:
            if draw(st.booleans()) and min(shape[1:]) >= 2:
                pool = draw(st.sampled_from([nir.AvgPool2d, nir.SumPool2d]))
                size = np.array([2, draw(st.integers(1, 2))])
                arriving = add(pool(size, size, np.array([0, 0])), arriving)
                shape = (shape[0], *((n - k) // k + 1 for n, k in zip(shape[1:], size)))
            if draw(st.booleans()) and min(shape[1:]) >= 2:
                groups, padding = draw(st.sampled_from([1, shape[0]])), draw(st.integers(0, 1))
                kernel = weight(2 * groups, shape[0] // groups, 2, 2)
                conv = nir.Conv2d(
                    shape[1:], kernel, (1, 1), (padding, padding), (1, 1), groups, rng.normal(0, 0.2, 2 * groups)
                )
                arriving = add(conv, arriving)
                shape = (2 * groups, *(n + 2 * padding - 1 for n in shape[1:]))
            else:
                arriving = add(nir.Flatten({"input": np.array(shape)}, 0, -1), arriving)
                shape = (math.prod(shape),)
        if len(shape) == 2:
            if draw(st.booleans()) and shape[1] >= 3:
                groups, padding, stride = (
                    draw(st.sampled_from([1, shape[0]])),
                    draw(st.integers(0, 1)),
                    draw(st.integers(1, 2)),
                )
                kernel, bias = weight(2 * groups, shape[0] // groups, 2), rng.normal(0, 0.2, 2 * groups)
                dilation = draw(st.integers(1, 2))
                arriving = add(nir.Conv1d(shape[1], kernel, stride, padding, dilation, groups, bias), arriving)
                shape = (2 * groups, (shape[1] + 2 * padding - dilation - 1) // stride + 1)
            else:
                arriving = add(nir.Flatten({"input": np.array(shape)}, 0, -1), arriving)
                shape = (math.prod(shape),)
        if len(shape) == 1:
            size = draw(st.integers(2, 5))
            bias = rng.normal(0, 0.2, size)
            matrix = weight(size, shape[0])
            arriving = add(nir.Affine(matrix, bias) if draw(st.booleans()) else nir.Linear(matrix), arriving)
            shape = (size,)
        if draw(st.booleans()):
            arriving = add(nir.Scale(rng.uniform(0.5, 1.5, shape)), arriving)
        last = add(neurons(draw, rng, shape, writer), arriving)
        if layers and draw(st.booleans()):  # a shortcut from an earlier layer, with a delay
            source, size = layers[draw(st.integers(0, len(layers) - 1))]
            wait = nir.Delay(np.full(size, (DIALECTS[writer].dt or DT) * draw(st.integers(0, 2))))
            skipping = add(nir.Linear(weight(math.prod(shape), math.prod(size))), add(wait, add(flat(size), source)))
            edges.append((skipping, last))
        if draw(st.booleans()):  # to itself
            size = math.prod(shape)
            edges.append((add(nir.Affine(weight(size, size), rng.normal(0, 0.1, size)), add(flat(shape), last)), last))
        layers.append((last, shape))
    if draw(st.booleans()):  # a last layer that never fires
        matrix = nir.Linear(weight(3, math.prod(shape)))
        last, shape = add(neurons(draw, rng, (3,), writer, silent=True), add(matrix, add(flat(shape), last))), (3,)
    edges.append((last, "output"))
    nodes["output"] = nir.Output(output_type=np.array(shape))
    return writer, nir.NIRGraph(nodes, edges, type_check=False)


def flat(shape):
    return nir.Flatten({"input": np.array(shape)}, 0, -1)


@settings(max_examples=10, deadline=None)
@given(graphs())
def test_the_float_network_has_the_spikes_of_the_files_equations(tmp_path_factory, drawn):
    writer, graph = drawn
    path = tmp_path_factory.mktemp("nir") / "a.nir"
    nir.write(path, graph)
    dt = None if DIALECTS[writer].dt else DT
    net = nir_reader.read(path, STEPS, dt, writer=writer)
    with safe_hdf5.open_hdf5(path) as file:
        reading = Import(nir_graph.load(file), STEPS, dt, writer)
        reading.network()
        x = (np.random.default_rng(0).random((4, STEPS, *net.input_shape)) < 0.4).astype(float)
        theirs = equations.run(reading, x)
    for layer, ours in zip(net.layers, run(net, x), strict=True):
        if layer.name not in theirs:
            continue
        if layer.reset is None:
            np.testing.assert_allclose(ours, theirs[layer.name], rtol=1e-9, atol=1e-9)
            continue
        same = theirs[layer.name] == ours
        assert same.all() or np.abs(theirs[f"{layer.name} − θ"][~same.all(axis=(1, 2)).argmin()]).min() < 1e-9


@pytest.mark.parametrize("groups", [1, 2])
def test_taps_are_torchs_convolution(groups):
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(3, 4, 7, 6)), rng.normal(size=(6, 4 // groups, 3, 2)), rng.normal(size=6)
    found = equations._taps(x, weight, bias, (2, 1), (1, 2), (1, 2), groups)
    expected = torch.nn.functional.conv2d(
        *(torch.from_numpy(a) for a in (x, weight, bias)), (2, 1), (1, 2), (1, 2), groups
    )
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-12)


def write(path, *nodes, shape=(4,)):
    named = {"input": nir.Input(input_type=np.array(shape))} | {str(i): node for i, node in enumerate(nodes)}
    named["output"] = nir.Output(output_type=np.array([4]))
    names = list(named)
    nir.write(path, nir.NIRGraph(named, list(itertools.pairwise(names)), type_check=False))
    return path


def lif(**changes):
    values = {"tau": 2 * DT, "r": 2.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    return nir.LIF(**{name: np.full(4, value) for name, value in values.items()})


def test_every_import_says_so_and_an_error_of_ours_is_found(tmp_path, monkeypatch):
    path = write(tmp_path / "a.nir", nir.Linear(np.random.default_rng(0).normal(0, 2, (4, 4))), lif())
    notes = []
    nir_reader.read(path, STEPS, DT, notes=notes, check=True)
    assert "every spike of the float network is that of the file's equations: 256 places" in notes[-1]
    monkeypatch.setattr(DIALECTS["lava"].__class__, "kept", lambda self, tau, dt: 0.25)
    right = equations._Neurons.__init__

    def other(self, *arguments):
        right(self, *arguments)
        self.kept = 0.5

    monkeypatch.setattr(equations._Neurons, "__init__", other)
    with pytest.raises(VerificationError, match=r"differ .*, first in 1, time step \d, sample \d, neuron \d: "):
        nir_reader.read(path, STEPS, DT, check=True)


LAST = {
    "LI": lambda: nir.LI(tau=np.full(4, 4 * DT), r=np.full(4, 4.0), v_leak=np.zeros(4)),
    "I": lambda: nir.I(r=np.full(4, 1 / DT)),
    "nothing": lambda: nir.Scale(np.ones(4)),
    "LIF": lambda: lif(),
}


@pytest.mark.parametrize("wanted", [None, "spikes", "sum", "last", "max"])
@pytest.mark.parametrize("kind", LAST)
def test_scores_are_what_is_asked_for_or_refused(kind, wanted, tmp_path):
    """LI, which was always summed up, may be read at the last step or at its largest; so may weights alone."""
    rng = np.random.default_rng(0)
    weights = [nir.Linear(rng.normal(0, 2, (4, 4))) for _ in range(2)]
    path = write(tmp_path / "a.nir", weights[0], lif(), weights[1], LAST[kind]())
    if wanted is not None and (kind == "LIF") != (wanted == "spikes"):
        with pytest.raises(ChipError, match=f"--readout {wanted}: the last layer .*; the nearest is --readout"):
            nir_reader.read(path, STEPS, DT, readout=wanted)
        return
    notes = []
    net = nir_reader.read(path, STEPS, DT, readout=wanted, notes=notes, check=True)
    assert ("so the scores are the sum of its outputs" in notes[0]) == (wanted is None and kind != "LIF")
    assert (" and every membrane of the last layer" in notes[-1]) == (kind in ("LI", "I"))
    chip = quantize(net).chip
    assert chip.readout == ("spike_count" if kind == "LIF" else f"{wanted or 'sum'}_v")
    x = (rng.random((40, STEPS, 4)) < 0.5).astype(np.uint8)
    expected, found = scores(net, run(net, x)), sim.run(chip, x).scores
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.99


def test_a_membrane_that_differs_ends_the_import(tmp_path, monkeypatch):
    path = write(tmp_path / "a.nir", nir.Linear(np.eye(4)), lif(), nir.Linear(np.eye(4)), LAST["LI"]())
    monkeypatch.setattr(equations.float_run, "run", lambda net, x: [s + (i == 1) for i, s in enumerate(run(net, x))])
    with pytest.raises(VerificationError, match=r"membranes of the file's equations .* first in 3, time step 1"):
        nir_reader.read(path, STEPS, DT, check=True)


def test_our_own_file_says_what_a_foreign_one_leaves_open(tmp_path):
    path = tmp_path / "ours.nir"
    chip = quantize(nir_reader.read(write(tmp_path / "a.nir", nir.Linear(np.eye(4)), LAST["LI"]()), STEPS, DT)).chip
    nir_writer.write(chip, path)
    own = {"readout": "last", "num_steps": STEPS + 1, "dt": 2.0, "writer": "sinabs", "reset": "zero"}
    for name, option in zip(own, ("--readout", "--time-steps", "--dt", "--from", "--reset"), strict=True):
        with pytest.raises(UsageError, match=f"{option}: the file is our own and says it.*; leave it out"):
            nir_reader.read(path, **{name: own[name]})
    assert nir_reader.read(path, STEPS, 1e-3) == chip


def test_arguments_of_the_wrong_type_are_not_the_files_fault(tmp_path):
    path = write(tmp_path / "a.nir", nir.Linear(np.eye(4)), LAST["LI"]())
    for arguments, says in (
        (("9", DT), "--time-steps: expected an integer, got '9'"),
        ((STEPS, "x"), "--dt: expected a"),
    ):
        with pytest.raises(UsageError, match=says):
            nir_reader.read(path, *arguments)
    with pytest.raises(FileError, match="expected a file, found a folder"):
        nir_reader.read(tmp_path, STEPS, DT)


def test_a_membrane_at_its_threshold_is_no_error(tmp_path, monkeypatch):
    path = write(tmp_path / "a.nir", nir.Linear(np.eye(4)), lif(r=2.0))
    monkeypatch.setattr(equations.float_run, "run", lambda net, x: [np.ones((STEPS, len(x), 4))])
    notes = []
    with pytest.raises(VerificationError):
        nir_reader.read(path, STEPS, DT, check=True)
    monkeypatch.setattr(equations, "CLOSE", 2.0)
    nir_reader.read(path, STEPS, DT, notes=notes, check=True)
    assert "its membrane meets the threshold, where the order of a sum decides" in notes[-1]


def test_a_scale_behind_a_conv1d_has_its_shape(tmp_path):
    """5.22: (channels, length) did not fit the height of 1, and the file was called damaged."""
    rng, shape = np.random.default_rng(0), (2, 6)
    values = {"tau": 2 * DT, "r": 4.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0}
    neurons = nir.LIF(**{name: np.full(shape, value) for name, value in values.items()})
    conv = nir.Conv1d(7, rng.normal(0, 2, (2, 2, 2)), 1, 0, 1, 1, np.zeros(2))
    notes = []
    path = write(tmp_path / "a.nir", conv, nir.Scale(rng.uniform(0.5, 1.5, shape)), neurons, shape=(2, 7))
    nir_reader.read(path, STEPS, DT, notes=notes, check=True)
    assert "every spike of the float network is that of the file's equations" in notes[-1]
    path = write(tmp_path / "b.nir", conv, nir.Scale(np.ones((6, 2))), neurons, shape=(2, 7))
    with pytest.raises(ChipError, match=r"1/scale: \(6, 2\) do not fit a layer of \(2, 1, 6\)"):
        nir_reader.read(path, STEPS, DT)


def test_a_bias_behind_a_delay_is_refused(tmp_path):
    wait = nir.Delay(np.full(4, 2 * DT))
    path = write(tmp_path / "a.nir", nir.Affine(np.eye(4), np.ones(4)), wait, lif())
    with pytest.raises(ChipError, match="a bias arrives late, behind a Delay"):
        nir_reader.read(path, STEPS, DT)
