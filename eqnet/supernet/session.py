"""What every command that works on a supernet opens first: the net, its data, its identity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from eqnet.data import Dataset, Images, open_dataset
from eqnet.data.images import Labels, Pixels
from eqnet.spec.errors import DataError
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.calibration import Calibration
from eqnet.supernet.checkpoint import Header, bundled_supernet, load_supernet
from eqnet.supernet.measure import Batches, batch_size
from eqnet.supernet.supernet import Supernet

# A GPU needs larger batches to be busy.
CUDA_BATCHES = 80


@dataclass(frozen=True)
class Session:
    """A loaded supernet with the dataset that it was calibrated on."""

    folder: Path
    label: str
    supernet: Supernet
    header: Header
    identity: str
    dataset: Dataset
    device: torch.device

    def batches(self, images: Images, limit: int | None = None) -> Batches:
        """The first `limit` images, preprocessed, on the device. Raises DataError if none."""
        pixels, labels = images.take(len(images) if limit is None else limit)
        if not len(labels):
            raise DataError(f"{images.name}: no images (allowed: at least one)")
        return self._batches(pixels, labels)

    def _batches(self, pixels: Pixels, labels: Labels | None) -> Batches:
        unknown = np.full(len(pixels), -1, np.int64) if labels is None else labels
        batch = batch_size(self.header.input_shape) * (CUDA_BATCHES if self._on_cuda() else 1)
        return Batches.of(pixels, unknown, self.dataset.preprocessing, self.device, batch)

    def judged(self, images: Images, limit: int | None = None) -> Batches:
        """As `batches`, for accuracies.

        Raises DataError where the images have no labels, or those of other classes.
        """
        batches = self.batches(images, limit)
        classes = len(self.dataset.classes)
        if classes == 0 or bool((batches.labels < 0).any()):
            raise DataError(
                f"{images.name}: they have no labels (allowed: a folder for each class)"
            )
        if classes != self.header.classes:
            raise DataError(
                f"{images.name}: {classes} classes (allowed: the network's {self.header.classes}; "
                "an image folder's classes.txt names all classes)"
            )
        return batches

    def _on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def calibration(self) -> Calibration:
        """The fixed images by which subnets are settled: a post-training network's own."""
        pixels = self.supernet.calibration
        if pixels is None:
            return Calibration(self.batches(self.dataset.calibration()), self.header.method)
        return Calibration(self._batches(pixels.numpy(), None), self.header.method)

    def settle(self, spec: SubnetSpec, calibration: Calibration) -> None:
        """Apply a subnet, with its own batch norm statistics or its own correction."""
        calibration.settle(self.supernet, spec)


def open_session(
    supernet: Path | None,
    data: Path | None = None,
    *,
    allow_code: bool = False,
    device: torch.device | str = "cpu",
) -> Session:
    """Open a supernet folder (None: the bundled one) and its dataset.

    data: where the dataset lies now; None takes the folder it was calibrated on, or finds it.
    """
    folder = supernet or bundled_supernet()
    net, header, identity = load_supernet(folder, allow_code=allow_code, device=device)
    root = data or (Path(header.data_root) if header.data_root else None)
    return Session(
        folder, "bundled" if supernet is None else str(supernet), net, header, identity,
        open_dataset(header.dataset, root, inputs=header.preprocessing), torch.device(device),
    )  # fmt: skip
