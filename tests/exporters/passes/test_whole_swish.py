"""A product with the sigmoid of a rescaled tensor becomes one SiLU again, and nothing else does."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from artifacts import run_plain
from eqnet_exporters.ov.whole_swish import whole_swish
from onnx import TensorProto, helper, numpy_helper

FACTORS = np.array([1, 8, 0.25, 64], np.float32).reshape(4, 1, 1)


def network(factors: np.ndarray, *, gate_first: bool, inner: str = "input") -> onnx.ModelProto:
    """x * sigmoid(factors * x) of [2, 4, 3, 3]; `inner` is what the factors multiply."""
    operands = ["gate", "input"] if gate_first else ["input", "gate"]
    nodes = [
        helper.make_node("Relu", ["input"], ["other"], "relu"),
        helper.make_node("Mul", [inner, "factors"], ["scaled"], "scale"),
        helper.make_node("Sigmoid", ["scaled"], ["gate"], "sigmoid"),
        helper.make_node("Mul", operands, ["product"], "product"),
        helper.make_node("Neg", ["product"], ["logits"], "neg"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4, 3, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(factors.astype(np.float32), "factors")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = ir.from_proto(model)
    whole_swish(graph)
    made = ir.to_proto(graph)
    onnx.checker.check_model(made, full_check=True)
    return made


@pytest.mark.parametrize("gate_first", [True, False])
def test_the_sigmoid_and_the_product_read_the_same_value_and_the_function_stays(gate_first):
    model = network(FACTORS, gate_first=gate_first)
    made = rewritten(model)
    nodes = {node.name: node for node in made.graph.node}
    assert nodes["sigmoid"].input[0] == "scaled"
    assert "scaled" in nodes["product"].input
    assert nodes["neg"].input[0] == "product"  # by the name that it had
    x = np.random.default_rng(0).normal(0, 2, (2, 4, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(run_plain(made, x), run_plain(model, x))


@pytest.mark.parametrize("case", ["no power of two", "of another tensor"])
def test_another_product_is_left(case):
    factors = FACTORS * 3 if case == "no power of two" else FACTORS
    inner = "other" if case == "of another tensor" else "input"
    model = network(factors, gate_first=False, inner=inner)
    assert [node.name for node in rewritten(model).graph.node] == [
        node.name for node in model.graph.node
    ]
