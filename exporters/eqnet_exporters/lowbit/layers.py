"""The layers of the neutral graph with their integers unshifted: what every low-bit form writes.

The neutral graph holds b-bit weights in int8, shifted left by 8 - b. Here they are b-bit again,
with the scale multiplied by 2^(8 - b): the same real values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.reading import constant
from eqnet.backend.lowbit.packed import PackedTensor, Shared
from eqnet.spec.scheme import BITS, CARRIER_BITS
from eqnet_exporters.passes._read import operand, producer_of, quantizer_before
from eqnet_exporters.passes.integer_bias import bias_steps


@dataclass(frozen=True)
class Weight:
    """A quantized weight: real values are ``(integers - zero_point) * scale`` along `axis`.

    integers: int8 of `bits` bits in the weight's shape; scale: float32 [1] or [channels];
    zero_point: int8 [1] or [channels].
    """

    integers: NDArray[np.int8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int8]
    bits: int
    axis: int
    dequantize: ir.Node

    @property
    def shift(self) -> int:
        """8 - bits."""
        return CARRIER_BITS - self.bits


@dataclass(frozen=True)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul; `weight` is None if it stays in float.

    bias_steps: the bias as int32 steps of ``s_x * scale[c] / 2^shift``, None without a bias or
    for one that is not on that grid; `input_scale` is s_x.
    """

    node: ir.Node
    weight: Weight | None
    float_weight: NDArray[np.float32] | None
    bias: NDArray[np.float32] | None
    bias_steps: NDArray[np.int32] | None
    input_scale: float | None

    @property
    def name(self) -> str:
        """The layer's name in the network."""
        return self.node.name or self.node.outputs[0].name or "layer"


def layers(model: ir.Model) -> Iterator[Layer]:
    """The layers with constant weights, in graph order."""
    for node in model.graph:
        if node.op_type in LAYER_OPS:
            weight = weight_of(node)
            plain = constant(node.inputs[1])
            if weight is not None or plain is not None:
                yield _layer(node, weight, plain)


def weight_of(node: ir.Node) -> Weight | None:
    """The quantized weight of a layer, or None."""
    dequantize = producer_of(node.inputs[1])
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    integers, scale = constant(dequantize.inputs[0]), constant(dequantize.inputs[1])
    if integers is None or scale is None or integers.dtype != np.int8:
        return None
    axis = dequantize.attributes.get_int("axis", 1) if scale.size > 1 else 0
    zeros = _zero_points(dequantize)
    bits = needed_bits(integers.astype(np.int8), zeros)
    shift = CARRIER_BITS - bits
    return Weight(
        integers.astype(np.int8) >> shift,
        (np.atleast_1d(scale) * np.float32(1 << shift)).astype(np.float32),
        zeros >> shift,
        bits,
        axis,
        dequantize,
    )


def _zero_points(dequantize: ir.Node) -> NDArray[np.int8]:
    """[channels], or [1] where all are equal."""
    constants = constant(operand(dequantize, 2))
    if constants is None:
        return np.zeros(1, np.int8)
    zeros = np.atleast_1d(constants).astype(np.int8)
    if (zeros == zeros[0]).all():
        return zeros[:1]
    return zeros


def needed_bits(*arrays: NDArray[np.int8]) -> int:
    """The fewest bits that hold integers which lie in int8 shifted to the top, at least 2.

    These are the bits that the subnet gives the layer, or fewer if its integers leave the
    lowest bits unused.
    """
    used = 0
    for array in arrays:
        used |= int(np.bitwise_or.reduce(array.view(np.uint8).reshape(-1), initial=0))
    if used == 0:
        return BITS[0]
    trailing = (used & -used).bit_length() - 1
    return max(BITS[0], CARRIER_BITS - trailing)


def _layer(node: ir.Node, weight: Weight | None, plain: NDArray[np.generic] | None) -> Layer:
    quantizer = quantizer_before(node)
    scale = None if quantizer is None else quantizer.scale
    bias = _float32(constant(operand(node, 2)))
    steps = None
    if bias is not None and weight is not None and scale is not None:
        step = weight.scale / np.float32(1 << weight.shift)
        steps = bias_steps(bias, np.float32(scale) * step)
    floats = _float32(plain) if weight is None else None
    return Layer(node, weight, floats, bias, steps, scale)


def _float32(array: NDArray[np.generic] | None) -> NDArray[np.float32] | None:
    if array is None:
        return None
    return array.astype(np.float32)


def packed_tensors(model: ir.Model) -> list[PackedTensor]:
    """Every weight and bias of the network, as ``weights.eqpack`` holds them."""
    tensors: list[PackedTensor] = []
    for layer in layers(model):
        tensors += _tensors_of(layer)
    return tensors


def _tensors_of(layer: Layer) -> Iterator[PackedTensor]:
    name, weight = f"{layer.name}.weight", layer.weight
    if weight is None:
        assert layer.float_weight is not None
        yield PackedTensor(name, layer.float_weight, 32)
    else:
        zero = weight.zero_point if weight.zero_point.any() else None
        yield PackedTensor(name, weight.integers, weight.bits, weight.scale, zero, weight.axis)
    if layer.bias is None:
        return
    if layer.bias_steps is None or weight is None or layer.input_scale is None:
        yield PackedTensor(f"{layer.name}.bias", layer.bias, 32)
    else:
        factor = float(np.float32(layer.input_scale) / np.float32(1 << weight.shift))
        yield PackedTensor(f"{layer.name}.bias", layer.bias_steps, 32, shared=Shared(name, factor))
