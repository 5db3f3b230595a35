"""Is reference.onnx what PyTorch computes? Tensor by tensor, in steps of each tensor's grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from eqnet.backend.inside.fed_graph import FedGraph
from eqnet.backend.protocol import Array
from eqnet.quant.quantizers import QUANTIZERS
from eqnet.quant.static import QuantizationPoint
from eqnet.spec.errors import EqnetError

IMAGES = 8
# All values of all tensors are held at once, for so many images of 224 x 224 at most.
IMAGES_AT_ONCE = 2
VALUES_AT_ONCE = IMAGES_AT_ONCE * 3 * 224 * 224
# Sums of floats in another order, and functions such as exp from another library, differ by some
# 1e-4 of a step and let a handful of values in a million round the other way; where large terms
# cancel, as in MobileNetV2 with random weights, by up to 0.05. A wrong weight, bias, scale or
# operator moves values by whole steps, or very many of them by parts of one.
ROUNDING_STEPS = 0.25
ROUNDED_SHARE = 0.01
ROUNDED_VALUES = 8
LOGIT_STEPS = 255.0


@dataclass(frozen=True)
class Traced:
    """What one quantizer did in PyTorch. values: what it read, in steps of its grid, and
    integers: what it made of them, less the zero-point; both float32 [N, ...]."""

    scale: float
    values: Array
    integers: Array


def check_reference(path: Path, net: fx.GraphModule, images: Tensor) -> None:
    """Refuse to go on where the graph in `path` does not compute what PyTorch computes.

    images: float32 [N, C, H, W], of which the first 8 are run. Each part of the graph between
    quantizers is fed with PyTorch's integers and has to make PyTorch's next ones, but for one
    value in 100 that rounds the other way within a quarter of a step; so a network that amplifies
    rounding ties is told from a wrong graph. Raises EqnetError that names the first tensor that
    is off, in graph order, and by how many steps.
    """
    graph = FedGraph(ir.load(path))
    if graph.unknown:
        raise EqnetError(f"{path.name}: '{graph.unknown[0]}' is a quantizer of another form")
    for batch in _few(images):
        points, expected = trace_points(net, batch)
        _compare(path, graph, batch.numpy(), points, expected)


def _few(images: Tensor) -> Iterator[Tensor]:
    values = math.prod(images.shape[1:])
    size = max(1, min(IMAGES_AT_ONCE, VALUES_AT_ONCE // values))
    yield from images[:IMAGES].cpu().split(size)


@torch.no_grad()
def trace_points(net: fx.GraphModule, images: Tensor) -> tuple[dict[str, Traced], Array]:
    """What every quantizer of a static network does for images [N, C, H, W], and the logits."""
    points: dict[str, Traced] = {}
    hooks = []
    for path, module in net.named_modules():
        if isinstance(module, QuantizationPoint):
            name = path.removeprefix(f"{QUANTIZERS}.")

            def keep(
                point: nn.Module, inputs: tuple[Tensor], output: Tensor, name: str = name
            ) -> None:
                assert isinstance(point, QuantizationPoint)
                integers = torch.round(output / point.scale)
                points[name] = Traced(
                    float(point.scale), (inputs[0] / point.scale).numpy(), integers.numpy()
                )

            hooks.append(module.register_forward_hook(keep))
    try:
        logits = net(images).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return points, logits


def _compare(
    path: Path, graph: FedGraph, images: Array, points: dict[str, Traced], expected: Array
) -> None:
    for name, quantizer in graph.quantizers.items():
        point = points.get(name)
        if point is None:
            raise EqnetError(f"{path.name}: '{name}' is no quantizer of the PyTorch network")
        if not math.isclose(quantizer.scale, point.scale, rel_tol=1e-6):
            raise EqnetError(
                f"{path.name}: '{name}' has the scale {quantizer.scale:g} (allowed: PyTorch's, "
                f"{point.scale:g})"
            )
        if graph.dequantized[name] != (quantizer.scale, quantizer.zero_point):
            raise EqnetError(
                f"{path.name}: '{name}' is dequantized by {graph.dequantized[name]} (allowed: as "
                f"it is quantized, {(quantizer.scale, quantizer.zero_point)})"
            )
    values = {name: point.integers * np.float32(point.scale) for name, point in points.items()}
    logits, stored = graph.run(images, values)
    for name, quantizer in graph.quantizers.items():
        _require_equal(path, name, stored[name], quantizer.zero_point, points[name])
    span = float(np.abs(expected).max())
    steps = LOGIT_STEPS / span if span > 0 else 1.0
    _require_small(path, "logits", np.abs(logits - expected) * steps)


def _require_equal(
    path: Path, name: str, stored: NDArray[np.generic], zero_point: int, point: Traced
) -> None:
    """Hold integers to PyTorch's. One that differs has a value in its own half steps, so what
    PyTorch read is at least `error` steps away from what this graph read."""
    integers = stored.astype(np.float32) - zero_point
    if integers.shape != point.integers.shape:
        raise EqnetError(
            f"{path.name}: '{name}' has the shape {list(integers.shape)} (allowed: PyTorch's, "
            f"{list(point.integers.shape)})"
        )
    other = integers != point.integers
    error = np.where(other, np.abs(point.values - integers) - 0.5, 0.0)
    _require_small(path, name, error)
    allowed = max(ROUNDED_VALUES, int(ROUNDED_SHARE * other.size))
    if (rounded := int(other.sum())) > allowed:
        raise EqnetError(
            f"{path.name}: '{name}' is off by up to {float(error.max()):.3g} steps: {rounded} of "
            f"{other.size} integers are not PyTorch's, whose integers are fed in before it "
            f"(allowed: {allowed})"
        )


def _require_small(path: Path, name: str, error: NDArray[np.floating]) -> None:
    off = ~(error <= ROUNDING_STEPS)
    if off.any():
        raise EqnetError(
            f"{path.name}: '{name}' is off by {float(np.nanmax(error)):.3g} steps, in "
            f"{int(off.sum())} of {off.size} values, where PyTorch's integers are fed in before "
            f"it (allowed: {ROUNDING_STEPS})"
        )
