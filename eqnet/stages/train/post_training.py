"""Post-training: the scales of every form for a float model, from a few hundred images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqnet.data import Images
from eqnet.ptq.equalize import equalize
from eqnet.ptq.reconstruct import PARTIAL
from eqnet.ptq.reconstruct import reconstruct as fit_rounding
from eqnet.spec.errors import UsageError
from eqnet.spec.inputs import Inputs
from eqnet.spec.progress import Progress, Silent
from eqnet.stages.train.begin.start import Network, Start
from eqnet.stages.train.devices import pick_device
from eqnet.supernet.checkpoint import save_supernet
from eqnet.supernet.first_scales import calibrate

# Images by which subnets are corrected: 96 of 224 x 224 were enough for what 512 gave.
KEPT_IMAGES, MIN_KEPT, KEPT_BYTES = 512, 32, 16 << 20


def post_training(
    *,
    model: str,
    weights: Path | None = None,
    weights_key: str | None = None,
    data: Path | None = None,
    dataset: str | None = None,
    inputs: Inputs | None = None,
    out: Path,
    images: int = 256,
    reconstruct: bool = True,
    seed: int = 0,
    device: str = "cpu",
    allow_code: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a supernet of a float classifier in the folder `out`; nothing is trained.

    model, weights, weights_key, data, dataset, inputs, allow_code: as of
    `eqnet.stages.train.begin.start.Network`.
    images: training images that the scales are searched on. reconstruct: fit the rounding of the
    weights in every form to the layers' outputs on these images; an interrupted run goes on from
    `out`. seed: of random initial weights. device: "cpu", "cuda" or "auto", for the scales and
    the reconstruction.
    Returns a summary: `inputs` and `inputs_from` say what was chosen and whence; `warning` and
    `notes`, where there are any, are for the user's eyes.
    Raises UsageError, DataError, CheckpointError, CaptureError or OutputError.
    """
    if images < 1:
        raise UsageError(f"{images} images (allowed: 1 or more)")
    progress = progress or Silent()
    device = pick_device(device).type
    network = Network(
        model, weights, weights_key, data, dataset, inputs or Inputs(), allow_code=allow_code
    )
    start = Start(network, seed)
    start.warn_of_weights()
    header = start.header("post_training", progress)
    start.warn_of_labels(header)
    supernet = start.capture()
    chosen = start.dataset.calibration()
    batches = [part.to(device) for part in start.inputs(chosen, images)]
    supernet.graph.to(device)
    rescaled = equalize(supernet, batches)
    if rescaled:
        start.notes.append(rescaling_note(rescaled))
    calibrate(supernet, batches, progress)
    if reconstruct:
        fit_rounding(supernet, batches, progress, partial=out / PARTIAL)
    supernet.calibration = kept_pixels(chosen)
    path = save_supernet(out, supernet, header)
    (out / PARTIAL).unlink(missing_ok=True)
    summary: dict[str, Any] = {
        "supernet": str(path),
        "layers": len(supernet.info.layers),
        "tensors": len(supernet.info.tensors),
        "calibration_images": min(images, len(chosen)),
        "reconstructed": reconstruct,
        "float_accuracy": header.float_accuracy,
        "test_images": header.test_images,
        **start.inputs_told(),
        "notes": start.notes,
    }
    if start.warnings:
        summary["warning"] = "; ".join(start.warnings)
    return summary


def rescaling_note(channels: Mapping[str, int]) -> str:
    """channels: how many of each tensor were rescaled."""
    names = [f"'{name}'" for name in channels]
    if len(names) > 3:
        names = [*names[:3], "..."]
    return (
        f"{sum(channels.values())} outlying channels of {len(channels)} tensors were rescaled "
        f"({', '.join(names)}): the float function is the same"
    )


def kept_pixels(images: Images) -> Tensor:
    """The first images, uint8 [N, C, H, W]: kept, so that each subnet is settled on the same."""
    first, _ = images.take(1)
    pixels, _ = images.take(min(KEPT_IMAGES, max(MIN_KEPT, KEPT_BYTES // first.nbytes)))
    return torch.from_numpy(pixels)
