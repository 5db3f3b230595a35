"""The images by which a subnet is brought into force, and how: by the way its supernet was made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.measure import Batches, accuracy
from eqnet.supernet.settling.correction import FloatMoments, correct, float_moments
from eqnet.supernet.supernet import Supernet

Method = Literal["elastic", "fine_tuned", "post_training"]
"""How a supernet was made: trained under each batch's statistics, trained with those that a
pretrained network came with, or not trained."""


class Calibration:
    """A fixed set of images, so that a result does not depend on what was measured before.

    An elastic supernet's weights learned under every subnet's own batch statistics: those are
    collected anew for the subnet. Other networks keep their statistics, and are corrected by
    what quantization shifts (design, section 4.5).
    """

    def __init__(self, images: Batches, method: Method) -> None:
        self.images, self.method = images, method
        self._targets: FloatMoments | None = None

    def __len__(self) -> int:
        return len(self.images)

    def inputs(self) -> Iterator[Tensor]:
        """The images, float32 [N, C, H, W], batch by batch."""
        return self.images.inputs()

    def settle(self, supernet: Supernet, spec: SubnetSpec) -> None:
        """Apply a subnet, with the statistics or the correction that belong to it."""
        if self.method == "elastic":
            supernet.apply(spec)
            supernet.recalibrate(self.inputs())
            return
        if self._targets is None:
            self._targets = float_moments(supernet, self.inputs())
        supernet.apply(spec)
        correct(supernet, self.inputs(), self._targets)


def measure(
    supernet: Supernet, spec: SubnetSpec, calibration: Calibration, images: Batches
) -> float:
    """Top-1 accuracy in [0, 1] of a subnet that `calibration` brings into force."""
    calibration.settle(supernet, spec)
    return accuracy(supernet.graph, images)
