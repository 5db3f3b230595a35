"""Datasets by name."""

from __future__ import annotations

from pathlib import Path

from eqnet.data.fashion_mnist import open_fashion_mnist
from eqnet.data.image_folder import open_image_folder
from eqnet.data.images import Dataset
from eqnet.spec.errors import DataError, unknown

DATASETS: tuple[str, ...] = ("fashion_mnist", "image_folder")


def open_dataset(
    name: str = "fashion_mnist",
    root: Path | None = None,
    *,
    split_seed: int = 0,
    download: bool = False,
    resize: int = 256,
    crop: int = 224,
) -> Dataset:
    """Open a dataset by name.

    `root` is its folder; Fashion-MNIST is found without one where the system has it, and is
    the bundled slice otherwise. `split_seed` fixes the splits. `download` lets torchvision
    fetch Fashion-MNIST into `root`. `resize` and `crop` are the sides, in pixels, that the
    images of an image folder are brought to.

    Raises DataError for an unknown name and for a folder that is missing, empty or of another
    layout than allowed.
    """
    if name == "fashion_mnist":
        return open_fashion_mnist(root, split_seed=split_seed, download=download)
    if name == "image_folder":
        return open_image_folder(root, split_seed=split_seed, resize=resize, crop=crop)
    raise DataError(unknown("dataset", name, DATASETS))
