"""A model of KL, put right where subnets were measured.

A genetic search finds, among thousands, the subnets that a model takes for too good. Measuring a
few of those and correcting the model before the next search takes that advantage away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eqnet.stages.search.accuracy.cqap import CqapHeader
from eqnet.stages.search.accuracy.mapping import TINY, AccuracyOfKl

OFFSET = 0.5
"""How far a model is taken to be wrong of all subnets alike: the standard deviation of log KL."""
NOISE = 0.05
"""That of a measured KL, which is from few images."""

Features = NDArray[np.float32]
Values = NDArray[np.float64]


class KlModel(Protocol):
    """What can be refined: it predicts KL, and says in what it may be wrong."""

    @property
    def header(self) -> CqapHeader | None:
        """How well a predictor ranks; None where nothing was fitted."""
        ...

    @property
    def mapping(self) -> AccuracyOfKl | None:
        """The accuracy that belongs to a KL; None where only measured subnets tell."""
        ...

    def log_kl(self, features: Features) -> Values:
        """Logarithms of KL in nats, float64 [N], of subnets encoded as [N, D]."""
        ...

    def doubts(self, features: Features) -> Values:
        """Directions in which it may be wrong, float64 [N, K].

        Its error in the logarithm of KL is taken to be a sum over them, each times an unknown
        of the standard deviation 1.
        """
        ...


class Point(NamedTuple):
    """A subnet that was measured: its features [D], KL in nats, and accuracy in [0, 1]."""

    features: Features
    kl: float
    accuracy: float

    @property
    def log_kl(self) -> float:
        """Of a KL that is 0 that of the least that counts."""
        return math.log(self.kl + TINY)


@dataclass(frozen=True)
class Refined:
    """A model with the likeliest correction that explains the points: ridge regression.

    At least one point, where the base has no mapping of its own.
    """

    base: KlModel
    points: tuple[Point, ...] = ()

    def with_points(self, more: Sequence[Point]) -> Refined:
        """The model that knows these too."""
        return Refined(self.base, (*self.points, *more))

    @property
    def header(self) -> CqapHeader | None:
        """That of the base."""
        return self.base.header

    @cached_property
    def mapping(self) -> AccuracyOfKl:
        """The base's, or one through the points."""
        if self.base.mapping is not None:
            return self.base.mapping
        logs = np.array([point.log_kl for point in self.points])
        return AccuracyOfKl.fit(logs, np.array([point.accuracy for point in self.points]))

    @cached_property
    def _errors(self) -> Values:
        """Along each doubt of the base, the last one of all subnets alike, float64 [K + 1]."""
        features = np.stack([point.features for point in self.points])
        logs = np.array([point.log_kl for point in self.points])
        doubts = np.pad(self.base.doubts(features), ((0, 0), (0, 1)), constant_values=OFFSET)
        kernel = doubts @ doubts.T + NOISE**2 * np.eye(len(logs))
        found: Values = doubts.T @ np.linalg.solve(kernel, logs - self.base.log_kl(features))
        return found

    def log_kl(self, features: Features) -> Values:
        """Logarithms of KL in nats, float64 [N], of subnets encoded as [N, D]."""
        found = self.base.log_kl(features)
        if not self.points:
            return found
        found += self.base.doubts(features) @ self._errors[:-1] + OFFSET * self._errors[-1]
        return found

    def predict(self, features: Features) -> NDArray[np.float32]:
        """Accuracies float32 [N], in [0, 1], of subnets encoded as [N, D]."""
        return self.mapping.of(self.log_kl(features))
