"""Measuring subnets of a front on validation images: the integers that would be deployed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eqnet.backend.decisions import decide
from eqnet.spec.errors import DataError
from eqnet.spec.progress import Progress
from eqnet.spec.reports import MeasuredScore
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.fronts.front import Winner
from eqnet.stages.search.journal import Journal
from eqnet.stages.search.scoring import Candidate
from eqnet.supernet.extract import extract
from eqnet.supernet.measure import Batches, kl_divergence, logits
from eqnet.supernet.session import Session


class Measurer:
    """Measures candidates, each once, and notes what it has measured in the journal.

    agreement: also the share of images with the float model's class. Raises DataError for it
    where the supernet has lost its float model.
    """

    def __init__(
        self, session: Session, journal: Journal, progress: Progress, *, agreement: bool = False
    ) -> None:
        self.session, self.journal, self.progress = session, journal, progress
        self.agreement = agreement
        self.winners: dict[str, Winner] = {}
        if agreement:
            _ = self._float_classes

    def __call__(self, candidates: Sequence[Candidate]) -> list[Winner]:
        """Measure candidates, in their order."""
        self.progress.start("measuring finalists", len(candidates))
        found = []
        for candidate in candidates:
            found.append(Winner(candidate, self._score(candidate.spec)))
            self.winners[candidate.spec.sha256()] = found[-1]
            self.progress.advance(accuracy=found[-1].accuracy)
        self.progress.finish()
        return found

    def _score(self, spec: SubnetSpec) -> MeasuredScore:
        known = self.journal.state.measured
        score = known.get(spec.sha256())
        if score is None or (self.agreement and score.float_agreement is None):
            score = known[spec.sha256()] = self.measure(spec)
            self.journal.save()
        return score

    def measure(self, spec: SubnetSpec) -> MeasuredScore:
        """Run one subnet on the validation images."""
        # Judging images without labels leaves the network in another state, so it comes first.
        images, reference = self._images, self._reference
        classes = self._float_classes if self.agreement else None
        self.session.settle(spec, self.session.calibration())
        found = logits(extract(self.session.supernet, spec), images).cpu()
        decided = decide(found.numpy())
        agreement = None if classes is None else float((decided == classes).mean())
        right = decided == images.labels.cpu().numpy()
        return MeasuredScore(
            accuracy=float(right.mean()),
            images=len(images),
            float_agreement=agreement,
            kl=float(kl_divergence(reference, found).mean()),
        )

    @cached_property
    def _images(self) -> Batches:
        return self.session.judged(self.session.dataset.validation())

    @cached_property
    def _reference(self) -> Tensor:
        return self.session.reference_logits(self._images)

    @cached_property
    def _float_classes(self) -> NDArray[np.int64]:
        found = self.session.float_logits(self._images)
        if found is None:
            raise DataError(
                f"{self.session.label}: the supernet has not kept its float model, so agreement "
                "with it is not known (allowed: --min-accuracy, or a supernet of --post-training)"
            )
        return decide(found)
