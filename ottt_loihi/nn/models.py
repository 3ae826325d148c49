"""The networks of the paper and smaller ones, each a function of JSON values, and :func:`build`, which names them.

Each of them raises :class:`~ottt_loihi.errors.UsageError` for any value out of range or layers that do not fit the
input, and :func:`slayer` where lava-dl is not installed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ottt_loihi import checks
from ottt_loihi.errors import UsageError
from ottt_loihi.nn.blocks import Block, Branch, Skip
from ottt_loihi.nn.connections import BINARY, SPIKE_SCALE, Conv2d, Elementwise, Linear, Readout, pooled_shape
from ottt_loihi.nn.cuba import lif_or_cuba
from ottt_loihi.nn.features import parse
from ottt_loihi.nn.network import Network, fitting
from ottt_loihi.nn.neurons import LIF, DSRNeuron, Neuron, Stream
from ottt_loihi.nn.slayer import SlayerNeuron, SlayerSynapse, SpikeCount
from ottt_loihi.nn.surrogates import Surrogate, describe, make_surrogate

VGG_FEATURES = "64C3-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-GAP"
NF_RESNET34_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels, residual blocks
MOST_BLOCKS = 1000  # residual blocks that a number may ask for
NF_ALPHA = 0.2  # what each residual branch adds to the stream (NF-ResNets)


def mlp(
    sizes: Sequence[int] = (64, 128, 10),
    *,
    beta: float = 0.5,
    v_threshold: float = 1.0,
    reset: str = "subtract",
    bias: bool = False,
    standardized: bool = False,
    surrogate: str | Mapping[str, Any] | Surrogate = "rectangle",
    convention: str = "paper",
    time_steps: int = 6,
    input_shape: Sequence[int] | None = None,
    dropout: float = 0.0,
    recurrent: bool | str = False,
    v_init: float = 0.0,
    binary: str | None = None,
    shortcuts: bool = False,
    alpha: float = 0.0,
    learn: Sequence[str] = (),
    trace: str = "exact",
    seed: int = 0,
) -> Network:
    """Return a network of fully connected layers of LIF neurons and a readout.

    Parameters
    ----------
    sizes
        numbers of inputs, of neurons of each hidden layer, and of classes; ``(64, 10)`` has no hidden layer
    beta, v_threshold, reset, surrogate
        constants of all neurons (:class:`~ottt_loihi.nn.neurons.LIF`)
    bias
        whether all layers have a bias, also the readout
    standardized
        scaled weight standardisation with gains in all hidden layers; a spike then has the size 2.74 (:func:`conv`)
    input_shape
        shape of one frame, as many elements as ``sizes[0]``; default ``(sizes[0],)``
    dropout
        share of the hidden neurons that are dropped (:class:`~ottt_loihi.nn.blocks.Block`)
    recurrent
        True: every hidden layer also receives its own spikes of the previous step, through a matrix of weights.
        ``"elementwise"``: each neuron receives only its own spike, through one weight
    v_init
        the membrane of all hidden neurons before the first step
    binary
        weights of one bit between hidden layers, with a scale for each ``"channel"`` or for the ``"layer"``
        (:func:`~ottt_loihi.nn.weights.binarize`); the weights of the first layer and of the readout stay real
    shortcuts
        whether a hidden layer also receives the current of the previous hidden layer, if both have the same size
    alpha
        share of the synaptic current that is left after a step; 0: the neurons have no synaptic current
    learn
        constants that each layer learns, some of ``"alpha"``, ``"beta"`` and ``"v_threshold"``; with ``learn`` or
        ``alpha`` the neurons are :class:`~ottt_loihi.nn.cuba.CubaLIF`
    trace
        ``"synapse"`` lets OTTT keep a trace for every synapse, so that after a reset to zero only the spike is a
        constant for the gradient (:class:`~ottt_loihi.nn.cuba.CubaLIF`)
    seed
        seed of the initial weights; torch's global generator is neither used nor changed
    """
    sizes = checks.sizes(sizes, "sizes", 2)
    input_shape = (sizes[0],) if input_shape is None else checks.sizes(input_shape, "input_shape", 1)
    if math.prod(input_shape) != sizes[0]:
        raise UsageError(
            f"input_shape: {input_shape} is {math.prod(input_shape)} elements, but sizes begin with {sizes[0]}"
        )
    for name, value in (("standardized", standardized), ("shortcuts", shortcuts)):
        checks.flag(value, name)
    if recurrent != "elementwise" and not isinstance(recurrent, bool):
        raise UsageError(f"recurrent: expected true, false or 'elementwise', got {recurrent!r}")
    checks.one_of(binary, "binary", BINARY, none=True)
    surrogate = make_surrogate(surrogate)
    neuron = dict(
        beta=beta, v_threshold=v_threshold, reset=reset, surrogate=surrogate, convention=convention, v_init=v_init
    )
    generator = _generator(seed)
    blocks = []
    settings = {"standardized": True, "input_scale": SPIKE_SCALE} if standardized else {}
    for index, (n, m) in enumerate(itertools.pairwise(sizes[:-1])):
        own = settings if index else {"standardized": standardized}
        connection = Linear(n, m, bias, generator, binary=binary if index else None, **own)
        branches = []
        if recurrent:
            alone = recurrent == "elementwise"
            loop = Elementwise(m, generator) if alone else Linear(m, m, False, generator, **settings)
            branches = [Branch(loop, index, delay=1)]
        skip = Skip(index - 1) if shortcuts and index and n == m else None
        cells = lif_or_cuba(neuron, alpha, learn, trace)
        blocks.append(Block(connection, cells, branches=branches, skip=skip, dropout=dropout))
    scale = SPIKE_SCALE if blocks and standardized else 1.0
    readout = Readout(sizes[-2], sizes[-1], bias, generator, input_scale=scale)
    return Network(blocks, readout, input_shape=input_shape, time_steps=time_steps, convention=convention)


def conv(
    features: str = "16C5-AP2-32C5-AP2",
    *,
    input_shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
    beta: float = 0.5,
    v_threshold: float = 1.0,
    reset: str = "subtract",
    bias: bool = True,
    standardized: bool = False,
    surrogate: str | Mapping[str, Any] | Surrogate = "sigmoid",
    convention: str = "paper",
    time_steps: int = 6,
    dropout: float = 0.0,
    feedback: bool = False,
    feedback_delay: int | str = 1,
    binary: str | None = None,
    alpha: float = 0.0,
    learn: Sequence[str] = (),
    seed: int = 0,
) -> Network:
    """Return a network of convolutional layers of LIF neurons, with pooling, and a readout.

    Parameters
    ----------
    features
        layers joined by ``-``: ``32C5`` convolution to 32 channels with a 5×5 kernel, ``32C5S2`` with stride 2,
        ``32C5D2`` dilated by 2, ``32C5G4`` in 4 groups, each padded by d·(k − 1)/2 and followed by LIF neurons;
        ``AP2`` average pooling of the spikes over 2×2; ``GAP`` over the whole image; ``128F`` a fully connected layer
        of 128 LIF neurons. Sizes may be pairs, ``8C5x1-AP2x1``, and data of one dimension are images of height 1:
        ``8C1x5-AP1x2``
    standardized
        scaled weight standardisation with learnable gains; a spike then has the size 2.74, as in the paper's VGG
    feedback
        the feedback of VGG-F: a 3×3 convolution, whose weights begin at 0, from the earlier spikes of the last
        convolution, enlarged by repetition, to the first convolution
    feedback_delay
        number of steps that the feedback takes, 1 … 62; the paper has 1. ``"chip"``: one step for each layer of the
        loop, as connections on Loihi need
    bias, beta, v_threshold, reset, surrogate, dropout, binary, alpha, learn, seed
        as in :func:`mlp`
    """
    input_shape, num_classes = checks.sizes(input_shape, "input_shape", 3), checks.integer(num_classes, "num_classes")
    surrogate = make_surrogate(surrogate)
    neuron = dict(beta=beta, v_threshold=v_threshold, reset=reset, surrogate=surrogate, convention=convention)
    checks.flag(feedback, "feedback")
    checks.flag(standardized, "standardized")
    checks.one_of(binary, "binary", BINARY, none=True)
    if feedback_delay != "chip" and not (checks.is_integer(feedback_delay) and 1 <= feedback_delay <= 62):
        raise UsageError(f"feedback_delay: expected 1 … 62 or 'chip', got {feedback_delay!r}")
    generator = _generator(seed)
    blocks, shape, scale = [], input_shape, 1.0
    layers, last_pool = parse(features)
    for n, sizes, pool in layers:
        settings = {"standardized": standardized, "input_scale": scale, "pool": pool}
        settings["binary"] = binary if blocks else None
        if sizes is None:
            connection = Linear(math.prod(pooled_shape(shape, pool)), n, bias, generator, **settings)
        else:
            connection = Conv2d(shape[0], n, bias=bias, generator=generator, **sizes, **settings)
        blocks.append(Block(connection, lif_or_cuba(neuron, alpha, learn), dropout=dropout))
        shape = fitting(connection, shape, f"features {features!r}")
        scale = SPIKE_SCALE if standardized else 1.0
    readout_inputs = math.prod(pooled_shape(shape, last_pool))
    readout = Readout(readout_inputs, num_classes, bias, generator, input_scale=scale, pool=last_pool)
    net = Network(blocks, readout, input_shape=input_shape, time_steps=time_steps, convention=convention)
    return _with_feedback(net, scale, feedback_delay, generator) if feedback else net


def vgg(num_classes: int = 10, *, input_shape: Sequence[int] = (3, 32, 32), **settings: Any) -> Network:
    """Return the paper's VGG: 9,228,362 parameters for 10 classes, 9,274,532 for 100 (``VGG_FEATURES``)."""
    return conv(VGG_FEATURES, **_paper(num_classes, input_shape, settings))


def vgg_f(num_classes: int = 100, *, input_shape: Sequence[int] = (3, 32, 32), **settings: Any) -> Network:
    """Return VGG-F: :func:`vgg` with feedback from the last to the first convolution; 9,569,508 parameters."""
    return conv(VGG_FEATURES, **_paper(num_classes, input_shape, settings), feedback=True)


def nf_resnet34(
    num_classes: int = 1000,
    *,
    input_shape: Sequence[int] = (3, 224, 224),
    stages: Sequence[Sequence[int]] = NF_RESNET34_STAGES,
    beta: float = 0.5,
    v_threshold: float = 1.0,
    reset: str = "subtract",
    surrogate: str | Mapping[str, Any] | Surrogate = "sigmoid",
    convention: str = "paper",
    time_steps: int = 6,
    seed: int = 0,
) -> Network:
    """Return the paper's normalisation-free ResNet-34, 21,797,688 parameters for 1,000 classes.

    A real-valued stream h runs through the residual blocks; all convolutions are standardised and read spikes::

        h₀ = pool₃ₓ₃(conv₇ₓ₇(x))        s = LIF(h/β)        h ← h + α·g·conv(LIF(conv(s)))        α = 0.2, g = 0 first
        first block of stages 2 …:                          h ← conv₁ₓ₁(s) + α·g·conv(LIF(conv(s)))   stride 2

    β² = 1 + α²·(residual blocks since the stage began) keeps the current's variance at one (Brock 2021). ``stages``:
    (channels, residual blocks) of each stage, for smaller networks of the kind. The readout reads the spikes of
    LIF(h/β); with ``convention="authors"`` it reads the mean of the stream h itself, without a trace, as in the
    released code. Neurons and seed: :func:`mlp`.
    """
    stages, input_shape = _stages(stages), checks.sizes(input_shape, "input_shape", 3)
    generator = _generator(seed)
    neuron = dict(beta=beta, v_threshold=v_threshold, reset=reset, surrogate=surrogate, convention=convention)
    blocks = _residual_blocks(input_shape[0], stages, neuron, generator)
    scale = SPIKE_SCALE if convention == "paper" else 1.0
    readout = Readout(
        stages[-1][0], checks.integer(num_classes, "num_classes"), True, generator, input_scale=scale, pool="global"
    )
    return Network(blocks, readout, input_shape=input_shape, time_steps=time_steps, convention=convention)


def _stages(stages: Any) -> list[tuple[int, int]]:
    """The stages of a residual network, (channels, residual blocks) each."""
    found = [checks.sizes(stage, "stages", 2) for stage in stages] if isinstance(stages, (list, tuple)) else []
    if not found or any(len(stage) != 2 for stage in found) or sum(count for _, count in found) > MOST_BLOCKS:
        raise UsageError(
            f"stages: expected (channels, residual blocks) of one stage or more, at most {MOST_BLOCKS} residual blocks "
            f"in all, got {stages!r:.80}"
        )
    return found  # type: ignore[return-value]


def _residual_blocks(
    channels_in: int, stages: Sequence[tuple[int, int]], neuron: Mapping[str, Any], generator: torch.Generator
) -> list[Block]:
    """The stem and the residual blocks, a :class:`Block` for every layer of neurons.

    A block of neurons that reads the stream gets it as what the block two before got (:class:`Skip`) plus what the
    convolution between has to add; both are divided by the new β.
    """

    def convolution(n: int, m: int, kernel: int = 3, **settings: Any) -> Conv2d:
        settings = {"standardized": True, "padding": kernel // 2, "input_scale": SPIKE_SCALE} | settings
        return Conv2d(n, m, kernel, True, generator, **settings)

    channels, beta = stages[0][0], 1.0
    stem = convolution(channels_in, channels, 7, stride=2, input_scale=1.0, pool_after=(3, 2, 1))
    blocks = [Block(stem, LIF(**neuron))]
    for stage, (wide, count) in enumerate(stages):
        for index in range(count):
            source = len(blocks) - 1  # the neurons that read the stream now
            down = stage > 0 and index == 0
            blocks.append(Block(convolution(channels, wide, stride=2 if down else 1), LIF(**neuron)))
            after = math.sqrt((1.0 if down else beta**2) + NF_ALPHA**2)
            reader: Neuron = LIF(**neuron)
            if neuron["convention"] == "authors" and (stage, index) == (len(stages) - 1, count - 1):
                reader, after = Stream(neuron["beta"]), 1.0  # the readout reads the stream as it is
            scale = 1 / after
            second = convolution(wide, wide, output_scale=NF_ALPHA * scale, skip_gain=True)
            if down:
                shortcut = convolution(channels, wide, 1, stride=2, output_scale=scale)
                blocks.append(Block(second, reader, branches=[Branch(shortcut, source, delay=0)]))
            else:
                blocks.append(Block(second, reader, skip=Skip(source, beta * scale)))
            channels, beta = wide, after
    return blocks


def _with_feedback(net: Network, scale: float, delay: int | str, generator: torch.Generator) -> Network:
    """``net`` with VGG-F's feedback connection."""
    convolutions = [i for i, block in enumerate(net.blocks) if isinstance(block.connection, Conv2d)]
    if not convolutions or convolutions[0] != 0:
        raise UsageError("feedback: expected a network that begins with a convolution")
    if delay == "chip":
        delay = convolutions[-1] + 1
    source, first = net.blocks[convolutions[-1]], net.blocks[0]
    upsample = first.shape[1] // source.shape[1]
    settings = {"padding": 1, "upsample": upsample, "input_scale": scale}
    feedback = Conv2d(source.shape[0], first.shape[0], 3, True, generator, **settings)
    if not feedback.weight.is_meta:
        torch.nn.init.zeros_(feedback.weight)
    first.branches.append(Branch(feedback, convolutions[-1], delay))
    net.check_shapes()
    return net


PAPER = ("features", "feedback", "standardized", "bias")  # arguments that the paper's networks fix


def _paper(num_classes: int, input_shape: Sequence[int], settings: Mapping[str, Any]) -> dict[str, Any]:
    if fixed := sorted(set(settings) & set(PAPER)):
        raise UsageError(f"vgg: {', '.join(fixed)} cannot be changed; use conv")
    return {"num_classes": num_classes, "input_shape": input_shape, "standardized": True, **settings}


def dsr(
    hidden: Sequence[int] = (128,),
    *,
    input_shape: Sequence[int] = (64,),
    num_classes: int = 10,
    kind: str = "if",
    v_threshold: float = 6.0,
    alpha: float = 0.5,
    tau: float = 1.0,
    dt: float = 0.05,
    bias: bool = True,
    time_steps: int = 20,
    seed: int = 0,
) -> Network:
    """Return a network of fully connected layers of :class:`~ottt_loihi.nn.neurons.DSRNeuron`, for the rule ``dsr``.

    The defaults are those of the released code for ``kind="if"``. For ``"lif"`` the code has ``v_threshold=0.3,
    alpha=0.3``. On the chip, two helping neurons send the ``bias`` of IF neurons.
    """
    hidden, input_shape = checks.sizes(hidden, "hidden", 1), checks.sizes(input_shape, "input_shape", 1)
    sizes, generator = [math.prod(input_shape), *hidden], _generator(seed)
    neuron = {"kind": kind, "v_threshold": v_threshold, "alpha": alpha, "tau": tau, "dt": dt}
    blocks = [Block(Linear(n, m, bias, generator), DSRNeuron(**neuron)) for n, m in itertools.pairwise(sizes)]
    readout = Readout(sizes[-1], num_classes, True, generator)
    return Network(blocks, readout, input_shape=input_shape, time_steps=time_steps)


def slayer(
    num_classes: int = 10,
    *,
    input_shape: Sequence[int] = (8, 8),
    features: str = "128F",
    threshold: float = 1.0,
    current_decay: float = 1.0,
    voltage_decay: float = 0.5,
    weight_scale: float = 3.0,
    time_steps: int = 6,
    seed: int = 0,
) -> Network:
    """Return a network of SLAYER's dense and convolutional CUBA blocks that counts the last block's spikes.

    Parameters
    ----------
    features
        as in :func:`conv`, without poolings, which netx cannot load
    threshold, current_decay, voltage_decay
        of all neurons (:class:`~ottt_loihi.nn.slayer.SlayerNeuron`)
    weight_scale
        factor of SLAYER's initial weights, > 0
    """
    shape = checks.sizes(input_shape, "input_shape", 1)
    neuron = {"threshold": threshold, "current_decay": current_decay, "voltage_decay": voltage_decay}
    weight_scale = checks.number(weight_scale, "weight_scale", 0, 1e6, above=True)
    layers, last_pool = parse(features) if features else ([], None)
    layers.append((checks.integer(num_classes, "num_classes"), None, last_pool))
    blocks, now = [], shape
    with torch.random.fork_rng([]):
        torch.manual_seed(checks.integer(seed, "seed", 0))
        for n, sizes, pool in layers:
            if pool is not None:
                raise UsageError("features: netx cannot load a pooling of SLAYER's; use a convolution with a stride")
            if sizes is None:
                synapse = SlayerSynapse("Dense", math.prod(now), n)
            else:
                synapse = SlayerSynapse("Conv", now[0], n, **sizes)
            synapse.own.weight.data *= weight_scale
            blocks.append(Block(synapse, SlayerNeuron(**neuron)))
            now = synapse.output_shape(now)
    return Network(blocks, SpikeCount(num_classes), input_shape=shape, time_steps=time_steps)


KINDS: tuple[Callable[..., Network], ...] = (mlp, conv, vgg, vgg_f, nf_resnet34, dsr, slayer)
ARCHITECTURES = {kind.__name__: kind for kind in KINDS}


def with_current_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an architecture under today's names; files and tables of version 1 say ``decay``."""
    arguments = dict(arguments)
    if "decay" in arguments and "beta" not in arguments:
        arguments["beta"] = arguments.pop("decay")
    if isinstance(surrogate := arguments.get("surrogate"), Mapping):
        arguments["surrogate"] = describe(make_surrogate(surrogate))
    return arguments


def build(name: str, arguments: Mapping[str, Any]) -> Network:
    """Return the network that a function of :data:`ARCHITECTURES` makes of these arguments.

    UsageError for an unknown name, or unknown, missing or unfit arguments.
    """
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UsageError(f"architecture: expected one of {', '.join(ARCHITECTURES)}, got {name!r}")
    try:
        net = ARCHITECTURES[name](**with_current_names(arguments))
    except UsageError:
        raise
    except (TypeError, LookupError, ValueError, ArithmeticError, AttributeError) as error:
        raise UsageError(f"architecture {name}: its arguments do not fit ({error})") from None
    net.provenance["network"] = name
    return net


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(checks.integer(seed, "seed", 0))
