"""Building a supernet again as it was captured: every tensor that its graph or its code read.

A graph is made by running the model's code, which may take the value of a buffer as a plain
number or branch on it. So the model is filled before it is captured again, with the tensors that
the code may have read as plain values (all but parameters, which are nodes of the graph), and the
graph afterwards, with all that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, fx, nn

from eqnet.capture.constants import attribute
from eqnet.models.outside import outside_tensors, set_values

MODEL = "model:"  # before the names of the model's own tensors
CHECK = "check:logits"
CHECK_IMAGES = 2


class RebuildError(ValueError):
    """A model whose code builds another network than before."""


def plain_values(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the tensors that a model's code may take as plain values, by dotted path."""
    values = {}
    for name, tensor in _beside_parameters(model).items():
        if _can_be_saved(tensor):
            values[name] = tensor.detach().cpu().clone()
    return values


def _beside_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a model holds, but for its parameters."""
    return dict(model.named_buffers(remove_duplicate=False)) | outside_tensors(model)


def _can_be_saved(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_complex()


def graph_tensors(graph: fx.GraphModule) -> dict[str, Tensor]:
    """Every tensor that a graph computes with, persistent or not, by dotted path."""
    tensors = dict(graph.named_buffers(remove_duplicate=False))
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = attribute(graph, str(node.target))
            if isinstance(value, Tensor):
                tensors[str(node.target)] = value
    return {**tensors, **graph.state_dict(keep_vars=True)}


def with_model_values(
    tensors: dict[str, Tensor], values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The graph's tensors, and those values of the model that are not among them."""
    everything = dict(tensors)
    for name, value in values.items():
        if name not in tensors or not _same(tensors[name].cpu(), value):
            everything[f"{MODEL}{name}"] = value
    return everything


def _same(tensor: Tensor, other: Tensor) -> bool:
    return _alike(tensor, other) and torch.equal(tensor, other)


def _alike(tensor: Tensor, other: Tensor) -> bool:
    return tensor.dtype == other.dtype and tensor.shape == other.shape


@torch.no_grad()
def fill_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model that was built again the values that it was captured with.

    tensors: as `with_model_values` returns them. Raises RebuildError for a tensor that the
    model lacks or has in another shape.
    """
    targets = _beside_parameters(model)
    for key, value in tensors.items():
        if key.startswith(MODEL):
            _require_like(targets, key.removeprefix(MODEL), value)
    targets |= dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in targets.items():
        saved = tensors.get(f"{MODEL}{name}", tensors.get(name))
        if saved is not None and _can_be_saved(tensor) and _alike(tensor, saved):
            set_values(tensor, saved)


def _require_like(targets: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name not in targets:
        raise RebuildError(f"it lacks tensor '{name}'")
    if not _alike(targets[name], value):
        raise RebuildError(f"its tensor '{name}' has another shape or type")


def check_images(input_shape: tuple[int, int, int]) -> Tensor:
    """Two images of noise, float32 [2, C, H, W], the same for ever and everywhere.

    The stream of numpy's RandomState is frozen.
    """
    noise = np.random.RandomState(0).standard_normal((CHECK_IMAGES, *input_shape))
    return torch.from_numpy(noise.astype(np.float32))
