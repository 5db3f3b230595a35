"""reference.onnx: what PyTorch computes, as two independent ONNX evaluators see it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from nets import SHAPE, SIGNED_ZERO, SmallNet, images, randomize, small_supernet, style, supernet_of
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from eqnet import __version__
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.scheme import Form, Granularity, Symmetry
from eqnet.subnets.build import PAPER_STYLE, build_spec, uniform
from eqnet.supernet.extract import extract

MIXED = Form(
    weight_granularity=Granularity.PER_TENSOR,
    weight_symmetry=Symmetry.ASYMMETRIC,
    activation_symmetry=Symmetry.ASYMMETRIC,
)
CASES = {
    "paper w4a4": (PAPER_STYLE, Form(), 4, 4),
    "everywhere w8a8": (style(), Form(), 8, 8),
    "everywhere w2a3 per tensor asymmetric": (style(), MIXED, 2, 3),
    "same bits for residuals": (style(residual_bits="same"), MIXED, 5, 4),
    "signed, zero-point 0": (
        style(activations=SIGNED_ZERO),
        Form(activation_symmetry=Symmetry.SYMMETRIC),
        8,
        8,
    ),
}


class Exported:
    """One subnet as PyTorch and as ONNX, and the integers of its quantizers in both."""

    def __init__(self, supernet, spec):
        self.spec = spec
        self.net = extract(supernet, spec)
        self.model = ir.to_proto(to_onnx(self.net, supernet.info.input_shape))

    def torch_values(self, batch):
        """'tensor.role' -> real values of every quantizer, and the logits."""
        found: dict[str, np.ndarray] = {}
        hooks = []
        for name, module in self.net.get_submodule("quantizers").named_modules():
            if name.endswith((".carrier", ".narrow")):
                hook = module.register_forward_hook(
                    lambda m, i, out, n=name: found.__setitem__(n, out.numpy())
                )
                hooks.append(hook)
        with torch.no_grad():
            logits = self.net(batch).numpy()
        for hook in hooks:
            hook.remove()
        return found, logits

    def watched(self):
        """The model with the output of every quantizer as an output, and their names."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        points = {
            n.name[:-3]: n.output[0]
            for n in model.graph.node
            if n.name.endswith((".carrier.dq", ".narrow.dq"))
        }
        for value in points.values():
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(value))
        return model, list(points)


@pytest.fixture(scope="module")
def supernet():
    return small_supernet()


@pytest.fixture(scope="module", params=CASES)
def exported(request, supernet):
    chosen, form, weight_bits, activation_bits = CASES[request.param]
    return Exported(supernet, uniform(supernet.info, chosen, form, weight_bits, activation_bits))


def in_onnxruntime(model, batch):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"input": batch})


def in_reference(model, batch):
    return ReferenceEvaluator(model).run(None, {"input": batch})


@pytest.mark.parametrize("run", [in_onnxruntime, in_reference])
def test_every_integer_is_pytorchs_but_for_counted_ties(exported, run):
    """Float sums in another order move a value over a rounding tie: at most 5 in 1,000."""
    batch = images(3)
    expected, logits = exported.torch_values(batch)
    model, names = exported.watched()
    found = run(model, batch.numpy())
    assert set(names) == set(expected)
    values = ties = 0
    for name, value in zip(names, found[1:], strict=True):
        point = exported.net.get_submodule(f"quantizers.{name}")
        steps = np.rint((value - expected[name]) / point.scale.item())
        assert np.abs(steps).max() <= 1, name
        values, ties = values + steps.size, ties + int((steps != 0).sum())
    assert ties <= 0.005 * values
    assert np.abs(found[0] - logits).mean() <= 2e-3 * np.ptp(logits)


def test_names_of_layers_and_quantizers(exported):
    graph = exported.model.graph
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert [node.name for node in layers] == list(exported.spec.weights)
    points = {n.name[:-2] for n in graph.node if n.op_type == "QuantizeLinear"}
    expected = {f"{name}.carrier" for name in exported.spec.carriers}
    for name, bits in exported.spec.activations.items():
        if exported.spec.carriers.get(name) != bits:
            expected.add(f"{name}.narrow")
    assert points == expected
    assert len({node.name for node in graph.node}) == len(graph.node)


def test_every_quantizer_has_the_form_of_the_contract(exported):
    graph = exported.model.graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    by_name = {node.name: node for node in graph.node}
    for node in (n for n in graph.node if n.op_type == "QuantizeLinear"):
        point = node.name.removesuffix(".q")
        module = exported.net.get_submodule(f"quantizers.{point}")
        scale, zero = (constants[name] for name in node.input[1:])
        assert scale.shape == zero.shape == ()
        assert scale == module.scale.numpy()
        assert zero == module.zero_point.numpy()
        assert zero.dtype == (np.uint8 if module.span.lo == 0 else np.int8)
        last = by_name[f"{point}.dq"]
        assert list(last.input[1:]) == list(node.input[1:])
        if tuple(module.span) in ((0, 255), (-128, 127)):
            assert f"{point}.clip" not in by_name
            assert last.input[0] == node.output[0]
        else:
            clip = by_name[f"{point}.clip"]
            assert [constants[name].item() for name in clip.input[1:]] == list(module.span)
            assert clip.input[0] == node.output[0]
            assert last.input[0] == clip.output[0]


def test_weights_are_integer_initializers_and_biases_float_ones(exported):
    graph = exported.model.graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in (n for n in graph.node if n.op_type in ("Conv", "Gemm")):
        dequantize = makers[node.input[1]]
        assert dequantize.op_type == "DequantizeLinear"
        weight, scale, zero = (constants[name] for name in dequantize.input)
        assert weight.dtype == zero.dtype == np.int8
        assert scale.dtype == np.float32
        assert scale.shape == zero.shape == weight.shape[:1]
        axis = next(a.i for a in dequantize.attribute if a.name == "axis")
        assert axis == 0
        if len(node.input) > 2:
            assert constants[node.input[2]].dtype == np.float32
        static = exported.net.get_submodule(node.name)
        assert np.array_equal(weight, static.weight.integers.numpy())


def test_opset_input_output_and_any_number_of_images(exported):
    model = exported.model
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 21)]
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["logits"]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [item.dim_value for item in shape[1:]] == list(SHAPE)
    many = in_onnxruntime(model, images(7).numpy())[0]
    one = in_onnxruntime(model, images(7)[:1].numpy())[0]
    assert many.shape == (7, 5)
    np.testing.assert_allclose(one, many[:1], rtol=1e-5, atol=1e-5)


def test_equal_scales_of_two_tensors_do_not_mix_up_their_names():
    """The exporter shares equal constants: ReLU6 bounds make scales of many tensors equal."""
    net = supernet_of(randomize(SmallNet(activation=nn.ReLU6)))
    with torch.no_grad():
        for name in ("act", "act_1", "act_2"):
            for parameter in net.activation(name).log_scale.values():
                parameter.fill_(5.0)
    exported = Exported(net, uniform(net.info, style(), Form(), 4, 4))
    constants = {
        item.name: numpy_helper.to_array(item) for item in exported.model.graph.initializer
    }
    nodes = [n for n in exported.model.graph.node if n.op_type == "QuantizeLinear"]
    assert len({constants[node.input[1]].item() for node in nodes}) < len(nodes)
    assert [node.input[1] for node in nodes] == [f"{node.name[:-2]}.scale" for node in nodes]
    test_names_of_layers_and_quantizers(exported)
    test_every_integer_is_pytorchs_but_for_counted_ties(exported, in_onnxruntime)


def test_a_layer_in_the_remainder_has_a_float_weight(supernet):
    weights: dict[str, Any] = {layer.name: 8 for layer in supernet.info.layers}
    weights["depthwise"] = "remainder"
    bits = {tensor.name: 8 for tensor in supernet.info.read_tensors()}
    exported = Exported(supernet, build_spec(supernet.info, PAPER_STYLE, Form(), weights, bits))
    constants = {
        item.name: numpy_helper.to_array(item) for item in exported.model.graph.initializer
    }
    node = next(node for node in exported.model.graph.node if node.name == "depthwise")
    assert constants[node.input[1]].dtype == np.float32
    assert constants[node.input[1]].shape == (8, 1, 3, 3)
    test_every_integer_is_pytorchs_but_for_counted_ties(exported, in_onnxruntime)


def test_every_constant_and_value_is_named_after_whose_it_is(exported):
    graph = exported.model.graph
    read = [name for node in graph.node for name in node.input]
    assert {item.name for item in graph.initializer} <= set(read), "an unused constant"
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert node.input[1] == f"{node.name}.weight.dq.output"
            assert list(node.input[2:]) in ([], [f"{node.name}.bias"])
        elif node.name.endswith(".weight.dq"):
            weight = node.name.removesuffix(".dq")
            assert list(node.input) == [weight, f"{weight}.scale", f"{weight}.zero_point"]
        for name in node.output:
            assert name in (f"{node.name}.output", "logits")


def test_the_graph_says_what_it_is_and_nothing_of_where_it_was_made(exported):
    model = exported.model
    assert (model.producer_name, model.producer_version) == ("eqnet", __version__)
    assert "normalized" in model.graph.input[0].doc_string
    assert model.graph.output[0].doc_string == "logits [N, classes]"
    text = str(model)
    assert not any(word in text for word in ("site-packages", "pkg.torch", "namespace", ".py"))
    inferred = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )
    known = {value.name: value.type for value in inferred.graph.value_info}
    stated = {value.name: value.type for value in model.graph.value_info}
    made = {n.output[0] for n in model.graph.node if n.output[0] != "logits"}
    assert made <= set(known)
    assert {name: stated[name] for name in made} == {name: known[name] for name in made}
