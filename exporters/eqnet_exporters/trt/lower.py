"""The neutral QDQ graph in TensorRT's one form: int8 with zero-point 0, no integer Clip.

A non-negative tensor of 7 bits arrives as uint8 with zero-point 0, clipped to [0, 127]. As int8
with the same scale and zero-point 0 it has the same integers: int8 saturates at 127 by itself,
and a tensor that is never negative never goes below 0 (the ReLU before it stays in the graph).
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.reading import STORAGE, Quantizer, quantizers, remove_unused
from eqnet.spec.errors import ProfileError
from eqnet_exporters.passes._build import graph_of, initializer, prefix, set_bounds
from eqnet_exporters.passes.rewrite import Notes, changed, rewrite

SIGNED = STORAGE[ir.DataType.INT8]


@rewrite()
def to_signed_zero(model: ir.Model) -> Notes:
    """Rewrite every activation quantizer to int8 with zero-point 0, in place.

    Raises ProfileError for a quantizer whose integers int8 with zero-point 0 cannot hold.
    """
    for quantizer in quantizers(model):
        _require_representable(quantizer)
        if quantizer.dtype != ir.DataType.INT8:
            _retype(quantizer)
            yield changed(quantizer.quantize, "int8 with zero-point 0: it is never negative")
        elif quantizer.clip is not None:
            set_bounds(quantizer, *SIGNED)
    remove_unused(model)


def _require_representable(quantizer: Quantizer) -> None:
    name = prefix(quantizer)
    if quantizer.zero_point != 0:
        raise ProfileError(
            f"tensor '{name}': zero-point {quantizer.zero_point} (TensorRT allows 0: "
            "activations symmetry 'symmetric', storage 'int8', zero_point 'zero')"
        )
    lo, hi = SIGNED if quantizer.dtype == ir.DataType.INT8 else (0, SIGNED[1])
    if (quantizer.lo, quantizer.hi) != (lo, hi):
        raise ProfileError(
            f"tensor '{name}': integers {quantizer.lo}..{quantizer.hi} (TensorRT allows "
            f"{lo}..{hi}: 8-bit activations with zero_point 'zero')"
        )


def _retype(quantizer: Quantizer) -> None:
    graph, name = graph_of(quantizer.quantize), prefix(quantizer)
    zero = initializer(graph, f"{name}.zero_point", 0, ir.DataType.INT8)
    for node in (quantizer.quantize, quantizer.dequantize):
        node.resize_inputs(3)
        node.replace_input_with(2, zero)
    quantizer.dequantize.replace_input_with(0, quantizer.quantize.outputs[0])
    if quantizer.clip is not None:
        graph.remove(quantizer.clip, safe=True)
    # A new type object: a cloned graph shares the old one with its original.
    quantizer.quantize.outputs[0].type = ir.TensorType(ir.DataType.INT8)
