"""Small networks, datasets and subnets that tests of the torch side share."""

from __future__ import annotations

import copy
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from eqnet.data.images import ArrayImages, Dataset, Images
from eqnet.spec.hardware.profile import ActivationRules, CarrierGroup, Placement
from eqnet.spec.manifest import Preprocessing
from eqnet.spec.scheme import Symmetry
from eqnet.subnets.build import PlacementStyle
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet

SHAPE = (3, 12, 12)
# Networks this small only lose time to a second thread, and one thread sums in one order.
torch.set_num_threads(1)


class SmallNet(nn.Module):
    """Stem, residual block, depthwise convolution, concat, pooling, Linear head."""

    def __init__(
        self, classes: int = 5, activation: type[nn.Module] = nn.ReLU, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, stride=2, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(8)
        self.act = activation()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=True)
        self.bn2 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 1)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(14, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem_bn(self.stem(x)))
        y = self.bn2(self.depthwise(self.act(self.bn1(self.conv1(x)))))
        x = self.act(x + y)
        z = torch.cat([x, functional.relu(self.conv2(x))], dim=1)
        z = functional.max_pool2d(z, 2)
        z = functional.adaptive_avg_pool2d(z, 1)
        logits: Tensor = self.head(self.drop(z.view(z.size(0), -1)))
        return logits


def randomize(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, statistics and gammas of both signs that no test passes by chance with."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return torch.empty_like(like).uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                reach = 1.7 / module.weight[0].numel() ** 0.5
                module.weight.copy_(draw(module.weight, -reach, reach))
                if module.bias is not None:
                    module.bias.copy_(draw(module.bias, -0.3, 0.3))
            elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
                module.weight.copy_(draw(module.weight, 0.5, 1.5))
                module.weight[::3] *= -1.0
                module.bias.copy_(draw(module.bias, -0.4, 0.6))
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(draw(module.running_mean, -0.2, 0.2))
                module.running_var.copy_(draw(module.running_var, 0.4, 1.6))
    return net.eval()


def images(count: int = 8, shape: tuple[int, int, int] = SHAPE, seed: int = 1) -> Tensor:
    """Normal float32 images [count, C, H, W]."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def supernet_of(
    net: nn.Module, shape: tuple[int, int, int] = SHAPE, *, calibrated: bool = True
) -> Supernet:
    """The supernet of a net, its scales set on a few random images."""
    supernet = Supernet(net, shape)
    if calibrated:
        calibrate(supernet, [images(4, shape, seed) for seed in (11, 12)])
    return supernet


@cache
def _small_supernet(activation: type[nn.Module]) -> Supernet:
    return supernet_of(randomize(SmallNet(activation=activation)))


def small_supernet(activation: type[nn.Module] = nn.ReLU) -> Supernet:
    """A calibrated supernet of SmallNet with random weights, each time a copy of its own."""
    return copy.deepcopy(_small_supernet(activation))  # type: ignore[arg-type]  # has a hash


def style(
    *,
    residual_bits: Literal["same", "8", "float"] = "8",
    add: Literal["both", "skip", "none"] = "both",
    carriers: tuple[CarrierGroup, ...] = ("pool", "concat"),
    activations: ActivationRules | None = None,
) -> PlacementStyle:
    """A placement with quantizers wherever there can be one, unless told otherwise."""
    placement = Placement(residual_bits=residual_bits, add=add, carriers=carriers)
    return PlacementStyle(
        "test", placement, activations or ActivationRules(symmetry=Symmetry.ASYMMETRIC)
    )


SIGNED_ZERO = ActivationRules(symmetry=Symmetry.SYMMETRIC, storage="int8", zero_point="zero")


class TinyData(Dataset):
    """Forty images, in every split, whose brightness tells their class."""

    name = "tiny"
    preprocessing = Preprocessing(mean=(0.3,), std=(0.4,))
    classes = tuple("abcdefghij")
    input_shape = (1, 28, 28)

    def __init__(self, count: int = 40) -> None:
        rng = np.random.default_rng(5)
        labels = rng.integers(0, len(self.classes), count)
        base = (labels * (250 // len(self.classes)))[:, None, None, None]
        noise = rng.integers(-40, 41, (count, *self.input_shape))
        self._pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
        self._labels = labels.astype(np.int64)

    def _all(self, name: str) -> Images:
        return ArrayImages(f"{self.name} {name}", self._pixels.copy(), self._labels.copy())

    def train(self) -> Images:
        return self._all("train")

    def validation(self) -> Images:
        return self._all("validation")

    def test(self) -> Images:
        return self._all("test")

    def calibration(self) -> Images:
        return self._all("calibration")

    def parity(self) -> Images:
        return self._all("parity")
