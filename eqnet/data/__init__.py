"""Datasets as labelled uint8 images with fixed splits. Nothing here needs torch but `augment`."""

from eqnet.data.images import Dataset, Images
from eqnet.data.registry import DATASETS, open_dataset

__all__ = ["DATASETS", "Dataset", "Images", "open_dataset"]
