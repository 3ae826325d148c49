"""lava-dl's SLAYER: a module of its blocks, in the order in which they were made, is a network of them.

Time is the last axis there, and ``delay_shift`` shows a block's spikes one step later. The module is run once beside
the network, because its ``forward`` may use the blocks in another way.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from ottt_loihi.converters.frameworks.twin import copy_of, first_tensor
from torch import Tensor, nn

from ottt_loihi.errors import ChipError, UsageError, first_line
from ottt_loihi.nn.network import Network

HOME = "lava.lib.dl.slayer.block"
STATES = ("spike_state", "current_state", "voltage_state")  # what blocks keep of the last call
SAMPLES, RATE = 4, 0.5  # of the random spikes that a module is run on
NEAREST = "the nearest is a forward that runs each block once, in the order in which they were made, and nothing else"


def blocks_of(net: nn.Module) -> dict[str, nn.Module] | None:
    """Return copies of a module's blocks by path, None where it has none."""
    return blocks_in(copy_of(net)) if blocks_in(net) else None


def blocks_in(net: nn.Module) -> dict[str, nn.Module]:
    """Return a module's blocks by path, in the order in which they were made."""
    found: dict[str, nn.Module] = {}
    for path, module in net.named_modules():
        if _is_block(module) and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = module
    return found


def firing(blocks: Mapping[str, nn.Module]) -> list[str]:
    """Return the paths of the blocks whose spikes are layers of ours."""
    return [path for path, block in blocks.items() if type(block).__name__ not in ("Flatten", "Average", "Affine")]


@torch.no_grad()
def run(net: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return each block's spikes ``(T, n, …)`` and the module's output, spikes counted ``(n, classes)``.

    x: spikes ``(n, T, …)``

    Raises
    ------
    UsageError
        for a module that does not run on such spikes, or that returns no tensor
    """
    twin, sent = copy_of(net), {}
    late = 0
    for name, state in twin.named_buffers():
        if name.rsplit(".", 1)[-1] in STATES:
            state.zero_()
    for path, module in blocks_in(twin).items():
        late += bool(getattr(module, "delay_shift", False))

        def keep(module: nn.Module, inputs: object, result: Tensor, path: str = path, late: int = late) -> None:
            sent[path] = result.movedim(-1, 0)[late:]

        module.register_forward_hook(keep)  # of a copy, so that nothing has to be removed
    padded = torch.cat([x, x.new_zeros(len(x), late, *x.shape[2:])], 1)  # so that the last spikes come out
    try:
        output = first_tensor(twin(padded.movedim(1, -1).float()))
    except (Exception, SystemExit) as error:  # user code raises anything
        shape = tuple(x.shape[2:])
        raise UsageError(f"{type(net).__name__} does not run on inputs of shape {shape}: {first_line(error)}") from None
    if output is None:
        raise UsageError(f"{type(net).__name__}.forward returns no tensor; expected the last block's spikes")
    if output.ndim == 3:
        output = output[..., late : late + x.shape[1]].sum(-1)
    return {path: spikes[: x.shape[1]].double() for path, spikes in sent.items()}, output


@torch.no_grad()
def require_the_same(net: nn.Module, network: Network, paths: list[str]) -> None:
    """Run a module and the network of its blocks on random spikes; ``paths``: of the blocks that are layers.

    Raises
    ------
    ChipError
        where ``forward`` leaves a block out, or a block has other spikes than in the network
    UsageError
        as :func:`run`, and where the decays of a block are not drawn yet
    """
    blocks = blocks_in(copy_of(net))
    later = [path for path in paths if _draws(blocks[path].neuron)]
    if later:
        raise UsageError(
            f"{', '.join(later)}: with shared_param=False, SLAYER draws the decays when a block first runs; run the "
            "module once on a sample before"
        )
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(SAMPLES, network.time_steps, *network.input_shape, generator=generator) < RATE).float()
    theirs, output = run(net, x)
    ours = network.run(x, record="s")
    for path, expected in zip(paths, ours.states["s"], strict=True):
        if path not in theirs:
            raise ChipError(f"{path}: forward does not run this block; {NEAREST}")
        found = theirs[path].reshape(len(expected), len(x), -1) if theirs[path].numel() == expected.numel() else None
        if found is None or not torch.equal(found, expected.reshape(found.shape).double()):
            raise ChipError(f"{path}: forward gives this block other spikes than the blocks in a row; {NEAREST}")
    if output.shape == ours.scores.shape and not torch.allclose(output.float(), ours.scores.float()):
        factor = output.sum() / ours.scores.sum()  # a mean over time has the scores' order
        if not torch.allclose(output.float(), factor * ours.scores.float(), atol=1e-4):
            raise ChipError(f"output: forward changes what the last block sends; {NEAREST}")


def _draws(neuron: nn.Module) -> bool:
    return not neuron.shared_param and neuron.shape is None


def _is_block(module: nn.Module) -> bool:
    return type(module).__module__.startswith(HOME)
