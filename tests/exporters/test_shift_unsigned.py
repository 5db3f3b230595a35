"""Tensors that are never negative keep 8 bits in TensorRT where layers can take an offset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from eqnet_exporters.tensorrt import TensorRtExporter
from torch import Tensor, nn
from torch.nn import functional

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import quantizers
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet

SHAPE = (3, 8, 8)
PROFILE = load_profile("tensorrt_int8")
HALVED = PROFILE.model_copy(
    update={"activations": PROFILE.activations.model_copy(update={"unsigned": "halved"})}
)


class Net(nn.Module):
    """A convolution, something between, and what reads it."""

    def __init__(
        self,
        between: Callable[[Tensor], Tensor],
        reader: nn.Module,
        *,
        bias: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.between = between
        self.reader = reader
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        value = self.between(self.norm(self.first(x)))
        return self.head(self.reader(value).mean((2, 3)))


class Sum(nn.Module):
    """A reader beside the layer: the tensor itself is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x


class Two(nn.Module):
    """Two layers read the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)[:, :, 1:-1, 1:-1] - self.b(x)


class Vector(nn.Module):
    """Linear layers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 8), nn.Linear(4, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(functional.relu(self.a(self.stem(x).flatten(1))))


def supernet_of(net: nn.Module) -> Supernet:
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(-1.5, 1.5)
            module.bias.data.normal_(0, 0.5)
    supernet = Supernet(net.eval(), SHAPE)
    calibrate(supernet, [torch.randn(16, *SHAPE)])
    return supernet


def run(model: ir.Model, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(content, options).run(None, {"input": images})[0]


SHIFTED = {
    "relu": lambda: Net(nn.ReLU(), nn.Conv2d(8, 8, 1)),
    "relu6": lambda: Net(nn.ReLU6(), nn.Conv2d(8, 8, 1, bias=False)),
    "hardtanh": lambda: Net(nn.Hardtanh(0.0, 2.0), nn.Conv2d(8, 8, 1)),
    "clamp": lambda: Net(lambda x: x.clamp(0.0, 1.5), nn.Conv2d(8, 8, 1)),
    "no_norm": lambda: Net(nn.ReLU(), nn.Conv2d(8, 8, 1), bias=True, norm=False),
    "no_bias": lambda: Net(nn.ReLU(), nn.Conv2d(8, 8, 1), bias=False, norm=False),
    "dropout": lambda: Net(nn.Sequential(nn.ReLU(), nn.Dropout(0.5)), nn.Conv2d(8, 8, 1)),
    "unpadded": lambda: Net(nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2)),
    "depthwise": lambda: Net(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)),
    "two": lambda: Net(nn.ReLU(), Two()),
    "vector": Vector,
}
HALF = {
    "padded": lambda: Net(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)),
    "same": lambda: Net(nn.ReLU(), nn.Conv2d(8, 8, 3, padding="same")),
    "uneven": lambda: Net(nn.ReLU(), nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 2))),
    "added": lambda: Net(nn.ReLU(), Sum()),
    "pooled": lambda: Net(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), nn.Conv2d(8, 8, 1)),
    "bent": lambda: Net(nn.Sigmoid(), nn.Conv2d(8, 8, 1)),
    "squared": lambda: Net(torch.square, nn.Conv2d(8, 8, 1)),
    "transposed": lambda: Net(nn.ReLU(), nn.ConvTranspose2d(8, 8, 2)),
}


@pytest.mark.parametrize("name", SHIFTED)
def test_a_tensor_between_layers_without_padding_has_all_bits(name: str) -> None:
    supernet = supernet_of(SHIFTED[name]())
    spec = Target.of(supernet.info, PROFILE).uniform((8, 8))
    halved = Target.of(supernet.info, HALVED).uniform((8, 8))
    gained = [t for t in spec.activations if spec.activations[t] == halved.activations[t] + 1]
    assert len(gained) == 1
    reference = to_onnx(extract(supernet, spec), SHAPE)
    exporter = TensorRtExporter()
    lowered = exporter.lower(reference, PROFILE)
    for quantizer in quantizers(lowered):
        assert quantizer.dtype == ir.DataType.INT8
        assert quantizer.zero_point == 0
    images = torch.randn(32, *SHAPE).numpy()
    expected, found = run(reference, images), run(lowered, images)
    step = np.ptp(expected) / 255
    assert np.abs(found - expected).max() <= 2 * step  # but for rounding ties the same integers
    assert np.median(np.abs(found - expected)) < step / 50
    shifted = [note for note in exporter.explain(reference, PROFILE) if "offset" in note.text]
    assert len(shifted) == 1


@pytest.mark.parametrize("name", HALF)
def test_any_other_tensor_has_half(name: str) -> None:
    supernet = supernet_of(HALF[name]())
    assert not any(tensor.shiftable for tensor in supernet.info.tensors)
    target = Target.of(supernet.info, PROFILE)
    assert target.uniform((8, 8)) == target.uniform((8, 8)).model_copy(
        update={"activations": Target.of(supernet.info, HALVED).uniform((8, 8)).activations}
    )
    reference = to_onnx(extract(supernet, target.uniform((8, 8))), SHAPE)
    notes = TensorRtExporter().explain(reference, PROFILE)
    assert not any("offset" in note.text for note in notes)


def test_a_float_layer_among_the_readers_leaves_it_half() -> None:
    supernet = supernet_of(Net(nn.ReLU(), Two()))
    (tensor,) = (tensor for tensor in supernet.info.tensors if tensor.shiftable)
    pins = [{"layers": "reader.b", "bits": "remainder"}]
    content = PROFILE.model_dump() | {"pinned": pins}
    pinned = type(PROFILE).model_validate(content)
    spec = Target.of(supernet.info, pinned).uniform((8, 8))
    assert spec.activations[tensor.name] == 7


def test_others_refuse_the_key() -> None:
    content = PROFILE.model_dump() | {"backend": "onnxruntime", "remainder": "float32"}
    lines = find_exporter("onnxruntime").refusals(type(PROFILE).model_validate(content))
    assert "activations.unsigned: shifted (allowed: halved)" in lines


def test_the_hash_of_a_profile_without_the_key_is_as_before() -> None:
    assert load_profile("onnxruntime_arm").sha256().startswith("b2e27099bdf5c0cb")
    assert HALVED.sha256() != PROFILE.sha256()
