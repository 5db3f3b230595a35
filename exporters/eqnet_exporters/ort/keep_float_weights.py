"""Keep ONNX Runtime from rounding the weights of a layer that stays in float.

ONNX Runtime 1.32 quantizes the float weights of a layer between two quantizers by a scale and a
zero-point of its own making, one for all channels, with the layer then multiplying in float all
the same: logits moved by up to a step of 8 bits.
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.reading import constant, quantizer_at, quantizer_of
from eqnet_exporters.passes._build import set_apart
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, rewrite


@rewrite(RANGES, TYPES)
def keep_float_weights(model: ir.Model) -> Notes:
    """Set the result of each such layer apart from the quantizer after it, in place."""
    for node in list(model.graph):
        if node.op_type not in LAYER_OPS or constant(node.inputs[1]) is None:
            continue
        source, output = node.inputs[0], node.outputs[0]
        if source is None or quantizer_of(source) is None:
            continue
        uses = [use for use in output.uses() if quantizer_at(use.node) is not None]
        if uses:
            apart = set_apart(output, node, f"{node.name}.result")
            for use in uses:
                use.node.replace_input_with(use.idx, apart)
            yield changed(node, "a maximum keeps ONNX Runtime from rounding its float weights")
