import numpy as np
import pytest
from ottt_loihi.sim.inference import reference
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal, Sparse

from ottt_loihi.errors import ChipError, UsageError


def one_layer(weight, lif=None, num_steps=4, **kwargs):
    weight = np.asarray(weight)
    lif = lif or LIF((len(weight),), 4095, 2048, 100)
    return ChipNetwork((weight.shape[1],), (lif,), (Dense(INPUT, 0, weight),), num_steps, **kwargs)


KERNEL = np.full((2, 1, 3, 3), 254)
BAD_PARTS = [
    (lambda: Dense(INPUT, 0, np.array([[2, -4], [6, 255]])), "even|multiples of 2", "(1, 1)"),
    (lambda: Dense(INPUT, 0, np.array([[300, 0]])), "[-256, 255]", "300 at (0, 0)"),
    (lambda: Dense(INPUT, 0, np.array([[0.5]])), "integers", "float64"),
    (lambda: Dense(INPUT, 0, np.array([[2]]), weight_exp=8), "weight_exp", "-8 … 7"),
    (lambda: LIF((2,), 4096, 0, 1, name="hidden 1"), "hidden 1.du", "4096"),
    (lambda: LIF((2,), 0, 0, 1 << 17), "vth", "131071"),
    (lambda: LIF((2,), 0, 0, 1, bias_mant=np.array([0, 40000])), "bias_mant", "40000 at (1,)"),
    (lambda: LIF((2,), 0, 0, 1.5), "vth", "got 1.5"),
    (lambda: one_layer([[2]], num_steps=0), "num_steps", "0"),
    (lambda: one_layer([[2]], readout="max"), "readout", "'max'"),
    (lambda: ChipNetwork((3,), (LIF((1,), 0, 0, 1),), (Dense(INPUT, 0, np.array([[2]])),), 1), "(1, 3)", "(1, 1)"),
    (lambda: ChipNetwork((1,), (LIF((1,), 0, 0, 1, name="lost"),), (), 1), "lost", "no input"),
    (lambda: Sparse(INPUT, 0, (2, 3), [0, 2], [0, 0], [2, 4]), "rows", "2 at (1,)"),
    (lambda: Sparse(INPUT, 0, (2, 3), [0], [0, 0], [2, 4]), "rows", "one for each of 2 weights"),
    (lambda: Sparse(INPUT, 0, (2, 3), [1, 1], [2, 2], [2, 4]), "synapse 2→1", "2 times"),
    (lambda: Conv(INPUT, 0, KERNEL, (1, 4, 4), stride=(0, 1)), "stride", "2 integers 1 … 127"),
    (lambda: Conv(INPUT, 0, KERNEL, (1, 4, 4), stride=(1, 128)), "stride", "2 integers 1 … 127"),
    (lambda: Conv(INPUT, 0, KERNEL, (3, 4, 4)), "3 input channels", "expected (out, 3, height, width)"),
    (lambda: Conv(INPUT, 0, KERNEL, (1, 2, 4)), "larger", "(2, 4)"),
    (lambda: Conv(INPUT, 0, KERNEL, (1, 4, 4), num_message_bits=24), "int32", "undefined"),
    (
        lambda: ChipNetwork((1, 4, 4), (LIF((2, 1, 2), 0, 0, 1),), (Conv(INPUT, 0, KERNEL[:1], (1, 4, 4)),), 1),
        "output_shape|(4, 16)",
        "(2, 1, 2)",
    ),
]


@pytest.mark.parametrize(("build", "says", "also"), BAD_PARTS)
def test_bad_parts_are_named(build, says, also):
    with pytest.raises(ChipError) as error:
        build()
    assert any(word in str(error.value) for word in says.split("|"))
    assert also in str(error.value)


def test_a_connection_that_skips_layers_names_the_delay_it_needs():
    layers = (LIF((1,), 0, 0, 1), LIF((1,), 0, 0, 1))
    forward = (Dense(INPUT, 0, np.array([[2]])), Dense(0, 1, np.array([[2]])))
    with pytest.raises(ChipError, match="delay=1"):
        ChipNetwork((1,), layers, (*forward, Dense(INPUT, 1, np.array([[2]]))), 3)
    skip = ChipNetwork((1,), layers, (*forward, Dense(INPUT, 1, np.array([[2]]), delay=1)), 3)
    assert skip.logical_delay(skip.connections[-1]) == 0


def test_equality_is_by_value_and_arrays_are_read_only():
    assert one_layer([[2, 4]]) == one_layer([[2, 4]])
    assert one_layer([[2, 4]]) != one_layer([[2, 6]])
    with pytest.raises(ValueError, match="read-only"):
        one_layer([[2, 4]]).connections[0].weight[0, 0] = 8


def test_hand_computed_run_with_reset_by_subtraction():
    """λ = 0.5, Vth = 4, W = 6, input 1 1 0 1: u = 6·64 fires; then 0.5·u − 2·64 + input …, by hand."""
    lif = LIF((1,), 2047, 4096, 4)
    chip = ChipNetwork((1,), (lif,), (Dense(INPUT, 0, np.array([[6]])), Diagonal(0, 0, np.array([-2]))), 4)
    result = reference.run(chip, np.array([[[1], [1], [0], [1]]]), record=("u", "s"))
    assert result.states["u"][0].ravel().tolist() == [384, 384 // 2 - 128 + 384, 448 // 2 - 128, 96 // 2 + 384]
    assert result.states["s"][0].ravel().tolist() == [True, True, False, True]
    assert result.spike_counts.tolist() == [3]


def test_recurrence_takes_one_step():
    chip = ChipNetwork(
        (1,), (LIF((1,), 4095, 4096, 1),), (Dense(INPUT, 0, np.array([[2]])), Dense(0, 0, np.array([[2]]))), 3
    )
    result = reference.run(chip, np.array([[[1], [0], [0]]]), record=("s",))
    assert result.states["s"][0].ravel().tolist() == [True, True, True]


def test_conv_is_the_cross_correlation_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    geometry = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    conv = Conv(INPUT, 0, rng.integers(-128, 128, (4, 1, 3, 2)) * 2, (2, 7, 6), **geometry)
    x = rng.integers(0, 2, (3, 2, 7, 6))
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x).double(), torch.from_numpy(conv.weight.astype(float)), **geometry
    )
    found = reference.connection_output(conv, x.reshape(3, -1)).reshape(3, *conv.output_shape)
    np.testing.assert_array_equal(found, expected.numpy())


BAD_INPUT = [
    (np.zeros((1, 4, 3), np.uint8), "expected shape (batch, 4, 2), got (1, 4, 3)"),
    (np.zeros((1, 4, 2)), "float64"),
    (np.full((1, 4, 2), 2), "[0, 1]"),
]


@pytest.mark.parametrize(("x", "says"), BAD_INPUT)
def test_bad_input_is_named(x, says):
    with pytest.raises(UsageError) as error:
        reference.run(one_layer([[2, 4]]), x)
    assert says in str(error.value)
    with pytest.raises(UsageError, match="record"):
        reference.run(one_layer([[2, 4]]), np.zeros((1, 4, 2), np.uint8), record=("w",))
