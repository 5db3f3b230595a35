"""What a model computes with beside its state dict, and the random state that it is built in."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Modules hold their parameters, buffers and children in these.
REGISTERED = ("_parameters", "_buffers", "_modules")
DEPTH = 4


def outside_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of a model that its state dict does not hold, by their dotted path.

    Buffers that are not persistent, and tensors and parameters that are plain attributes or lie
    in lists, tuples and dicts of such. A second name of a tensor of the state dict is none.
    """
    held = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    outside: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        plain = {name: value for name, value in vars(module).items() if name not in REGISTERED}
        for name, tensor in _tensors({**module._buffers, **plain}, DEPTH):
            if id(tensor) not in held:
                dotted = f"{path}.{name}" if path else name
                outside[dotted] = tensor
                held.add(id(tensor))
    return outside


def _tensors(value: Any, depth: int) -> Iterator[tuple[str, Tensor]]:
    if depth == 0:
        return
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        if isinstance(item, Tensor):
            yield str(key), item
            continue
        for name, tensor in _tensors(item, depth - 1):
            yield f"{key}.{name}", tensor


@torch.no_grad()
def set_values(tensor: Tensor, values: Tensor) -> None:
    """Give a tensor other values of its shape, in place; its type stays."""
    values = values.to(tensor.dtype)
    if torch.equal(tensor, values):
        return
    try:
        tensor.copy_(values)
    except RuntimeError:  # its elements share memory, as those of `expand` do
        tensor.data = values.clone()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within: torch, numpy and Python draw random numbers by `seed`; afterwards as before."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
