"""Fetching Fashion-MNIST through torchvision, for machines where no package provides it."""

from __future__ import annotations

import importlib
from pathlib import Path

from eqnet.spec.errors import DataError, MissingExtraError


def download_fashion_mnist(root: Path) -> None:
    """Let torchvision download Fashion-MNIST to ``root/FashionMNIST/raw`` and check it.

    Raises MissingExtraError without torchvision and DataError when the download fails.
    """
    try:
        # By name: everything else in eqnet.data also runs on boards that have no torch.
        datasets = importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise MissingExtraError(
            "torchvision is not installed, the download needs it (pip install 'eqnet[train]')"
        ) from error
    try:
        for train in (True, False):
            datasets.FashionMNIST(str(root), train=train, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{root}: the download of Fashion-MNIST failed: {reason}") from error
