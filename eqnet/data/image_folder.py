"""ImageNet-style image folders, decoded when read: resize, center crop, ImageNet's mean and std.

Resizing and cropping equal torchvision's ``Resize`` and ``CenterCrop`` on PIL images bit for
bit, so accuracies are those of torchvision's own references.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eqnet.data.folders import LAYOUT, Entry, list_images
from eqnet.data.images import Dataset, Images, Labels, Pixels
from eqnet.spec.errors import DataError, MissingExtraError
from eqnet.spec.manifest import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

CALIBRATION, PARITY = 512, 256
MAX_VALIDATION = 10_000


class FolderImages(Images):
    """Image files that are decoded each time they are read, several at once."""

    def __init__(self, name: str, entries: Sequence[Entry], *, resize: int, crop: int) -> None:
        """`entries` in the order in which they are to be read; sides in pixels."""
        super().__init__(name)
        self._entries = tuple(entries)
        self._load = partial(load_image, resize=resize, crop=crop)
        self._shape = (3, crop, crop)

    def __len__(self) -> int:
        """How many images."""
        return len(self._entries)

    def read(self, start: int, stop: int) -> tuple[Pixels, Labels]:
        """Decode images `start` to `stop`. Raises DataError naming a file that is damaged."""
        chosen = self._entries[start:stop]
        pixels = np.empty((len(chosen), *self._shape), np.uint8)
        # Pillow releases the interpreter's lock while it decodes and resizes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for row, image in enumerate(pool.map(self._load, (entry.path for entry in chosen))):
                pixels[row] = image
        return pixels, np.array([entry.label for entry in chosen], np.int64)


class ImageFolder(Dataset):
    """Images in one folder a class, with seeded splits.

    With ``train/`` and ``val/``, test is ``val/`` and validation a tenth of ``train/`` (at most
    10,000). Otherwise all images are divided: 60% train, 20% validation, 20% test.
    Calibration is the first 512 training images, parity 256 test images.
    """

    name = "image_folder"
    preprocessing = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    complete = True

    def __init__(self, root: Path, *, split_seed: int = 0, resize: int = 256, crop: int = 224):
        """List the folder; images are decoded later. Raises DataError."""
        if not 1 <= crop <= resize:
            raise DataError(f"crop of {crop} pixels (allowed: 1 to the resized side, {resize})")
        listing = list_images(root)
        self.classes = listing.classes
        self.input_shape = (3, crop, crop)
        self._root, self._resize, self._crop = root, resize, crop
        train = _shuffled(listing.train, split_seed)
        if listing.val is None:
            held, tested = len(train) // 5, len(train) // 5
            self._test = train[len(train) - tested :]
            train = train[: len(train) - tested]
        else:
            held = min(len(train) // 10, MAX_VALIDATION)
            self._test = _shuffled(listing.val, split_seed)
        held = max(held, 1)
        self._train, self._validation = train[:-held], train[-held:]
        if not (self._train and self._validation and self._test):
            found = len(listing.train) + len(listing.val or [])
            raise DataError(f"{root}: {found} images are too few to split (allowed: {LAYOUT})")

    def train(self) -> Images:
        """Training images in a seeded order."""
        return self._images("train", self._train)

    def validation(self) -> Images:
        """Held-out training images."""
        return self._images("validation", self._validation)

    def test(self) -> Images:
        """Images of ``val/``, or the last fifth of all."""
        return self._images("test", self._test)

    def calibration(self) -> Images:
        """The first 512 training images."""
        return self._images("calibration", self._train[:CALIBRATION])

    def parity(self) -> Images:
        """The first 256 test images of a seeded order."""
        return self._images("parity", self._test[:PARITY])

    def _images(self, part: str, entries: Sequence[Entry]) -> Images:
        name = f"{self._root.resolve().name} {part}"
        return FolderImages(name, entries, resize=self._resize, crop=self._crop)


def open_image_folder(
    root: Path | None, *, split_seed: int = 0, resize: int = 256, crop: int = 224
) -> ImageFolder:
    """Open an image folder. Raises DataError without a folder, or for a wrong layout."""
    if root is None:
        raise DataError(f"image_folder: no folder given (allowed: {LAYOUT})")
    return ImageFolder(root, split_seed=split_seed, resize=resize, crop=crop)


def load_image(path: Path, *, resize: int, crop: int) -> Pixels:
    """Decode one file to RGB, uint8 [3, crop, crop]. Raises DataError naming the file."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "pillow is not installed, image folders need it (pip install 'eqnet[images]')"
        ) from error
    try:
        with Image.open(path) as image:
            pixels = np.asarray(resize_and_crop(image.convert("RGB"), resize, crop))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image: {_one_line(error)}") from error
    return pixels.transpose(2, 0, 1)


def resize_and_crop(image: Image, resize: int, crop: int) -> Image:
    """Bring the shorter side to `resize` pixels (bilinear), then cut out the middle square."""
    from PIL.Image import Resampling

    width, height = image.size
    shorter = min(width, height)
    if shorter != resize:
        # The rounding, down here and to even below, is torchvision's.
        longer = int(resize * max(width, height) / shorter)
        size = (resize, longer) if width <= height else (longer, resize)
        image = image.resize(size, Resampling.BILINEAR)
        width, height = size
    left, top = round((width - crop) / 2.0), round((height - crop) / 2.0)
    return image.crop((left, top, left + crop, top + crop))


def _shuffled(entries: Sequence[Entry], seed: int) -> list[Entry]:
    # RandomState's stream never changes between versions of numpy (NEP 19).
    order = np.random.RandomState(seed).permutation(len(entries))
    return [entries[index] for index in order]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
