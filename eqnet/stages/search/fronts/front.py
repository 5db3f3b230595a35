"""Pareto fronts: what is on one, and which of its points are picked by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from eqnet.spec.errors import UsageError
from eqnet.spec.reports import PICKS, MeasuredScore
from eqnet.stages.search.scoring import Candidate

_Item = TypeVar("_Item")


class Winner(NamedTuple):
    """A candidate that was measured."""

    candidate: Candidate
    measured: MeasuredScore

    @property
    def accuracy(self) -> float:
        """Measured, in [0, 1]."""
        return self.measured.accuracy

    @property
    def kl(self) -> float:
        """Measured, in nats; infinite where a search of an earlier version noted none."""
        return math.inf if self.measured.kl is None else self.measured.kl


def front_of(candidates: Sequence[Candidate], objectives: Sequence[str]) -> list[Candidate]:
    """The candidates that no other dominates in predicted accuracy and the objectives.

    Cheapest first; of several that are equal in all of these the first one.
    """

    def values(candidate: Candidate) -> tuple[float, ...]:
        return (*(candidate.quantities[name] for name in objectives), -candidate.accuracy)

    distinct: dict[tuple[float, ...], Candidate] = {}
    for candidate in candidates:
        distinct.setdefault(values(candidate), candidate)
    rows = sorted(distinct)
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives) + 1)
    front = []
    for row, one in zip(rows, table, strict=True):
        # What dominates is nowhere worse; it is another row, as all rows are distinct.
        if (table <= one).all(1).sum() == 1:
            front.append(distinct[row])
    return front


def spread(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most so many of the items, both ends among them, at even distances."""
    if len(items) <= most:
        return list(items)
    places = np.unique(np.linspace(0, len(items) - 1, most).round().astype(int))
    return [items[place] for place in places]


def pick(name: str, costs: Sequence[float], accuracies: Sequence[float]) -> int:
    """The place of what `name` (of PICKS) picks, among points that others may dominate.

    knee: of those that none dominates the one farthest above the line between the cheapest and
    the most accurate, both axes as shares of the range; of two or one the cheapest.
    """
    order = sorted(range(len(costs)), key=lambda place: (costs[place], -accuracies[place]))
    front: list[int] = []
    for place in order:
        if not front or accuracies[place] > accuracies[front[-1]]:
            front.append(place)
    if name == "fastest":
        return front[0]
    if name == "most-accurate":
        return front[-1]
    if name != "knee":
        raise UsageError(f"pick: found '{name}' (allowed: {', '.join(PICKS)}, or a number)")
    cost = np.array([costs[place] for place in front])
    accuracy = np.array([accuracies[place] for place in front])
    above = _share(accuracy) - _share(cost)
    return front[int(above.argmax())]


def _share(values: np.ndarray) -> np.ndarray:
    span = np.ptp(values)
    shares: np.ndarray = (values - values.min()) / (span if span > 0 else 1.0)
    return shares


def require_number(number: int, count: int) -> int:
    """A number of a point on a front of `count`. Raises UsageError for one that is not there."""
    if 0 <= number < count:
        return number
    raise UsageError(f"pick: no point {number} on the front (allowed: 0 to {count - 1})")
