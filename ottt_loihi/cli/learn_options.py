"""The options of ``ottt-learn`` that choose a learning rule: ``sim.learning.rule.Rule`` on the command line."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class Rule(str, Enum):
    ottt = "ottt"
    s_tllr = "s-tllr"
    tess = "tess"


class Loss(str, Enum):
    mse = "mse"
    softmax = "softmax"


class Encoding(str, Enum):
    factored = "factored"
    signed = "signed"
    split = "split"


class Schedule(str, Enum):
    phased = "phased"
    pipelined = "pipelined"


class When(str, Enum):
    always = "always"
    mistaken = "mistaken"


RuleOption = Annotated[
    Rule,
    typer.Option(help="ottt; s-tllr, where inputs after a spike count, too; tess, with an error for each layer."),
]
LambdaPreOption = Annotated[
    float | None, typer.Option(help="S-TLLR, TESS: decay of the input's trace, at most 1 - 1/127; default: 0.5.")
]
LambdaPostOption = Annotated[
    float | None, typer.Option(help="S-TLLR, TESS: decay of the trace of a neuron's surrogate; default: 0.2.")
]
AlphaPostOption = Annotated[
    float | None, typer.Option(help="S-TLLR, TESS: weight of inputs that come after the neuron; default: 1.")
]
KappaOption = Annotated[
    float | None, typer.Option(help="TESS: gain of a layer's class neurons; default: a quarter of its neurons.")
]
CurrentOption = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="From scratch: share of the synaptic current that is left after a step; above 0, neurons reset to zero.",
    ),
]
MembraneOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="From scratch: share of the membrane that is left after a step; default: 0.5, with a current 0.8.",
    ),
]
LossOption = Annotated[
    Loss | None,
    typer.Option(help="The readout's error: squared, or cross-entropy (from scratch and of --changed)."),
]
BiasOption = Annotated[bool, typer.Option("--learn-bias", help="Biases learn, too, inside their neurons.")]
EncodingOption = Annotated[
    Encoding, typer.Option(help="How surrogate and error are sent: as two factors, as one signed number, or unsigned.")
]
ScheduleOption = Annotated[
    Schedule,
    typer.Option(
        help="phased: one time step after the other, exact. pipelined: overlapping, faster, only nearly OTTT."
    ),
]
SilentOption = Annotated[
    int,
    typer.Option(
        min=0, max=255, help="Learning epochs without spikes after a sample, in place of clearing the trace (loihi2)."
    ),
]
LagOption = Annotated[
    int, typer.Option(min=0, max=31, help="Lava steps that a chip's adapters take on the way in (loihi2).")
]
WhenOption = Annotated[
    When | None,
    typer.Option(
        help="Learn from every sample, or only from those answered wrongly at a first presentation; default: "
        "always from scratch, else mistaken."
    ),
]
