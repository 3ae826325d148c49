"""Every network of the trainer on the chip: what folding and unrolling make of it is the same network."""

import math
from dataclasses import replace

import numpy as np
import pytest
from ottt_loihi.converters import torch_integer
from ottt_loihi.converters.quantize.float_network import convolution_matrix, from_torch
from ottt_loihi.converters.quantize.quantize import quantize
from ottt_loihi.converters.samples import as_messages
from ottt_loihi.converters.verify import compare
from ottt_loihi.sim.inference import reference, simulator
from ottt_loihi.sim.network import Conv, Dense, Sparse

from ottt_loihi import sim
from ottt_loihi.errors import ChipError, UsageError

torch = pytest.importorskip("torch")
from ottt_loihi.nn.models import conv, mlp, nf_resnet34, vgg  # noqa: E402

NETWORKS = {
    "conv": lambda **kw: conv("6C3-AP2-8C3G2-AP2-12F", input_shape=(2, 8, 8), **kw),
    "stride": lambda **kw: conv("6C3S2-5C2-GAP", input_shape=(1, 9, 9), **kw),
    "odd pool": lambda **kw: conv("4C3-AP2-8F-6F", input_shape=(1, 7, 9), **kw),
    "padded odd pool": lambda **kw: conv("4C3-AP2-4C3-GAP", input_shape=(1, 7, 9), **kw),
    "standardized": lambda **kw: conv("6C3-AP2-8C3-GAP", input_shape=(2, 8, 8), standardized=True, **kw),
    "recurrent": lambda **kw: mlp((20, 16, 12, 10), recurrent=True, **kw),
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
    net = network(name, **({} if name in ("recurrent", "resnet") else {"bias": True})).double()
    x = spikes(net)
    run = net.run(torch.from_numpy(x), record=("u", "o"))
    mine = run_float(from_torch(net), x)
    for theirs, ours in zip([*run.states["u"], run.states["o"][0]], mine, strict=True):
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs.detach().numpy(), rtol=0, atol=1e-9)
    assert all(np.abs(u).max() > 0.1 for u in mine)


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
@pytest.mark.parametrize("name", ["conv", "recurrent", pytest.param("resnet", marks=pytest.mark.slow)])
def test_lava_runs_the_same_integers(name, reset):
    from ottt_loihi.converters.lava import graph as lava

    net = network(name, reset=reset)
    chip = quantize(from_torch(net)).chip
    x = spikes(net, 2)
    comparison = compare(chip, simulator.run(chip, x, ("u", "v", "s")), lava.run(chip, x, ("u", "v", "s")))
    assert comparison.different == 0, str(comparison.first)
