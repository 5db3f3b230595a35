"""Fashion-MNIST: 55,000 training, 5,000 validation and 10,000 test images, 28x28, 10 classes.

The full data is read from an IDX folder. A slice of it travels with eqnet (MIT, Zalando SE), so
that calibration and parity are the same whatever is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eqnet.data.idx import read_idx
from eqnet.data.images import ArrayImages, Dataset, Images, Labels, Pixels
from eqnet.spec.errors import DataError
from eqnet.spec.manifest import Preprocessing

NAME = "fashion_mnist"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 28
TRAIN_FILES, TEST_FILES, VALIDATION = 60_000, 10_000, 5_000
# Where Debian's package dataset-fashion-mnist puts the files.
SYSTEM_FOLDERS = (
    Path("/usr/share/datasets/fashion-mnist"),
    Path("/usr/local/share/datasets/fashion-mnist"),
)
BUNDLE = Path(__file__).resolve().parent / "bundled" / NAME
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
PARTS = (f"train-{IMAGES}", f"train-{LABELS}", f"t10k-{IMAGES}", f"t10k-{LABELS}")
HOW_TO_GET = "install Debian's dataset-fashion-mnist, or pass a folder with its four IDX files"


class FashionMnist(Dataset):
    """Fashion-MNIST, from an IDX folder or from the bundled slice alone."""

    name = NAME
    # Of the 60,000 training images.
    preprocessing = Preprocessing(mean=(0.2860,), std=(0.3530,), size=(SIDE, SIDE))
    classes = CLASSES
    input_shape = (1, SIDE, SIDE)

    def __init__(self, folder: Path | None, *, split_seed: int = 0, bundle: Path = BUNDLE) -> None:
        """`folder` holds the four IDX files; None leaves only the bundled slice.

        The slice was drawn from the splits of `split_seed` 0: with another seed some of its
        calibration images are validation images too.
        """
        self._folder, self._seed, self._bundle = folder, split_seed, bundle

    def train(self) -> Images:
        """55,000 images. Raises DataError where only the bundled slice is there."""
        if self._folder is None:
            raise DataError(f"{NAME}: only the bundled slice was found; to train, {HOW_TO_GET}")
        return self._part("train", split_indices(self._seed)[0])

    def validation(self) -> Images:
        """5,000 images, or the 1,000 of them that are bundled."""
        if self._folder is None:
            return self._slice("validation")
        return self._part("validation", split_indices(self._seed)[1])

    def test(self) -> Images:
        """10,000 images, or the 2,000 of them that are bundled."""
        if self._folder is None:
            return self._slice("test")
        return ArrayImages(f"{NAME} test", *read_pair(self._folder, "t10k-", TEST_FILES))

    def calibration(self) -> Images:
        """The bundled 1,000 training images, always."""
        return self._slice("calibration")

    def parity(self) -> Images:
        """The bundled 2,000 test images, always."""
        return self._slice("test")

    @cached_property
    def _training_files(self) -> tuple[Pixels, Labels]:
        if self._folder is None:
            raise DataError(f"{NAME}: no folder with the full data")
        return read_pair(self._folder, "train-", TRAIN_FILES)

    def _part(self, name: str, indices: NDArray[np.int64]) -> Images:
        pixels, labels = self._training_files
        return ArrayImages(f"{NAME} {name}", pixels[indices], labels[indices])

    def _slice(self, name: str) -> Images:
        return ArrayImages(f"{NAME} {name} slice", *read_pair(self._bundle, f"{name}-"))


def split_indices(seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the 55,000 training and of the 5,000 validation images in the training files.

    RandomState, because numpy promises never to change its stream (NEP 19): a split that moves
    with numpy's version would put validation images into training.
    """
    order = np.random.RandomState(seed).permutation(TRAIN_FILES).astype(np.int64)
    return order[:-VALIDATION], order[-VALIDATION:]


def read_pair(folder: Path, prefix: str, images: int | None = None) -> tuple[Pixels, Labels]:
    """Read the image and label file of one part: uint8 [N, 1, 28, 28] and int64 [N].

    `images` is how many there must be. Raises DataError with one line.
    """
    image_file, label_file = _existing(folder, prefix + IMAGES), _existing(folder, prefix + LABELS)
    pixels, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if pixels.shape[1:] != (SIDE, SIDE):
        size = f"{pixels.shape[1]}x{pixels.shape[2]}"
        raise DataError(f"{image_file}: images of {size} pixels (allowed: {SIDE}x{SIDE})")
    if len(pixels) != len(labels):
        raise DataError(f"{label_file}: {len(labels)} labels for {len(pixels)} images")
    if images is not None and len(pixels) != images:
        raise DataError(f"{image_file}: {len(pixels)} images (allowed: {images})")
    if labels.size and labels.max() >= len(CLASSES):
        allowed = f"0 to {len(CLASSES) - 1}"
        raise DataError(f"{label_file}: label {labels.max()} (allowed: {allowed})")
    return pixels[:, None].copy(), labels.astype(np.int64)


def find_folder(root: Path | None, system: Sequence[Path] = SYSTEM_FOLDERS) -> Path | None:
    """The folder with the four IDX files: in `root`, or where the system keeps them.

    Without `root`, None means that nothing is installed. Raises DataError if `root` is given
    and holds no complete data.
    """
    if root is None:
        return _installed(system)
    places = [root, root / "FashionMNIST" / "raw", root / "raw"]
    for place in places:
        if not _missing(place):
            return place
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (allowed: {_layout()})")
    nearest = min(places, key=lambda place: len(_missing(place)))
    missing = _missing(nearest)
    if len(missing) < len(PARTS):
        raise DataError(f"{nearest}: {missing[0]} is missing (allowed: {_layout()})")
    raise DataError(f"{root}: no Fashion-MNIST files (allowed: {_layout()})")


def _installed(system: Sequence[Path]) -> Path | None:
    for folder in system:
        if not _missing(folder):
            return folder
    return None


def open_fashion_mnist(
    root: Path | None = None,
    *,
    split_seed: int = 0,
    system: Sequence[Path] = SYSTEM_FOLDERS,
) -> FashionMnist:
    """Fashion-MNIST from `root`, from where the system keeps it, or the bundled slice.

    Raises DataError.
    """
    return FashionMnist(find_folder(root, system), split_seed=split_seed)


def _missing(folder: Path) -> list[str]:
    return [part for part in PARTS if _find(folder, part) is None]


def _find(folder: Path, stem: str) -> Path | None:
    for path in (folder / stem, folder / f"{stem}.gz"):
        if path.is_file():
            return path
    return None


def _existing(folder: Path, stem: str) -> Path:
    path = _find(folder, stem)
    if path is None:
        raise DataError(f"{folder}: {stem} is missing (allowed: plain, or gzipped with .gz)")
    return path


def _layout() -> str:
    return (
        f"{', '.join(PARTS)}, plain or .gz, in the folder itself, in FashionMNIST/raw/ or in raw/"
    )
