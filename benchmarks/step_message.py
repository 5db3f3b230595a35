"""How many bytes the processes of one training exchange in a step, by network.

    python benchmarks/step_message.py

A step of three subnets on random images; the gradients are what is averaged.
"""

from __future__ import annotations

import random

import torch

from eqnet.models.loader import load_model
from eqnet.stages.train.recipe import ElasticRecipe
from eqnet.stages.train.steps.step import ElasticStep
from eqnet.subnets.build import PAPER_STYLE
from eqnet.supernet.supernet import Supernet

NETS = {
    "eqnet:resnet20": (1, 28),
    "torchvision:resnet18": (3, 64),
    "torchvision:mobilenet_v2": (3, 64),
}


def message(source: str, channels: int, side: int) -> tuple[int, int]:
    """Parameters of the float network, and bytes of the gradients of one step."""
    torch.manual_seed(0)
    net = load_model(source, in_channels=channels)
    count = sum(parameter.numel() for parameter in net.parameters())
    supernet = Supernet(net, (channels, side, side))
    step = ElasticStep(supernet, None, ElasticRecipe(), [PAPER_STYLE])
    images = torch.randn(4, channels, side, side)
    step.backward(images, torch.zeros(4, dtype=torch.int64), random.Random(0))
    grads = [p.grad for p in supernet.graph.parameters() if p.grad is not None]
    return count, sum(grad.nbytes for grad in grads)


def main() -> None:
    """Print the table of docs/scaling.md."""
    print("| net | parameters of the float net | message of a step, MiB |\n|---|---|---|")
    for source, (channels, side) in NETS.items():
        count, size = message(source, channels, side)
        print(f"| {source} | {count:,} | {size / 2**20:.1f} |")


if __name__ == "__main__":
    main()
