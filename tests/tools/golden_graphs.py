"""The exported graphs as text, weights elided: what `tests/golden` holds.

    python tests/tools/golden_graphs.py

writes the files anew. Scales are elided too, so that the text is the same on every machine;
zero-points and bounds of quantizers are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
from eqnet_exporters.trt.float16 import to_float16
from nets import small_supernet

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import constant
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import builtin_profiles, load_profile
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.target import Target
from eqnet.supernet.checkpoint import load_supernet
from eqnet.supernet.extract import extract
from eqnet.supernet.supernet import Supernet

GOLDEN = Path(__file__).parents[1] / "golden"
# The small net has what ResNet-20 lacks: a concat, a depthwise convolution and a max pool.
SMALL_PROFILES = ("onnxruntime_x86", "openvino_asym", "tensorrt_int8")
HEADER = """\
# What `eqnet export` writes for this net and profile; `make golden` writes this file anew.
# node: operator name(inputs) -> output type, attributes. Weights and scales are elided.
"""
ENDS = (0, 128, -128)
SHORT = {
    "FLOAT": "f32",
    "FLOAT16": "f16",
    "INT8": "i8",
    "UINT8": "u8",
    "INT32": "i32",
    "INT64": "i64",
}


def cases() -> list[tuple[str, str]]:
    """(net, profile) of every golden graph."""
    return [("resnet20", name) for name in builtin_profiles()] + [
        ("small", name) for name in SMALL_PROFILES
    ]


@cache
def _supernet(net: str) -> Supernet:
    return load_supernet()[0] if net == "resnet20" else small_supernet()


_REFERENCES: dict[str, ir.Model] = {}


def _reference(supernet: Supernet, spec: SubnetSpec) -> ir.Model:
    """The neutral graph of a subnet; profiles that choose the same subnet share it."""
    key = spec.choices_json()
    if key not in _REFERENCES:
        _REFERENCES[key] = to_onnx(extract(supernet, spec), supernet.info.input_shape)
    return _REFERENCES[key]


def graphs(net: str, profile: str) -> dict[str, ir.Model]:
    """File name of a golden graph -> the graph: neutral, lowered, and TensorRT's float16 twin."""
    rules, supernet = load_profile(profile), _supernet(net)
    spec = Target.of(supernet.info, rules).default(net)
    reference = _reference(supernet, spec)
    model = find_exporter(rules.backend).lower(reference, rules)
    found = {"reference": reference, "model": model}
    if rules.remainder == "float16":
        found["model.fp16"] = to_float16(model)
    return {f"{net}.{profile}.{kind}.txt": graph for kind, graph in found.items()}


def text_of(model: ir.Model) -> str:
    """One line for each node, then one for each constant."""
    opsets = ", ".join(f"{name or 'onnx'} {v}" for name, v in model.opset_imports.items())
    lines = [f"producer {model.producer_name}, opset {opsets}"]
    lines += [f"input {_typed(value)}" for value in model.graph.inputs]
    lines += [f"output {_typed(value)}" for value in model.graph.outputs]
    lines += ["", *(_node(node) for node in model.graph), ""]
    lines += [_constant(value) for value in model.graph.initializers.values()]
    return HEADER + "\n".join(lines) + "\n"


def _typed(value: ir.Value) -> str:
    return f"{_short(value)} {_type(value.dtype)}{_shape(value.shape)}"


def _short(value: ir.Value | None) -> str:
    return "-" if value is None else str(value.name).removesuffix(".output")


def _type(dtype: ir.DataType | None) -> str:
    return "?" if dtype is None else SHORT.get(dtype.name, dtype.name.lower())


def _shape(shape: ir.Shape | None) -> str:
    return "?" if shape is None else "[" + ",".join(str(size) for size in shape) + "]"


def _node(node: ir.Node) -> str:
    inputs = ", ".join(_short(value) for value in node.inputs)
    outputs = ", ".join(_typed(value) for value in node.outputs)
    attributes = "".join(
        f", {key}={_value(node.attributes[key])}" for key in sorted(node.attributes)
    )
    return f"{node.op_type} {node.name}({inputs}) -> {outputs}{attributes}"


def _value(attribute: ir.Attr) -> str:
    value = attribute.value
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _constant(value: ir.Value) -> str:
    array = constant(value)
    assert array is not None
    whole = np.issubdtype(array.dtype, np.integer)
    if not whole or (array.ndim and array.dtype != np.int64):
        return _typed(value)
    # A zero-point in the middle follows from data, down to the last bit of a machine's sums.
    free = str(value.name).endswith(".zero_point") and array.tolist() not in ENDS
    return f"{_typed(value)} = {'free' if free else array.tolist()}"


def every_text() -> Iterator[tuple[str, str]]:
    """File name and text of every golden graph."""
    for net, profile in cases():
        for name, model in graphs(net, profile).items():
            yield name, text_of(model)


def main() -> None:
    """Write the files, and remove those that are no more."""
    texts = dict(every_text())
    for old in GOLDEN.glob("*.txt"):
        if old.name not in texts:
            old.unlink()
    for name, text in texts.items():
        (GOLDEN / name).write_text(text, encoding="utf-8")
        print(GOLDEN / name)


if __name__ == "__main__":
    main()
