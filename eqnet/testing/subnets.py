"""The subnets of the contract: captured, calibrated and extracted once, and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import fx

from eqnet.backend.graph.point_names import is_point
from eqnet.backend.protocol import Array
from eqnet.ptq.equalize import equalize
from eqnet.quant.quantizers import QUANTIZERS
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.graphs import Graphs
from eqnet.supernet.supernet import Supernet
from eqnet.testing.nets import networks as nets

BATCH = 7
# Images of the same kind in each of: two batches that set scales, one that sets batch norm, and
# the images that the checks run.
CALIBRATION_SEEDS, STATISTICS_SEED, IMAGE_SEED = (1, 2), 3, 4


@dataclass(frozen=True)
class Point:
    """What one quantizer did in PyTorch.

    values: what it read, in steps of its grid, float32. integers: q - z, int32. All [N, ...].
    """

    name: str
    scale: float
    values: Array
    integers: NDArray[np.int32]


@dataclass(frozen=True)
class Trace:
    """What PyTorch computed for the images: each quantizer in the order of execution, logits."""

    points: tuple[Point, ...]
    logits: Array


@dataclass(frozen=True)
class SampleSubnet:
    """One extracted subnet, the neutral graph of it, and what PyTorch computes with it.

    images: float32 [7, C, H, W].
    """

    spec: SubnetSpec
    net: fx.GraphModule
    reference: ir.Model
    images: Array

    @cached_property
    def trace(self) -> Trace:
        """PyTorch's integers and logits."""
        return _trace(self.net, self.images)

    @cached_property
    def reference_bytes(self) -> bytes:
        """The neutral graph, serialized."""
        content: bytes = ir.to_proto(self.reference).SerializeToString(deterministic=True)
        return content

    @property
    def promised(self) -> list[str]:
        """Layers with integer weights: what a manifest promises to run in int8."""
        return self.spec.quantized_layers()


def _trace(net: fx.GraphModule, images: Array) -> Trace:
    points: list[Point] = []
    hooks = []
    for name, module in net.get_submodule(QUANTIZERS).named_modules():
        if is_point(name):
            hooks.append(module.register_forward_hook(partial(_record, points, name)))
    with torch.no_grad():
        logits = net(torch.from_numpy(images)).numpy()
    for hook in hooks:
        hook.remove()
    return Trace(tuple(points), logits)


def _record(
    points: list[Point],
    name: str,
    quantizer: torch.nn.Module,
    inputs: tuple[torch.Tensor],
    output: torch.Tensor,
) -> None:
    """Forward hook of a quantizer: add what it did to `points`."""
    scale = quantizer.scale
    assert isinstance(scale, torch.Tensor)
    values = (inputs[0] / scale).numpy()
    integers = torch.round(output / scale).to(torch.int32).numpy()
    points.append(Point(name, float(scale), values, integers))


@cache
def supernet_of(net: str) -> Supernet:
    """The captured and calibrated supernet of a network, made once."""
    torch.set_num_threads(1)  # nets this small only lose time to a second thread
    recipe = nets.RECIPES[net]
    shape = recipe.shape
    supernet = Supernet(nets.make(net), shape)
    batches = [nets.images(8, shape, seed) for seed in CALIBRATION_SEEDS]
    if recipe.equalized:
        equalize(supernet, batches)
    calibrate(supernet, batches)
    return supernet


_graphs: dict[str, Graphs] = {}
_subnets: dict[tuple[str, str], SampleSubnet] = {}


def subnet_of(net: str, profile: HardwareProfile) -> SampleSubnet:
    """The widest uniform subnet of a network under a profile, made once for each choice."""
    supernet = supernet_of(net)
    spec = Target.of(supernet.info, profile).default("")
    key = (net, spec.choices_json())
    if key not in _subnets:
        _subnets[key] = _make(net, supernet, spec)
    return _subnets[key]


def _make(net: str, supernet: Supernet, spec: SubnetSpec) -> SampleSubnet:
    shape = nets.RECIPES[net].shape
    supernet.apply(spec)
    supernet.recalibrate([nets.images(32, shape, STATISTICS_SEED)])
    static = extract(supernet, spec)
    graphs = _graphs.setdefault(net, Graphs(supernet))
    images = nets.images(BATCH, shape, IMAGE_SEED).numpy()
    return SampleSubnet(spec, static, graphs.of(spec, static), images)
