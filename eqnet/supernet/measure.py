"""Images in batches on one device, and what a network makes of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqnet.backend.decisions import decide
from eqnet.backend.preprocess import preprocess
from eqnet.spec.manifest import Preprocessing

# Activations of 64 small images stay in the caches: larger batches are slower on a CPU.
BATCH = 64
# Values of the inputs in one batch: 32 images of 224 x 224 pixels, whose activations fit into
# about 1 GiB in the widest of the usual networks.
BATCH_VALUES = 32 * 3 * 224 * 224


def batch_size(input_shape: tuple[int, int, int]) -> int:
    """Images [C, H, W] in one batch: fewer of large ones, so that activations fit in memory."""
    channels, height, width = input_shape
    return max(1, min(BATCH, BATCH_VALUES // (channels * height * width)))


class Batches:
    """Preprocessed images on one device: float32 [N, C, H, W] with labels int64 [N]."""

    def __init__(self, images: Tensor, labels: Tensor, batch: int = BATCH) -> None:
        self.images, self.labels, self.batch = images, labels, batch

    @classmethod
    def of(
        cls,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        rule: Preprocessing,
        device: torch.device | str = "cpu",
        batch: int = BATCH,
    ) -> Batches:
        """From uint8 pixels [N, C, H, W] and labels [N]."""
        images = torch.from_numpy(preprocess(pixels, rule)).to(device)
        return cls(images, torch.from_numpy(labels).to(device), batch)

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self) -> Iterator[Tensor]:
        """The images, batch by batch."""
        yield from self.images.split(self.batch)


@torch.no_grad()
def logits(net: torch.nn.Module, images: Batches) -> Tensor:
    """Logits float32 [N, K] of a network in eval mode."""
    return torch.cat([net(batch) for batch in images.inputs()])


def kl_divergence(reference: Tensor, found: Tensor) -> Tensor:
    """KL(reference || found) of the classes' probabilities in nats, float64 [N].

    reference, found: logits [N, K]; a single logit, K = 1, is that of a positive class. Unlike
    agreement and accuracy it is continuous: two subnets that decide alike still differ in it.
    """
    wanted, given = (_log_probabilities(logits.double()) for logits in (reference, found))
    return (wanted.exp() * (wanted - given)).sum(1).clamp(min=0)


def _log_probabilities(logits: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], 1)
    return logits.log_softmax(1)


def accuracy(net: torch.nn.Module, images: Batches) -> float:
    """Top-1 accuracy in [0, 1]; a single logit decides by its sign."""
    decided = decide(logits(net, images).cpu().numpy())
    return float((decided == images.labels.cpu().numpy()).mean())
