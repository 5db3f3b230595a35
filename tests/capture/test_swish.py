"""SiLU, gates and activation functions: which tensors they give quantizers, and integer kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from eqnet_exporters.ort import session as ort
from gated_nets import SHAPE, Gated
from nets import images, randomize
from torch import nn

from eqnet.backend.discovery import find_exporter
from eqnet.capture.capture import capture, check_same_function
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet


class Forms(nn.Module):
    """SiLU as a module, a function, in place, and by keyword; Hardswish beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.silu, self.hard = nn.SiLU(inplace=True), nn.Hardswish()
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        x = self.silu(self.first(x))
        x = nn.functional.silu(input=self.second(x), inplace=True)
        return self.head(self.hard(self.third(x)).mean((2, 3)))


def test_swish_becomes_a_sigmoid_and_a_product_of_the_same_function():
    net = randomize(Forms())
    import copy

    graph, info = capture(copy.deepcopy(net), SHAPE)
    batch = images(3, SHAPE)
    assert check_same_function(net, graph, batch) <= 1e-5 * net(batch).abs().max().item()
    assert [tensor.name for tensor in info.tensors if tensor.name.endswith("_gate")] == [
        "silu_gate",
        "silu_1_gate",
    ]
    gate = info.tensor("silu_gate")
    assert (gate.non_negative, gate.upper, gate.readers) == (True, 1.0, ("mul",))
    assert info.tensor("first").readers == ("activation", "mul")
    assert info.tensor("third").readers == ("activation",)


@pytest.fixture(scope="module")
def supernet():
    found = Supernet(randomize(Gated()), SHAPE)
    calibrate(found, [images(16, SHAPE)])
    return found


@pytest.fixture(scope="module", params=[None, "widen", "last"])
def lowered(request, supernet, tmp_path_factory) -> tuple[Path, torch.fx.GraphModule, str | None]:
    """The artifact's graph for ONNX Runtime, the subnet in PyTorch, and the cut of its stem."""
    rules = load_profile("onnxruntime_x86")
    target = Target.of(supernet.info, rules)
    pairs = dict.fromkeys(target.free_layers(), (8, 8))
    net = extract(supernet, target.subnet(pairs, stem=request.param))
    path = tmp_path_factory.mktemp("swish") / "model.onnx"
    ir.save(find_exporter("onnxruntime").lower(to_onnx(net, SHAPE), rules), path)
    return path, net, request.param


def test_swish_and_gates_run_as_integers_behind_the_stem(lowered):
    path, _, cut = lowered
    optimized = path.with_name("optimized.onnx")
    ort.open_model(path, optimize=True, threads=1, save_optimized=optimized)
    kinds = [node.op_type for node in onnx.load(optimized).graph.node]
    convs, sigmoids = {None: (9, 7), "widen": (6, 5), "last": (1, 1)}[cut]
    assert kinds.count("QLinearConv") == convs
    assert kinds.count("QLinearSigmoid") == sigmoids
    assert kinds.count("QLinearMul") == sigmoids
    assert kinds.count("QGemm") == 1


@pytest.mark.parametrize("optimize", [False, True])
def test_the_runtime_computes_what_pytorch_does(lowered, optimize):
    path, net, _ = lowered
    batch = images(7, SHAPE)
    with torch.no_grad():
        wanted = net(batch).numpy()
    found = ort.open_model(path, optimize=optimize, threads=1)(batch.numpy())
    step = (wanted.max() - wanted.min()) / 255
    assert np.abs(found - wanted).max() <= 2 * step
