"""Every network of the trainer on the chip: what folding and unrolling make of it is the same network."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.quantize import float_run
from ottt_loihi.converters.quantize.float_connection import convolution_matrix
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.converters.samples import as_messages
from ottt_loihi.converters.verify import compare
from ottt_loihi.sim.inference import reference, simulator
from ottt_loihi.sim.network import Conv, Dense, Sparse

import ottt_loihi as ol
from ottt_loihi import sim
from ottt_loihi.data.codings import parse_coding
from ottt_loihi.data.description import DataDescription
from ottt_loihi.errors import ChipError, UsageError
from ottt_loihi.training.config import override, read_config

torch = pytest.importorskip("torch")
from ottt_loihi.nn.blocks import Block, Branch  # noqa: E402
from ottt_loihi.nn.connections import Conv2d, Elementwise, Linear, Readout  # noqa: E402
from ottt_loihi.nn.models import conv, mlp, nf_resnet34, vgg  # noqa: E402
from ottt_loihi.nn.network import Network  # noqa: E402
from ottt_loihi.nn.neurons import LIF  # noqa: E402

NETWORKS = {
    "conv": lambda **kw: conv("6C3-AP2-8C3G2-AP2-12F", input_shape=(2, 8, 8), **kw),
    "stride": lambda **kw: conv("6C3S2-5C2-GAP", input_shape=(1, 9, 9), **kw),
    "odd pool": lambda **kw: conv("4C3-AP2-8F-6F", input_shape=(1, 7, 9), **kw),
    "padded odd pool": lambda **kw: conv("4C3-AP2-4C3-GAP", input_shape=(1, 7, 9), **kw),
    "standardized": lambda **kw: conv("6C3-AP2-8C3-GAP", input_shape=(2, 8, 8), standardized=True, **kw),
    "recurrent": lambda **kw: mlp((20, 16, 12, 10), recurrent=True, **kw),
    "elementwise": lambda **kw: mlp((20, 16, 12, 10), recurrent="elementwise", **kw),
    "feedback": lambda **kw: conv(
        "4C3-AP2-6C3-6C3-GAP", input_shape=(1, 8, 8), feedback=True, feedback_delay="chip", **kw
    ),
    "resnet": lambda **kw: nf_resnet34(10, input_shape=(2, 24, 24), stages=((4, 2), (6, 2)), **kw),
}


def network(name, **settings):
    net = NETWORKS[name](time_steps=5, seed=1, **settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # gains, biases and branches that begin at zero would hide their mistakes
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.3 if parameter.ndim < 2 else 0.02))
            if parameter.ndim >= 2 and name not in ("standardized", "resnet"):
                parameter.mul_(1.5)
        if name == "resnet":  # a stem that fires
            net.blocks[0].connection.gain.fill_(5)
    return net


def spikes(net, batch=6, seed=0, density=0.4):
    shape = (batch, net.time_steps, *net.input_shape)
    return (np.random.default_rng(seed).random(shape) < density).astype(np.uint8)


def fired(net, x):
    """The trained network's spikes, bool ``(T, batch, *shape)`` of every block."""
    with torch.no_grad():
        return [s.numpy() != 0 for s in net.run(x, record=("s",)).states["s"]]


def matrix(c):
    if c.kind is Dense:
        return c.weight
    if c.kind is Conv:
        return convolution_matrix(c.weight, **c.geometry).toarray()
    full = np.zeros(c.geometry["size"])
    full[c.geometry["rows"], c.geometry["columns"]] = c.weight
    return full


def run_float(net, x):
    """The paper's equations over the converter's arrays: u of every layer and step, flat."""
    matrices = {id(c): matrix(c) for c in net.connections}
    v = [np.zeros((len(x), math.prod(layer.shape))) for layer in net.layers]
    currents, membranes, sent = [np.zeros_like(state) for state in v], [], []
    for t in range(net.num_steps):
        now, us = {-1: x[:, t].reshape(len(x), -1).astype(float)}, []
        for index, layer in enumerate(net.layers):
            current = layer.alpha * currents[index]
            for c in net.inputs_of(index):
                if c.delay <= t:
                    source = sent[t - c.delay] if c.delay else now
                    current = current + source[c.pre] @ matrices[id(c)].T
            currents[index] = current + (0 if layer.bias is None else layer.bias.reshape(-1))
            u = layer.beta * v[index] + currents[index]
            s = (u > layer.v_threshold).astype(float) * (layer.reset is not None)
            v[index] = u - layer.v_threshold * s if layer.reset == "subtract" else u * (1 - s)
            now[index] = s
            us.append(u)
        sent.append(now)
        membranes.append(us)
    return [np.stack(history) for history in zip(*membranes)]


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_changes_no_membrane(name):
    net = network(name, **({} if name in ("recurrent", "elementwise", "resnet") else {"bias": True})).double()
    x = spikes(net)
    run = net.run(torch.from_numpy(x), record=("u", "o"))
    mine = run_float(from_torch(net), x)
    for theirs, ours in zip([*run.states["u"], run.states["o"][0]], mine, strict=True):
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs.detach().numpy(), rtol=0, atol=1e-9)
    assert all(np.abs(u).max() > 0.1 for u in mine)


def pixels(net, batch=6, seed=0):
    """Images in 0 … 1 of whole messages, the same at every step."""
    images = np.random.default_rng(seed).integers(0, 256, (batch, 1, *net.input_shape)) / 255
    return images.repeat(net.time_steps, axis=1)


MOMENTS = {"mean": [0.3, 0.6], "std": [0.5, 0.2]}


def normalised(net):
    """The network, as if it had been trained on (x − mean)/std; and the same of images."""
    moments = {name: values[: net.input_shape[0]] for name, values in MOMENTS.items()}
    net.provenance["encoding"] = {"name": "constant", "options": moments}
    mean, std = (np.array(values)[:, None, None] for values in moments.values())
    return net, lambda x: (x - mean) / std


GROUPED = dict(stride=2, padding=(0, 2), groups=2, dilation=(1, 2))
SEEING = {  # what reads the image, of every kind that the chip has: convolutions, single synapses, a matrix
    **{name: lambda name=name: network(name) for name in ("conv", "stride", "padded odd pool", "feedback", "resnet")},
    "dense": lambda: mlp((50, 8, 4), input_shape=(2, 5, 5), time_steps=4, bias=True),
    "grouped": lambda: by_hand(Conv2d(2, 6, (3, 2), True, **GROUPED)),
    "upsampled": lambda: by_hand(Conv2d(2, 4, 3, True, padding=1, upsample=2, pool_after=(2, 2, 1))),
    "readout": lambda: Network([], Readout(50, 3, True), input_shape=(2, 5, 5), time_steps=3),
}


def by_hand(connection):
    size = math.prod(connection.output_shape((2, 5, 5)))
    return Network([Block(connection, LIF(0.6))], Readout(size, 3), input_shape=(2, 5, 5), time_steps=4)


@pytest.mark.parametrize("name", SEEING)
def test_normalisation_is_folded_into_what_sees_the_image(name):
    net, scaled = normalised(SEEING[name]().double())
    x = pixels(net)
    run = net.run(torch.from_numpy(scaled(x)), record=("u", "o"))
    found = from_torch(net)
    assert found.input == "constant"
    for theirs, ours in zip([*run.states["u"], run.states["o"][0]], run_float(found, x), strict=True):
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs.detach().numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["graded", "bias", "inject"])
def test_a_network_of_normalised_images_on_the_chip(form):
    net, scaled = normalised(network("conv", reset="zero" if form == "inject" else "subtract"))
    x = pixels(net, 12)
    chip = quantize(from_torch(net), input_form=form).chip
    result = simulator.run(chip, as_messages(x[:, 0], net.time_steps, form), ("s",))
    trained = fired(net, torch.from_numpy(scaled(x)).float())
    for mine, theirs in zip(result.states["s"], trained):
        assert (mine.reshape(theirs.shape) == theirs).mean() > 0.95
    assert trained[0].mean() > 0.05
    net.provenance["encoding"]["options"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(ChipError, match=r"the coding normalises 3 channels, and the input has the shape \(2, 8, 8\)"):
        from_torch(net)


def test_a_configuration_of_the_papers_is_exported_with_its_normalisation():
    config = read_config(Path(__file__).parents[1] / "configs" / "cifar10-vgg-ottt-a.toml")
    net = override(config, {"network.name": "conv", "network.features": "64C3-AP2-8C3-GAP"}).make_network(
        (3, 32, 32), 10
    )
    coding = parse_coding(config.data["encoding"])
    net.data = DataDescription((3, 32, 32), 10, coding, "analog", (0.0, 1.0), None, None)
    chip = ol.export(net).chip
    black = simulator.run(chip, as_messages(np.zeros((1, 3, 32, 32)), 6, "graded"), ("v",)).states["v"][0]
    moments = [torch.tensor(coding.options[name])[:, None, None] for name in ("mean", "std")]
    with torch.no_grad():
        current = net.blocks[0].connection((torch.zeros(1, 3, 32, 32) - moments[0]) / moments[1]).numpy()
    found, silent = black[0].reshape(current.shape) / (64 * chip.provenance["scales"][0]), current < 0.99
    np.testing.assert_allclose(found[silent], current[silent], atol=1e-3 * np.abs(current).max())
    assert chip.input_form == "graded"
    assert np.ptp(chip.layers[0].bias_mant.reshape(64, -1), axis=1).max() > 0  # padding has no part in it


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("name", NETWORKS)
def test_integers_are_close_to_the_network_and_equal_in_torch(name, reset):
    net = network(name, reset=reset)
    chip = quantize(from_torch(net)).chip
    x = spikes(net, 8, density=0.5)
    result = simulator.run(chip, x, ("u", "v", "s"))
    comparison = compare(chip, torch_integer.run(chip, x, ("u", "v", "s")), result)
    assert comparison.different == 0, str(comparison.first)
    trained = fired(net, torch.from_numpy(x))
    for mine, theirs in zip(result.states["s"], trained):
        assert (mine.reshape(theirs.shape) == theirs).mean() > 0.95
    assert trained[0].mean() > 0.02
    assert not any(counts.any() for counts in result.overflows.values())


def loops(reset="zero", shape=(12,)):
    """Neurons that each see their own last spike, over a weight of their own."""
    generator = torch.Generator().manual_seed(2)
    images = len(shape) == 3
    first = Conv2d(2, shape[0], 3, generator=generator, padding=1) if images else Linear(50, 12, generator=generator)
    blocks = [
        Block(first, LIF(0.6, reset=reset), branches=[Branch(Elementwise(shape, generator), 0, 1)]),
        Block(Linear(shape[0] * 25 if images else 12, 8, generator=generator), LIF(0.5, reset=reset)),
    ]
    return Network(blocks, Readout(8, 3, True, generator), input_shape=(2, 5, 5), time_steps=6)


@pytest.mark.parametrize("shape", [(12,), (3, 5, 5), (3, 1, 1)])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_recurrence_element_by_element(reset, shape):
    net = loops(reset, shape).double()
    x = spikes(net, 12)
    found = from_torch(net)
    with torch.no_grad():
        run = net.run(torch.from_numpy(x), record=("u", "o", "s"))
    for theirs, ours in zip([*run.states["u"], run.states["o"][0]], run_float(found, x), strict=True):
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs.detach().numpy(), rtol=0, atol=1e-9)
    chip = quantize(found).chip
    result = simulator.run(chip, x, ("u", "v", "s"))
    for states, wanted in zip(result.states.values(), reference.run(chip, x, ("u", "v", "s")).states.values()):
        assert all(np.array_equal(a, b) for a, b in zip(states, wanted, strict=True))
    for mine, theirs in zip(result.states["s"], run.states["s"]):
        assert (mine.reshape(theirs.shape) == theirs.numpy()).mean() > 0.97
    without = simulator.run(replace(chip, connections=tuple(c for c in chip.connections if c.pre != c.post)), x)
    assert not np.array_equal(without.spike_counts[0], result.spike_counts[0])


def test_torchs_own_layers_are_exported_as_ours():
    theirs = Network(
        [Block(torch.nn.Conv2d(2, 4, 3, (2, 1), (1, 0), groups=2), LIF(0.6)), Block(Linear(36, 8), LIF(0.5))],
        torch.nn.Linear(8, 3),
        input_shape=(2, 5, 5),
        time_steps=6,
    )
    theirs.double()
    x = spikes(theirs, 4)
    run = theirs.run(torch.from_numpy(x), record=("u", "o"))
    for wanted, found in zip([*run.states["u"], run.states["o"][0]], run_float(from_torch(theirs), x), strict=True):
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted.detach().numpy(), rtol=0, atol=1e-9)
    theirs.blocks[0].connection.padding_mode = "circular"
    with pytest.raises(ChipError, match=r"hidden 1: padding=\(1, 0\) with padding_mode='circular' cannot be exported"):
        from_torch(theirs)


def test_a_network_is_what_it_should_be_on_the_chip():
    kinds = [c.kind for c in from_torch(network("conv")).connections]
    assert kinds == [Conv, Conv, Dense, Dense]
    residual = from_torch(network("resnet"))
    assert {c.kind for c in residual.connections} == {Conv, Dense, Sparse}
    assert max(c.post - c.pre for c in residual.connections) > 2  # the unrolled stream


def test_feedback_trained_with_too_short_a_delay_is_refused():
    net = conv("4C3-4C3", input_shape=(1, 6, 6), feedback=True)
    with torch.no_grad():
        net.blocks[0].branches[0].connection.weight.fill_(0.1)
    with pytest.raises(ChipError, match=r"from hidden 2 to hidden 1: trained with a delay of 1 step, .* takes 2 steps"):
        from_torch(net)


def test_too_many_single_synapses_are_refused():
    weight = np.ones((256, 256, 3, 3))
    with pytest.raises(ChipError, match="single synapses"):
        convolution_matrix(weight, (256, 32, 32), (1, 1), (1, 1))


@pytest.mark.parametrize("form", ["graded", "inject"])
def test_constant_images_as_messages(form):
    """Pixels 0 … 255 through the first connection; injected once they stay in u."""
    net = mlp((16, 12, 10), reset="zero", seed=1, time_steps=5)
    net.provenance["encoding"] = {"name": "constant"}
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16))
    trained = from_torch(net)
    chip = quantize(trained, input_form=form).chip
    x = as_messages(pixels / 255, 5, form)
    result = simulator.run(chip, x, ("u", "v", "s"))
    assert compare(chip, torch_integer.run(chip, x, ("u", "v", "s")), result).different == 0
    frames = torch.from_numpy(pixels / 255).float().unsqueeze(1).expand(-1, 5, -1)
    trained = fired(net, frames)[0]
    assert (result.states["s"][0] == trained).mean() > 0.99
    assert trained.mean() > 0.05
    assert not any(counts.any() for counts in result.overflows.values())


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_the_host_can_compute_the_first_layer(name, reset):
    """The chip gets currents in the 13 bits of a bias, of an image that stays the same."""
    make = {
        "mlp": lambda **kw: mlp((64, 12, 10), input_shape=(1, 8, 8), **kw),
        "conv": lambda **kw: conv("4C3-6C3", **kw),
    }
    settings = {"input_shape": (1, 8, 8)} if name == "conv" else {}
    net = make[name](reset=reset, bias=True, seed=1, time_steps=5, **settings)
    net.provenance["encoding"] = {"name": "constant"}
    with torch.no_grad():  # so that the second layer fires, too
        for parameter in net.parameters():
            parameter.mul_(1.6)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8))
    chip = quantize(from_torch(net), input_form="bias").chip
    x = as_messages(pixels / 255, 5, "bias")
    messages = sim.host_messages(chip, x)
    first = chip.host.connections[0]
    sums = np.zeros((12, chip.input_size), np.int64)
    flat = pixels.reshape(12, -1)
    if name == "mlp":
        sums = flat @ first.weight.T.astype(np.int64)
    else:
        np.add.at(sums, (slice(None), first.rows), flat[:, first.columns] * first.weight.astype(np.int64))
    expected = sums >> -first.weight_exp if first.weight_exp < 0 else sums << first.weight_exp
    np.testing.assert_array_equal(messages.reshape(12, 5, -1), np.repeat(expected[:, None], 5, axis=1))
    assert 1000 < np.abs(expected).max() <= 4095
    assert chip.connections[0].weight.tolist() == [1] * chip.input_size
    result = simulator.run(chip, x, ("u", "v", "s"))
    assert compare(chip, torch_integer.run(chip, x, ("u", "v", "s")), result).different == 0
    assert compare(chip, reference.run(chip, x, ("u", "v", "s")), result).different == 0
    apart = simulator.run(replace(chip, host=None), messages, ("u", "v", "s"))
    assert compare(chip, apart, result).different == 0
    trained = fired(net, torch.from_numpy(pixels / 255).float().unsqueeze(1).expand(-1, 5, -1, -1, -1))
    for ours, theirs in zip(result.states["s"], trained):
        assert (ours == theirs).mean() > 0.97
        assert 0.02 < theirs.mean() < 0.98
    assert not any(counts.any() for counts in result.overflows.values())
    with pytest.raises(UsageError, match="stays the same in time"):
        sim.host_messages(chip, x * np.arange(5)[:, None, None, None])


def test_an_injected_current_needs_u_for_itself():
    net = mlp((16, 12, 10), reset="subtract")
    net.provenance["encoding"] = {"name": "constant"}
    with pytest.raises(ChipError, match="hidden 1: an injected current stays in u"):
        quantize(from_torch(net), input_form="inject")


@pytest.mark.parametrize("kind", ["ternary", "binary"])
def test_ternary_and_binary_weights(kind):
    chip = quantize(from_torch(network("conv")), kind).chip
    for c in chip.connections:
        if isinstance(c, (Dense, Conv)):
            assert set(np.unique(c.weight)) <= ({-128, 0, 128} if kind == "ternary" else {-128, 128})
            assert c.num_weight_bits == 2


def test_scales_that_are_powers_of_two():
    for layer in quantize(from_torch(network("conv")), scale="power-of-two").layers:
        assert math.log2(layer.scale).is_integer()


def test_the_paper_s_vgg_is_exported_whole():
    net = vgg(time_steps=2, input_shape=(3, 16, 16))
    quantized = quantize(from_torch(net))
    assert [c.weight.shape for c in quantized.chip.connections if isinstance(c, Conv)][2] == (256, 128, 6, 6)
    assert all(report.rms_error < 0.05 for report in quantized.layers)


@pytest.mark.lava
@pytest.mark.parametrize("reset", ["zero", pytest.param("subtract", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["conv", "recurrent", *(pytest.param(name, marks=pytest.mark.slow) for name in ("elementwise", "resnet"))]
)
def test_lava_runs_the_same_integers(name, reset):
    from ottt_loihi.converters.lava import graph as lava

    net = network(name, reset=reset)
    chip = quantize(from_torch(net)).chip
    x = spikes(net, 2)
    comparison = compare(chip, simulator.run(chip, x, ("u", "v", "s")), lava.run(chip, x, ("u", "v", "s")))
    assert comparison.different == 0, str(comparison.first)


def authors_feedback(delay=1, beta=0.5, bias=0.4, reset="subtract"):
    torch.manual_seed(1)
    back = ol.Linear(6, 6, bias=True)
    torch.nn.init.constant_(back.bias, bias)
    neurons = ol.LIF(beta, convention="authors", reset=reset)
    block = ol.Block(ol.Linear(5, 6, bias=True), neurons, branches=[ol.Branch(back, 0, delay)])
    return ol.Network([block], ol.Readout(6, 3), input_shape=(5,), time_steps=4, convention="authors")


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_the_bias_of_the_authors_feedback_begins_one_step_late_on_the_chip_too(reset):
    """It acted from the first step on in the exported network."""
    net = authors_feedback(reset=reset).double()
    x = (np.random.default_rng(0).random((40, 4, 5)) < 0.3).astype(np.uint8)
    found = net.run(torch.from_numpy(x), record="s")
    assert 0.05 < found.states["s"][0].mean().item() < 0.95
    real = from_torch(net)
    scores = float_run.scores(real, float_run.run(real, x))
    np.testing.assert_allclose(scores, found.scores.detach().numpy(), atol=1e-12)
    chip = ol.export(net).chip
    assert (sim.run(chip, x).predictions == found.predictions.numpy()).mean() > 0.9


def test_a_bias_that_begins_later_than_the_chip_can_is_refused():
    for settings in ({"delay": 2}, {"beta": 0.0}):
        with pytest.raises(ChipError, match=r"branch: its bias begins .* late, as the authors' code has it"):
            from_torch(authors_feedback(**settings))
    from_torch(authors_feedback(delay=2, bias=0.0))


@pytest.mark.parametrize("form", ["bias", "inject"])
def test_forms_of_constant_images_are_refused_for_spikes(form):
    net = from_torch(mlp((6, 5, 3), input_shape=(6,)))
    assert net.input == "spikes"
    with pytest.raises(UsageError, match=f"input: {form} is for images that stay the same"):
        quantize(net, input_form=form)
