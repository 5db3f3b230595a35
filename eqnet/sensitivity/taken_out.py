"""How far a whole subnet is from the float network: what a place taken to float gains.

The correction of each layer behind a change depends on it (what one layer lost, those behind it
make up for), so a subnet is settled as a whole, though on few images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eqnet.sensitivity.measure import compare
from eqnet.sensitivity.store import Found
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
