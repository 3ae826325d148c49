"""lava-dl's SLAYER: a module of its blocks, in the order in which they were made, is a network of them.

Time is the last axis there, and ``delay_shift`` shows a block's spikes one step later.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

HOME = "lava.lib.dl.slayer.block"


def blocks_of(net: nn.Module) -> dict[str, nn.Module] | None:
    """Return copies of a module's blocks by path, None where it has none."""
    found: dict[str, nn.Module] = {}
    for path, module in net.named_modules():
        if _is_block(module) and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = module
    return {path: copy.deepcopy(module).cpu().eval() for path, module in found.items()} or None


def firing(blocks: Mapping[str, nn.Module]) -> list[str]:
    """Return the paths of the blocks whose spikes are layers of ours."""
    return [path for path, block in blocks.items() if type(block).__name__ not in ("Flatten", "Average", "Affine")]


@torch.no_grad()
def run(net: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return each block's spikes ``(T, n, …)`` and the module's output, spikes counted ``(n, classes)``.

    x: spikes ``(n, T, …)``
    """
    twin, sent = copy.deepcopy(net).cpu().eval(), {}
    late, handles = 0, []
    for path, module in twin.named_modules():
        if not _is_block(module):
            continue
        late += bool(getattr(module, "delay_shift", False))

        def keep(module: nn.Module, inputs: object, result: Tensor, path: str = path, late: int = late) -> None:
            sent[path] = result.movedim(-1, 0)[late:]

        handles.append(module.register_forward_hook(keep))
    padded = torch.cat([x, x.new_zeros(len(x), late, *x.shape[2:])], 1)  # so that the last spikes come out
    output = twin(padded.movedim(1, -1).float())
    for handle in handles:
        handle.remove()
    if output.ndim == 3:
        output = output[..., late : late + x.shape[1]].sum(-1)
    return {path: spikes[: x.shape[1]].double() for path, spikes in sent.items()}, output


def _is_block(module: nn.Module) -> bool:
    return type(module).__module__.startswith(HOME)
