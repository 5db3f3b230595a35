"""extract: one subnet as a plain static network with integer weights.

Batch norm is absorbed exactly: the integers stay, the scale of channel c becomes
``s_w[c] * gamma[c] / sigma[c]`` and the rest a bias, which is put on the grid
``s_x * s_w[c]`` that integer runtimes add it on.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from eqnet.quant.functional import power_of_two, whole_zero_point
from eqnet.quant.layers import ELASTIC, BatchNorm, ElasticLayer
from eqnet.quant.quantizers import QUANTIZERS, ActivationQuantizer
from eqnet.quant.static import (
    IntegerWeight,
    QuantizationPoint,
    StaticQuantizer,
)
from eqnet.spec.errors import CheckpointError
from eqnet.spec.network import LayerInfo
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.supernet import Supernet, factor_of

MAX_BIAS_STEPS = float(1 << 30)
DEAD_BIAS_STEPS = float(1 << 22)
MIN_NORMAL = 1e-30


class _Affine(NamedTuple):
    """What correction and batch norm do to a layer's output: y = x * factor + offset, [C] each."""

    factor: Tensor
    offset: Tensor


@torch.no_grad()
def extract(supernet: Supernet, spec: SubnetSpec) -> fx.GraphModule:
    """The static network of `spec`, with the batch norm statistics that are in force.

    Recalibrate first. Returns a module from float32 [N, C, H, W] to logits [N, K] whose
    integers are those of the supernet under `spec`.
    """
    supernet.apply(spec)
    graph = copy.deepcopy(supernet.graph).cpu().eval()
    points = {}
    for tensor in supernet.info.tensors:
        static = _static_quantizer(supernet.activation(tensor.name))
        points[tensor.name] = static.read_point()
        graph.set_submodule(f"{QUANTIZERS}.{tensor.name}", static)
    for layer in supernet.info.layers:
        _replace_layer(graph, layer, points[layer.input], spec.weight_storage_bits)
    graph.graph.lint()
    graph.recompile()
    graph.delete_all_unused_submodules()
    return graph


def _static_quantizer(quantizer: ActivationQuantizer) -> StaticQuantizer:
    carrier, narrow = quantizer.carrier_bits, quantizer.narrow_bits
    if narrow == carrier:
        narrow = None
    return StaticQuantizer(_point(quantizer, carrier), _point(quantizer, narrow))


def _point(quantizer: ActivationQuantizer, bits: int | None) -> QuantizationPoint | None:
    if bits is None:
        return None
    scale, zero, span = quantizer.parameters_of(bits)
    whole = int(whole_zero_point(zero, span.lo, span.hi))
    return QuantizationPoint(scale.cpu(), whole, span)


def _replace_layer(
    graph: fx.GraphModule, layer: LayerInfo, point: QuantizationPoint | None, storage_bits: int
) -> None:
    elastic = graph.get_submodule(layer.name)
    assert isinstance(elastic, ELASTIC)
    affine = _affine(graph, layer, elastic)
    if elastic.weight_quantizer.bits is not None and point is None:
        raise CheckpointError(
            f"the subnet has {elastic.weight_quantizer.bits}-bit weights in '{layer.name}' and "
            f"leaves its input '{layer.input}' in float (allowed: bits for both, or 'remainder')"
        )
    if elastic.weight_quantizer.bits is None or point is None:
        static = _float_layer(elastic, affine)
    else:
        static = _integer_layer(elastic, affine, point.scale, storage_bits)
    graph.set_submodule(layer.name, static)
    if layer.batch_norm is not None:
        # An operation may have the batch norm's name, such as `norm`.
        (node,) = graph.graph.find_nodes(op="call_module", target=layer.batch_norm)
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)


def _affine(graph: fx.GraphModule, layer: LayerInfo, elastic: ElasticLayer) -> _Affine:
    """The layer's correction, and batch norm after it."""
    gain, shift = elastic.affine()
    if layer.batch_norm is None:
        return _Affine(gain, shift)
    norm = graph.get_submodule(layer.batch_norm)
    assert isinstance(norm, BatchNorm)
    factor = factor_of(norm, layer.batch_norm)
    assert norm.running_mean is not None
    offset = -norm.running_mean.double() * factor
    if norm.bias is not None:
        offset = offset + norm.bias.double()
    return _Affine(factor * gain, factor * shift + offset)


def _whole_bias(layer: ElasticLayer, affine: _Affine) -> Tensor:
    bias = torch.zeros_like(affine.offset) if layer.bias is None else layer.bias
    return bias.double() * affine.factor + affine.offset


def _float_layer(layer: ElasticLayer, affine: _Affine) -> nn.Module:
    """A layer of the remainder: batch norm folded into a float weight."""
    shape = (-1,) + (1,) * (layer.weight.dim() - 1)
    weight = (layer.weight.double() * affine.factor.view(shape)).float()
    return layer.to_float(weight, _whole_bias(layer, affine).float())


def _integer_layer(
    layer: ElasticLayer, affine: _Affine, input_scale: Tensor, storage_bits: int
) -> nn.Module:
    integers, scale, zero_point = layer.weight_quantizer.integers(layer.weight)
    bits = layer.weight_quantizer.bits
    assert bits is not None
    bias = _whole_bias(layer, affine)
    scale = scale.double() * affine.factor
    shift = storage_bits - bits
    dead = _dead_channels(scale, bias, input_scale, shift)
    shape = (-1,) + (1,) * (integers.dim() - 1)
    integers = torch.where(dead.view(shape), zero_point.view(shape), integers)
    scale = torch.where(dead, _safe_scale(bias, input_scale, shift), scale)
    if layer.weight_quantizer.snapped is not None:
        scale = power_of_two(scale)  # but for dead channels it is one, up to float32 rounding
    weight = IntegerWeight(integers, scale.float(), zero_point, bits, storage_bits)
    if layer.bias is None and not bool((bias != 0).any()):
        return layer.to_static(weight, None)
    return layer.to_static(weight, _on_grid(bias, input_scale, weight.scale))


def _dead_channels(scale: Tensor, bias: Tensor, input_scale: Tensor, shift: int) -> Tensor:
    """Channels whose weights cannot be told from zero beside their bias, bool [C].

    A gamma of 0, a scale that underflows, or a bias of more than 2^30 integer steps, which
    would overflow an int32 accumulator without a word.
    """
    step = scale * input_scale.double() / float(1 << shift)
    return (step < MIN_NORMAL) | (bias.abs() > MAX_BIAS_STEPS * step)


def _safe_scale(bias: Tensor, input_scale: Tensor, shift: int) -> Tensor:
    """A scale [C] on which the bias alone is a number of moderate size."""
    unit = bias.abs() / (DEAD_BIAS_STEPS * input_scale.double()) * float(1 << shift)
    return torch.where(bias == 0, torch.ones_like(unit), unit.clamp_min(1e-20))


def _on_grid(bias: Tensor, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """The bias, float32 [C], as whole steps of s_x * s_w[c] (the runtimes' own product)."""
    step = input_scale * weight_scale
    return (torch.round(bias / step.double()) * step.double()).float()
