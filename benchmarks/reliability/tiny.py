"""The smallest network, images and settings that take every step of a command: about a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SIDE = 8
SHAPE = (1, SIDE, SIDE)
SOURCE = "tiny:network"
# The one profile of x86 CPUs that every one of them computes exactly, and a low-bit one to search.
PROFILE, SEARCHED = "onnxruntime_avx2", "custom_lowbit"
SUBNETS = 20
RECIPE = f"""
schema_version: 1
model: {SOURCE}
seed: 3
augment: true
inputs: {{size: [{SIDE}, {SIDE}], resize: [{SIDE}, {SIDE}], mean: 0.5, std: 0.25, channels: 1}}
float_model: {{epochs: 2, batch: 8, learning_rate: 0.02}}
elastic: {{epochs: 2, batch: 8, bits: [2, 4, 7, 8], styles: [{PROFILE}]}}
cqap: {{subnets: {SUBNETS}, images: 100, epochs: 1, seeds: 1}}
"""
IMAGES = {"train": 16, "val": 8, "test": 8}


class Tiny(nn.Module):
    """Stem, residual block, pooling, Linear head: some 200 weights."""

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 4, 3, stride=2, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W]."""
        x = torch.relu(self.stem_bn(self.stem(x)))
        x = torch.relu(x + self.bn(self.conv(x)))
        logits: Tensor = self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def network(classes: int, in_channels: int) -> nn.Module:
    """The network with its initial weights, by the random numbers of whoever builds it."""
    return Tiny(classes, in_channels)


def write_world(folder: Path) -> None:
    """``data`` with a few images of two classes, and ``recipe.yaml``."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in IMAGES.items():
        for number in range(count):
            label = number % 2
            home = folder / "data" / part / "ab"[label]
            home.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(100 * label, 100 * label + 120, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(pixels).save(home / f"{number}.png")
    (folder / "recipe.yaml").write_text(RECIPE + "data: data\n")


def train(folder: Path) -> list[str]:
    """The command line that trains the supernet and its predictor into ``supernet``."""
    recipe, out = str(folder / "recipe.yaml"), str(folder / "supernet")
    return ["train", "--recipe", recipe, "--out", out, "--allow-code", "--device", "cpu"]


def search(folder: Path) -> list[str]:
    """The command line that searches a subnet into ``found``."""
    places = ["--supernet", str(folder / "supernet"), "--out", str(folder / "found")]
    sizes = ["--generations", "22", "--population", "8", "--refine", "4", "--seed", "5"]
    budgets = ["--budget", "avg_weight_bits=5", "--budget", "avg_activation_bits=6"]
    return ["search", "-p", SEARCHED, *places, *sizes, *budgets, "--allow-code"]


def export(folder: Path) -> list[str]:
    """The command line that exports the default subnet into ``artifact``, after a race."""
    places = ["--supernet", str(folder / "supernet"), "--out", str(folder / "artifact")]
    return ["export", "-p", PROFILE, *places, "--allow-code", "--force"]


def verify(folder: Path) -> list[str]:
    """The command line that verifies the artifact and writes its ``verify.json``."""
    return ["verify", str(folder / "artifact"), "--threads", "1"]


def bench(folder: Path) -> list[str]:
    """The command line that times the artifact and writes its ``bench.json``."""
    return ["bench", str(folder / "artifact"), "--repeats", "5", "--threads", "1"]
