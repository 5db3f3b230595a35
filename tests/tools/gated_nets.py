"""Small networks with gates, as squeeze-and-excitation makes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHAPE = (3, 16, 16)


class Gated(nn.Module):
    """Two resolutions with a wide middle, a squeeze with a gate, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, 16, 1)
        self.narrow = nn.Conv2d(16, 4, 1)
        self.widen = nn.Conv2d(4, 16, 1)
        self.down = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16)
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.project = nn.Conv2d(16, 6, 1)
        self.last = nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 5)
        self.gate = nn.Conv2d(4, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        act = nn.functional.silu
        x = self.narrow(act(self.wide(act(self.stem(x)))))
        x = act(self.down(act(self.widen(x))))
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        x = x * self.gate(act(self.squeeze(pooled))).sigmoid()
        x = act(self.last(self.project(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class SqueezeNet(nn.Module):
    """Expand, squeeze and excite, project: Swish behind a batch norm, sigmoid behind none."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.excite, self.project = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.norm(self.expand(x)))
        x = x * torch.sigmoid(self.excite(x.mean((2, 3), keepdim=True)))
        logits: Tensor = self.fc(torch.relu(self.project(x)).mean((2, 3)))
        return logits
