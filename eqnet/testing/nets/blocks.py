"""The modules that the contract's networks are made of."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

CLASSES = 5


class ConvBn(nn.Sequential):
    """A convolution without bias that keeps the size (but for its stride), and batch norm."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ):
        super().__init__()
        padding = kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)


def head(channels: int) -> nn.Sequential:
    """Global average pooling and the classifier."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def plain(*layers: nn.Module, channels: int) -> nn.Sequential:
    """The layers one after the other, and the head."""
    return nn.Sequential(*layers, head(channels))


class Residual(nn.Module):
    """A skip of the identity, a skip with its own convolution, and a sum that stays signed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBn(3, 8, stride=2)
        self.first, self.second = ConvBn(8, 8), ConvBn(8, 8)
        self.third, self.shortcut = ConvBn(8, 12, stride=2), ConvBn(8, 12, kernel=1, stride=2)
        self.last = ConvBn(12, 12, kernel=1)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        x = functional.relu(self.stem(x))
        x = functional.relu(x + self.second(functional.relu(self.first(x))))
        x = self.third(x) + self.shortcut(x)
        logits: Tensor = self.head(functional.relu(self.last(x)))
        return logits


class Sums(nn.Module):
    """Sums of what comes after ReLU, dropout, SiLU, a gate, and of a value that is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBn(3, 8, stride=2)
        self.one, self.two, self.three = ConvBn(8, 8), ConvBn(8, 8), ConvBn(8, 8, kernel=1)
        self.four, self.five = ConvBn(8, 8), ConvBn(8, 8, kernel=1)
        self.gate, self.dropout = Gate(8, nn.Sigmoid()), nn.Dropout2d(0.2)
        self.depth = StochasticDepth()
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        x = functional.relu(self.stem(x))
        x = functional.relu(self.one(x)) + functional.relu(self.two(x))
        x = functional.relu(x + self.depth(self.dropout(self.three(x))))
        y = self.four(x)
        x = functional.relu(x + self.gate(y)) + y
        logits: Tensor = self.head(x + functional.silu(self.five(x)))
        return logits


class StochasticDepth(nn.Module):
    """Torchvision's: one operation under tracing, which gives back what it takes."""

    def forward(self, x: Tensor) -> Tensor:
        """Any tensor, as it is outside of training."""
        result: Tensor = drop_in_training(x, self.training)
        return result


@fx.wrap
def drop_in_training(x: Tensor, training: bool) -> Tensor:
    """Scale every image by a draw of its own in training."""
    if not training:
        return x
    return x * torch.empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(0.8) / 0.8


class Concat(nn.Module):
    """Branches of unlike ranges and signs that are concatenated, read again and pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBn(3, 6, stride=2)
        self.left, self.right = ConvBn(6, 4, kernel=1), ConvBn(6, 5)
        self.mix = ConvBn(15, 8)
        self.head = head(14)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        x = functional.relu(self.stem(x))
        y = torch.cat([x, functional.relu(self.left(x)), self.right(x)], 1)
        y = functional.relu(self.mix(y))
        logits: Tensor = self.head(torch.cat([y, x], 1))
        return logits


class Gate(nn.Module):
    """Squeeze and excitation: a pooled branch that scales the channels."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        result: Tensor = x * self.gate(self.expand(functional.relu(self.reduce(self.pool(x)))))
        return result


class Tokens(nn.Module):
    """Linear layers on channels-last maps, as in ConvNeXt, and the maximum over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBn(3, 8, stride=2)
        self.mix, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8, bias=False)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        x = functional.relu(self.stem(x))
        x = x + self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.norm(x.permute(0, 2, 3, 1))
        x = x + self.narrow(functional.gelu(self.wide(y))).permute(0, 3, 1, 2)
        logits: Tensor = self.fc(x.amax((2, 3)))
        return logits


class Split(nn.Module):
    """Convolutions whose output is split, resized, subtracted and clipped from below."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBn(3, 8, stride=2)
        self.left, self.right = ConvBn(4, 6), ConvBn(4, 6, kernel=1)
        self.down, self.prelu = ConvBn(6, 6, stride=2), nn.PReLU(6)
        self.head = head(6)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        first, second = functional.relu(self.stem(x)).chunk(2, 1)
        x = self.right(second) - self.prelu(self.left(first))
        x = torch.maximum(functional.interpolate(self.down(x), scale_factor=2), x)
        logits: Tensor = self.head(x)
        return logits


class Reductions(nn.Module):
    """Means, maxima and minima over one axis, of tokens and of maps, signed and not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.signed = ConvBn(3, 8, stride=2), ConvBn(8, 6)
        self.mix, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.fc = nn.Linear(8 + 6 + 6 + 8 + 6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        x = functional.relu(self.stem(x))
        tokens = self.norm(self.mix(x.flatten(2).transpose(1, 2)))
        y = self.signed(x)
        features = [tokens.mean(1), y.mean(3).mean(2), y.flatten(2).mean(-1)]
        features += [x.amax(3).mean(2), y.amax(1).amin(2)]
        logits: Tensor = self.fc(torch.cat(features, 1))
        return logits


class ConstantMaps(nn.Module):
    """Constants that are repeated for each image and joined: a map of positions, a class token."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = ConvBn(3, 8, stride=2), ConvBn(8, 6), ConvBn(8, 6)
        self.register_buffer("positions", torch.linspace(-1, 1, 6).expand(1, 1, 6, 6).clone())
        self.mix, self.token = ConvBn(6 + 6 + 8 + 3 + 1, 8), nn.Parameter(torch.ones(1, 1, 8))
        self.wide, self.fc = nn.Linear(8, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        small = functional.avg_pool2d(x, 2)
        x = functional.relu(self.stem(x))
        first, second = x.chunk(2, 1)
        swapped = torch.cat([second, first], 1)
        positions = self.positions.expand(x.shape[0], -1, -1, -1)
        x = torch.cat([self.left(x), self.right(swapped), swapped, small, positions], 1)
        tokens = functional.relu(self.mix(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)
        logits: Tensor = self.fc(functional.relu(self.wide(tokens)).mean(1))
        return logits


class Scaled(nn.Module):
    """Layers after which constants are multiplied, added and subtracted.

    A frozen batch norm, a layer scale, a difference with a convolution, a temperature.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.frozen = ConvBn(3, 8, stride=2), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.branch, self.minus = ConvBn(8, 8), ConvBn(8, 8, kernel=1)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1))
        self.register_buffer("shift", torch.linspace(-0.3, 0.3, 8).view(1, 8, 1, 1))
        self.layer_scale = nn.Parameter(torch.linspace(0.1, 0.8, 8).view(8, 1, 1))
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        x = functional.relu(self.stem(x))
        x = functional.relu(self.frozen(x) * self.scale + self.shift)
        x = functional.relu(self.depthwise(x) * self.scale + self.shift)
        x = x + self.layer_scale * self.branch(x)
        logits: Tensor = self.head(functional.relu(x - self.minus(x))) * 16.0
        return logits


class Pooling(nn.Module):
    """Max and average pooling, with padding, overlap and a ceiled size, then the global one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.last = ConvBn(3, 8), ConvBn(8, 8), ConvBn(8, 8)
        self.max = nn.MaxPool2d(3, 2, padding=1)
        self.ceiled = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.average = nn.AvgPool2d(2, 1)
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        x = self.max(functional.relu(self.stem(x)))
        x = functional.relu(self.mid(self.average(x)))
        logits: Tensor = self.head(self.last(self.ceiled(x)))
        return logits


class Padding(nn.Module):
    """Odd sizes, padding on one side only, kernels that are not square, dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, (3, 2), stride=(2, 1), padding=(0, 1))
        self.wide = nn.Conv2d(8, 6, (1, 3), padding=(0, 1), bias=False)
        self.dilated = nn.Conv2d(6, 8, 3, padding=2, dilation=2)
        self.bn = nn.BatchNorm2d(8)
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 11, 13] -> [N, 5]."""
        x = functional.relu(self.stem(functional.pad(x, (0, 1, 0, 1))))
        x = functional.relu(self.wide(functional.pad(x, (1, 0, 0, 2))))
        logits: Tensor = self.head(functional.relu(self.bn(self.dilated(x))))
        return logits


class NoBias(nn.Module):
    """Layers with neither bias nor batch norm, the head included."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.fc = nn.Linear(8, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        x = functional.relu(self.conv(functional.relu(self.stem(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class LinearHead(nn.Module):
    """A classifier of three linear layers on flattened maps; one output stays signed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBn(3, 6, stride=2)
        self.pool = nn.MaxPool2d(2)
        self.wide, self.signed = nn.Linear(54, 16), nn.Linear(16, 12, bias=False)
        self.out = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        x = self.pool(functional.relu(self.stem(x))).flatten(1)
        logits: Tensor = self.out(self.signed(functional.relu(self.wide(x))))
        return logits


class Transposed(nn.Module):
    """Down and up again: a transposed convolution with batch norm, and one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = ConvBn(3, 6, stride=2), ConvBn(6, 8, stride=2)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.refine = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1)
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 12, 12] -> [N, 5]."""
        x = functional.relu(self.stem(x))
        x = functional.relu(x + self.bn(self.up(functional.relu(self.down(x)))))
        logits: Tensor = self.head(functional.relu(self.refine(x)))
        return logits
