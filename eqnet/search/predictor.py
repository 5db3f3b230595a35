"""Making the predictor that travels with a supernet: measure subnets, fit CQAP, save it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eqnet.data import Dataset, open_dataset
from eqnet.search.cqap import fit, save_cqap
from eqnet.search.labels import measure_labels
from eqnet.spec.errors import DataError
from eqnet.spec.profiles import load_profile
from eqnet.spec.progress import Progress, Silent
from eqnet.supernet.checkpoint import load_supernet
from eqnet.supernet.choices import PAPER_STYLE, Style
from eqnet.supernet.measure import Batches

LABELS = "cqap_labels.safetensors"


def make_predictor(
    folder: Path,
    *,
    data: Path | None = None,
    subnets: int = 1500,
    images: int = 5000,
    epochs: int = 60,
    members: int = 2,
    seed: int = 0,
    device: torch.device | str = "cpu",
    allow_code: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit the predictor of the supernet in `folder` on validation images; returns its quality.

    Interrupted, it goes on from the labels that it has measured.
    """
    progress = progress or Silent()
    supernet, header, identity = load_supernet(folder, allow_code=allow_code, device=device)
    dataset = open_dataset(header.dataset, data)
    batch = 5000 if torch.device(device).type == "cuda" else 250
    validation = Batches.of(
        *dataset.validation().take(images), dataset.preprocessing, device, batch
    )
    calibration = calibration_batches(dataset, device, batch)
    names = header.styles or ("paper",)
    styles = [PAPER_STYLE if name == "paper" else Style.of(load_profile(name)) for name in names]
    labels = measure_labels(
        supernet, styles, calibration, validation,
        count=subnets, seed=seed, path=folder / LABELS, progress=progress,
    )  # fmt: skip
    cqap = fit(
        labels, supernet=identity, images=len(validation), epochs=epochs, members=members,
        seed=seed, progress=progress,
    )  # fmt: skip
    save_cqap(folder, cqap)
    return cqap.header.model_dump()


def calibration_batches(
    dataset: Dataset, device: torch.device | str = "cpu", batch: int = 250
) -> Batches:
    """The fixed images that batch norm statistics are collected from."""
    pixels, labels = dataset.calibration().take(len(dataset.calibration()))
    if not len(labels):
        raise DataError(f"{dataset.name}: no calibration images (allowed: at least one)")
    return Batches.of(pixels, labels, dataset.preprocessing, device, batch)
