"""Training images, shuffled and augmented, the same for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from eqnet.data import Images
from eqnet.data.augment import random_shift_flip
from eqnet.spec.errors import DataError
from eqnet.spec.manifest import Preprocessing
from eqnet.stages.train.workers import Workers

RESIDENT_BYTES = 4 << 30
BLOCK_BATCHES = 8

Labelled = tuple[Tensor, Tensor]
"""Pixels uint8 [N, C, H, W] and labels int64 [N]."""


def require_batch(images: Images, batch: int) -> None:
    """There are images for one whole batch. Raises DataError, since nothing would be trained."""
    if len(images) < batch:
        raise DataError(
            f"{images.name}: fewer than one batch of {batch} (allowed: at least {batch} images, "
            "or a smaller batch in the recipe)"
        )


class Feed:
    """Batches (images float32 [B, C, H, W], labels int64 [B]) of a training split.

    Images that are decoded for it are read in blocks, whose order and content are shuffled, the
    next one while the network is at this one; augmented, each is a random part of its image
    every time. Images of one stored size lie on the device as a whole up to 4 GiB and are
    shuffled freely; augmented, they are shifted and mirrored. Each of several workers gets its
    part of every batch: of images of one stored size the very parts of what one worker would
    see. Raises DataError where the images do not fill one batch.
    """

    def __init__(
        self,
        images: Images,
        rule: Preprocessing,
        *,
        batch: int,
        seed: int,
        augment: bool,
        workers: Workers,
    ) -> None:
        require_batch(images, batch)
        device = workers.device
        self.rule, self.seed, self.augment, self.device = rule, seed, augment, device
        share = images.share(workers.rank, workers.count)
        # Where images are decoded, each worker decodes its own alone.
        self._own = share is not None
        self.images, self.workers = share or images, workers
        self.batch = workers.part_of(batch) if self._own else batch
        workers.part_of(batch)
        shape = (1, -1, 1, 1)
        self._mean = torch.tensor(rule.mean, device=device).view(shape)
        self._std = torch.tensor(rule.std, device=device).view(shape)
        self._crops = augment and self.images.random_crops((seed,)) is not None
        self._block = self.batch * BLOCK_BATCHES
        self._resident: Labelled | None = None
        pixels, _ = images.take(1)
        if pixels.nbytes * len(self.images) <= RESIDENT_BYTES and not self._crops:
            self._block = len(self.images)
            self._resident = self._read(self.images, 0)

    def __len__(self) -> int:
        """Batches in one epoch; an incomplete last batch of a block is left out."""
        whole, rest = divmod(len(self.images), self._block)
        return whole * (self._block // self.batch) + rest // self.batch

    def _read(self, images: Images, start: int) -> Labelled:
        pixels, labels = images.read(start, min(start + self._block, len(images)))
        return torch.from_numpy(pixels).to(self.device), torch.from_numpy(labels).to(self.device)

    def epoch(self, number: int) -> Iterator[Labelled]:
        """The batches of one epoch; depends on the seed and the epoch's number alone."""
        generator = torch.Generator(self.device)
        generator.manual_seed(self.seed * 1_000_003 + number)
        for pixels, labels in self._blocks(number, generator):
            yield from self._batches(pixels, labels, generator)

    def _blocks(self, number: int, generator: torch.Generator) -> Iterator[Labelled]:
        if self._resident is not None:
            yield self._resident
            return
        images = self.images
        if self._crops:
            images = images.random_crops((self.seed, number)) or images
        starts = torch.arange(0, len(images), self._block)
        order = torch.randperm(len(starts), generator=generator, device=self.device).cpu()
        yield from self._ahead(images, starts[order].tolist())

    def _ahead(self, images: Images, starts: Sequence[int]) -> Iterator[Labelled]:
        """The blocks that begin there, each read while the one before it is used."""
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(self._read, images, starts[0])
            for start in starts[1:]:
                block = reading.result()
                reading = reader.submit(self._read, images, start)
                yield block
            yield reading.result()

    def _batches(
        self, pixels: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Iterator[Labelled]:
        order = torch.randperm(len(labels), generator=generator, device=self.device)
        for chosen in order.split(self.batch):
            if len(chosen) < self.batch:
                return
            batch, classes = pixels[chosen], labels[chosen]
            if self.augment and not self._crops:
                batch = random_shift_flip(batch, generator=generator)
            if not self._own:
                part = slice(self.workers.rank, None, self.workers.count)
                batch, classes = batch[part], classes[part]
            yield batch.float().div_(255.0).sub_(self._mean).div_(self._std), classes
