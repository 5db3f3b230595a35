"""Small ONNX files as other tools write them: float, and what `quantize_static` makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, CLASSES = 8, 10
IMAGE = (3, SIZE, SIZE)


def constants(**arrays: Any) -> list[onnx.TensorProto]:
    """Initializers by name."""
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def model(
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    *,
    shape: tuple[Any, ...] = ("N", *IMAGE),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 21,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """A graph with the float input ``x`` and outputs of any shape."""
    graph = helper.make_graph(
        nodes,
        "stranger",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(one, 1) for one in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="stranger")


def float_net(seed: int = 0) -> onnx.ModelProto:
    """conv1 -> Relu -> depthwise -> Relu -> mean -> fc, with biases and named nodes."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "depth", pads=[1] * 4, group=8),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "fc", transB=1),
    ]
    parameters = constants(
        w1=weights(8, 3, 3, 3),
        b1=weights(8),
        w2=weights(8, 1, 3, 3),
        b2=weights(8),
        w3=weights(CLASSES, 8),
        b3=weights(CLASSES),
    )
    return model(nodes, parameters)


def residual_float_net(seed: int = 0) -> onnx.ModelProto:
    """one -> two -> a sum with one's output -> three."""
    rng = np.random.default_rng(seed)
    nodes, parameters = [], {}
    for name, source, target, channels in (
        ("one", "x", "c1", 3),
        ("two", "c1", "c2", 8),
        ("three", "sum", "y", 8),
    ):
        parameters[f"{name}.w"] = rng.normal(0, 0.3, (8, channels, 3, 3)).astype(np.float32)
        parameters[f"{name}.b"] = rng.normal(0, 0.3, 8).astype(np.float32)
        inputs = [source, f"{name}.w", f"{name}.b"]
        nodes.append(helper.make_node("Conv", inputs, [target], name, pads=[1] * 4))
    nodes.insert(2, helper.make_node("Add", ["c1", "c2"], ["sum"], "sum"))
    return model(nodes, constants(**parameters))


def images(count: int = 4, seed: int = 1) -> np.ndarray:
    """float32 [count, 3, 8, 8]."""
    return np.random.default_rng(seed).normal(0, 1, (count, *IMAGE)).astype(np.float32)


def quantize_static(
    folder: Path,
    name: str = "stranger.onnx",
    *,
    net: onnx.ModelProto | None = None,
    qoperator: bool = False,
    activations: str = "QUInt8",
    weights: str = "QInt8",
    **options: Any,
) -> Path:
    """Write what onnxruntime's tool makes of a float net, per channel; returns the file's path."""
    from onnxruntime import quantization as tool

    source_net = net or float_net()
    feed = source_net.graph.input[0].name

    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]  # no types
        def __init__(self) -> None:
            self.batches = iter([{feed: images(4, seed)} for seed in range(3)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    source, target = folder / f"{name}.float", folder / name
    source.write_bytes(source_net.SerializeToString())
    tool.quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=tool.QuantFormat.QOperator if qoperator else tool.QuantFormat.QDQ,
        per_channel=True,
        activation_type=getattr(tool.QuantType, activations),
        weight_type=getattr(tool.QuantType, weights),
        **options,
    )
    source.unlink()
    return target


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model; returns its path."""
    path.write_bytes(model.SerializeToString())
    return path
