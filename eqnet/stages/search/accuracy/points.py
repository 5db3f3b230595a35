"""Measuring whole subnets to correct a model by: KL and accuracy on some validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from eqnet.sensitivity.measure import light_calibration
from eqnet.spec.progress import Progress
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.accuracy.features import encode
from eqnet.stages.search.accuracy.labels import score
from eqnet.stages.search.accuracy.refined import Point
from eqnet.stages.search.journal import Journal
from eqnet.supernet.measure import BATCH, Batches, batch_size
from eqnet.supernet.session import Session
from eqnet.supernet.settling.settle import Calibration

IMAGES, LARGE_IMAGES = 500, 128
"""Validation images that subnets are compared on: fewer of large ones."""


def point_images(session: Session) -> int:
    """How many images a subnet is measured on, at most."""
    small = batch_size(session.header.input_shape) == BATCH
    return IMAGES if small else LARGE_IMAGES


@dataclass(frozen=True)
class Points:
    """Measures subnets against the reference's logits on some images, each once.

    A trained supernet's statistics are collected anew for each subnet, from all calibration
    images; a correction of a post-training one needs few. journal: knows what was measured.
    """

    session: Session
    journal: Journal

    def measure_all(self, specs: Sequence[SubnetSpec], progress: Progress) -> list[Point]:
        """Measure subnets, in their order; goes on where a search was interrupted."""
        progress.start("measuring subnets", len(specs))
        found = []
        for spec in specs:
            found.append(self.measure(spec))
            progress.advance(kl=found[-1].kl, accuracy=found[-1].accuracy)
        progress.finish()
        return found

    def measure(self, spec: SubnetSpec) -> Point:
        """One subnet. Raises DataError where nothing tells the images' classes."""
        known, key = self.journal.state.points, spec.sha256()
        if key not in known:
            known[key] = self._run(spec)
            self.journal.save()
        return Point(encode(self.session.supernet.info, spec), *known[key])

    @torch.no_grad()
    def _run(self, spec: SubnetSpec) -> tuple[float, float]:
        images, reference = self._judged  # before the subnet: it leaves another state
        found = score(self.session.supernet, spec, self._calibration, images, reference)
        return float(np.mean(found.divergence)), float(np.mean(found.accuracy))

    @cached_property
    def _judged(self) -> tuple[Batches, Tensor]:
        """Images, and the logits [N, K] that KL is taken to."""
        session = self.session
        images = session.judged(session.dataset.validation(), point_images(session))
        return images, session.reference_logits(images)

    @cached_property
    def _calibration(self) -> Calibration:
        if self.session.header.method == "post_training":
            return light_calibration(self.session)
        return self.session.calibration()
