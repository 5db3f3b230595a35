"""Networks whose quantization is judged, as a user's own `module:callable`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from eqnet.backend.preprocess import preprocess
from eqnet.data import Dataset


class Outlier(nn.Module):
    """Three convolutions; the second and the third may share a channel of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 16, 3, 2, 1)
        self.b = nn.Conv2d(16, 32, 3, 2, 1)
        self.c = nn.Conv2d(32, 32, 3, 2, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.a(x))
        x = functional.relu(self.c(functional.relu(self.b(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits

    @torch.no_grad()
    def scale_channel(self, factor: float) -> None:
        """Make one channel `factor` times as large, and read as much less: the same function."""
        self.b.weight[5] *= factor
        assert self.b.bias is not None
        self.b.bias[5] *= factor
        self.c.weight[:, 5] /= factor


class OneLogit(nn.Sequential):
    """A binary classifier with one logit, for a sigmoid."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 1),
        )


def outlier() -> nn.Module:
    """As `--model judged_nets:outlier`."""
    return Outlier()


def one_logit() -> nn.Module:
    """As `--model judged_nets:one_logit`."""
    return OneLogit()


def fit(
    net: nn.Module, data: Dataset, loss: Callable[[Tensor, Tensor], Tensor], epochs: int = 3
) -> nn.Module:
    """Train on the calibration images, always the same way."""
    torch.manual_seed(0)
    pixels, labels = data.calibration().take(1000)
    images = torch.from_numpy(preprocess(pixels, data.preprocessing))
    truth = torch.from_numpy(labels)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    net.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            loss(net(images[chosen]), truth[chosen]).backward()
            optimizer.step()
    return net.eval()
