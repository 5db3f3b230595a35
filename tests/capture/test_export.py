"""From capture to ONNX Runtime: transposed convolutions, attention and uneven padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from fed_integers import feed
from nets import images, randomize, style, supernet_of
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from eqnet.backend.discovery import find_exporter
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.scheme import Form, Granularity, Symmetry
from eqnet.subnets.build import PAPER_STYLE, build_spec, uniform
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.supernet import Supernet
from eqnet.testing.host import for_this_cpu
from eqnet.testing.subnets import SampleSubnet

SHAPE = (3, 8, 8)
PER_TENSOR = Form(weight_granularity=Granularity.PER_TENSOR, weight_symmetry=Symmetry.ASYMMETRIC)


class Upsampling(nn.Module):
    """A transposed convolution with batch norm, a depthwise one, and one with two groups."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.depthwise = nn.ConvTranspose2d(6, 6, 2, 2, groups=6)
        self.grouped = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.bn(self.up(torch.relu(self.stem(x)))))
        return self.fc(self.grouped(self.depthwise(x)).mean((2, 3)))


class Tokens(nn.Module):
    """A class token, attention over a residual stream, and linear layers over tokens."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.fc((x + self.mlp(x))[:, 0])


class Uneven(nn.Module):
    """Padding on two sides, and one convolution called twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=2)
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        for _ in range(2):
            x = torch.relu(self.conv(functional.pad(x, (0, 1, 0, 1))))
        return self.fc(x.mean((2, 3)))


class ChannelsLast(nn.Module):
    """Pools what a permutation brings to the front, as a module, a function, and to 3x3."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(44, 3)

    def forward(self, x):
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = functional.adaptive_avg_pool2d(torch.sigmoid(x), (1, 1))
        z = functional.adaptive_avg_pool2d(x, 3)
        pooled = [part.flatten(1) for part in (self.avgpool(x), y, z)]
        return self.fc(torch.cat(pooled, 1))


class Circular(nn.Module):
    """Convolutions over an image whose edges meet, padded by other amounts on each axis."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="circular")
        self.second = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.fc(functional.pad(x, (0, 2, 0, 0), mode="circular").mean((2, 3)))


def randomized(build):
    net = randomize(build())
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            if parameter.dim() > 1:
                generator = torch.Generator().manual_seed(index)
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
    return net


@pytest.fixture(scope="module", params=[Upsampling, Tokens, Uneven, ChannelsLast, Circular])
def supernet(request) -> Supernet:
    return supernet_of(randomized(request.param), SHAPE)


def run(model: onnx.ModelProto, batch: torch.Tensor) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"input": batch.numpy()})[0]


@pytest.mark.parametrize("form", [Form(), PER_TENSOR], ids=Form.label)
@pytest.mark.parametrize("bits", [4, 8])
def test_the_graph_computes_what_pytorch_does(supernet, form, bits):
    spec = uniform(supernet.info, style(), form, bits, 8)
    net = extract(supernet, spec)
    model = ir.to_proto(to_onnx(net, SHAPE))
    onnx.checker.check_model(model, full_check=True)
    assert {layer.name for layer in supernet.info.layers} <= {n.name for n in model.graph.node}
    supernet.apply(spec)
    for count in (1, 7):
        batch = images(count, SHAPE)
        with torch.no_grad():
            expected, elastic = net(batch).numpy(), supernet.graph(batch).numpy()
        spread = np.ptp(expected)
        assert spread > 1e-3
        # A rounding tie moves an integer by a step; the bias of the static net is on its grid.
        assert np.abs(run(model, batch) - expected).mean() <= 0.01 * spread
        assert np.abs(elastic - expected).mean() <= 0.02 * spread
        parts = ir.from_proto(model)
        trace = SampleSubnet(spec, net, parts, batch.numpy()).trace
        fed = feed(parts, trace, batch.numpy())
        assert (fed.quantizers, fed.wrong) == (len(trace.points), [])
        assert fed.logits <= 1e-5


def test_a_wrong_scale_is_seen_behind_its_layer():
    net = supernet_of(randomized(Upsampling), SHAPE)
    spec = uniform(net.info, style(), Form(), 8, 8)
    static, batch = extract(net, spec), images(3, SHAPE).numpy()
    model = ir.to_proto(to_onnx(static, SHAPE))
    scale = next(item for item in model.graph.initializer if item.name == "up.weight.scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 1.02, scale.name))
    parts = ir.from_proto(model)
    (line,) = feed(parts, SampleSubnet(spec, static, parts, batch).trace, batch).wrong
    assert line.startswith("relu_1.narrow: ")


def test_a_network_in_the_remainder_is_the_float_network(supernet):
    weights: dict[str, Any] = {layer.name: "remainder" for layer in supernet.info.layers}
    net = extract(supernet, build_spec(supernet.info, PAPER_STYLE, Form(), weights, {}))
    supernet.apply_float()
    batch = images(3, SHAPE)
    with torch.no_grad():
        expected = supernet.graph(batch)
        torch.testing.assert_close(net(batch), expected, rtol=1e-4, atol=1e-5)
    found = run(ir.to_proto(to_onnx(net, SHAPE)), batch)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_channels_of_a_transposed_convolution_lie_on_the_axis_that_onnx_is_told():
    net = supernet_of(randomized(Upsampling), SHAPE)
    assert [(layer.name, layer.group, layer.batch_norm) for layer in net.info.layers] == [
        ("stem", "conv", None),
        ("up", "conv_transpose", "bn"),
        ("depthwise", "conv_transpose", None),
        ("fc", "linear", None),
    ]
    assert net.info.layer("up").macs == 4 * 4 * 4 * 6 * 9
    model = ir.to_proto(to_onnx(extract(net, uniform(net.info, style(), Form(), 8, 8)), SHAPE))
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in (n for n in model.graph.node if n.op_type == "ConvTranspose"):
        maker = makers.get(node.input[1])
        if maker is not None and maker.op_type == "DequantizeLinear":
            axis = next(item.i for item in maker.attribute if item.name == "axis")
            weight, scale = arrays[maker.input[0]], arrays[maker.input[1]]
            assert weight.dtype == np.int8
            assert weight.shape[axis] == len(scale)
            found[node.name] = (axis, weight.shape)
    assert found == {"up": (1, (4, 6, 3, 3)), "depthwise": (0, (6, 1, 2, 2))}


def test_gamma_of_a_transposed_convolution_flips_its_output_channels():
    net = randomized(Upsampling)
    with torch.no_grad():
        net.bn.weight[:3] = -0.7
    batch = images(3, SHAPE)
    with torch.no_grad():
        expected = net(batch)
    graph = Supernet(net, SHAPE).graph
    assert (graph.get_submodule("bn").weight >= 0).all()
    torch.testing.assert_close(graph(batch), expected, rtol=1e-5, atol=1e-6)


def test_uneven_padding_is_the_convolutions_own():
    net = supernet_of(randomized(Uneven), SHAPE)
    model = to_onnx(extract(net, uniform(net.info, style(), Form(), 8, 8)), SHAPE)
    pads = {n.name: n.attributes.get_ints("pads") for n in model.graph if n.op_type == "Conv"}
    assert {name: list(value) for name, value in pads.items()} == {
        "conv": [0, 0, 1, 1],
        "conv_2": [0, 0, 1, 1],
    }
    assert not [node for node in model.graph if node.op_type == "Pad"]


def test_pooling_a_channels_last_tensor_is_one_node():
    supernet = supernet_of(randomized(ChannelsLast), SHAPE)
    spec = uniform(supernet.info, PAPER_STYLE, PER_TENSOR, 8, 8)
    graph = to_onnx(extract(supernet, spec), SHAPE).graph
    pools = [(n.op_type, n.name) for n in graph if "Pool" in n.op_type or n.name == "avgpool"]
    assert ("GlobalAveragePool", "avgpool") in pools
    assert sorted(kind for kind, _ in pools) == ["AveragePool", *["GlobalAveragePool"] * 2]
    assert not {"Gather", "Range", "Shape"} & {node.op_type for node in graph}


@pytest.mark.parametrize("build", [Tokens, ChannelsLast])
def test_no_name_is_an_internal_one_of_the_exporter(build):
    supernet = supernet_of(randomized(build), SHAPE)
    spec = uniform(supernet.info, PAPER_STYLE, PER_TENSOR, 8, 8)
    graph = to_onnx(extract(supernet, spec), SHAPE).graph
    names = {str(node.name) for node in graph} | set(graph.initializers)
    assert [name for name in names if name.startswith("_") or "metadata" in name] == []


def test_circular_padding_runs_in_openvino(tmp_path):
    pytest.importorskip("openvino")
    exporter = find_exporter("openvino")
    profile = for_this_cpu(exporter, load_profile("openvino_asym"))
    supernet = supernet_of(randomized(Circular), SHAPE)
    spec = Target.of(supernet.info, profile).default("")
    net = extract(supernet, spec)
    batch = torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(0))
    ir.save(exporter.lower(to_onnx(net, SHAPE), profile), tmp_path / "model.onnx")
    exporter.finish(tmp_path, profile)
    with torch.no_grad():
        expected = net(batch).numpy()
    found = exporter.open(tmp_path / "model.onnx", threads=1, profile=profile)(batch.numpy())
    assert (np.abs(found - expected).max(1) <= np.ptp(expected) / 255).mean() >= 14 / 16
    layers = {layer.name: layer.name for layer in supernet.info.layers}
    assert exporter.int8_layers(tmp_path, layers, profile) == list(layers)
