"""What a dataset is to the rest of eqnet: uint8 images, labelled or not, read in batches."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.errors import DataError, UsageError
from eqnet.spec.manifest import Preprocessing

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


class Images(ABC):
    """A fixed sequence of images: pixels uint8 [N, C, H, W], labels int64 [N], -1 if unknown."""

    def __init__(self, name: str) -> None:
        """`name` says in reports what was measured on; the number of images is added to it."""
        self._name = name

    @property
    def name(self) -> str:
        """What this is, such as ``fashion_mnist test, 10000 images``."""
        return f"{self._name}, {len(self)} images"

    @abstractmethod
    def __len__(self) -> int:
        """How many images."""

    @abstractmethod
    def read(self, start: int, stop: int) -> tuple[Pixels, Labels]:
        """Images `start` to `stop` (exclusive, at most the length), in the fixed order."""

    def random_crops(self, seed: tuple[int, ...]) -> Images | None:
        """The same images, each a random part of what its file holds, by `seed` alone.

        None for images that are stored in the size in which they are read.
        """
        return None

    def share(self, rank: int, count: int) -> Images | None:
        """Every `count`-th image from `rank` on, equally many for each rank.

        None for images that are read in one piece.
        """
        return None

    def batches(self, size: int) -> Iterator[tuple[Pixels, Labels]]:
        """All images in order, `size` at a time; the last batch may be smaller."""
        if size < 1:
            raise UsageError(f"batch size {size} (allowed: 1 or more)")
        for start in range(0, len(self), size):
            yield self.read(start, min(start + size, len(self)))

    def take(self, n: int) -> tuple[Pixels, Labels]:
        """The first `n` images, or all of them where there are fewer."""
        return self.read(0, min(max(n, 0), len(self)))


class ArrayImages(Images):
    """Images that are held in memory."""

    def __init__(self, name: str, pixels: Pixels, labels: Labels) -> None:
        """Pixels uint8 [N, C, H, W] and labels int64 [N] are made read-only."""
        super().__init__(name)
        self._pixels, self._labels = pixels, labels
        pixels.flags.writeable = False
        labels.flags.writeable = False

    def __len__(self) -> int:
        """How many images."""
        return len(self._labels)

    def read(self, start: int, stop: int) -> tuple[Pixels, Labels]:
        """Copies, so that a reader that works in place changes nothing for the next one."""
        return self._pixels[start:stop].copy(), self._labels[start:stop].copy()


class Dataset(ABC):
    """Images with fixed splits: choices are made on `validation`, `test` only reports."""

    name: str
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    notes: tuple[str, ...] = ()
    """What the user should know of the images, such as folders that are not read."""

    def with_inputs(self, rules: Preprocessing) -> Self:
        """The same images, normalized by other rules. Raises DataError for another shape."""
        shape = (rules.channels, *(rules.size or self.input_shape[1:]))
        if shape != self.input_shape:
            raise DataError(
                f"{self.name}: an input of {' x '.join(map(str, shape))} (allowed: "
                f"{' x '.join(map(str, self.input_shape))}, as its images are stored)"
            )
        other = copy.copy(self)
        other.preprocessing = rules
        return other

    @abstractmethod
    def train(self) -> Images:
        """Images to train on, never in validation or test."""

    @abstractmethod
    def validation(self) -> Images:
        """Held-out images on which search, predictor and checkpoints are chosen."""

    @abstractmethod
    def test(self) -> Images:
        """Images that only report."""

    @abstractmethod
    def calibration(self) -> Images:
        """Training images that set scales and batch-norm statistics."""

    @abstractmethod
    def parity(self) -> Images:
        """Test images on which runtimes are compared with PyTorch."""
