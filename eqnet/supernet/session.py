"""What every command that works on a supernet opens first: the net, its data, its identity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqnet.backend.decisions import classes_of, decide
from eqnet.data import Dataset, Images, open_dataset
from eqnet.data.images import Labels, Pixels
from eqnet.spec.errors import DataError
from eqnet.spec.reports import Judge
from eqnet.spec.scheme import Form
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.build import PAPER_STYLE, uniform
from eqnet.supernet.checkpoint import Header, bundled_supernet, load_supernet
from eqnet.supernet.measure import Batches, batch_size, logits
from eqnet.supernet.settling.settle import Calibration
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
        if limit is None:
            limit = len(images)
        pixels, labels = images.take(limit)
        if not len(labels):
            raise DataError(f"{images.name}: no images (allowed: at least one)")
        return self._batches(pixels, labels)

    def _batches(self, pixels: Pixels, labels: Labels | None) -> Batches:
        if labels is None:
            labels = np.full(len(pixels), -1, np.int64)
        batch = batch_size(self.header.input_shape)
        if self._on_cuda():
            batch *= CUDA_BATCHES
        return Batches.of(pixels, labels, self.dataset.preprocessing, self.device, batch)

    def judge(self, images: Images) -> Judge:
        """What an accuracy on these images is taken against: labels where they are known.

        Without labels, or with those of other classes, the float model's classes.
        """
        same = len(self.dataset.classes) == classes_of(self.header.classes)
        if same and bool((images.take(1)[1] >= 0).all()):
            return "labels"
        return "float model"

    def judged(self, images: Images, limit: int | None = None) -> Batches:
        """As `batches`, with the labels of `judge`. May leave the network in float.

        Raises DataError where there are none and the supernet has lost its float model.
        """
        batches = self.batches(images, limit)
        if self.judge(images) == "labels":
            return batches
        outputs = self.float_logits(batches)
        if outputs is None:
            raise DataError(
                f"{images.name}: they have no labels of this network's "
                f"{classes_of(self.header.classes)} classes (allowed: one folder a class; an image "
                "folder's classes.txt names all classes)"
            )
        labels = torch.from_numpy(decide(outputs)).to(self.device)
        return Batches(batches.images, labels, batches.batch)

    def _on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def calibration(self) -> Calibration:
        """The fixed images by which subnets are settled: a post-training network's own.

        One for all subnets: what it needs of the float network is computed once.
        """
        return self._calibration

    @cached_property
    def _calibration(self) -> Calibration:
        pixels = self.supernet.calibration
        if pixels is None:
            return Calibration(self.batches(self.dataset.calibration()), self.header.method)
        return Calibration(self._batches(pixels.numpy(), None), self.header.method)

    def settle(self, spec: SubnetSpec, calibration: Calibration) -> None:
        """Apply a subnet, with its own batch norm statistics or its own correction."""
        calibration.settle(self.supernet, spec)

    @torch.no_grad()
    def reference_logits(self, images: Batches) -> Tensor:
        """Logits [N, K] that a subnet's are compared with: the float model's where it is kept.

        Else those of the 8-bit subnet, the nearest to it that a trained supernet has. Leaves
        the network in another state.
        """
        found = self.float_logits(images)
        if found is not None:
            return torch.from_numpy(found)
        finest = uniform(self.supernet.info, PAPER_STYLE, Form(), 8, 8)
        self.settle(finest, self.calibration())
        return logits(self.supernet.graph, images).cpu()

    @torch.no_grad()
    def float_logits(self, images: Batches) -> NDArray[np.float32] | None:
        """Logits float32 [N, K] of the float model that the supernet began as.

        None for a supernet that was trained and did not keep it. Leaves the network in float.
        """
        if self.supernet.origin is None and self.header.method != "post_training":
            return None
        self.supernet.apply_float()
        found = [self.supernet.original(batch) for batch in images.inputs()]
        return torch.cat(found).cpu().numpy()


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
    if data is None and header.data_root:
        data = Path(header.data_root)
    label = "bundled" if supernet is None else str(supernet)
    dataset = open_dataset(header.dataset, data, inputs=header.preprocessing)
    return Session(folder, label, net, header, identity, dataset, torch.device(device))
