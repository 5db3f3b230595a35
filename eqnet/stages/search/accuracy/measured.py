"""Accuracy without a predictor: every subnet of a small space, measured on validation images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.progress import Progress
from eqnet.stages.search.accuracy.cqap import CqapHeader
from eqnet.stages.search.accuracy.mapping import AccuracyOfKl
from eqnet.stages.search.accuracy.points import Points
from eqnet.stages.search.space import Space


class AccuracyModel(Protocol):
    """What tells the accuracy of a subnet: CQAP, or a table of measurements."""

    @property
    def header(self) -> CqapHeader | None:
        """How well a predictor ranks; None where nothing is predicted."""
        ...

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Accuracies float32 [N], in [0, 1], of subnets encoded as [N, D]."""
        ...


class MeasuredAccuracy(NamedTuple):
    """Accuracies by encoded subnet."""

    accuracies: Mapping[bytes, float]
    header: None = None

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Look up the accuracies, float32 [N]. Raises KeyError for a subnet never measured."""
        accuracies = [self.accuracies[row.tobytes()] for row in features]
        return np.asarray(accuracies, dtype=np.float32)


def measure_space(space: Space, points: Points, progress: Progress) -> MeasuredAccuracy:
    """Measure every subnet of a small space.

    KL ranks them, which a few hundred images tell far better than they tell accuracy; the
    accuracies are what a monotone map through all of them gives.
    """
    found = points.measure_all([space.subnet(genome) for genome in space.all_genomes()], progress)
    logs = np.array([point.log_kl for point in found])
    mapping = AccuracyOfKl.fit(logs, np.array([point.accuracy for point in found]))
    rows = [point.features.tobytes() for point in found]
    return MeasuredAccuracy(dict(zip(rows, mapping.of(logs).tolist(), strict=True)))
