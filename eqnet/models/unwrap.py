"""Modules around modules that change how a network is run and not what it computes."""

from __future__ import annotations

import sys

from torch import nn
from torch.optim.swa_utils import AveragedModel

ATTRIBUTES = ("_orig_mod", "module")


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside of `torch.compile`, DataParallel and averaging, however they are nested.

    Such modules inside of the network are taken out too, in place.
    """
    while (inner := _inner(model)) is not None:
        model = inner
    for module in model.modules():
        if module._compiled_call_impl is not None:  # of `module.compile()`
            module._compiled_call_impl = None
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and _inner(child) is not None:
                parent._modules[name] = unwrap(child)
    return model


def _inner(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps; None for any other module."""
    if not isinstance(module, _wrappers()):
        return None
    for name in ATTRIBUTES:
        inner = module._modules.get(name)
        if inner is not None:
            return inner
    return None


def _wrappers() -> tuple[type[nn.Module], ...]:
    wrappers: list[type[nn.Module]] = [nn.DataParallel, nn.parallel.DistributedDataParallel]
    wrappers.append(AveragedModel)
    compiler = sys.modules.get("torch._dynamo.eval_frame")  # where nothing is compiled it is not
    if compiler is not None:
        wrappers.append(compiler.OptimizedModule)
    return tuple(wrappers)
