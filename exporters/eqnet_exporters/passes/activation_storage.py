"""Hold every activation in one storage type: uint8 for x86, int8 for ARM.

The range, the zero-point and the Clip of a quantizer move together by 128, so each real value
keeps its place on the grid: ``clamp(round(x/s) + z + 128, lo + 128, hi + 128)`` is the old
integer plus 128, and ``(q + 128) - (z + 128)`` is the old difference. x86 runs uint8
activations with int8 weights several times faster than int8 with int8; ARM wants int8.
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.reading import STORAGE, Quantizer, quantizers
from eqnet_exporters.passes._build import graph_of, initializer, prefix, set_bounds
from eqnet_exporters.passes.rewrite import RANGES, Notes, Rewrite, changed


def activation_storage(storage: str) -> Rewrite:
    """The rewrite of all activation quantizers to `storage`, "uint8" or "int8"."""
    target = ir.DataType[storage.upper()]

    def run(model: ir.Model) -> Notes:
        for quantizer in quantizers(model):
            if quantizer.dtype != target:
                _move(quantizer, target)
                yield changed(quantizer.quantize, f"stored as {storage}")

    return Rewrite("activation_storage", run, {RANGES})


def _move(quantizer: Quantizer, target: ir.DataType) -> None:
    offset = STORAGE[target][0] - STORAGE[quantizer.dtype][0]
    zero = initializer(
        graph_of(quantizer.quantize),
        f"{prefix(quantizer)}.zero_point",
        quantizer.zero_point + offset,
        target,
    )
    for node in (quantizer.quantize, quantizer.dequantize):
        node.resize_inputs(3)
        node.replace_input_with(2, zero)
    quantizer.quantize.outputs[0].type = ir.TensorType(target)
    if quantizer.clip is not None:
        quantizer.clip.outputs[0].type = ir.TensorType(target)
    moved = Quantizer(
        quantizer.quantize,
        quantizer.clip,
        quantizer.dequantize,
        quantizer.scale,
        quantizer.zero_point + offset,
        *STORAGE[target],
    )
    set_bounds(moved, quantizer.lo + offset, quantizer.hi + offset)
