"""Every row of docs/models.md: capture keeps the function, and the graph computes the subnet."""

from __future__ import annotations

import copy

import onnx
import onnx_ir as ir
import pytest
import torch
from families import Family, families, set_scales
from fed_integers import feed
from nets import images

from eqnet.backend.discovery import find_exporter
from eqnet.capture.capture import check_same_function
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.errors import CaptureError
from eqnet.spec.hardware.load import load_profile
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.supernet import Supernet
from eqnet.testing.subnets import SampleSubnet

ROUNDING = 1e-5  # of the largest logit: sums in another order
QUICK = {
    "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:squeezenet1_1",
    "timm:convnext_atto",
    "timm:resnetv2_50",
    "timm:tf_efficientnet_b0",
    "timm:dla34",
    "timm:vit_tiny_patch16_224",
}
ROWS = families()
# Of all integers, those that may be ties: 4 in a million were, at the most (vit_tiny).
TIES = 1e-4
TIMM = pytest.importorskip("timm")


def test_the_table_has_the_rows_that_are_checked_on_every_run():
    sources = [family.source for family in ROWS]
    assert len(set(sources)) == len(sources)
    assert set(sources) >= QUICK


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(row, id=row.source, marks=() if row.source in QUICK else (pytest.mark.full,))
        for row in ROWS
    ],
)
def test_the_float_function_of_a_family_is_unchanged(family: Family):
    net = family.net()
    original = copy.deepcopy(net)
    supernet = Supernet(net, family.shape)
    assert len(supernet.info.layers) == family.layers
    batch = images(3, family.shape)
    with torch.no_grad():
        size = original(batch).abs().max().item()
    assert 1e-3 < size < float("inf")
    assert check_same_function(original, supernet.graph, batch) <= ROUNDING * size


@pytest.mark.full
@pytest.mark.parametrize("family", ROWS, ids=lambda row: row.source)
def test_the_graph_of_a_family_computes_the_subnet_for_any_number_of_images(family, tmp_path):
    supernet = Supernet(family.net(), family.shape)
    set_scales(supernet, images(2, family.shape))
    spec = Target.of(supernet.info, load_profile("onnxruntime_x86")).default("test")
    net = extract(supernet, spec)
    if family.checked == "captured":
        with pytest.raises(CaptureError, match="has no ONNX form: "):
            to_onnx(net, family.shape)
        return
    model = to_onnx(net, family.shape)
    assert {layer.name for layer in supernet.info.layers} <= {node.name for node in model.graph}
    path = tmp_path / "reference.onnx"
    ir.save(model, str(path))
    onnx.checker.check_model(str(path))
    run = find_exporter("onnxruntime").open(path, optimize=False, threads=1)
    assert run(images(1, family.shape).numpy()).shape == (1, supernet.info.classes)
    batch = images(3, family.shape).numpy()
    fed = feed(model, SampleSubnet(spec, net, model, batch).trace, batch)
    assert fed.wrong == [] or family.checked == "run"
    assert fed.ties <= TIES * fed.integers
    assert fed.logits <= ROUNDING
