"""NIR: what we write comes back equal and is what NIR's own library reads; what others write computes the same here."""

import contextlib

import h5py
import numpy as np
import pytest
from commands import assert_one_line, run
from corruption import assert_only_our_errors
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import chip_networks, conv_networks, random_messages
from ottt_loihi.converters.nir import read as nir_reader
from ottt_loihi.converters.nir import write as nir_writer
from ottt_loihi.converters.quantize.float_network import FloatNetwork
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.sim import storage
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal
from test_export_networks import run_float

from ottt_loihi import sim
from ottt_loihi.errors import ChipError, FileError, UnsafeFileError, UsageError

nir = pytest.importorskip("nir")
DT = 1e-3


@settings(max_examples=30, deadline=None)
@given(chip=st.one_of(chip_networks(), conv_networks()))
def test_what_is_written_comes_back_equal(chip, tmp_path_factory):
    path = tmp_path_factory.mktemp("nir") / "a.nir"
    frozen = any(n.du == -1 or (n.dv == 0 and (n.du != 4095 or n.bias_mant.any())) for n in chip.layers)
    unflattened = any(len(chip.layers[c.post].shape) == 3 and not isinstance(c, Conv) for c in chip.connections)
    if frozen or unflattened:
        with contextlib.suppress(ChipError):  # it may be refused; a test of its own says how
            nir_writer.write(chip, path, force=True)
        if not path.exists():
            return
    nir_writer.write(chip, path, force=True)
    assert nir_reader.read(path) == chip
    graph = nir.read(path, type_check=not any(isinstance(c, Conv) for c in chip.connections))
    assert len(graph.nodes) >= len(chip.layers) + len(chip.connections) + 2


class Euler:
    """NIR's equations, literally, for a graph in nir's own classes; nothing of ours."""

    def __init__(self, graph, dt):
        self.graph, self.dt = graph, dt

    def run(self, x):
        """(spikes or membranes of all neurons by name), each (T, size), for x (T, *shape); cycles take one step."""
        self.state, self.late, found = {}, {}, {}
        for t in range(len(x)):
            self.now = {}
            for name, node in self.graph.nodes.items():
                if isinstance(node, nir.Input):
                    self.now[name] = x[t].astype(float)
            for name, node in self.graph.nodes.items():
                if isinstance(node, (nir.LIF, nir.LI, nir.IF, nir.I, nir.CubaLIF, nir.CubaLI)):
                    self.value(name, ())
                    found.setdefault(name, []).append(self.state[name][0].ravel().copy())
            out = next(n for n, node in self.graph.nodes.items() if isinstance(node, nir.Output))
            found.setdefault("output", []).append(self.value(out, ()).ravel())
            self.late = dict(self.now)
        return {name: np.array(values) for name, values in found.items()}

    def value(self, name, path):
        if name in self.now:
            return self.now[name]
        node = self.graph.nodes[name]
        total = 0
        for a, b in self.graph.edges:
            if b == name:
                cycle = a in path or a == name
                total = total + (self.late.get(a, self.zero(a)) if cycle else self.value(a, (*path, name)))
        self.now[name] = self.compute(name, node, total)
        return self.now[name]

    def zero(self, name):
        return np.zeros(self.graph.nodes[name].output_type["output"])

    def compute(self, name, node, x):
        torch = pytest.importorskip("torch")
        kind = type(node).__name__
        if kind in ("Linear", "Affine"):
            return node.weight @ x + (node.bias if kind == "Affine" else 0)
        if kind == "Scale":
            return node.scale * x
        if kind == "Flatten":
            return x.reshape(-1)
        if kind == "Conv2d":
            tensor, weight, bias = (torch.from_numpy(np.array(a, float)) for a in (x, node.weight, node.bias))
            options = {k: tuple(np.atleast_1d(getattr(node, k)).tolist()) for k in ("stride", "padding", "dilation")}
            return torch.nn.functional.conv2d(tensor, weight, bias, groups=int(node.groups), **options).numpy()
        if kind == "AvgPool2d":
            tensor = torch.from_numpy(np.array(x))[None]
            options = [tuple(np.atleast_1d(getattr(node, k)).tolist()) for k in ("kernel_size", "stride", "padding")]
            return torch.nn.functional.avg_pool2d(tensor, *options)[0].numpy()
        if kind in ("Input", "Output"):
            return x
        return self.neurons(name, node, x, kind)

    def neurons(self, name, node, x, kind):
        _, v, current = self.state.get(name, (0, np.zeros(node.r.shape), np.zeros(node.r.shape)))
        if kind.startswith("Cuba"):
            current = current + self.dt / node.tau_syn * (-current + node.w_in * x)
            v = v + self.dt / node.tau_mem * (node.v_leak - v + node.r * current)
        elif kind in ("LIF", "LI"):
            v = v + self.dt / node.tau * (node.v_leak - v + node.r * x)
        else:
            v = v + self.dt * node.r * x
        if kind in ("LI", "I", "CubaLI"):
            self.state[name] = (v, v, current)
            return v
        s = v > node.v_threshold
        self.state[name] = (v, np.where(s, node.v_reset, v), current)
        return s.astype(float)


def lif(rng, shape, tau=4e-3, **changes):
    values = {"tau": np.full(shape, tau), "r": rng.uniform(1, 3, shape), "v_leak": rng.uniform(0, 0.1, shape)}
    values |= {"v_threshold": rng.uniform(0.5, 1, shape), "v_reset": np.zeros(shape)}
    return nir.LIF(**(values | changes))


def cuba(rng, shape):
    values = {"tau_mem": np.full(shape, 5e-3), "tau_syn": np.full(shape, 2e-3), "r": np.full(shape, 4.0)}
    return nir.CubaLIF(
        **values, v_leak=np.zeros(shape), v_threshold=np.full(shape, 0.8), v_reset=np.zeros(shape), w_in=1.5
    )


def feed_forward(*nodes):
    """Input, nodes, output in a row."""
    return nir.NIRGraph.from_list(*nodes)


def convolutional(rng):
    """Pooling before and behind convolutions, heterogeneous thresholds, gains and leaks."""
    conv = {"stride": np.array([1, 1]), "dilation": np.array([1, 1]), "groups": 1}
    pool = {"kernel_size": np.array([2, 2]), "stride": np.array([2, 2]), "padding": np.array([0, 0])}
    first, second = rng.normal(0.1, 0.4, (3, 2, 3, 3)), rng.normal(0.05, 0.4, (4, 3, 3, 3))
    return feed_forward(
        nir.Input(input_type=np.array([2, 8, 8])),
        nir.Conv2d((8, 8), first, padding=np.array([1, 1]), bias=rng.normal(0, 0.1, 3), **conv),
        lif(rng, (3, 8, 8)),
        nir.AvgPool2d(**pool),
        nir.Conv2d((4, 4), second, padding=np.array([1, 1]), bias=rng.normal(0, 0.1, 4), **conv),
        nir.AvgPool2d(**pool),
        lif(rng, (4, 2, 2)),
        nir.Flatten(np.array([4, 2, 2]), 0, -1),
        nir.Affine(rng.normal(0, 0.5, (5, 16)), rng.normal(0, 0.1, 5)),
        nir.LI(tau=np.full(5, 3e-3), r=np.full(5, 2.0), v_leak=np.zeros(5)),
        nir.Output(output_type=np.array([5])),
    )


def recurrent(rng):
    """Recurrence in a subgraph, as snntorch and norse write it; scaled, current-based, read out without neurons."""
    loop = nir.NIRGraph(
        {
            "input": nir.Input(input_type=np.array([6])),
            "lif": lif(rng, (6,)),
            "w_rec": nir.Linear(rng.normal(0, 0.4, (6, 6))),
            "output": nir.Output(output_type=np.array([6])),
        },
        [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
    )
    return feed_forward(
        nir.Input(input_type=np.array([8])),
        nir.Affine(rng.normal(0.1, 0.5, (6, 8)), rng.normal(0, 0.1, 6)),
        loop,
        nir.Scale(rng.uniform(0.5, 2, 6)),
        nir.Affine(rng.normal(0.2, 0.5, (7, 6)), rng.normal(0, 0.05, 7)),
        cuba(rng, (7,)),
        nir.Linear(rng.normal(0, 0.5, (3, 7))),
        nir.Output(output_type=np.array([3])),
    )


def integrate_and_fire(rng):
    return feed_forward(
        nir.Input(input_type=np.array([8])),
        nir.Linear(rng.normal(0.1, 0.5, (6, 8))),
        nir.IF(r=np.full(6, 900.0), v_threshold=np.full(6, 0.7), v_reset=np.zeros(6)),
        nir.Linear(rng.normal(0.1, 0.5, (4, 6))),
        lif(rng, (4,), v_leak=np.zeros(4)),
        nir.Output(output_type=np.array([4])),
    )


def flat_graph(graph):
    """The recurrent graph without its subgraph, for the oracle above."""
    nodes, edges, sub = {}, [], {n for n, node in graph.nodes.items() if isinstance(node, nir.NIRGraph)}
    for name, node in graph.nodes.items():
        if name in sub:
            nodes |= {inner: v for inner, v in node.nodes.items() if inner not in ("input", "output")}
            edges += [(a, b) for a, b in node.edges if a != "input" and b != "output"]
        else:
            nodes[name] = node
    for a, b in graph.edges:
        edges.append(("lif" if a in sub else a, "lif" if b in sub else b))
    return nir.NIRGraph(nodes, edges, type_check=False)


@pytest.mark.parametrize("make", [convolutional, recurrent, integrate_and_fire])
def test_anybodys_network_has_the_same_membranes(make, tmp_path):
    rng = np.random.default_rng(3)
    graph = make(rng)
    nir.write(tmp_path / "a.nir", graph)
    net = nir_reader.read(tmp_path / "a.nir", num_steps=12, dt=DT)
    assert isinstance(net, FloatNetwork)
    x = (rng.random((1, 12, *net.input_shape)) < 0.4).astype(np.uint8)
    expected = Euler(flat_graph(graph) if make is recurrent else graph, DT).run(x[0])
    found = run_float(net, x)
    names = [layer.name for layer in net.layers]
    fired = 0
    for name, layer, v in zip(names, net.layers, found, strict=True):
        truth = expected[name.rpartition(" ")[2] if name != "readout" else "output"]
        scale = 1.0
        if layer.reset:  # thresholds were made one: membranes are in their units
            node = next(n for key, n in flat_graph(graph).nodes.items() if key == name.rpartition(" ")[2])
            scale = layer.v_threshold / node.v_threshold.reshape(-1)
            fired += (v > layer.v_threshold).sum()
        np.testing.assert_allclose(v[:, 0], truth * scale, rtol=0, atol=1e-9)
    assert fired > 10
    chip = quantize(net).chip
    result = sim.run(chip, x, ("s",))
    for layer, v, s in zip(net.layers, found, result.states["s"]):
        if layer.reset:
            equal = (s[:, 0].reshape(12, -1) == (v[:, 0] > layer.v_threshold)).mean()
            assert equal > 0.9, layer.name


def test_a_written_network_computes_the_same_in_nirs_equations(tmp_path):
    """The chip truncates its decays; with dv = 2048 and even states nothing is lost, and every spike is the same."""
    rng = np.random.default_rng(0)
    conv = Conv(INPUT, 0, 2 * rng.integers(-60, 100, (2, 1, 3, 3)), (1, 6, 6), padding=(1, 1))
    layers = (
        LIF((2, 6, 6), 4095, 4096, 200, np.array([[[640]], [[-320]]]) * np.ones((1, 6, 6), int), 0),
        LIF((9,), 4095, 2048, 250, rng.integers(0, 9, 9) * 128, 3, name="hidden"),
        LIF((4,), 4095, 4096, 131071, name="readout"),
    )
    connections = (
        conv,
        Dense(0, 1, 2 * rng.integers(-60, 70, (9, 72))),
        Dense(1, 1, 2 * rng.integers(-60, 60, (9, 9)), delay=1),
        Diagonal(1, 1, 2 * rng.integers(0, 30, 9)),
        Dense(1, 2, 2 * rng.integers(-60, 60, (4, 9))),
    )
    chip = ChipNetwork((1, 6, 6), layers, connections, 9, "sum_v")
    nir_writer.write(chip, tmp_path / "a.nir", DT)
    graph = nir.read(tmp_path / "a.nir")
    x = random_messages(chip, 1, 4)
    result = sim.run(chip, x, ("v", "s"))
    # a Delay is an oracle of its own: hold the values of the steps before
    delays = {n: node for n, node in graph.nodes.items() if isinstance(node, nir.Delay)}
    assert [round(float(d.delay[0] / DT)) for d in delays.values()] == [1]
    found = DelayedEuler(graph, DT).run(x[0])
    for index in range(3):
        truth = found[f"layer_{index}"]
        ours = result.states["s"][index][:, 0].reshape(9, -1)
        if index < 2:
            threshold = graph.nodes[f"layer_{index}"].v_threshold.reshape(-1)
            np.testing.assert_array_equal(ours, truth > threshold)
            assert 0.05 < ours.mean() < 0.95
        else:
            np.testing.assert_array_equal(result.states["v"][2][:, 0] / 64, truth)


class DelayedEuler(Euler):
    """With Delay nodes: what went in so many steps ago."""

    def compute(self, name, node, x):
        if not isinstance(node, nir.Delay):
            return super().compute(name, node, x)
        queue = self.__dict__.setdefault("queues", {}).setdefault(
            name, [np.zeros(node.delay.shape)] * round(float(node.delay.flat[0] / self.dt))
        )
        queue.append(x)
        return queue.pop(0)


def small(rng=None, **changes):
    rng = rng or np.random.default_rng(0)
    values = {"weight": rng.normal(0, 0.5, (3, 4)), "lif": lif(rng, (3,))} | changes
    return feed_forward(nir.Input(input_type=np.array([4])), nir.Linear(values["weight"]), values["lif"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tau": np.array([4e-3, 5e-3, 6e-3])}, "lif/tau: neurons of one layer share this"),
        ({"tau": np.full(3, 1e-4)}, "shorter than a time step"),
        ({"v_reset": np.full(3, 0.1)}, "v_reset: the chip's neurons begin at the potential"),
        ({"v_threshold": np.zeros(3)}, "v_threshold: expected > 0"),
    ],
)
def test_neurons_the_chip_has_not_are_named(changes, says, tmp_path):
    nir.write(tmp_path / "a.nir", small(lif=lif(np.random.default_rng(0), (3,), **changes)))
    with pytest.raises(ChipError, match=says):
        nir_reader.read(tmp_path / "a.nir", 5, DT)


def test_what_a_file_of_others_leaves_open_is_asked_for(tmp_path):
    nir.write(tmp_path / "a.nir", small())
    with pytest.raises(UsageError, match="--time-steps"):
        nir_reader.read(tmp_path / "a.nir", dt=DT)
    with pytest.raises(UsageError, match="--dt"):
        nir_reader.read(tmp_path / "a.nir", 5)
    with pytest.raises(UsageError, match="dt > 0"):
        nir_reader.read(tmp_path / "a.nir", 5, -1.0)


def subtracting():
    layers = (LIF((3,), 2047, 4096, 100, name="hidden"), LIF((2,), 4095, 4096, 131071, name="readout"))
    connections = (
        Dense(INPUT, 0, np.full((3, 4), 60)),
        Diagonal(0, 0, np.full(3, -50)),
        Dense(0, 1, np.ones((2, 3), int)),
    )
    return ChipNetwork((4,), layers, connections, 5)


def test_subtraction_is_refused_unless_forced(tmp_path):
    with pytest.raises(ChipError, match=r"hidden: NIR has no reset by subtraction"):
        nir_writer.write(subtracting(), tmp_path / "a.nir")
    assert not (tmp_path / "a.nir").exists()
    nir_writer.write(subtracting(), tmp_path / "a.nir", force=True)
    assert nir_reader.read(tmp_path / "a.nir") == subtracting()


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (LIF((3,), -1, 4096, 100, name="hidden"), "hidden: NIR has no current that never decays"),
        (LIF((3,), 2047, 0, 100, name="hidden"), "hidden: NIR has a membrane that never decays"),
    ],
)
def test_what_nir_cannot_express_is_refused(layer, says, tmp_path):
    chip = ChipNetwork((4,), (layer,), (Dense(INPUT, 0, np.full((3, 4), 60)),), 5, "spike_count")
    with pytest.raises(ChipError, match=says):
        nir_writer.write(chip, tmp_path / "a.nir")


def test_nir_cannot_unflatten():
    conv, back = Conv(INPUT, 0, np.full((2, 1, 3, 3), 2), (1, 4, 4)), Dense(1, 0, np.full((8, 3), 2))
    layers = (LIF((2, 2, 2), 4095, 1024, 100), LIF((3,), 4095, 2048, 90))
    chip = ChipNetwork((1, 4, 4), layers, (conv, Dense(0, 1, np.full((3, 8), 4)), back), 4, "spike_count")
    with pytest.raises(ChipError, match=r"layer\[1\]→layer\[0\]: NIR cannot bring"):
        nir_writer.graph(chip)


def test_damaged_files_are_refused(tmp_path):
    conv = Conv(INPUT, 0, np.full((2, 1, 3, 3), 2), (1, 4, 4))
    layers = (LIF((2, 2, 2), 4095, 1024, 100, 3, 6), LIF((3,), 4095, 2048, 90))
    chip = ChipNetwork((1, 4, 4), layers, (conv, Dense(0, 1, np.full((3, 8), 4))), 4, "spike_count")
    nir_writer.write(chip, tmp_path / "a.nir")
    content = (tmp_path / "a.nir").read_bytes()
    assert assert_only_our_errors(nir_reader.read, tmp_path / "b.nir", content, count=150) > 20
    nir.write(tmp_path / "c.nir", small())
    content = (tmp_path / "c.nir").read_bytes()
    assert assert_only_our_errors(_read, tmp_path / "d.nir", content, count=100) > 20


def _read(path):
    with contextlib.suppress(ChipError):  # a readable file of something else
        nir_reader.read(path, 5, DT)


@pytest.mark.parametrize(
    ("place", "value", "error", "says"),
    [
        ("node/type", "LIF", ChipError, "expected a graph"),
        ("node/nodes/linear/type", "Warp", ChipError, "a Warp has no counterpart"),
        ("node/nodes/linear/weight", np.full((3, 5), 1.0), ChipError, r"expected \(outputs, 4\)"),
        ("node/nodes/linear/weight", np.full((3, 4), np.nan), FileError, "expected finite numbers"),
        ("node/nodes/linear/weight", h5py.ExternalLink("other.h5", "/x"), UnsafeFileError, "refused"),
        ("node/nodes/lif/tau", None, FileError, "tau: missing"),
        ("node/edges", [("input", "linear"), ("linear", "nowhere")], FileError, "there is no node 'nowhere'"),
        ("node/edges", [("input", "linear"), ("lif", "output")], ChipError, "lif: nothing leads there"),
    ],
)
def test_what_cannot_be_read_is_named(place, value, error, says, tmp_path):
    nir.write(tmp_path / "a.nir", small())
    with h5py.File(tmp_path / "a.nir", "a") as file:
        del file[place]
        if value is not None:
            file[place] = value
    with pytest.raises(error, match=says):
        nir_reader.read(tmp_path / "a.nir", 5, DT)


def test_a_file_that_its_program_did_not_finish_is_named_with_its_last_node(tmp_path):
    path = tmp_path / "a.nir"
    nir.write(path, small())
    with h5py.File(path, "r+") as file:
        last = sorted(file["node/nodes"])[-1]
        del file[f"node/nodes/{last}/type"], file["node/type"]
    with pytest.raises(FileError, match=f"{last}: has no type, so the program that wrote the file failed there"):
        nir_reader.read(path, 5, DT)


def test_edges_of_a_subgraph_are_named_with_it(tmp_path):
    inner = small()
    nodes = {"input": nir.Input(np.array([4])), "block": inner, "output": nir.Output(np.array([3]))}
    nir.write(tmp_path / "a.nir", nir.NIRGraph(nodes, [("input", "block"), ("block", "output")], type_check=False))
    for edges, says in (
        (
            [("input", "linear"), ("linear", "nowhere")],
            "edge 'block/linear' → 'block/nowhere': there is no node 'block/",
        ),
        (["input", "linear", "lif"], "block/edges: expected pairs of names, found 3"),
    ):
        with h5py.File(tmp_path / "a.nir", "a") as file:
            del file["node/nodes/block/edges"]
            file["node/nodes/block/edges"] = edges
        with pytest.raises(FileError, match=says):
            nir_reader.read(tmp_path / "a.nir", 5, DT)


def test_weights_that_another_program_changed_are_noticed(tmp_path):
    nir_writer.write(subtracting(), tmp_path / "a.nir", force=True)
    with h5py.File(tmp_path / "a.nir", "a") as file:
        file["node/nodes/connection_0/weight"][0, 0] = 0.3
    with pytest.raises(FileError, match="connection_0's weights: changed since it was written"):
        nir_reader.read(tmp_path / "a.nir")


@pytest.mark.slow
def test_the_command_writes_and_reads_nir(tmp_path):
    nir.write(tmp_path / "theirs.nir", small())
    done = run("ottt-export", tmp_path / "theirs.nir", "--time-steps", 6, "--dt", DT, "-o", tmp_path / "a", "--nir")
    assert "names no data set" in done.stdout, done.stderr
    assert nir_reader.read(tmp_path / "a" / "model.nir").num_steps == 6
    run("ottt-export", tmp_path / "a" / "model.nir", "-o", tmp_path / "b")
    assert storage.load(tmp_path / "a" / "model.h5") == storage.load(tmp_path / "b" / "model.h5")
    storage.save(subtracting(), tmp_path / "c.h5")
    refused = run("ottt-export", tmp_path / "c.h5", "--nir", "-o", tmp_path / "c")
    assert_one_line(refused, 4, "no reset by subtraction")
    assert not (tmp_path / "c").exists()
