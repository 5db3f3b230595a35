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

ERROR = 1.0
"""Standard deviation that a place's cost is taken to be wrong by, as a logarithm, and their sum."""
NOISE = 0.05
"""Standard deviation of the logarithm of a measured KL, from few images."""

Features = NDArray[np.float32]
Values = NDArray[np.float64]


class KlModel(Protocol):
    """What can be refined: it predicts KL, and knows which places its prediction is made of."""

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

    def shares(self, features: Features) -> Values:
        """What part of the KL each feature is taken to have, float64 [N, D], 1 in a row."""
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
    """A model with a correction of each feature's cost, the likeliest that explains the points.

    A model whose places' costs are wrong by factors exp(e) is wrong, in the logarithm of KL, by
    the mean of e, each weighed by its share: linear, so the points give e by ridge regression.
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
        """Of all subnets alike, and of each feature, float64 [1 + D]."""
        features = np.stack([point.features for point in self.points])
        logs = np.array([point.log_kl for point in self.points])
        terms = np.concatenate([np.ones((len(logs), 1)), self.base.shares(features)], axis=1)
        kernel = ERROR**2 * terms @ terms.T + NOISE**2 * np.eye(len(logs))
        missed = logs - self.base.log_kl(features)
        found: Values = ERROR**2 * terms.T @ np.linalg.solve(kernel, missed)
        return found

    def log_kl(self, features: Features) -> Values:
        """Logarithms of KL in nats, float64 [N], of subnets encoded as [N, D]."""
        found = self.base.log_kl(features)
        if not self.points:
            return found
        found += self._errors[0] + self.base.shares(features) @ self._errors[1:]
        return found

    def predict(self, features: Features) -> NDArray[np.float32]:
        """Accuracies float32 [N], in [0, 1], of subnets encoded as [N, D]."""
        return self.mapping.of(self.log_kl(features))
