"""Export's check of reference.onnx: a wrong graph is told from one that amplifies ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from artifacts import profile
from nets import images, small_supernet

from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.reading import constant, quantizers
from eqnet.backend.inside.fed_graph import FedGraph
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.errors import EqnetError
from eqnet.stages.export import reference as module
from eqnet.stages.export.reference import ROUNDING_STEPS, Traced, check_reference, trace_points
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract

PATH = Path("reference.onnx")
CARRIERS = {"carriers": ["pool", "concat", "mul", "activation", "other"], "add": "both"}


@pytest.fixture(scope="module")
def net():
    supernet = small_supernet()
    spec = Target.of(supernet.info, profile(placement=CARRIERS)).default("0" * 64)
    return extract(supernet, spec)


@pytest.fixture(scope="module")
def content(net):
    return ir.to_proto(to_onnx(net, (3, 12, 12)))


@pytest.fixture
def graph(content):
    """A copy of the graph that a test may break."""
    return ir.from_proto(content)


def check(graph, net, tmp_path, batch=None):
    path = tmp_path / PATH
    ir.save(graph, path)
    check_reference(path, net, images(12) if batch is None else batch)


def replace(value: ir.Value, array: np.ndarray) -> None:
    value.const_value = ir.tensor(array, name=value.name)


def test_a_right_graph_passes(graph, net, tmp_path):
    check(graph, net, tmp_path)
    check(graph, net, tmp_path, images(1))


def test_it_runs_few_images_however_many_there_are(graph, net, tmp_path, monkeypatch):
    sizes = []

    def watched(net, batch):
        sizes.append(len(batch))
        return trace_points(net, batch)

    monkeypatch.setattr(module, "trace_points", watched)
    check(graph, net, tmp_path, images(40))
    assert sum(sizes) == module.IMAGES
    assert max(sizes) <= module.IMAGES_AT_ONCE


LAYERS = ("stem", "conv1", "depthwise", "conv2", "head")


def layer(graph, name):
    (node,) = (node for node in graph.graph if node.name == name)
    assert node.op_type in LAYER_OPS
    return node


@pytest.mark.parametrize("name", LAYERS)
def test_a_wrong_weight_is_named_by_the_tensor_behind_it(graph, net, tmp_path, name):
    node = layer(graph, name)
    value = node.inputs[1].producer().inputs[0]
    integers = constant(value).copy()
    integers.reshape(-1)[0] += np.int8(60 if integers.reshape(-1)[0] < 0 else -60)
    replace(value, integers)
    with pytest.raises(EqnetError, match=r"^reference.onnx: '\w+[.\w]*' is off by") as error:
        check(graph, net, tmp_path)
    assert "\n" not in str(error.value)
    if name == "head":
        assert "'logits' is off" in str(error.value)


@pytest.mark.parametrize("name", LAYERS)
def test_a_wrong_bias_is_refused(graph, net, tmp_path, name):
    value = layer(graph, name).inputs[2]
    array = constant(value).copy()
    array[0] += 0.25
    replace(value, array)
    with pytest.raises(EqnetError, match="is off by"):
        check(graph, net, tmp_path)


@pytest.mark.parametrize(
    ("operator", "other"), [("Add", "Sub"), ("GlobalAveragePool", "GlobalMaxPool")]
)
def test_another_operator_is_refused(graph, net, tmp_path, operator, other):
    """A lost Relu would be no fault: the quantizer behind it saturates at 0."""
    (node,) = (node for node in graph.graph if node.op_type == operator)
    node.op_type = other
    with pytest.raises(EqnetError, match="is off by"):
        check(graph, net, tmp_path)


def test_operands_in_another_order_are_refused(graph, net, tmp_path):
    (node,) = (node for node in graph.graph if node.op_type == "Concat")
    first, second = node.inputs
    node.replace_input_with(0, second)
    node.replace_input_with(1, first)
    with pytest.raises(EqnetError, match="is off by"):
        check(graph, net, tmp_path)


def indices(graph):
    return range(len(quantizers(graph)))


def test_every_quantizer_that_is_left_out_is_missed(content, net, tmp_path):
    count = len(quantizers(ir.from_proto(content)))
    assert count >= 6
    for index in range(count):
        graph = ir.from_proto(content)
        quantizer = quantizers(graph)[index]
        quantizer.output.replace_all_uses_with(quantizer.source)
        graph.graph.remove([quantizer.dequantize, quantizer.quantize], safe=True)
        with pytest.raises(EqnetError):
            check(graph, net, tmp_path, 4 * images(12))  # so that each one cuts something off


@pytest.mark.parametrize("side", ["quantize", "dequantize"])
def test_every_scale_is_held_to_pytorch(content, net, tmp_path, side):
    for index in indices(ir.from_proto(content)):
        graph = ir.from_proto(content)
        node = getattr(quantizers(graph)[index], side)
        wrong = ir.Value(name="wrong", const_value=ir.tensor(np.float32(0.123), name="wrong"))
        graph.graph.register_initializer(wrong)
        node.replace_input_with(1, wrong)
        with pytest.raises(EqnetError, match=r"scale 0\.123|dequantized by"):
            check(graph, net, tmp_path)


def test_a_zero_point_of_the_reading_side_alone_is_refused(graph, net, tmp_path):
    node = quantizers(graph)[0].dequantize
    wrong = ir.Value(name="wrong", const_value=ir.tensor(np.uint8(7), name="wrong"))
    graph.graph.register_initializer(wrong)
    node.replace_input_with(2, wrong)
    with pytest.raises(EqnetError, match="dequantized by"):
        check(graph, net, tmp_path)


def point(values: np.ndarray) -> Traced:
    values = values.astype(np.float32)
    return Traced(0.1, values, np.round(values))


@pytest.mark.parametrize("beside", [0.0, ROUNDING_STEPS * 0.9, -ROUNDING_STEPS * 0.9])
def test_a_value_that_rounds_the_other_way_is_no_fault(beside):
    """PyTorch read 2.5 or near it, the graph made 2 or 3 of it."""
    for other in (2, 3):
        values = np.arange(1000) % 7 + 0.2
        values[5] = 2.5 + beside
        stored = np.round(values).astype(np.uint8) + 10
        stored[5] = other + 10
        module._require_equal(PATH, "t", stored, 10, point(values))


@pytest.mark.parametrize("away", [ROUNDING_STEPS * 1.1, 0.5, 1.5, 40.0])
def test_a_value_that_is_further_off_is_a_fault(away):
    values = np.arange(1000) % 7 + 0.2
    values[5] = 102.5 + away  # the graph held at most 102.5
    stored = np.round(values).astype(np.uint8)
    stored[5] = 102
    with pytest.raises(EqnetError, match=rf"'t' is off by {away:.3g} steps, in 1 of 1000"):
        module._require_equal(PATH, "t", stored, 0, point(values))


def test_many_values_that_are_a_little_off_are_a_fault():
    """A shift of a twentieth of a step rounds one value in twenty the other way."""
    values = np.random.default_rng(0).uniform(0, 200, 5000)
    shifted = np.round(values + 0.05).astype(np.uint8)
    with pytest.raises(EqnetError, match=r"of 5000 integers are not PyTorch's"):
        module._require_equal(PATH, "t", shifted, 0, point(values))
    nearly = np.round(values + 0.001).astype(np.uint8)
    module._require_equal(PATH, "t", nearly, 0, point(values))


def test_a_network_that_amplifies_ties_is_exported(graph, net, tmp_path, monkeypatch):
    """A tie at the very input, handed on until logits have nothing in common, is fed away.

    Stands for what another order of summing does: here PyTorch rounds some inputs up where the
    graph, which reads them a hundredth of a step lower, rounds them down.
    """
    batch = images(8)
    (first, *_) = quantizers(graph)
    scale = np.float32(first.scale)
    tied = torch.from_numpy(
        ((np.floor(batch.numpy() / scale) + 0.5) * scale + 0.005 * scale).astype(np.float32)
    )
    keep = torch.rand(tied.shape, generator=torch.Generator().manual_seed(0)) < 0.005
    mixed = torch.where(keep, tied, batch)
    original = FedGraph.run

    def lower(self, inputs, values):
        return original(self, np.where(keep[: len(inputs)], inputs - 0.01 * scale, inputs), values)

    path = tmp_path / PATH
    ir.save(graph, path)
    monkeypatch.setattr(FedGraph, "run", lower)
    monkeypatch.setattr(module, "_few", lambda batch: [batch])
    check_reference(path, net, mixed)


def test_a_network_without_quantizers_is_compared_by_its_logits(net, tmp_path):
    supernet = small_supernet()
    target = profile(pinned=[{"layers": "*", "bits": "remainder"}])
    spec = Target.of(supernet.info, target).default("0" * 64)
    spec = spec.model_copy(update={"carriers": {}, "activations": {}})
    plain = extract(supernet, spec)
    graph = to_onnx(plain, (3, 12, 12))
    assert not quantizers(graph)
    check(graph, plain, tmp_path)
    value = layer(graph, "head").inputs[2]
    replace(value, constant(value) + np.float32(0.05))
    with pytest.raises(EqnetError, match="'logits' is off by"):
        check(graph, plain, tmp_path)
