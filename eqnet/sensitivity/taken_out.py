"""What is gained where a part of a quantized subnet is taken to float, or to more bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eqnet.sensitivity.measure import CORRECTION_IMAGES, compare
from eqnet.sensitivity.store import Found
from eqnet.sensitivity.variants import Variants
from eqnet.spec.progress import Progress
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.measure import Batches
from eqnet.supernet.measure import logits as logits_of
from eqnet.supernet.session import Session
from eqnet.supernet.settling.settle import Calibration


class Reference(NamedTuple):
    """Images, and the logits [N, K] that a subnet should have on them."""

    images: Batches
    logits: Tensor

    @classmethod
    def of(cls, session: Session, images: Batches) -> Reference:
        """The float model's logits (`Session.reference_logits`). Leaves the network as it is."""
        return cls(images, session.reference_logits(images).to(images.images.device))

    def first(self, count: int) -> Reference:
        """The first `count` images alone."""
        images = Batches(self.images.images[:count], self.images.labels[:count], self.images.batch)
        return Reference(images, self.logits[:count])


@torch.no_grad()
def measure_whole(
    session: Session, spec: SubnetSpec, calibration: Calibration, reference: Reference
) -> Found:
    """KL of a settled subnet to the reference, image by image. The subnet stays in force."""
    session.settle(spec, calibration)
    return compare(reference.logits, logits_of(session.supernet.graph, reference.images))


@torch.no_grad()
def measure_near(
    session: Session,
    base: SubnetSpec,
    others: Sequence[SubnetSpec],
    reference: Reference,
    progress: Progress,
) -> list[Found]:
    """KL of subnets near `base`, which is in force and settled, by partial passes.

    Only the layers next to a difference are settled anew, so this ranks subnets; what is told of
    one is measured by `measure_whole`.
    """
    variants = Variants(session.supernet, base)
    near = [variants.variant(spec) for spec in others]
    calibration = session.calibration().images.images[:CORRECTION_IMAGES]
    variants.correct(near, [calibration], progress)
    found = [Found.none() for _ in near]
    parts = reference.images.images.split(variants.batch)
    progress.start("taken out", len(parts) * len(near))
    for images, wanted in zip(parts, reference.logits.split(variants.batch), strict=True):
        variants.load(images)
        for index, variant in enumerate(near):
            found[index] = found[index].joined(compare(wanted, variants.logits(variant)))
            progress.advance()
    progress.finish()
    variants.restore()
    return found
