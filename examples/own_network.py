"""Your own network, from a few lines of PyTorch to a verified int8 artifact.

    python examples/own_network.py [--out deploy]

Trains a small classifier on the bundled slice of Fashion-MNIST for some seconds, and hands its
weights to `eqnet.quantize`, which reads the network by its name: "own_network:build".
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import eqnet
from eqnet.backend.preprocess import preprocess
from eqnet.data import open_dataset


def build(classes: int = 10) -> nn.Module:
    """Images [N, 1, 28, 28] to logits [N, classes]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def images_and_labels() -> tuple[Tensor, Tensor]:
    """The 1,000 bundled calibration images, preprocessed, and their labels."""
    dataset = open_dataset("fashion_mnist")
    pixels, labels = dataset.calibration().take(1000)
    return torch.from_numpy(preprocess(pixels, dataset.preprocessing)), torch.from_numpy(labels)


def trained(epochs: int) -> nn.Module:
    """The network after some epochs of Adam."""
    torch.manual_seed(0)
    net = build()
    images, labels = images_and_labels()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(50):
            loss = nn.functional.cross_entropy(net(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def main() -> None:
    """Train, quantize for two targets, say what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("deploy"))
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    weights = options.out / "own_network.safetensors"
    save_file(trained(options.epochs).state_dict(), weights)
    sys.path.insert(0, str(Path(__file__).parent))  # where "own_network" is found
    result = eqnet.quantize(
        model="own_network:build",
        allow_code=True,
        weights=weights,
        search="never",
        race=False,  # a network this small may be no faster in int8; yours is raced against float
        profiles=["onnxruntime_x86", "openvino_asym"],
        out=options.out,
    )
    for row in result.rows:
        print(row.profile, row.verdict, row.against_float, f"{row.ratio:.2f} of float's time")


if __name__ == "__main__":
    main()
