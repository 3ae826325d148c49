"""The fast simulator equals the oracle in every bit, whatever way it takes; the chip's clock equals logical time."""

import multiprocessing
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from networks import chip_networks, conv_networks, mixed_networks, random_messages
from ottt_loihi.converters.lava.backends import BACKENDS
from ottt_loihi.sim import arithmetic
from ottt_loihi.sim.inference import recording, reference, simulator
from ottt_loihi.sim.inference import strategies as plan
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal, Sparse

from ottt_loihi import sim
from ottt_loihi.errors import UsageError

EVERYTHING = ("u", "v", "s")
ANY_NETWORK = st.one_of(chip_networks(max_layers=4, max_size=12), conv_networks(), mixed_networks())
RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def assert_equal(expected, found):
    for name in expected.states:
        for left, right in zip(expected.states[name], found.states[name], strict=True):
            np.testing.assert_array_equal(left, right, err_msg=name)
            assert left.dtype == right.dtype
    np.testing.assert_array_equal(expected.scores, found.scores)
    np.testing.assert_array_equal(expected.spike_counts, found.spike_counts)
    for name, counts in expected.overflows.items():
        np.testing.assert_array_equal(counts, found.overflows[name], err_msg=name)


def layer(*shape, vth=200, du=2047, dv=1024, **kwargs):
    return LIF(shape, du, dv, vth, **kwargs)


def even(rng, *shape):
    return rng.integers(-127, 128, shape) * 2


def run_wall_clock(chip, x, record):
    """``reference.run`` on the chip's clock, literally: connections send one step late, all layers update at once.

    Layer l starts (with its bias and ``u_init``) at step l + 2 and a sample takes T + L steps, L layers. Returns the
    recorded states, one array ``(T + L, batch, *layer.shape)`` per layer.
    """
    x = reference.check_input(chip, x, reference.run)
    batch, layers = len(x), range(len(chip.layers))
    u = [np.zeros((batch, layer.size), np.int32) for layer in chip.layers]
    v = [np.zeros((batch, layer.size), np.int32) for layer in chip.layers]
    buffers = [[np.zeros((batch, c.shape[0]), np.int32)] * (c.delay + 1) for c in chip.connections]
    history = {name: [[] for _ in chip.layers] for name in record}
    for wall in range(1, chip.num_steps + len(chip.layers) + 1):
        arriving = [buffer.pop(0) for buffer in buffers]
        spikes = {}
        for index in layers:
            layer = chip.layers[index]
            if wall == index + 2:
                u[index] = np.tile(layer.u_init.reshape(1, -1), (batch, 1))
            inputs = [a for c, a in zip(chip.connections, arriving) if c.post == index]
            bias = layer.effective_bias * (wall >= index + 2)
            u[index] = arithmetic.current_step(u[index], np.sum(inputs, axis=0, dtype=np.int32), layer.du)
            v[index] = arithmetic.voltage_step(v[index], u[index], layer.dv, bias)
            spikes[index] = arithmetic.spikes(v[index], layer.thresholds)
            v[index] = np.where(spikes[index], 0, v[index]).astype(np.int32)
            for name, now in (("u", u[index]), ("v", v[index]), ("s", spikes[index])):
                if name in record:
                    history[name][index].append(now)
        spikes[INPUT] = x[:, wall - 1] if wall <= chip.num_steps else np.zeros_like(x[:, 0])
        for c, buffer in zip(chip.connections, buffers):
            buffer.append(reference.connection_output(c, spikes[c.pre]))
    return reference._stack(chip, history)


@settings(max_examples=40, **RELAXED)
@given(chip=ANY_NETWORK, batch=st.integers(1, 7), window=st.sampled_from([1, 100, 1 << 20]), threads=st.integers(1, 3))
def test_every_state_equals_the_reference(chip, batch, window, threads):
    """Windows of one step and of many, chunks of one sample and of many."""
    x = random_messages(chip, batch, density=0.5)
    simulator.WINDOW_BYTES, before = window, simulator.WINDOW_BYTES
    try:
        assert_equal(reference.run(chip, x, EVERYTHING), sim.run(chip, x, EVERYTHING, threads=threads))
    finally:
        simulator.WINDOW_BYTES = before


@settings(max_examples=15, **RELAXED)
@given(chip=ANY_NETWORK, window=st.sampled_from([1, 1 << 20]))
def test_the_chips_clock_equals_logical_time(chip, window):
    x = random_messages(chip, batch=2)
    expected, wall = reference.run(chip, x, EVERYTHING), run_wall_clock(chip, x, EVERYTHING)
    simulator.WINDOW_BYTES, before = window, simulator.WINDOW_BYTES
    try:
        found = sim.run(chip, x, EVERYTHING, clock="wall")
    finally:
        simulator.WINDOW_BYTES = before
    for name in EVERYTHING:
        for index in range(len(chip.layers)):
            np.testing.assert_array_equal(found.states[name][index], wall[name][index])
            late = wall[name][index][index + 1 : index + 1 + chip.num_steps]
            np.testing.assert_array_equal(late, expected.states[name][index])
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.spike_counts, expected.spike_counts)


@pytest.mark.slow
@pytest.mark.lava
@settings(max_examples=60, **RELAXED)
@given(chip=ANY_NETWORK)
def test_every_state_equals_lavas_models(chip):
    x = random_messages(chip, batch=3)
    expected = BACKENDS["inprocess"].run(chip, x, EVERYTHING)
    assert_equal(expected, sim.run(chip, x, EVERYTHING))


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("odd", [False, True])
def test_wide_layers(density, odd):
    """More spikes than int16 sums can take at once, and weights that cannot be halved."""
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 256, (70, 700)) if odd else np.full((70, 700), 254) - 2 * rng.integers(0, 2, (70, 700))
    chip = ChipNetwork(
        (700,),
        (layer(70, vth=100_000, bias_mant=7), layer(10)),
        (Dense(INPUT, 0, weight), Dense(0, 1, even(rng, 10, 70), -3), Dense(0, 0, even(rng, 70, 70), delay=1)),
        7,
    )
    x = random_messages(chip, 5, density=density)
    assert_equal(reference.run(chip, x, EVERYTHING), sim.run(chip, x, EVERYTHING))
    assert sim.explain(chip)[0].why.endswith("int16 rows" if odd else "int8 rows")


@settings(max_examples=60, **RELAXED)
@example(40, 70, (4, 4), (0, 0), (1, 1), (1, 1), False, "largest", 1.0)
@given(
    channels=st.sampled_from([2, 5, 16, 40]),
    out=st.sampled_from([2, 3, 16, 70]),
    kernel=st.tuples(*[st.integers(1, 4)] * 2),
    padding=st.tuples(*[st.integers(0, 5)] * 2),
    stride=st.tuples(*[st.integers(1, 3)] * 2),
    dilation=st.tuples(*[st.integers(1, 2)] * 2),
    pooled=st.booleans(),
    weights=st.sampled_from(["mixed", "largest", "odd"]),
    density=st.sampled_from([0.05, 0.5, 1.0]),
)
def test_a_convolution_behind_another(channels, out, kernel, padding, stride, dilation, pooled, weights, density):
    """Of any geometry; in the example more spikes reach a neuron than a sum of int16 can take."""
    rng = np.random.default_rng(0)
    image = (channels, 9, 8)
    weight = {
        "mixed": even(rng, out, channels, *kernel),
        "largest": 254 - 2 * rng.integers(0, 2, (out, channels, *kernel)),
        "odd": rng.integers(0, 256, (out, channels, *kernel)),
    }[weights]
    weight = np.kron(weight, np.ones((1, 1, 2, 2), int)) if pooled else weight
    assume(all(d * (k - 1) < n + 2 * p for d, k, n, p in zip(dilation, weight.shape[2:], image[1:], padding)))
    second = Conv(0, 1, weight, image, stride, padding, dilation)
    same = np.eye(channels, dtype=int)[:, :, None, None] * 64
    chip = ChipNetwork(
        image,
        (layer(*image, vth=10), layer(*second.output_shape, vth=60_000), layer(3)),
        (Conv(INPUT, 0, same, image), second, Dense(1, 2, even(rng, 3, second.shape[0]), -2)),
        3,
    )
    x = random_messages(chip, 2, density=density)
    assert_equal(reference.run(chip, x, EVERYTHING), sim.run(chip, x, EVERYTHING))
    assert sim.explain(chip)[1].why.endswith("int16 windows" if weights == "odd" else "int8 windows")


@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_of_any_geometry(density, groups):
    rng = np.random.default_rng(0)
    conv = Conv(INPUT, 0, even(rng, 6, 4 // groups, 5, 4), (4, 13, 12), (2, 3), (1, 2), (2, 1), groups)
    second = Conv(0, 1, even(rng, 5, 6, 3, 3), conv.output_shape, padding=(1, 1))
    size = second.shape[0]
    sparse = Sparse(1, 2, (9, size), np.arange(30) % 9, np.arange(30), even(rng, 30))
    chip = ChipNetwork(
        (4, 13, 12),
        (layer(*conv.output_shape), layer(*second.output_shape, vth=700, du=4095), layer(9)),
        (conv, second, Dense(1, 2, even(rng, 9, size)), sparse, Diagonal(1, 1, even(rng, size))),
        5,
    )
    x = random_messages(chip, 6, density=density)
    expected = reference.run(chip, x, EVERYTHING)
    assert expected.spike_counts.min() > 0
    assert_equal(expected, sim.run(chip, x, EVERYTHING))


def test_loops_over_several_layers():
    rng = np.random.default_rng(1)
    chip = ChipNetwork(
        (6,),
        tuple(layer(n) for n in (9, 8, 7, 6)),
        (
            Dense(INPUT, 0, even(rng, 9, 6)),
            Dense(0, 1, even(rng, 8, 9)),
            Dense(1, 2, even(rng, 7, 8)),
            Dense(2, 1, even(rng, 8, 7), delay=1),
            Dense(2, 3, even(rng, 6, 7)),
            Dense(0, 3, even(rng, 6, 9), delay=4),
            Diagonal(3, 3, even(rng, 6), delay=2),
        ),
        20,
    )
    assert [(g.begin, g.end, g.block) for g in plan.plan(chip).groups] == [(0, 1, 0), (1, 3, 3), (3, 4, 0)]
    x = random_messages(chip, 4)
    assert_equal(reference.run(chip, x, EVERYTHING), sim.run(chip, x, EVERYTHING))


def test_wrap_arounds_are_exact_counted_and_reported():
    """Sums beyond int32, conv outputs beyond 24 bits, currents beyond 24 bits and clipped membranes."""
    conv = Conv(INPUT, 0, np.full((2, 1, 2, 2), -254), (1, 5, 8), num_message_bits=20)
    big = Dense(INPUT, 1, np.full((3, 40), 254), 7, num_message_bits=20, delay=1)
    chip = ChipNetwork((1, 5, 8), (LIF(conv.output_shape, -1, 4096, 9), layer(3)), (conv, big), 6)
    x = np.random.default_rng(0).integers(-(2**20), 2**20, (3, 6, 1, 5, 8))
    expected = reference.run(chip, x, EVERYTHING)
    for name, counts in expected.overflows.items():
        assert counts.sum() > 0, name
    found = sim.run(chip, x, EVERYTHING)
    assert_equal(expected, found)
    assert {each.strategy for each in found.strategies} == {"reference"}


def test_a_current_that_wraps_at_24_bits_is_counted_on_the_fast_way():
    chip = ChipNetwork((600,), (LIF((2,), 4095, 0, 9),), (Dense(INPUT, 0, np.full((2, 600), 254)),), 3)
    x = np.ones((4, 3, 600), bool)
    expected = reference.run(chip, x, EVERYTHING)
    assert expected.overflows["u"].tolist() == [24]
    found = sim.run(chip, x, EVERYTHING)
    assert_equal(expected, found)
    assert found.strategies[0].strategy == "events"


def test_the_ends_of_the_24_bits():
    """a = ∓131072, so d = −2²³, which wraps, and d = 2²³, which does not; one beside each; v at both ends."""
    weight = np.zeros((4, 9), np.int32)
    weight[:2, :4], weight[2:, :8] = -256, 128
    weight[1, 8], weight[3, 8] = -2, 2
    chip = ChipNetwork((9,), (LIF((4,), 4095, 0, 131071, u_init=5),), (Dense(INPUT, 0, weight, 7),), 3)
    x = np.ones((1, 3, 9), np.uint8)
    expected = reference.run(chip, x, EVERYTHING)
    assert expected.states["u"][0][0, 0].tolist() == [2**23, 2**23 - 2**14, 2**23, -(2**23) + 2**14]
    assert expected.overflows["u"].tolist() == [9]
    assert expected.states["v"][0].min() == 1 - 2**23
    assert_equal(expected, sim.run(chip, x, EVERYTHING))


def small():
    rng = np.random.default_rng(0)
    layers = (layer(9, name="hidden"), layer(4, name="readout"))
    return ChipNetwork((5,), layers, (Dense(INPUT, 0, even(rng, 9, 5)), Dense(0, 1, even(rng, 4, 9))), 6)


def test_selected_layers_are_recorded_and_no_others():
    chip = small()
    x = random_messages(chip, 3)
    everything = reference.run(chip, x, EVERYTHING)
    found = sim.run(chip, x, {"v": ["readout"], "s": [0]})
    assert set(found.states) == {"v", "s"}
    assert found.states["v"][0] is None
    assert found.states["s"][1] is None
    np.testing.assert_array_equal(found.states["v"][1], everything.states["v"][1])
    np.testing.assert_array_equal(found.states["s"][0], everything.states["s"][0])


def test_an_iterator_of_batches_equals_one_array():
    chip = small()
    x = random_messages(chip, 10)
    seen = []
    found = sim.run(chip, iter([x[:4], x[4:5], x[5:]]), progress=lambda done, total: seen.append((done, total)))
    assert_equal(reference.run(chip, x), found)
    assert seen == [(4, 0), (5, 0), (10, 0)]


def test_a_loader_of_batches_is_no_iterator_itself():
    class Loader:
        def __iter__(self):
            return iter((x[:4], x[4:]))

    chip = small()
    x = random_messages(chip, 10)
    assert_equal(reference.run(chip, x), sim.run(chip, Loader()))
    assert_equal(reference.run(chip, x), sim.run(chip, x.tolist()))


def test_memory_does_not_grow_with_the_number_of_samples():
    """Beside the results, ten batches take what one takes: NumPy's allocations, counted in bytes."""
    rng = np.random.default_rng(0)
    connections = (Dense(INPUT, 0, even(rng, 64, 196)), Dense(0, 1, even(rng, 10, 64)))
    chip = ChipNetwork((196,), (layer(64), layer(10)), connections, 6)

    def peak(batches):
        simulator = sim.Simulator(chip, threads=1)
        simulator.run(random_messages(chip, 64))  # compiled, and its buffers made
        tracemalloc.start()
        result = simulator.run(random_messages(chip, 64, seed) for seed in range(batches))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(result.scores) == 64 * batches
        return found - 3 * result.scores.nbytes  # of the batches, and put together

    peak(1)
    one, ten = peak(1), peak(10)
    assert one > random_messages(chip, 64).nbytes
    assert ten < 1.1 * one


def test_progress_counts_samples():
    chip = small()
    seen = []
    sim.run(chip, random_messages(chip, 200), threads=2, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 1
    assert seen[-1] == (200, 200)
    assert seen == sorted(seen)


@pytest.mark.parametrize("bad", [0, 500, 999])
def test_a_message_out_of_range_stops_all_threads(bad, monkeypatch):
    """Whichever thread meets it; the pool serves the next run."""
    monkeypatch.setattr(simulator, "POOL_WORK", 0)
    chip = small()
    x = random_messages(chip, 1000)
    x[bad, 3, 2] = 2
    with pytest.raises(UsageError, match=r"\[0, 1\], got \[0, 2\]"):
        sim.run(chip, x, threads=3)
    x[bad, 3, 2] = 0
    assert_equal(reference.run(chip, x), sim.run(chip, x, threads=3))


def test_runs_may_be_forked(monkeypatch):
    """A child has none of its parent's threads, and starts its own."""
    monkeypatch.setattr(simulator, "POOL_WORK", 0)
    chip = small()
    x = random_messages(chip, 200)
    expected = sim.run(chip, x, threads=3).scores
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply_async(_scores, (chip, x)).get(timeout=240)
    np.testing.assert_array_equal(found, expected)


def _scores(chip, x):
    return sim.run(chip, x, threads=3).scores


@pytest.mark.parametrize("du", [4095, 2047])
@pytest.mark.parametrize("bias", [0, 63])
def test_24_bits_are_tested_unless_they_are_proven(du, bias):
    """Where sums may leave 24 bits, they do here, and the counts are those of the reference."""
    for weight, proven in ((2, True), (254, False)):
        connection = Dense(INPUT, 0, np.full((3, 500), weight), 2)
        chip = ChipNetwork((500,), (LIF((3,), du, 400, 131071, bias_mant=bias),), (connection,), 40)
        assert plan.plan(chip).layers[0].constants.bounded == proven
        x = np.ones((2, 40, 500), np.uint8)
        expected = reference.run(chip, x, EVERYTHING)
        assert bool(expected.overflows["u"].sum() + expected.overflows["v"].sum()) != proven
        assert_equal(expected, sim.run(chip, x, EVERYTHING))


@pytest.mark.parametrize("delay", [1, 3])
@pytest.mark.parametrize("kind", [Dense, Sparse])
def test_a_recurrent_layer_takes_its_own_spikes_in_one_kernel(kind, delay):
    rng = np.random.default_rng(0)
    weight = even(rng, 20, 20)
    own = Dense(0, 0, weight, delay=delay)
    if kind is Sparse:
        own = Sparse(0, 0, (20, 20), *np.divmod(np.arange(400), 20), weight.ravel(), delay=delay)
    layers = (layer(20, vth=600), layer(4))
    chip = ChipNetwork((30,), layers, (Dense(INPUT, 0, even(rng, 20, 30)), own, Dense(0, 1, even(rng, 4, 20))), 50)
    found = plan.plan(chip)
    assert found.layers[0].recurrent
    assert [group.block for group in found.groups] == [0, 0]
    x = random_messages(chip, 6)
    expected = reference.run(chip, x, EVERYTHING)
    assert expected.spike_counts[0] > 100
    assert_equal(expected, sim.run(chip, x, EVERYTHING))


def test_a_wide_input_takes_a_window_of_memory():
    """Whatever its width: the input of one sample and 32 steps has 3.2 MB here, all 16 samples 51 MB."""
    chip = ChipNetwork((100_000,), (layer(4),), (Dense(INPUT, 0, np.full((4, 100_000), 2)),), 32)
    x = np.zeros((16, 32, 100_000), np.uint8)
    sim.run(chip, x[:1])  # compiled
    simulator = sim.Simulator(chip, threads=1)
    tracemalloc.start()
    try:
        simulator.run(x)
        assert tracemalloc.get_traced_memory()[1] < 6e6
    finally:
        tracemalloc.stop()


def test_an_empty_batch_has_no_scores():
    assert sim.run(small(), np.zeros((0, 6, 5), np.uint8)).scores.shape == (0, 4)


BAD_CALLS = [
    ({"x": np.zeros((1, 6, 4), np.uint8)}, "expected shape (batch, 6, 5), got (1, 6, 4)"),
    ({"x": np.zeros((1, 6, 5))}, "float64"),
    ({"x": np.full((1, 6, 5), 2)}, "[0, 1], got [2, 2]"),
    ({"record": ("w",)}, "'w'"),
    ({"record": "uv"}, "('uv',)"),
    ({"record": {"u": [2]}}, "no layer 2; layers are 0 to 1"),
    ({"record": {"u": ["output"]}}, "names hidden, readout"),
    ({"clock": "sun"}, "logical, wall"),
    ({"threads": 0}, "threads"),
    ({"x": iter([]), "record": ()}, "no batch"),
    ({"x": iter([]), "record": ("u",)}, "iterator"),
]


@pytest.mark.parametrize(("change", "says"), BAD_CALLS)
def test_bad_calls_are_named(change, says):
    arguments = {"x": np.zeros((1, 6, 5), np.uint8), "record": ()} | change
    with pytest.raises(UsageError) as error:
        sim.run(small(), arguments.pop("x"), arguments.pop("record"), **arguments)
    assert says in str(error.value)


def test_a_recording_that_would_not_fit_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr(recording, "free_memory", lambda: 1000)
    chip = small()
    with pytest.raises(UsageError, match=r"needs 1.17e-06 GB.*'v' of layer 0, hidden, alone takes 6.48e-07"):
        sim.run(chip, random_messages(chip, 3), ("v", "s"))
    sim.run(chip, random_messages(chip, 3), {"s": [1]})


def test_free_memory_is_known_here():
    assert recording.free_memory() > 1 << 20


def test_the_plan_says_how_and_why():
    chip = ChipNetwork((4,), (layer(3),), (Dense(INPUT, 0, np.full((3, 4), 2)), Diagonal(0, 0, np.full(3, -4))), 2)
    strategies = sim.explain(chip)
    assert [each.strategy for each in strategies] == ["events", "loop"]
    assert strategies[0].connection == "connection input→layer[0]"
    graded = ChipNetwork((4,), (layer(3),), (Dense(INPUT, 0, np.full((3, 4), 2), num_message_bits=8),), 2)
    assert sim.explain(graded)[0].strategy == "product"


def test_two_convolutions_with_other_groups_into_one_layer():
    """Depthwise and full in parallel, as ``shared/cases/nir/two_groups.nir`` has them."""
    rng = np.random.default_rng(0)
    shape, out = (4, 8, 8), (8, 8, 8)
    full = Conv(INPUT, 0, even(rng, 8, 4, 3, 3), shape, padding=(1, 1))
    depthwise = Conv(INPUT, 0, even(rng, 8, 1, 3, 3), shape, padding=(1, 1), groups=4)
    chip = ChipNetwork(shape, (layer(*out, vth=300),), (depthwise, full), num_steps=16)
    x = random_messages(chip, 20, density=0.2)
    assert_equal(reference.run(chip, x, EVERYTHING), sim.run(chip, x, EVERYTHING))


@pytest.mark.parametrize("threads", [True, 0, 1.0, "2"])
def test_threads_are_an_integer(threads):
    chip = ChipNetwork((4,), (layer(2),), (Dense(INPUT, 0, np.full((2, 4), 8)),), num_steps=3)
    with pytest.raises(UsageError, match="threads: expected a positive integer"):
        sim.run(chip, np.ones((1, 3, 4), np.uint8), threads=threads)
    assert sim.run(chip, np.ones((1, 3, 4), np.uint8), threads=np.int64(2)).scores.shape == (1, 2)


def test_windows_count_a_wide_input():
    """2 × 128 × 128 events into 16 neurons: the messages, not the neurons, fill the cache."""
    chip = ChipNetwork((2, 128, 128), (layer(16),), (Dense(INPUT, 0, np.full((16, 2**15), 2)),), num_steps=300)
    samples, steps = simulator.Simulator(chip, 1)._chunk(8, 300)
    assert samples * steps * 2**15 <= max(simulator.WINDOW_BYTES, 2**15)


def test_a_current_that_no_message_holds_is_refused():
    """66,040 was sent as 504: int16 wrapped in silence."""
    first = ChipNetwork(
        (1,), (layer(1, du=4095, dv=4096, vth=131071),), (Dense(INPUT, 0, [[254]], 2, num_message_bits=8),), 1
    )
    rest = Dense(INPUT, 0, [[2]], num_message_bits=13)
    chip = ChipNetwork((1,), (layer(1),), (rest,), 3, host=first)
    assert sim.host_messages(chip, np.full((1, 3, 1), 4)).max() == 4064
    with pytest.raises(UsageError, match=r"the host's current reaches 66,040 … 66,040, a message holds -4096 … 4095"):
        sim.host_messages(chip, np.full((1, 3, 1), 65))


@pytest.mark.parametrize("width", [1, 63, 64, 65, 300])
def test_spikes_are_found_in_every_place_of_every_row(width):
    """Random rows from silent to full, whose blocks hold up to 64 spikes, in part of a larger array."""
    from ottt_loihi.sim.inference import kernels

    rng = np.random.default_rng(width)
    sent = np.zeros((4, 5, -(-width // kernels.BLOCK) * kernels.BLOCK), np.uint8)
    sent[..., :width] = rng.random((4, 5, width)) < np.linspace(0, 1, 5)[:, None]
    for s, row in np.ndindex(2, 5):
        index = np.full(sent.shape[2] + kernels.LISTED, 999, np.uint32)
        found = kernels.active(sent[1:3], s, row, index)
        np.testing.assert_array_equal(index[:found], np.flatnonzero(sent[1 + s, row]))
