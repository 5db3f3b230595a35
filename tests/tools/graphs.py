"""Small hand-made graphs in the form of reference.onnx, for tests of the deployment side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass
class Builder:
    """Appends nodes in the neutral QDQ form; every method returns the name of its output.

    storage: bits of the 8 that weights use; with 7 no CPU overflows the sums of two products.
    """

    rng: np.random.Generator
    storage: int = 8
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    scales: dict[str, Any] = field(default_factory=dict)

    def constant(self, name: str, array: np.ndarray | np.generic) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(
        self, op: str, inputs: list[str], output: str, name: str = "", **attributes: Any
    ) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name or output, **attributes))
        return output

    def quantize(
        self,
        x: str,
        tensor: str,
        scale: float,
        *,
        zp: int = 0,
        bits: int = 8,
        signed: bool = False,
        kind: str = "carrier",
    ) -> str:
        dtype = np.int8 if signed else np.uint8
        name = f"{tensor}.{kind}"
        s = self.constant(f"{name}.scale", np.float32(scale))
        z = self.constant(f"{name}.zero_point", dtype(zp))
        q = self.node("QuantizeLinear", [x, s, z], f"{name}.q")
        if bits < 8:
            lo, hi = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
            low = self.constant(f"{name}.lo", dtype(lo))
            high = self.constant(f"{name}.hi", dtype(hi))
            q = self.node("Clip", [q, low, high], f"{name}.clip")
        out = self.node("DequantizeLinear", [q, s, z], f"{name}.dq")
        self.scales[out] = scale
        return out

    def weight(self, layer: str, shape: tuple[int, ...], bits: int, zp: int = 0) -> str:
        bits = min(bits, self.storage)
        shift = self.storage - bits
        half = 1 << (bits - 1)
        low = -half + 1 if bits == 8 else -half
        w = (self.rng.integers(low, half, shape) << shift).astype(np.int8)
        fan = int(np.prod(shape[1:]))
        largest = 1 << (self.storage - 1)
        scale = self.rng.uniform(0.7, 1.3, shape[0]) / (largest * fan**0.5) * 1.5
        self.constant(f"{layer}.weight", w)
        s = self.constant(f"{layer}.weight.scale", scale.astype(np.float32))
        z = self.constant(f"{layer}.weight.zp", np.full(shape[0], zp << shift, np.int8))
        self.scales[layer] = scale.astype(np.float32)
        return self.node(
            "DequantizeLinear", [f"{layer}.weight", s, z], f"{layer}.weight.dq", axis=0
        )

    def bias(self, layer: str, x: str) -> str:
        step = np.float32(self.scales[x]) * self.scales[layer]
        integers = self.rng.integers(-2000, 2000, step.shape[0])
        return self.constant(f"{layer}.bias", (integers * step).astype(np.float32))

    def conv(
        self,
        x: str,
        layer: str,
        cin: int,
        cout: int,
        *,
        bits: int = 8,
        k: int = 3,
        stride: int = 1,
        zp: int = 0,
        float_weight: bool = False,
    ) -> str:
        shape = (cout, cin, k, k)
        if float_weight:
            w = self.constant(f"{layer}.weight", self.rng.normal(0, 0.3, shape).astype(np.float32))
            b = self.constant(f"{layer}.bias", self.rng.normal(0, 0.1, cout).astype(np.float32))
        else:
            w = self.weight(layer, shape, bits, zp)
            b = self.bias(layer, x)
        attributes = {"kernel_shape": [k, k], "pads": [k // 2] * 4, "strides": [stride] * 2}
        return self.node("Conv", [x, w, b], f"{layer}.output", layer, **attributes)

    def gemm(self, x: str, layer: str, cin: int, cout: int, *, bits: int = 8) -> str:
        w = self.weight(layer, (cout, cin), bits)
        return self.node("Gemm", [x, w, self.bias(layer, x)], "logits", layer, transB=1)

    def model(self, channels: int = 3, size: int = 8, classes: int = 10) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [
                helper.make_tensor_value_info(
                    "input", TensorProto.FLOAT, ["N", channels, size, size]
                )
            ],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
            self.initializers,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(made, full_check=True)
        return made


def residual_net(
    *,
    weight_bits: int = 8,
    bits: int = 8,
    asymmetric: bool = False,
    weight_zp: int = 0,
    relu6: float | None = None,
    pool: bool = True,
    seed: int = 0,
    storage: int = 8,
) -> onnx.ModelProto:
    """conv1, max pooling, one residual block with carriers, global pooling, fc.

    The input is signed; sums are quantized on both operands, as ONNX Runtime wants.
    asymmetric: signed tensors are uint8 with a free zero-point instead of int8 with 0.
    relu6: scale of the first activation's carrier, which then has a ReLU6 before it.
    storage: as of Builder.
    """
    b = Builder(np.random.default_rng(seed), storage)

    def signed(x: str, tensor: str, scale: float, n: int = 8, kind: str = "carrier") -> str:
        if asymmetric:
            return b.quantize(x, tensor, scale, zp=(117 * (1 << n)) >> 8, bits=n, kind=kind)
        return b.quantize(x, tensor, scale, bits=n, signed=True, kind=kind)

    def narrow(x: str, tensor: str, scale: float) -> str:
        if bits == 8:
            return x
        return b.quantize(x, tensor, scale * 255 / ((1 << bits) - 1), bits=bits, kind="narrow")

    x = signed("input", "input", 0.02)
    x = b.conv(x, "conv1", 3, 8)
    if relu6 is None:
        x = b.node("Relu", [x], "relu1.output")
    else:
        b.constant("zero", np.float32(0))
        x = b.node("Clip", [x, "zero", b.constant("six", np.float32(6))], "relu1.output")
    if pool:
        x = b.node("MaxPool", [x], "pool.output", kernel_shape=[2, 2], strides=[2, 2])
    x = b.quantize(x, "relu1", relu6 or 0.012)
    y = b.conv(narrow(x, "relu1", 0.012), "block.conv1", 8, 8, bits=weight_bits, zp=weight_zp)
    y = b.node("Relu", [y], "block.relu1.output")
    y = b.quantize(y, "block.relu1", 0.01 * 255 / ((1 << bits) - 1), bits=bits, kind="narrow")
    y = b.conv(y, "block.conv2", 8, 8, bits=weight_bits, zp=weight_zp)
    y = signed(y, "block.conv2", 0.02)
    x = b.node("Add", [x, y], "block.add.output")
    x = b.node("Relu", [x], "block.relu2.output")
    x = b.quantize(x, "block.relu2", 0.015)
    x = b.node("GlobalAveragePool", [x], "gap.output")
    x = b.node("Flatten", [x], "flat.output")
    x = b.quantize(x, "flat", 0.008)
    b.gemm(x, "fc", 8, 10)
    return b.model()


def inputs(images: int = 16, seed: int = 1) -> np.ndarray:
    """Normalized images of shape [images, 3, 8, 8]."""
    return np.random.default_rng(seed).normal(0, 1, (images, 3, 8, 8)).astype(np.float32)
