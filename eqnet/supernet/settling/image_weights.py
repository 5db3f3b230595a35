"""How much each image counts where scales, corrections and roundings are set.

An image whose tensor is large bears a larger error in it, because what follows from the tensor is
large too. So errors are relative: each image counts by the inverse of its mean square there. With
all alike, few images that are far from all others decide for all: at 8 bits an EfficientNet-B0
in which 1% of the images has most of the energy lost 2 to 5 points, and about half a point at most
with these weights (docs/results.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of the batch's mean energy: images of less count as if they had it, so that none decides alone.
LEAST = 1e-3
# Below it the inverse would not fit into float32.
TINY = 1e-30


def image_weights(x: Tensor) -> Tensor:
    """The inverse mean square of each image's values, float64 [N], of a float tensor [N, ...].

    Of zeros alone, and of a single number, all count alike.
    """
    count = x.shape[0] if x.dim() else 1
    images = x.detach().reshape(count, -1)
    energy = images.float().square().mean(1).double()
    typical = energy.mean()
    if not bool(typical > 0):
        return torch.ones_like(energy)
    return 1 / energy.clamp_min(max(LEAST * float(typical), TINY))
