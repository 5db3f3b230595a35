"""Graphs from one export of a network are those that each subnet's own export gives."""

from __future__ import annotations

import random

import numpy as np
import onnx_ir as ir
import pytest
import torch

from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.scheme import all_forms
from eqnet.spec.subnet import REMAINDER, SubnetSpec
from eqnet.subnets.build import build_spec, choose_bits, load_style
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.graphs import Graphs
from eqnet.supernet.supernet import Supernet
from eqnet.testing.nets.networks import RECIPES
from eqnet.testing.subnets import supernet_of

STYLES = ("onnxruntime_x86", "openvino_asym", "tensorrt_int8", "paper")


def random_spec(net: Supernet, seed: int) -> SubnetSpec:
    """Random bits, with a third of the layers in float."""
    rng = random.Random(seed)
    style = load_style(rng.choice(STYLES))
    weights, activations = choose_bits(
        net.info, lambda: rng.choice([4, 8]), lambda: rng.choice([5, 8])
    )
    for name in weights:
        if rng.random() < 0.33:
            weights[name] = REMAINDER
    return build_spec(net.info, style, rng.choice(list(all_forms())), weights, activations)


def nodes_of(model: ir.Model) -> list[tuple[str, dict[str, object], str | None]]:
    own = (*LAYER_OPS, "QuantizeLinear", "DequantizeLinear")
    return [
        (node.op_type, dict(node.attributes), node.name if node.op_type in own else None)
        for node in model.graph
    ]


def constants_of(model: ir.Model) -> list[np.ndarray]:
    """The constants that nodes read, in the order of reading."""
    values = [value for node in model.graph for value in node.inputs if value is not None]
    return [value.const_value.numpy() for value in values if value.is_initializer()]


@pytest.mark.parametrize("net", sorted(RECIPES))
def test_the_graph_is_the_exported_one(net):
    """But for the names of nodes beside layers and quantizers, which follow from these."""
    supernet = supernet_of(net)
    graphs = Graphs(supernet)
    spec = random_spec(supernet, len(net))
    found = graphs.of(spec)
    due = to_onnx(extract(supernet, spec), supernet.info.input_shape)
    assert nodes_of(found) == nodes_of(due)
    for here, there in zip(constants_of(found), constants_of(due), strict=True):
        assert here.dtype == there.dtype
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("profile", ["openvino_avx2", "custom_pow2", "tensorrt_int8"])
def test_the_graph_of_a_profile_is_the_exported_one(profile):
    """7-bit storage and scales that are powers of two are in it."""
    supernet = supernet_of("residual")
    spec = Target.of(supernet.info, load_profile(profile)).default("")
    found = Graphs(supernet).of(spec)
    due = to_onnx(extract(supernet, spec), supernet.info.input_shape)
    assert nodes_of(found) == nodes_of(due)
    for here, there in zip(constants_of(found), constants_of(due), strict=True):
        np.testing.assert_array_equal(here, there)


def test_a_bias_that_the_template_lacks_is_exported_anew(monkeypatch):
    supernet = supernet_of("no_bias")
    graphs = Graphs(supernet)
    spec = random_spec(supernet, 0)
    graphs.of(spec)
    exported = []

    def counted(*arguments):
        exported.append(1)
        return to_onnx(*arguments)

    monkeypatch.setattr("eqnet.supernet.graphs.to_onnx", counted)
    name = supernet.info.layers[0].name
    net = extract(supernet, spec)
    layer = net.get_submodule(name)
    layer.bias = torch.nn.Parameter(torch.ones(supernet.info.layers[0].out_channels))
    found = graphs.of(spec, net)
    assert exported
    assert nodes_of(found) == nodes_of(to_onnx(net, supernet.info.input_shape))
