"""What runtimes are held to: images, and what PyTorch's subnet and the float model make of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import fx

from eqnet.backend.decisions import classes_of, decide
from eqnet.backend.files import write_file
from eqnet.backend.judge import compare_with_float
from eqnet.spec.manifest import ParitySet
from eqnet.supernet.measure import Batches, logits
from eqnet.supernet.session import Session

PARITY_BYTES = 8 << 20
PARITY_IMAGES = 256

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


class Truth(NamedTuple):
    """What runtimes are held to. pixels: uint8 [N, C, H, W], labels: int64 [N] (-1: unknown).

    batches: the same images, preprocessed. float_logits: None where the float model is lost.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: Labels
    batches: Batches
    float_logits: Logits | None


def parity_count(input_shape: tuple[int, int, int], available: int) -> int:
    """Images in the parity set: 256, or all that fit into 8 MiB where images are small."""
    return min(available, max(PARITY_IMAGES, PARITY_BYTES // math.prod(input_shape)))


def truth_of(session: Session) -> Truth:
    """The parity images with their labels, and what the float model makes of them."""
    images = session.dataset.parity()
    count = parity_count(session.header.input_shape, len(images))
    pixels, labels = images.take(count)
    if len(session.dataset.classes) != classes_of(session.header.classes):
        labels = np.full_like(labels, -1)  # a folder of other classes has no labels for this net
    batches = session.batches(images, count)
    return Truth(images.name, pixels, labels, batches, session.float_logits(batches))


def write_parity(session: Session, net: fx.GraphModule, truth: Truth, path: Path) -> ParitySet:
    """Store the parity images with the logits of PyTorch's subnet and of the float model."""
    computed = logits(net, truth.batches).cpu().numpy()
    tensors = {"pixels": truth.pixels, "logits": computed, "labels": truth.labels}
    if truth.float_logits is not None:
        tensors["float_logits"] = truth.float_logits
    write_file(path, save(tensors))
    labelled = truth.labels >= 0
    right = (decide(computed) == truth.labels)[labelled]
    accuracy = float(right.mean()) if labelled.any() else None
    return ParitySet(
        images=len(computed),
        source=truth.name,
        logit_step=float(computed.max() - computed.min()) / 255.0,
        accuracy=accuracy,
        against_float=compare_with_float(
            computed, truth.float_logits, truth.labels, session.header.float_parity_accuracy
        ),
    )
