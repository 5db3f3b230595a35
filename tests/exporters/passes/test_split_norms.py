"""Normalizations that crash OpenVINO's AVX2 kernels are spelled out, and nothing else is."""

from typing import Any

import instruction_sets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from artifacts import run_plain
from eqnet_exporters.ov.split_norms import split_norms
from onnx import TensorProto, helper, numpy_helper

from eqnet.spec.hardware.load import load_profile

# Sizes behind the images' axis and, for a layer norm, the first axis that it is over.
Norm = tuple[tuple[int, ...], int | None]  # sizes, and the first axis of a layer norm
LAYER_NORMS: list[Norm] = [((9, 24), -1), ((9, 40), 2), ((7, 12), -1), ((9, 7), -1), ((3, 7, 7), 1)]
INSTANCE_NORMS: list[Norm] = [((8, 7, 7), None), ((5, 9, 3), None), ((16, 5, 5), None)]
RIGHT_AS_THEY_ARE: list[Norm] = [((9, 16), -1), ((9, 192), -1), ((4, 8, 8), 1), ((24, 8, 8), None)]


def network(sizes: tuple[int, ...], axis: int | None) -> onnx.ModelProto:
    """A layer norm over the axes from `axis` on, or an instance norm, over [2, *sizes]."""
    rng = np.random.default_rng(0)
    shape = [2, *sizes]
    attributes: dict[str, Any]
    if axis is None:
        op, over, attributes = "InstanceNormalization", shape[1:2], {"epsilon": 1e-3}
    else:
        op, over, attributes = "LayerNormalization", shape[axis:], {"axis": axis, "epsilon": 1e-3}
    parameters = [
        numpy_helper.from_array(rng.normal(size=over).astype(np.float32), name)
        for name in ("scale", "bias")
    ]
    nodes = [
        helper.make_node(op, ["input", "scale", "bias"], ["normed"], "norm", **attributes),
        helper.make_node("Flatten", ["normed"], ["logits"], "flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *sizes])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        parameters,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def split(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = ir.from_proto(model)
    split_norms(graph)
    made = ir.to_proto(graph)
    onnx.checker.check_model(made, full_check=True)
    return made


def images(sizes: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).normal(2, 3, (2, *sizes)).astype(np.float32)


@pytest.mark.parametrize(("sizes", "axis"), LAYER_NORMS + INSTANCE_NORMS)
def test_a_norm_over_odd_counts_is_the_same_function_in_single_operations(sizes, axis):
    model = network(sizes, axis)
    made = split(model)
    assert not [node for node in made.graph.node if "Normalization" in node.op_type]
    before, after = run_plain(model, images(sizes)), run_plain(made, images(sizes))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert np.ptp(before) > 1


@pytest.mark.parametrize(("sizes", "axis"), RIGHT_AS_THEY_ARE)
def test_a_norm_that_is_right_stays(sizes, axis):
    first = split(network(sizes, axis)).graph.node[0]
    assert first.op_type.endswith("Normalization")


@pytest.mark.parametrize("instructions", instruction_sets.SETS)
def test_openvino_runs_all_of_them_under_every_instruction_set(tmp_path, instructions):
    pytest.importorskip("openvino")
    profile, expected = load_profile("openvino_avx2"), {}
    for index, (sizes, axis) in enumerate(LAYER_NORMS + INSTANCE_NORMS + RIGHT_AS_THEY_ARE):
        folder, model = tmp_path / f"norm_{index}", network(sizes, axis)
        folder.mkdir()
        onnx.save(split(model), folder / instruction_sets.MODEL)
        np.save(folder / instruction_sets.IMAGES, images(sizes))
        (folder / instruction_sets.PROFILE).write_text(profile.model_dump_json())
        expected[folder.name] = run_plain(model, images(sizes))
    ran = instruction_sets.run_under(instructions, tmp_path)
    for name, logits in expected.items():
        np.testing.assert_allclose(ran.logits[name], logits, rtol=1e-4, atol=1e-4)
