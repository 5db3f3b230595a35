"""Give a Transpose of a quantizer's output that is read elsewhere too a quantizer of its own.

OpenVINO 2026.4 moves a Transpose in front of the quantizer that it reads, although the
quantizer's other readers then get transposed values: logits were off by a quarter of their range,
with low-precision transformations off too, and a copy of the quantizer is merged again.
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.reading import quantizer_of
from eqnet_exporters.passes._build import quantize_like
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, rewrite


@rewrite(RANGES, TYPES)
def quantize_transposed(model: ir.Model) -> Notes:
    """Let such a Transpose move the floats, and quantize what it gives, in place."""
    for node in list(model.graph):
        source, output = node.inputs[0] if node.inputs else None, node.outputs[0]
        if node.op_type != "Transpose" or source is None or output.is_graph_output():
            continue
        front = quantizer_of(source)
        if front is None or len(source.uses()) < 2:
            continue
        node.replace_input_with(0, front.source)
        uses = list(output.uses())
        own = quantize_like(front, output, node, f"{output.name}.own", clipped=True)
        for use in uses:
            use.node.replace_input_with(use.idx, own.output)
        yield changed(node, "has a quantizer of its own: OpenVINO would move it for all readers")
