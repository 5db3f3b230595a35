"""Give a Transpose of a quantizer's output that is read elsewhere too a quantizer of its own.

OpenVINO 2026.4 moves a Transpose before the quantizer that it reads, although the quantizer's
other readers then get transposed values: logits were off by a quarter of their range, with
low-precision transformations off too, and a copy of the quantizer is merged again.
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet_exporters.passes._build import quantize_like
from eqnet_exporters.passes._read import quantizer_before
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, rewrite


@rewrite(RANGES, TYPES)
def quantize_transposed(model: ir.Model) -> Notes:
    """Let such a Transpose move the floats, and quantize what it gives, in place."""
    for node in list(model.graph):
        output = node.outputs[0]
        if node.op_type != "Transpose" or output.is_graph_output():
            continue
        before = quantizer_before(node)
        if before is None or len(before.output.uses()) < 2:
            continue
        node.replace_input_with(0, before.source)
        uses = list(output.uses())
        after = quantize_like(before, output, node, f"{output.name}.own", clipped=True)
        for use in uses:
            use.node.replace_input_with(use.idx, after.output)
        yield changed(node, "has a quantizer of its own: OpenVINO would move it for all readers")
