"""How any ONNX graph quantizes a tensor: QDQ pairs, Clip and QONNX's Quant, read as they stand."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.reading import constant
from eqnet.spec.outside.inspection import TensorForm, TensorGranularity

QUANTIZE = ("QuantizeLinear", "DynamicQuantizeLinear")
# A parameter of more elements is no scale, and is not read.
MOST_ELEMENTS = 1 << 24
DIGITS = re.compile(r"\d+")


def input_of(node: ir.Node, index: int | None) -> ir.Value | None:
    """Input `index` of a node, None where it has none."""
    if index is None or index >= len(node.inputs):
        return None
    return node.inputs[index]


def producer_of(value: ir.Value | None) -> ir.Node | None:
    """The node that computes a value, None for what no node computes."""
    return None if value is None else value.producer()


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is an initializer or a Constant node's."""
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def small_constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """A scale, zero-point or bound; None where it is computed, absent, damaged or huge."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > MOST_ELEMENTS:
        return None
    try:
        return constant(value)
    except Exception:  # a damaged tensor raises what numpy, mmap or onnx_ir raise
        return None


def is_quantize(node: ir.Node | None) -> bool:
    """Whether a node quantizes; vendors' own begin with a prefix, as TRT_FP8QuantizeLinear."""
    return node is not None and (
        node.op_type in QUANTIZE
        or (node.op_type.endswith("QuantizeLinear") and not is_dequantize(node))
    )


def is_dequantize(node: ir.Node | None) -> bool:
    """Whether a node dequantizes."""
    return node is not None and node.op_type.endswith("DequantizeLinear")


def type_name(dtype: ir.DataType | None) -> str:
    """Such as ``uint8``; '?' where the file does not say."""
    if dtype is None:
        return "?"
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def bits_of(name: str) -> int:
    """Bits of an element of a type such as ``uint4`` or ``float8e4m3fn``; 0 of an unknown one."""
    digits = DIGITS.search(name)
    return int(digits[0]) if digits else 0


def bytes_of(tensor: ir.TensorProtocol) -> int:
    """Bytes of a tensor as stored; 0 where its type is none that ONNX knows."""
    try:
        return int(tensor.nbytes)
    except TypeError:
        return 0


def quantized_form(
    type_: str,
    scale: ir.Value | None,
    zero: ir.Value | None,
    *,
    axis: int | None,
    block: int = 0,
    dynamic: bool = False,
) -> TensorForm:
    """A tensor's form from the parameters of its quantizer."""
    granularity: TensorGranularity = "per_tensor"
    count = 1 if scale is None else _elements(scale)
    if block:
        granularity = "per_block"
    elif count is not None and count > 1:
        granularity = "per_channel"
    bits = bits_of(type_)
    symmetric, zero_point = _zero_points(type_, bits, zero)
    return TensorForm(
        type=type_,
        bits=bits,
        granularity=granularity,
        axis=None if granularity == "per_tensor" else axis,
        symmetric=symmetric,
        zero_point=zero_point,
        dynamic=dynamic,
    )


def _elements(value: ir.Value) -> int | None:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return int(tensor.size)
    return None


def _zero_points(type_: str, bits: int, zero: ir.Value | None) -> tuple[bool | None, int | None]:
    """Whether all zero-points are in the middle of the range, and which they are if all one."""
    middle = 1 << (bits - 1) if type_.startswith("uint") and bits else 0
    if zero is None:
        return middle == 0, 0
    array = small_constant(zero)
    if array is None or array.size == 0:
        return None, None
    if not np.issubdtype(array.dtype, np.integer):  # of floats, and of ml_dtypes' small integers
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            return None, None
    first = int(array.flat[0])
    return bool((array == middle).all()), first if bool((array == first).all()) else None


def dequantized_form(node: ir.Node) -> TensorForm:
    """The form of a tensor behind this DequantizeLinear."""
    source = node.inputs[0]
    clip, quantize = quantizer_before(source)
    scale, zero = input_of(node, 1), input_of(node, 2)
    if quantize is not None and quantize.op_type in QUANTIZE:
        dynamic = quantize.op_type == "DynamicQuantizeLinear" or not is_constant(scale)
    else:
        dynamic = not is_constant(scale)
    form = quantized_form(
        stored_type(source, zero, quantize),
        scale,
        zero,
        axis=node.attributes.get_int("axis", 1),
        block=node.attributes.get_int("block_size", 0),
        dynamic=dynamic,
    )
    return form if clip is None else form.model_copy(update={"bits": _clipped_bits(clip, form)})


def quantizing_form(node: ir.Node) -> TensorForm:
    """The form that a QuantizeLinear gives a tensor."""
    scale, zero = input_of(node, 1), input_of(node, 2)
    form = quantized_form(
        stored_type(node.outputs[0], zero, node),
        scale,
        zero,
        axis=node.attributes.get_int("axis", 1),
        block=node.attributes.get_int("block_size", 0),
        dynamic=node.op_type == "DynamicQuantizeLinear",
    )
    readers = node.outputs[0].consumers()
    if len(readers) == 1 and readers[0].op_type == "Clip":
        return form.model_copy(update={"bits": _clipped_bits(readers[0], form)})
    return form


def quant_form(node: ir.Node) -> TensorForm:
    """The form of QONNX's Quant: integers that are never stored."""
    bits_array = small_constant(input_of(node, 3))
    bits = 0
    if bits_array is not None and bits_array.size == 1:
        bits = int(np.clip(np.nan_to_num(float(bits_array.item())), 0, 64))
    kind = "int" if node.attributes.get_int("signed", 1) else "uint"
    form = quantized_form(f"{kind}{bits}", input_of(node, 1), input_of(node, 2), axis=0)
    return form.model_copy(update={"stored": False})


def quantizer_before(value: ir.Value | None) -> tuple[ir.Node | None, ir.Node | None]:
    """The Clip and the QuantizeLinear, if any, that integers come from."""
    node, clip = producer_of(value), None
    if node is not None and node.op_type == "Clip":
        clip, node = node, producer_of(node.inputs[0])
    return clip, node if is_quantize(node) else None


def stored_type(source: ir.Value | None, zero: ir.Value | None, quantize: ir.Node | None) -> str:
    """By the zero-point, the tensor itself, the quantizer's attribute, else ONNX's default."""
    if zero is not None:
        tensor = ir.convenience.get_const_tensor(zero)
        dtype = zero.dtype if tensor is None else tensor.dtype
        if dtype is not None:
            return type_name(dtype)
    tensor = ir.convenience.get_const_tensor(source) if source is not None else None
    if tensor is not None:
        return type_name(tensor.dtype)
    if source is not None and source.dtype is not None:
        return type_name(source.dtype)
    if quantize is not None:
        number = quantize.attributes.get_int("output_dtype", 0)
        if number in ir.DataType.__members__.values():
            return type_name(ir.DataType(number)) if number else "uint8"
        if quantize.op_type not in QUANTIZE:
            return "float8" if "FP8" in quantize.op_type else "int4"
    return "uint8"


def _clipped_bits(clip: ir.Node, form: TensorForm) -> int:
    """Bits that the integers between a Clip's bounds need."""
    low, high = small_constant(input_of(clip, 1)), small_constant(input_of(clip, 2))
    if low is None or high is None or low.size != 1 or high.size != 1:
        return form.bits
    return min(form.bits, max(1, int(int(high.item()) - int(low.item())).bit_length()))
