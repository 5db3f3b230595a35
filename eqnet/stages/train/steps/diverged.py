"""Where a training step's loss stopped being a number."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eqnet.supernet.supernet import Supernet


@torch.no_grad()
def first_not_finite(supernet: Supernet, forward: Callable[[], Tensor]) -> str:
    """What first holds NaN or infinity while `forward` runs the subnet in force, in words."""
    for name, parameter in supernet.graph.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"parameter '{name}'"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], object], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            if not found and not _finite(output):
                found.append(f"layer '{name}'")

        return hook

    handles = []
    for name, module in supernet.graph.named_modules():
        if name and not list(module.children()):
            handles.append(module.register_forward_hook(watch(name)))
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss itself"


def _finite(output: object) -> bool:
    """Whether a module's output, a tensor or several, is free of NaN and infinity."""
    if isinstance(output, Tensor):
        return bool(torch.isfinite(output).all())
    return not isinstance(output, tuple) or all(_finite(part) for part in output)
