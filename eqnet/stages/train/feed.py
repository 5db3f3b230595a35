"""Training images, shuffled and augmented on the device, the same for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from eqnet.data import Images
from eqnet.data.augment import random_shift_flip
from eqnet.spec.errors import DataError
from eqnet.spec.manifest import Preprocessing

RESIDENT_BYTES = 4 << 30
BLOCK_BATCHES = 8


def require_batch(images: Images, batch: int) -> None:
    """There are images for one whole batch. Raises DataError, since nothing would be trained."""
    if len(images) < batch:
        raise DataError(
            f"{images.name}: fewer than one batch of {batch} (allowed: at least {batch} images, "
            "or a smaller batch in the recipe)"
        )


class Feed:
    """Batches (images float32 [B, C, H, W], labels int64 [B]) of a training split.

    A split of up to 4 GiB lies on the device as a whole and is shuffled freely; a larger one
    is read in blocks, whose order and content are shuffled. Raises DataError where the images
    do not fill one batch.
    """

    def __init__(
        self,
        images: Images,
        rule: Preprocessing,
        *,
        batch: int,
        seed: int,
        augment: bool,
        device: torch.device,
    ) -> None:
        require_batch(images, batch)
        self.images, self.rule, self.batch = images, rule, batch
        self.seed, self.augment, self.device = seed, augment, device
        shape = (1, -1, 1, 1)
        self._mean = torch.tensor(rule.mean, device=device).view(shape)
        self._std = torch.tensor(rule.std, device=device).view(shape)
        pixels, _ = images.take(1)
        self._block = batch * BLOCK_BATCHES
        self._resident: tuple[Tensor, Tensor] | None = None
        if pixels.nbytes * len(images) <= RESIDENT_BYTES:
            self._block = len(images)
            self._resident = self._read(0)

    def __len__(self) -> int:
        """Batches in one epoch; an incomplete last batch of a block is left out."""
        whole, rest = divmod(len(self.images), self._block)
        return whole * (self._block // self.batch) + rest // self.batch

    def _read(self, start: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self.images.read(start, min(start + self._block, len(self.images)))
        return torch.from_numpy(pixels).to(self.device), torch.from_numpy(labels).to(self.device)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch; depends on the seed and the epoch's number alone."""
        generator = torch.Generator(self.device)
        generator.manual_seed(self.seed * 1_000_003 + number)
        starts = torch.arange(0, len(self.images), self._block)
        order = torch.randperm(len(starts), generator=generator, device=self.device).cpu()
        for start in starts[order].tolist():
            pixels, labels = self._resident or self._read(start)
            yield from self._batches(pixels, labels, generator)

    def _batches(
        self, pixels: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(labels), generator=generator, device=self.device)
        for chosen in order.split(self.batch):
            if len(chosen) < self.batch:
                return
            batch = pixels[chosen]
            if self.augment:
                batch = random_shift_flip(batch, generator=generator)
            yield batch.float().div_(255.0).sub_(self._mean).div_(self._std), labels[chosen]
