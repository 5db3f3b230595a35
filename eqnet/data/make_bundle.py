"""Make the slice of Fashion-MNIST that travels with eqnet: ``python -m eqnet.data.make_bundle``.

1,000 calibration images out of the 55,000 training images, 1,000 out of the 5,000 validation
images and 2,000 out of the 10,000 test images: as many of each class, one class after the
other in turn, so that the first images of a slice are balanced too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eqnet.data.fashion_mnist import (
    BUNDLE,
    CLASSES,
    IMAGES,
    LABELS,
    TEST_FILES,
    TRAIN_FILES,
    find_folder,
    read_pair,
    split_indices,
)
from eqnet.data.idx import write_idx
from eqnet.data.images import Labels, Pixels
from eqnet.spec.errors import DataError

SIZES = {"calibration": 1_000, "validation": 1_000, "test": 2_000}
SEED = 0


def pick(
    labels: Labels, candidates: NDArray[np.int64], images: int, seed: int
) -> NDArray[np.int64]:
    """Draw `images` of the candidate indices, as many of each class, the classes in turn."""
    shuffled = np.random.RandomState(seed).permutation(candidates)
    each = images // len(CLASSES)
    columns = [shuffled[labels[shuffled] == label][:each] for label in range(len(CLASSES))]
    return np.stack(columns, axis=1).reshape(-1)


def make_bundle(source: Path, target: Path) -> list[Path]:
    """Write the six files of the slice from the full data and return their paths."""
    train, test = read_pair(source, "train-", TRAIN_FILES), read_pair(source, "t10k-", TEST_FILES)
    training, validation = split_indices(SEED)
    everything = np.arange(TEST_FILES, dtype=np.int64)
    target.mkdir(parents=True, exist_ok=True)
    return [
        *_write(target, "calibration", train, training),
        *_write(target, "validation", train, validation),
        *_write(target, "test", test, everything),
    ]


def _write(
    target: Path, name: str, data: tuple[Pixels, Labels], candidates: NDArray[np.int64]
) -> list[Path]:
    pixels, labels = data
    chosen = pick(labels, candidates, SIZES[name], SEED)
    image_file, label_file = target / f"{name}-{IMAGES}.gz", target / f"{name}-{LABELS}.gz"
    write_idx(image_file, pixels[chosen, 0])
    write_idx(label_file, labels[chosen].astype(np.uint8))
    return [image_file, label_file]


def main() -> None:
    """Make the bundle in the checkout from the data that the system has."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        source = find_folder(root)
        if source is None:
            raise DataError("Fashion-MNIST was not found: pass the folder with its four IDX files")
        for path in make_bundle(source, BUNDLE):
            print(f"{path.name}: {path.stat().st_size} bytes")
    except DataError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
