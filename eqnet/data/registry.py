"""Datasets by name."""

from __future__ import annotations

from pathlib import Path

from eqnet.backend.images import SUFFIXES
from eqnet.data.fashion_mnist import open_fashion_mnist
from eqnet.data.folders import STRAY
from eqnet.data.image_folder import open_image_folder
from eqnet.data.images import Dataset
from eqnet.spec.errors import DataError, unknown
from eqnet.spec.manifest import Preprocessing

DATASETS: tuple[str, ...] = ("fashion_mnist", "image_folder")
# Where Fashion-MNIST's files may lie below the folder that is named.
IDX_FOLDERS = ("FashionMNIST", "raw")


def open_dataset(
    name: str = "fashion_mnist",
    root: Path | None = None,
    *,
    split_seed: int = 0,
    inputs: Preprocessing | None = None,
) -> Dataset:
    """Open a dataset by name.

    `root` is its folder; Fashion-MNIST is found without one where the system has it, and is
    the bundled slice otherwise. `split_seed` fixes the splits. `inputs` say how images
    become inputs (None: for an image folder as is usual for ImageNet, a crop of 224 pixels in
    256).

    Raises DataError for an unknown name and for a folder that is missing, empty or of another
    layout than allowed.
    """
    dataset: Dataset
    if name == "fashion_mnist":
        dataset = open_fashion_mnist(root, split_seed=split_seed)
    elif name == "image_folder":
        dataset = open_image_folder(root, split_seed=split_seed)
    else:
        raise DataError(unknown("dataset", name, DATASETS))
    if inputs is None:
        return dataset
    return dataset.with_inputs(inputs)


def guess_dataset(data: Path | None) -> str:
    """The dataset that a folder holds. Raises DataError where it holds none that is known."""
    if data is None:
        return "fashion_mnist"
    if not data.is_dir():
        raise DataError(f"{data}: no such folder (allowed: a folder of images, or of IDX files)")
    try:
        paths = [path for path in data.iterdir() if not path.name.startswith(".")]
        names = [path.name for path in paths if path.is_dir() and path.name not in STRAY]
    except OSError as error:
        raise DataError(f"{data}: cannot read: {error.strerror}") from error
    pictures = any(path.name.lower().endswith(SUFFIXES) for path in paths)
    if pictures or [name for name in names if name not in IDX_FOLDERS]:
        return "image_folder"
    if names or any("-ubyte" in path.name for path in paths):
        return "fashion_mnist"
    raise DataError(
        f"{data}: no data found (allowed: images, in a folder for each class or without, or "
        "Fashion-MNIST's IDX files)"
    )
