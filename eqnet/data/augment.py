"""Random shift and horizontal flip of a whole batch, on whatever device it lies."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def random_shift_flip(x: Tensor, padding: int = 2, *, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels both ways and flip half of them left to right.

    x: [N, C, H, W] of any dtype; pixels that are shifted in are 0. The same as padding by
    `padding`, cropping at a random place and flipping (He et al. 2016, section 4.2). The
    random numbers come from `generator`'s device, so a seed means the same on every device
    of `x`.
    """
    n, channels, height, width = x.shape

    def draw(high: int) -> Tensor:
        numbers = torch.randint(high, (n, 1), generator=generator, device=generator.device)
        return numbers.to(x.device)

    rows = torch.arange(height, device=x.device) + draw(2 * padding + 1)
    columns = torch.arange(width, device=x.device) + draw(2 * padding + 1)
    columns = torch.where(draw(2).bool(), columns.flip(1), columns)
    padded = functional.pad(x, (padding, padding, padding, padding))
    images = torch.arange(n, device=x.device)
    planes = torch.arange(channels, device=x.device)
    return padded[
        images[:, None, None, None],
        planes[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
