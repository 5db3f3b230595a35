"""A Concat whose result is quantized joins integers: its operands share the one scale behind it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from artifacts import run_plain
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter
from eqnet_exporters.openvino import OpenVinoExporter
from eqnet_exporters.ov.hoist_quantizers import hoist_quantizers
from eqnet_exporters.passes.share_quantizers import share_quantizers
from graphs import Builder, inputs

from eqnet.backend.graph.reading import quantizer_of
from eqnet.spec.hardware.load import load_profile

LAYERS = dict.fromkeys(("left", "right", "head"), "Conv")


def branches(bits: int, *, quantized_left: bool = False) -> onnx.ModelProto:
    """Two convolutions joined by a Concat, with a quantizer of `bits` behind it, and a third."""
    b = Builder(np.random.default_rng(0))
    x = b.quantize("input", "input", 0.02, signed=True)
    left = b.node("Relu", [b.conv(x, "left", 3, 4)], "left.relu")
    if quantized_left:
        left = b.quantize(left, "left", 0.01)
    right = b.node("Relu", [b.conv(x, "right", 3, 4)], "right.relu")
    x = b.node("Concat", [left, right], "cat", axis=1)
    kind = "carrier" if bits == 8 else "narrow"
    x = b.quantize(x, "cat", 0.02 * 255 / ((1 << bits) - 1), bits=bits, kind=kind)
    x = b.conv(x, "head", 8, 10)
    b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "logits")
    return b.model()


def applied(model: onnx.ModelProto, change) -> ir.Model:
    graph = ir.from_proto(model)
    change(graph)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    return graph


@pytest.mark.parametrize("change", [share_quantizers, hoist_quantizers])
@pytest.mark.parametrize("quantized_left", [False, True])
@pytest.mark.parametrize("bits", [3, 8])
def test_operands_get_the_grid_behind_and_no_integer_changes(change, bits, quantized_left):
    model = branches(bits, quantized_left=quantized_left)
    graph = applied(model, change)
    concat = next(node for node in graph.graph if node.op_type == "Concat")
    first, second = (quantizer_of(value) for value in concat.inputs if value is not None)
    assert first is not None
    assert second is not None
    assert first.same_grid(second)
    assert (first.lo, first.hi) == (0, (1 << bits) - 1)
    assert np.array_equal(run_plain(ir.to_proto(graph), inputs()), run_plain(model, inputs()))


@pytest.mark.parametrize("change", [share_quantizers, hoist_quantizers])
def test_a_graph_input_has_no_place_for_a_quantizer_so_the_concat_stays(change):
    b = Builder(np.random.default_rng(0))
    left = b.conv(b.quantize("input", "input", 0.02, signed=True), "left", 3, 4)
    x = b.node("Concat", ["input", left], "cat", axis=1)
    x = b.conv(b.quantize(x, "cat", 0.02, signed=True, bits=4), "head", 7, 10)
    b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "logits")
    model = b.model()
    graph = applied(model, change)
    assert np.array_equal(run_plain(ir.to_proto(graph), inputs()), run_plain(model, inputs()))


def test_hoisting_leaves_no_quantizer_behind():
    graph = applied(branches(8), hoist_quantizers)
    concat = next(node for node in graph.graph if node.op_type == "Concat")
    assert [reader.op_type for reader in concat.outputs[0].consumers()] == ["Conv"]


@pytest.mark.parametrize(
    ("exporter", "profile"),
    [(OnnxRuntimeExporter(), "onnxruntime_x86"), (OpenVinoExporter(), "openvino_asym")],
)
def test_every_branch_runs_in_int8(exporter, profile, tmp_path):
    if exporter.unavailable() is not None:
        pytest.skip(exporter.unavailable())
    lowered = exporter.lower(ir.from_proto(branches(8)), load_profile(profile))
    ir.save(lowered, tmp_path / "model.onnx")
    # The head has a pool behind it that is not quantized, so ONNX Runtime leaves it in float.
    found = exporter.int8_layers(tmp_path, LAYERS)
    assert {"left", "right"} <= set(found)
