"""A small MobileNetV2 for small images (Sandler et al. 2018, arXiv 1801.04381, section 3)."""

from __future__ import annotations

from torch import Tensor, nn

from eqnet.models.resnet20 import conv_bn

STEM, HEAD = 16, 160
EXPANSION = 4
# Output channels, blocks, and the stride of the first block of each stage.
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (48, 2, 1))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and a linear bottleneck; a skip where sizes stay."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """`inputs` and `outputs` are numbers of channels."""
        super().__init__()
        wide = inputs * EXPANSION
        self.expand, self.bn1 = conv_bn(inputs, wide, 1, 1).values()
        self.relu1 = nn.ReLU6()
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(wide), nn.ReLU6()
        self.project, self.bn3 = conv_bn(wide, outputs, 1, 1).values()
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        y = self.relu1(self.bn1(self.expand(x)))
        y = self.relu2(self.bn2(self.depthwise(y)))
        y = self.bn3(self.project(y))
        out: Tensor = x + y if self.skips else y
        return out


class SmallMobileNet(nn.Module):
    """A 3x3 stem of stride 2, eight inverted residuals, a 1x1 head: 81,594 parameters."""

    def __init__(self, in_channels: int = 1, classes: int = 10) -> None:
        """Weights are drawn as in He et al. 2015 from torch's global generator."""
        super().__init__()
        self.stem = nn.Sequential(conv_bn(in_channels, STEM, 3, 2))
        self.stem.append(nn.ReLU6())
        blocks, channels = [], STEM
        for outputs, count, stride in STAGES:
            for block_stride in (stride, *[1] * (count - 1)):
                blocks.append(InvertedResidual(channels, outputs, block_stride))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(conv_bn(channels, HEAD, 1, 1))
        self.head.append(nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(HEAD, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> logits [N, classes]."""
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits
