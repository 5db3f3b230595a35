"""Shapes of a graph's tensors, as ONNX infers them.

    python -m eqnet.backend.graph.shapes MODEL NAMES OUT BYTES

ONNX's inference fills the memory on a graph whose sizes are absurd, so that it is a process of
its own with a limit (`eqnet.backend.machine.isolated`).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx

from eqnet.backend.machine.processes import limit_memory

# Larger initializers are weights, which say no shape.
SMALL = 4096
# Operators of ONNX Runtime's own that keep a shape ONNX can infer: which of ONNX's they are to
# shape inference, and which of their inputs it takes.
AS_ONNX: dict[str, tuple[str, slice]] = {
    "QLinearAdd": ("Add", slice(0, 4, 3)),
    "QLinearMul": ("Mul", slice(0, 4, 3)),
    "QLinearSigmoid": ("Identity", slice(0, 1)),
    "QLinearLeakyRelu": ("Identity", slice(0, 1)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QLinearAveragePool": ("AveragePool", slice(0, 1)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", slice(0, 1)),
    "QGemm": ("Gemm", slice(0, 4, 3)),
    "FusedConv": ("Conv", slice(0, 3)),
    "FusedGemm": ("Gemm", slice(0, 3)),
    "Gelu": ("Identity", slice(0, 1)),
    "FastGelu": ("Identity", slice(0, 1)),
    "QuickGelu": ("Identity", slice(0, 1)),
    "DynamicQuantizeMatMul": ("MatMul", slice(0, 2)),
    "MatMulIntegerToFloat": ("MatMul", slice(0, 2)),
}
KEPT_ATTRIBUTES = {
    "Concat": {"axis"},
    "Gemm": {"alpha", "transA", "transB"},
    "AveragePool": {
        "auto_pad",
        "ceil_mode",
        "count_include_pad",
        "kernel_shape",
        "pads",
        "strides",
    },
    "Conv": {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"},
}


def inferred(proto: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Shape of every tensor that ONNX can tell, for a batch of one; None for a free dimension."""
    skeleton = _skeleton(proto)
    try:
        graph = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except Exception:  # a damaged graph has no shapes; inference raises its own errors
        graph = skeleton.graph
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else None for dim in dims
            )
    return shapes


def _skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without large constants and stored shapes, with one image as its input."""
    made = onnx.ModelProto(ir_version=proto.ir_version)
    made.opset_import.extend(proto.opset_import)
    graph = made.graph
    graph.name = "skeleton"
    small = {tensor.name for tensor in proto.graph.initializer if _is_small(tensor)}
    for tensor in proto.graph.initializer:
        if tensor.name in small:
            graph.initializer.append(tensor)
        else:
            kind = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(kind)
    constants = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name not in constants:
            graph.input.append(value)
            _one_image(graph.input[-1])
    graph.node.extend(_as_onnx(node) for node in proto.graph.node)
    for value in proto.graph.output:
        graph.output.append(onnx.ValueInfoProto(name=value.name))
    return made


def _is_small(tensor: onnx.TensorProto) -> bool:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return math.prod(int(size) for size in tensor.dims) in range(SMALL + 1)


def _one_image(value: onnx.ValueInfoProto) -> None:
    """Let the first dimension of an input be 1 where it is free."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) and dims[0].dim_value <= 0:
        dims[0].dim_value = 1


def _as_onnx(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node as shape inference knows it, without the graphs inside of it."""
    if node.op_type not in AS_ONNX:
        return node
    op_type, inputs = AS_ONNX[node.op_type]
    made = onnx.NodeProto(op_type=op_type, name=node.name)
    made.input.extend(list(node.input)[inputs])
    made.output.extend(node.output)
    for attribute in node.attribute:
        if attribute.name in KEPT_ATTRIBUTES.get(op_type, ()):
            made.attribute.append(attribute)
    return made


def main(arguments: Sequence[str]) -> int:
    """What the process does; its exit code."""
    model, names, out, most = arguments
    limit_memory(int(most))
    shapes = inferred(onnx.load(model, load_external_data=False))
    wanted = set(json.loads(Path(names).read_bytes()))
    found = {name: shape for name, shape in shapes.items() if name in wanted}
    Path(out).write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
