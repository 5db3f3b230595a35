"""ResNet-20 for small images (He et al. 2016, arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

WIDTHS = (16, 32, 64)
BLOCKS = 3


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> OrderedDict[str, nn.Module]:
    """A convolution without bias that keeps the size (but for its stride), and batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip; a 1x1 convolution is the skip where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """`inputs` and `outputs` are numbers of channels."""
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride).values()
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = conv_bn(outputs, outputs, 3, 1).values()
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Sequential(conv_bn(inputs, outputs, 1, stride))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        skip = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = self.relu2(y + skip)
        return out


class ResNet20(nn.Module):
    """A 3x3 stem of 16 channels and three stages of three blocks, 0.27 M parameters."""

    def __init__(self, in_channels: int = 1, classes: int = 10) -> None:
        """Weights are drawn as in He et al. 2015 from torch's global generator."""
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict([*conv_bn(in_channels, WIDTHS[0], 3, 1).items(), ("relu", nn.ReLU())])
        )
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], 1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], 2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> logits [N, classes]."""
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1) for _ in range(BLOCKS - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)
