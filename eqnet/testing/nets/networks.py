"""Tiny networks for the contract: one for each construct that a target may get wrong.

All take float32 images [N, 3, 12, 12] (`padding` takes [N, 3, 11, 13]) and give 5 logits. Their
weights are drawn from a fixed seed, with batch norms whose gammas have both signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from eqnet.testing.nets.blocks import (
    CLASSES,
    Concat,
    ConstantMaps,
    ConvBn,
    Gate,
    LinearHead,
    NoBias,
    Padding,
    Pooling,
    Reductions,
    Residual,
    Scaled,
    Split,
    Sums,
    Tokens,
    Transposed,
    plain,
)

Shape = tuple[int, int, int]
SHAPE: Shape = (3, 12, 12)
ODD_SHAPE: Shape = (3, 11, 13)
# More would overflow the sigmoid of ONNX's reference evaluator.
OUTLYING, OUTLIER = (1, 6), 16.0


def residual_stages() -> nn.Module:
    """ResNet-20 with stages of 4, 6 and 8 channels: its depth and its skips, at a tiny width."""
    from eqnet.models.resnet20 import BasicBlock

    stages = [(4, 4, 1), (4, 4, 1), (4, 4, 1), (4, 6, 2), (6, 6, 1), (6, 6, 1)]
    stages += [(6, 8, 2), (8, 8, 1), (8, 8, 1)]
    blocks = [BasicBlock(inputs, outputs, stride) for inputs, outputs, stride in stages]
    return plain(ConvBn(3, 4), nn.ReLU(), *blocks, channels=8)


def depthwise() -> nn.Module:
    """An inverted bottleneck of MobileNet: 1x1, depthwise 3x3, linear 1x1, with ReLU6."""
    return plain(
        ConvBn(3, 6, stride=2),
        nn.ReLU6(),
        ConvBn(6, 12, kernel=1),
        nn.ReLU6(),
        ConvBn(12, 12, groups=12),
        nn.ReLU6(),
        ConvBn(12, 8, kernel=1),
        ConvBn(8, 12, kernel=1),
        nn.ReLU6(),
        channels=12,
    )


def groups() -> nn.Module:
    """Grouped convolutions that are not depthwise."""
    return plain(
        ConvBn(3, 8, stride=2),
        nn.ReLU(),
        ConvBn(8, 12, groups=4),
        nn.ReLU(),
        ConvBn(12, 6, kernel=1, groups=2),
        nn.ReLU(),
        channels=6,
    )


def squeeze_excite() -> nn.Module:
    """Squeeze and excitation with a sigmoid, after SiLU as in EfficientNet."""
    return plain(
        ConvBn(3, 8, stride=2),
        nn.SiLU(),
        ConvBn(8, 8, groups=8),
        nn.SiLU(),
        Gate(8, nn.Sigmoid()),
        ConvBn(8, 12, kernel=1),
        nn.SiLU(),
        channels=12,
    )


def hard_swish() -> nn.Module:
    """Hardswish and a hard sigmoid gate, as in MobileNetV3."""
    return plain(
        ConvBn(3, 8, stride=2),
        nn.Hardswish(),
        ConvBn(8, 8),
        nn.ReLU(),
        Gate(8, nn.Hardsigmoid()),
        ConvBn(8, 12, kernel=1),
        nn.Hardswish(),
        channels=12,
    )


def dead_channels() -> nn.Module:
    """Gammas of 0, 1e-9 and below 0, and channels whose weights are all zero."""
    net = plain(
        ConvBn(3, 8, stride=2),
        nn.ReLU(),
        ConvBn(8, 8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.ReLU(),
        channels=6,
    )
    randomize(net)
    with torch.no_grad():
        for block in (net[0], net[2]):
            assert isinstance(block, ConvBn)
            block.bn.weight[:4] = torch.tensor([0.0, 1e-9, -1e-9, -0.7])
        for layer in (net[2].conv, net[4]):
            assert isinstance(layer, nn.Conv2d)
            layer.weight[4:6] = 0.0
    return net.eval()


def huge_bias() -> nn.Module:
    """Biases far beyond what the weights add up to, of both signs."""
    net = NoBias()
    net.stem, net.conv = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
    net.fc = nn.Linear(8, CLASSES)
    randomize(net)
    with torch.no_grad():
        for layer in (net.stem, net.conv, net.fc):
            assert layer.bias is not None
            layer.bias[:3] = torch.tensor([1e4, -1e4, 300.0])
            layer.weight[0] *= 1e-6
    return net.eval()


def outliers() -> nn.Module:
    """Channels far above the others before functions that bend, and after a sum of them.

    Equalization multiplies them by constants of their own.
    """
    net = plain(
        ConvBn(3, 8, stride=2),
        nn.SiLU(),
        ConvBn(8, 8, kernel=1),
        nn.GELU(),
        ConvBn(8, 8),
        nn.SiLU(),
        Gate(8, nn.Sigmoid()),
        ConvBn(8, 8),
        nn.Hardswish(),
        nn.Conv2d(8, 6, 1),
        nn.ReLU(),
        channels=6,
    )
    randomize(net)
    with torch.no_grad():
        blocks = [module for module in net if isinstance(module, ConvBn | nn.Conv2d)]
        for block, reader in pairwise(blocks):
            assert isinstance(block, ConvBn)
            conv = reader.conv if isinstance(reader, ConvBn) else reader
            for channel in OUTLYING:
                block.bn.weight[channel] *= OUTLIER
                conv.weight[:, channel] /= OUTLIER
        gate = net[6]
        assert isinstance(gate, Gate)
        gate.reduce.weight[:, OUTLYING] /= OUTLIER
        assert gate.reduce.bias is not None
        gate.reduce.bias.abs_()  # a ReLU that passes something
    return net.eval()


@dataclass(frozen=True)
class NetworkRecipe:
    """How a network is made, the shape [C, H, W] of its images, and whether it is equalized."""

    build: Callable[[], nn.Module]
    shape: Shape = SHAPE
    equalized: bool = False


RECIPES: dict[str, NetworkRecipe] = {
    "resnet20": NetworkRecipe(residual_stages),
    "residual": NetworkRecipe(Residual),
    "sums": NetworkRecipe(Sums),
    "concat": NetworkRecipe(Concat),
    "split": NetworkRecipe(Split),
    "tokens": NetworkRecipe(Tokens),
    "depthwise": NetworkRecipe(depthwise),
    "squeeze_excite": NetworkRecipe(squeeze_excite),
    "hard_swish": NetworkRecipe(hard_swish),
    "pooling": NetworkRecipe(Pooling),
    "reductions": NetworkRecipe(Reductions),
    "constants": NetworkRecipe(ConstantMaps),
    "scaled": NetworkRecipe(Scaled),
    "padding": NetworkRecipe(Padding, ODD_SHAPE),
    "groups": NetworkRecipe(groups),
    "transposed": NetworkRecipe(Transposed),
    "no_bias": NetworkRecipe(NoBias),
    "linear_head": NetworkRecipe(LinearHead),
    "dead_channels": NetworkRecipe(dead_channels),
    "huge_bias": NetworkRecipe(huge_bias),
    "outliers": NetworkRecipe(outliers, equalized=True),
}
NETS: tuple[str, ...] = tuple(RECIPES)
# They set weights of their own after the draw.
FINISHED = ("dead_channels", "huge_bias", "outliers")


def make(name: str) -> nn.Module:
    """The network of that name in eval mode, the same on every call. Raises KeyError."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = RECIPES[name].build()
    if name in FINISHED:
        return net
    return randomize(net)


def randomize(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, statistics and gammas of both signs that no check passes by chance with."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return torch.empty_like(like).uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                reach = 1.7 / math.sqrt(module.weight[0].numel())
                module.weight.copy_(draw(module.weight, -reach, reach))
                if module.bias is not None:
                    module.bias.copy_(draw(module.bias, -0.3, 0.3))
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(draw(module.weight, 0.5, 1.5))
                module.weight[::3] *= -1.0
                module.bias.copy_(draw(module.bias, -0.4, 0.6))
    return net.eval()


def images(count: int, shape: Shape, seed: int) -> Tensor:
    """Normal float32 images [count, C, H, W], each with its own brightness and contrast."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *shape, generator=generator)
    level = torch.randn(count, 1, 1, 1, generator=generator)
    contrast = 0.5 + torch.rand(count, 1, 1, 1, generator=generator)
    return noise * contrast + level
