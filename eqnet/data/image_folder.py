"""Folders of images, decoded when read: resized, cropped and converted as `Preprocessing` says."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from eqnet.backend.images import load_image
from eqnet.data.folders import LAYOUT, UNKNOWN, Entry, Listing, list_images
from eqnet.data.images import Dataset, Images, Labels, Pixels
from eqnet.data.random_crop import load_random_crop
from eqnet.spec.errors import DataError
from eqnet.spec.manifest import Preprocessing

CALIBRATION, PARITY = 512, 256
MAX_VALIDATION = 10_000
SIDE = 224
IMAGENET = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=(SIDE, SIDE), resize=(256, 256)
)
# Fewer images than this are not divided: each part is all of them.
DIVISIBLE = 5


class FolderImages(Images):
    """Image files that are decoded each time they are read, several at once."""

    def __init__(self, name: str, entries: Sequence[Entry], rules: Preprocessing) -> None:
        """`entries` in the order in which they are to be read; `rules` have a size."""
        super().__init__(name)
        self._entries, self._rules = tuple(entries), rules
        self._shape = input_shape_of(rules)
        self._seed: tuple[int, ...] | None = None
        self._numbers = range(len(self._entries))

    def __len__(self) -> int:
        """How many images."""
        return len(self._numbers)

    def share(self, rank: int, count: int) -> Images:
        """As `Images.share` says."""
        other = copy.copy(self)
        whole = len(self._numbers) // count * count
        other._numbers = self._numbers[rank:whole:count]
        return other

    def random_crops(self, seed: tuple[int, ...]) -> Images:
        """As `Images.random_crops` says."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def read(self, start: int, stop: int) -> tuple[Pixels, Labels]:
        """Decode images `start` to `stop`. Raises DataError naming a file that is damaged."""
        chosen = self._numbers[start:stop]
        pixels = np.empty((len(chosen), *self._shape), np.uint8)
        # Pillow releases the interpreter's lock while it decodes and resizes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for row, image in enumerate(pool.map(self._load, chosen)):
                pixels[row] = image
        return pixels, np.array([self._entries[n].label for n in chosen], np.int64)

    def _load(self, number: int) -> Pixels:
        path = self._entries[number].path
        if self._seed is None:
            return load_image(path, self._rules)
        return load_random_crop(path, (*self._seed, number), self._rules)


class ImageFolder(Dataset):
    """A folder of images, with classes or without, with seeded splits.

    With ``train/`` and ``val/``, test is ``val/`` and validation a tenth of ``train/`` (at most
    10,000); with ``test/`` too, validation is ``val/``. With ``val/`` and ``test/`` alone, training
    and validation images are those of ``val/``. Otherwise all images are divided: 60% train, 20%
    validation, 20% test; fewer than 5 are not divided, and then labels are unknown, because no
    image is held out. Calibration is the first 512 training images, parity 256 test images.
    """

    name = "image_folder"

    def __init__(
        self, root: Path, *, split_seed: int = 0, preprocessing: Preprocessing = IMAGENET
    ) -> None:
        """List the folder; images are decoded later. Raises DataError."""
        listing = list_images(root)
        self.classes, self._root = listing.classes, root
        self.preprocessing = preprocessing.complete(SIDE, SIDE)
        self.input_shape = input_shape_of(self.preprocessing)
        self._train, self._validation, self._test, notes = _divide(listing, split_seed)
        self.notes = (*listing.notes, *notes)

    def with_inputs(self, rules: Preprocessing) -> ImageFolder:
        """The same images and splits, resized and cropped otherwise. Raises DataError."""
        other = copy.copy(self)
        other.preprocessing = rules.complete(*self.input_shape[1:])
        other.input_shape = input_shape_of(other.preprocessing)
        return other

    def train(self) -> Images:
        """Training images in a seeded order."""
        return self._images("train", self._train)

    def validation(self) -> Images:
        """Held-out training images, or ``val/`` where ``test/`` is there too."""
        return self._images("validation", self._validation)

    def test(self) -> Images:
        """Images of ``test/``, of ``val/`` without it, or the last fifth of all."""
        return self._images("test", self._test)

    def calibration(self) -> Images:
        """The first 512 training images."""
        return self._images("calibration", self._train[:CALIBRATION])

    def parity(self) -> Images:
        """The first 256 test images of a seeded order."""
        return self._images("parity", self._test[:PARITY])

    def every(self) -> Images:
        """All images of all parts, for what needs no labels."""
        entries = dict.fromkeys([*self._train, *self._validation, *self._test])
        return self._images("all", _blind(list(entries)))

    def _images(self, part: str, entries: Sequence[Entry]) -> Images:
        return FolderImages(f"{self._root.resolve().name} {part}", entries, self.preprocessing)


def open_image_folder(root: Path | None, *, split_seed: int = 0) -> ImageFolder:
    """Open an image folder. Raises DataError without a folder, or for a wrong layout."""
    if root is None:
        raise DataError(f"image_folder: no folder given (allowed: {LAYOUT})")
    return ImageFolder(root, split_seed=split_seed)


def input_shape_of(rules: Preprocessing) -> tuple[int, int, int]:
    """C, H, W of one image. `rules` have a size."""
    if rules.size is None:
        raise ValueError("rules without a size (see Preprocessing.complete)")
    return (rules.channels, *rules.size)


def _divide(
    listing: Listing, seed: int
) -> tuple[list[Entry], list[Entry], list[Entry], tuple[str, ...]]:
    """Training, validation and test images in a seeded order, and what is to be said of them."""
    train = _part(listing.train, seed)
    validation = _part(listing.validation, seed)
    test = _part(listing.test, seed)
    if train is None and validation is None and test is None:
        return _divide_all(listing, seed)
    notes: tuple[str, ...] = ()
    if train is None:
        train, validation = validation or [], None
        notes = ("no train/: calibration takes images of val/",)
    elif test is None:
        test, validation = validation, None
    if validation is None:
        train, validation = _hold_out(train, min(len(train) // 10, MAX_VALIDATION))
    return train, validation, test or [], notes


def _divide_all(
    listing: Listing, seed: int
) -> tuple[list[Entry], list[Entry], list[Entry], tuple[str, ...]]:
    images = _shuffled(listing.whole, seed)
    if len(images) < DIVISIBLE:
        blind = _blind(images)
        noun = "images" if len(images) > 1 else "image"
        note = (
            f"{len(images)} {noun}: too few to hold some out, so all serve everything, "
            "without labels"
        )
        return images, blind, blind, (note,)
    fifth = len(images) // 5
    train, validation = _hold_out(images[:-fifth], fifth)
    test = images[-fifth:]
    if listing.part is None:
        return train, validation, test, ()
    note = f"only {listing.part}/ is there: a fifth of its images are test images"
    if listing.part != "test":
        note += "; the network may have been trained on them"
    return train, validation, test, (note,)


def _hold_out(images: list[Entry], count: int) -> tuple[list[Entry], list[Entry]]:
    """The images but for the last `count`, and those; of one image, itself without its label."""
    if len(images) < 2:
        return images, _blind(images)
    held = max(count, 1)
    return images[:-held], images[-held:]


def _blind(entries: Sequence[Entry]) -> list[Entry]:
    """Without labels: accuracy is never taken on images that scales were set on."""
    return [Entry(entry.path, UNKNOWN) for entry in entries]


def _part(entries: Sequence[Entry] | None, seed: int) -> list[Entry] | None:
    """The images of a part in a seeded order; None where the folder does not have it."""
    if entries is None:
        return None
    return _shuffled(entries, seed)


def _shuffled(entries: Sequence[Entry], seed: int) -> list[Entry]:
    # RandomState's stream never changes between versions of numpy (NEP 19).
    order = np.random.RandomState(seed).permutation(len(entries))
    return [entries[index] for index in order]
