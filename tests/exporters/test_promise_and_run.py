"""What a target promises in int8 runs in int8, and what it leaves in float keeps its weights.

Small networks that once failed verification although their artifacts were right, or came out
wrong in one runtime: each through the lowered graph in the runtime, against PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from artifacts import run_plain
from graphs import Builder, inputs
from torch import Tensor, nn
from torch.nn import functional

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import layers_of
from eqnet.backend.machine.isa import onednn_cpu
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import MODEL, REFERENCE
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet
from eqnet.testing.nets.networks import images, randomize

SHAPE = (1, 28, 28)
LAST_IN_FLOAT = [{"layers": "last", "bits": "remainder"}]


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


class UnlikeSums(nn.Module):
    """Sums of unlike ranges, of a tensor with itself, with alpha, of a stack, and a quotient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(1, 16, 2), conv(16, 16), conv(16, 16)
        self.d, self.e, self.head = conv(16, 16), conv(16, 32, 2), nn.Linear(32, 10)
        self.share = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.a(x))
        y = self.b(x) + self.c(x) * 50.0 + x
        y = functional.relu(y) + y
        z = self.d(y)
        z = torch.add(z + z, y, alpha=-0.5) - self.share * x
        z = torch.stack([z, x, y]).sum(0)
        z = torch.maximum(z, x * 0.1) / (1 + y.abs().mean((2, 3), keepdim=True))
        return self.head(functional.relu(self.e(z)).mean((2, 3)))


class Stem(nn.Module):
    """Convolutions down to 32 channels of 7 x 7, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(1, 16, 2), conv(16, 32, 2), nn.Linear(32, 10)

    def features(self, x: Tensor) -> Tensor:
        return functional.relu(self.b(functional.relu(self.a(x))))


class MeanOfTokens(Stem):
    """The mean over tokens behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm = nn.Linear(32, 32), nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.features(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.mix(tokens)).mean(1))


class LargestOfImage(Stem):
    """The maximum over the axes (-1, -2)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).amax((-1, -2)))


class LargestOfRows(Stem):
    """Maxima over one axis after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).amax(3).amax(2))


class Temperature(Stem):
    """Logits times a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3))) * 16


class Upsampled(nn.Module):
    """Transposed convolutions, with groups and depthwise, behind and before convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.e, self.head = conv(1, 16, 4), conv(12, 16, 4), nn.Linear(16, 10)
        self.up = nn.ConvTranspose2d(16, 24, 3, 2, 1, output_padding=1)
        self.bn = nn.BatchNorm2d(24)
        self.grouped = nn.ConvTranspose2d(24, 12, 4, 2, 1, groups=3)
        self.depthwise = nn.ConvTranspose2d(12, 12, 2, 2, groups=12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.up(functional.relu(self.a(x)))))
        x = functional.relu(self.depthwise(functional.relu(self.grouped(x))))
        return self.head(functional.relu(self.e(x)).mean((2, 3)))


class Flattened(nn.Module):
    """A linear layer right behind the flattened output of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(1, 16, 2), conv(16, 16, 2), nn.Linear(16 * 49, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.b(functional.relu(self.a(x)))).flatten(1))


class Joined(nn.Module):
    """A linear layer behind what two convolutions and a concat make."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(1, 8, 4), conv(8, 8, 2), nn.Conv2d(8, 4, 1, 2)
        self.head = nn.Linear(12 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.a(x))
        return self.head(torch.cat([functional.relu(self.b(x)), self.c(x)], 1).flatten(1))


class OddPaddings(nn.Module):
    """Paddings of every mode, ceiled pools, and means over one axis after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 16, 4, 1, "same")
        self.p = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.b = nn.Conv2d(16, 16, 3, 2, 1, padding_mode="reflect")
        self.c = nn.Conv2d(16, 32, 3, 1, 2, dilation=2, groups=2, padding_mode="replicate")
        self.q = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
        self.d = nn.Conv2d(32, 32, (1, 5), (1, 2), (0, 2), groups=32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.a(functional.pad(x, (1, 2, 3, 0), value=-0.5)))
        x = functional.relu(self.b(self.p(x)))
        x = self.q(functional.elu(self.c(functional.pad(x, (1, 1, 1, 1), mode="circular"))))
        x = functional.pad(functional.leaky_relu(self.d(x), 0.3), (0, 0, -1, 0))
        return self.head(x.mean(3).mean(2))


NETS = (
    UnlikeSums,
    MeanOfTokens,
    LargestOfImage,
    LargestOfRows,
    Temperature,
    Upsampled,
    Flattened,
    Joined,
    OddPaddings,
)
PROFILES: dict[str, tuple[str, dict[str, Any]]] = {
    "openvino_asym": ("openvino_asym", {}),
    "openvino_last_in_float": ("openvino_asym", {"pinned": LAST_IN_FLOAT}),
    "onnxruntime_x86": ("onnxruntime_x86", {}),
    "onnxruntime_last_in_float": ("onnxruntime_x86", {"pinned": LAST_IN_FLOAT}),
    "custom_lowbit_w4a8": ("custom_lowbit_w4a8", {}),
}


def profile_of(key: str) -> HardwareProfile:
    name, changes = PROFILES[key]
    content = load_profile(name).model_dump(mode="json")
    return HardwareProfile.model_validate({**content, **changes})


_supernets: dict[type[nn.Module], Supernet] = {}


def supernet_of(net: type[nn.Module]) -> Supernet:
    if net not in _supernets:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _supernets[net] = Supernet(randomize(net()), SHAPE)
        calibrate(_supernets[net], [images(16, SHAPE, seed) for seed in (1, 2)])
    return _supernets[net]


@pytest.mark.parametrize("key", PROFILES)
@pytest.mark.parametrize("net", NETS)
def test_the_promised_layers_run_in_int8_and_the_logits_are_pytorchs(
    net: type[nn.Module], key: str, tmp_path: Path
) -> None:
    profile = profile_of(key)
    exporter = find_exporter(profile.backend)
    if (reason := exporter.unavailable()) is not None:
        pytest.skip(reason)
    supernet = supernet_of(net)
    spec = Target.of(supernet.info, profile).default("")
    supernet.apply(spec)
    supernet.recalibrate([images(32, SHAPE, 3)])
    static = extract(supernet, spec)
    reference = to_onnx(static, SHAPE)
    lowered = exporter.lower(reference, profile)
    ir.save(reference, tmp_path / REFERENCE)
    ir.save(lowered, tmp_path / MODEL)
    exporter.finish(tmp_path, profile)

    proved = exporter.int8_layers(tmp_path, layers_of(lowered), profile)
    assert proved is not None
    assert sorted(proved) == sorted(spec.quantized_layers())

    x = images(16, SHAPE, 4)
    with torch.no_grad():
        expected = static(x).numpy()
    step = float(np.ptp(expected)) / 255
    # Without VNNI OpenVINO's int8 kernels saturate sums: other integers, whatever the graph.
    saturates = profile.backend == "openvino" and onednn_cpu().adds_in_16_bits()
    for optimize in (False,) if saturates else (False, True):
        run = exporter.open(tmp_path / MODEL, optimize=optimize, threads=1, profile=profile)
        # A rounding tie may move an image by a step; a wrong operation moves every one.
        errors = np.abs(run(x.numpy()) - expected).max(axis=1) / step
        assert np.median(errors) < 0.05, f"optimize={optimize}: off by {errors} steps"
        assert errors.max() < 4


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_a_float_layer_between_quantizers_keeps_its_weights_in_onnxruntime(
    op: str, tmp_path: Path
) -> None:
    """ONNX Runtime would round them to a scale of its own, one for all channels."""
    b = Builder(np.random.default_rng(0))
    x = b.quantize("input", "input", 0.03, zp=117)
    spread = np.geomspace(0.01, 3, 10).astype(np.float32)  # that one scale cannot serve
    if op in ("Conv", "ConvTranspose"):
        shape = (10, 3, 8, 8) if op == "Conv" else (3, 10, 1, 1)
        w = b.rng.normal(0, 0.3, shape).astype(np.float32)
        w *= spread.reshape((10, 1, 1, 1) if op == "Conv" else (1, 10, 1, 1))
        x = b.node(op, [x, b.constant("w", w)], "y", "layer")
        size = 10 if op == "Conv" else 640
    else:
        x = b.node("Flatten", [x], "flat")
        w = (b.rng.normal(0, 0.1, (192, 10)) * spread).astype(np.float32)
        x = b.node(op, [x, b.constant("w", w)], "y", "layer")
        size = 10
    x = b.quantize(x, "y", 0.01, zp=128)
    b.node("Reshape", [x, b.constant("row", np.array([-1, size]))], "logits")
    model = b.model(classes=size)
    profile = load_profile("onnxruntime_x86")
    exporter = find_exporter("onnxruntime")
    ir.save(exporter.lower(ir.from_proto(model), profile), tmp_path / MODEL)
    found = exporter.open(tmp_path / MODEL, threads=1)(inputs(16))
    differs = np.abs(found - run_plain(model, inputs(16))) > 0.005
    assert differs.mean() < 0.002, "more than rounding ties"
