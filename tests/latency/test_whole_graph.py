"""Graphs cut from the whole one are those that the exporter writes, but for other nodes' names."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from nets import small_supernet
from torch import nn

from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.point_names import is_part
from eqnet.latency.origins import origins
from eqnet.latency.whole_graph import cut
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.latency.features import Origin
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.whole import whole_graph


def outline(model):
    """Each node by what it is and reads, layers and quantizers by name, others by their form."""
    made: dict[Any, tuple[Any, ...]] = {}
    for node in model.graph:
        reads: list[Any] = []
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None:
                reads.append(made[producer])
            elif value is None or not value.is_initializer():
                reads.append(None if value is None else value.name)
            else:
                reads.append((str(value.dtype), tuple(value.const_value.shape)))
        known = node.op_type in LAYER_OPS or is_part(node.name, node.op_type)
        made[node] = (node.op_type, node.name if known else "", tuple(reads))
    return made


def forms(model):
    return sorted(repr(each) for each in outline(model).values())


def lowbit_profile():
    content = load_profile("openvino_asym").model_dump()
    content |= {"name": "few_bits", "bits": [[2, 3], [4, 8], [8, 5], [8, 8]]}
    return HardwareProfile.model_validate(content)


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("onnxruntime_x86", nn.SiLU),
        ("openvino_asym", nn.ReLU),
        ("onnxruntime_avx2", nn.ReLU),
        ("tensorrt_int8", nn.ReLU),
        ("few_bits", nn.SiLU),
    ],
)
def test_a_cut_graph_is_the_exported_one(name, activation):
    supernet = small_supernet(activation)
    rules = lowbit_profile() if name == "few_bits" else load_profile(name)
    target = Target.of(supernet.info, rules)
    whole = whole_graph(supernet, target)
    before = forms(whole)
    rng = random.Random(0)
    free = target.free_layers()
    for share in (0.3, 0.6):
        floats = [layer for layer in free if rng.random() < share]
        pairs = {layer: rng.choice(rules.bits) for layer in free}
        groups = frozenset({"add"} if share == 0.6 else ())
        spec = target.subnet(pairs, float_groups=groups, float_layers=floats)
        assert {n for n, bits in spec.weights.items() if bits == "remainder"} >= {*floats}
        exported = to_onnx(extract(supernet, spec), supernet.info.input_shape)
        assert forms(cut(whole, supernet.info, spec)) == forms(exported)
    assert forms(whole) == before


def test_bits_are_ranges_of_the_integers():
    supernet = small_supernet()
    target = Target.of(supernet.info, lowbit_profile())
    spec = target.uniform((2, 3))
    model = cut(whole_graph(supernet, target), supernet.info, spec)
    clips = {n.name: n for n in model.graph if is_part(str(n.name), "Clip")}
    assert {str(tensor) + ".narrow.clip" for tensor in spec.activations} == {*clips}
    for clip in clips.values():
        low, high = (int(value.const_value.numpy()) for value in clip.inputs[1:])
        assert high - low == 7
        assert np.iinfo(clip.inputs[1].const_value.numpy().dtype).min <= low


def test_tensors_come_from_layers_and_other_tensors():
    supernet = small_supernet()
    target = Target.of(supernet.info, load_profile("onnxruntime_x86"))
    found = origins(whole_graph(supernet, target), supernet.info)
    assert {*found} == {tensor.name for tensor in supernet.info.tensors}
    image, stem, inner = (found[supernet.info.layer(n).input] for n in ("stem", "conv1", "conv2"))
    assert image == Origin()
    assert stem == Origin(layers=("stem",))
    assert inner.layers == ()
    assert len(inner.tensors) == 2
    assert supernet.info.layer("conv1").input in inner.tensors
