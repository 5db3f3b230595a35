"""Constants that are repeated over the batch, by values instead of a shape that is read."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from artifacts import run_plain
from eqnet_exporters.openvino import OpenVinoExporter
from eqnet_exporters.ov.expand_by_value import expand_by_value
from onnx import TensorProto, helper, numpy_helper

BATCHES = (1, 2, 7)
# The constant's shape, and that of what it becomes for each image: a map, or tokens.
FORMS = {
    "map": ((1, 1, 6, 6), (1, 6, 6)),
    "map_of_several_channels": ((1, 3, 6, 6), (3, 6, 6)),
    "map_without_a_batch_axis": ((2, 6, 6), (2, 6, 6)),
    "token": ((1, 1, 8), (1, 8)),
    "tokens_without_a_batch_axis": ((4, 8), (4, 8)),
}


def network(form: str, order: tuple[int, ...]) -> onnx.ModelProto:
    """Two parts of the images, swapped, and the constant, joined in some order."""
    shape, sizes = FORMS[form]
    rng = np.random.default_rng(0)
    tokens = len(sizes) == 2
    constants: dict[str, np.ndarray] = {
        "constant": rng.normal(size=shape).astype(np.float32),
        "weight": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "tail": np.array(sizes, np.int64),
        "flat": np.array([0, 8, -1], np.int64),
        "halves": np.array([4, 4], np.int64),
        "axes": np.arange(1, 1 + len(sizes), dtype=np.int64),
        "sum_axes": np.array([2] if tokens else [2, 3], np.int64),
    }
    make = helper.make_node
    nodes = [
        make("Conv", ["input", "weight"], ["conv"], "conv", pads=[1] * 4, strides=[2, 2]),
        make("Relu", ["conv"], ["x"], "relu"),
        make("Split", ["x", "halves"], ["one", "two"], "split", axis=1),
        make("Concat", ["two", "one"], ["swapped"], "swap", axis=1),
        make("Shape", ["input"], ["batch"], "batch", start=0, end=1),
        make("Concat", ["batch", "tail"], ["shape"], "shape", axis=0),
        make("Expand", ["constant", "shape"], ["repeated"], "expand"),
    ]
    parts = ["swapped", "x", "repeated"]
    if tokens:
        for name in ("swapped", "x"):
            nodes.append(make("Reshape", [name, "flat"], [f"{name}_flat"], f"{name}_flat"))
            nodes.append(
                make("Transpose", [f"{name}_flat"], [f"{name}_t"], f"{name}_t", perm=[0, 2, 1])
            )
        parts = ["swapped_t", "x_t", "repeated"]
    nodes += [
        make("Concat", [parts[i] for i in order], ["joined"], "join", axis=1),
        make("Relu", ["joined"], ["kept"], "kept"),
        make("Flatten", ["kept"], ["logits"], "flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value in model.graph.value_info:  # as torch's exporter names the batch
        if value.name == "repeated":
            value.CopyFrom(
                helper.make_tensor_value_info("repeated", TensorProto.FLOAT, ["batch", *sizes])
            )
    return model


def by_value(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = ir.from_proto(model)
    expand_by_value(graph)
    made = ir.to_proto(graph)
    onnx.checker.check_model(made, full_check=True)
    return made


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(0, 1, (count, 3, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_every_value_stays_and_no_expand(form):
    model = network(form, (0, 1, 2))
    made = by_value(model)
    assert "Expand" not in [node.op_type for node in made.graph.node]
    for count in BATCHES:
        x = images(count)
        assert np.array_equal(run_plain(made, x), run_plain(model, x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_openvino_computes_what_onnx_runtime_does(tmp_path, form, order):
    exporter = OpenVinoExporter()
    if (reason := exporter.unavailable()) is not None:
        pytest.skip(reason)
    model = network(form, order)
    onnx.save(by_value(model), tmp_path / "model.onnx")
    run = exporter.open(tmp_path / "model.onnx", threads=1, profile=None)
    for count in BATCHES:
        x = images(count)
        np.testing.assert_allclose(run(x), run_plain(model, x), rtol=1e-4, atol=1e-5)


def test_an_expand_over_other_axes_stays():
    model = network("map", (0, 1, 2))
    (constant,) = [one for one in model.graph.initializer if one.name == "constant"]
    constant.CopyFrom(numpy_helper.from_array(np.ones((1, 1, 1, 6), np.float32), "constant"))
    assert "Expand" in [node.op_type for node in by_value(model).graph.node]
