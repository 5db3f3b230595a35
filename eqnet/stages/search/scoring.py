"""Scoring genomes: predicted accuracy, cost, and how far budgets are exceeded.

Large spaces are scored as arrays (`eqnet.stages.search.vector`); what has no such form, as a cost
model of someone else's, is asked subnet by subnet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.hardware.costs import Cost, LayerSum
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.accuracy.features import encode
from eqnet.stages.search.accuracy.measured import AccuracyModel
from eqnet.stages.search.evolution.genetic import Evaluation
from eqnet.stages.search.space import EXHAUSTIVE, Genome, Space
from eqnet.stages.search.vector.choices import Bits, Choices, Widths
from eqnet.stages.search.vector.encoding import Encoder
from eqnet.stages.search.vector.totals import Values, layer_sum, quantities
from eqnet.subnets.budgets import COST, ROUNDING
from eqnet.subnets.budgets import quantities as quantities_of

ACCURACY_DIGITS = 7
"""A predicted accuracy is float32; what lies below is noise of the order of its sums."""


@dataclass(frozen=True)
class Candidate:
    """A subnet with its predicted accuracy in [0, 1] and its quantities by name, cost included."""

    genome: Genome
    spec: SubnetSpec
    accuracy: float
    quantities: Mapping[str, float]

    @property
    def cost(self) -> float:
        """In the profile's own unit."""
        return self.quantities[COST]


class Scores(NamedTuple):
    """Of N genomes: accuracies float64 [N] in [0, 1], and quantities [N] by name."""

    accuracy: Values
    quantities: Mapping[str, Values]


@dataclass
class Totals:
    """Costs and budgeted quantities of genomes, as arrays where the space is large."""

    space: Space
    cost: Cost
    costs: dict[Genome, float] = field(default_factory=dict)

    @cached_property
    def choices(self) -> Choices | None:
        """Tables of the space; None for one that is small enough to be looked at one by one."""
        return None if self.space.size() <= EXHAUSTIVE else Choices(self.space)

    def subnets(self, genomes: Bits) -> list[SubnetSpec]:
        """The subnets themselves."""
        return [self.space.subnet(genome) for genome in rows(genomes)]

    def of(self, genomes: Bits, widths: Widths | None = None) -> dict[str, Values]:
        """Every quantity of genomes [N, G], arrays [N] by name; `widths`: where they are known."""
        if self.choices is None:
            return self._one_by_one(genomes)
        if widths is None:
            widths = self.choices.of_layers(genomes)
        found = quantities(self.choices, widths)
        if self._layer_sum is None:
            return found | {COST: self._costs(genomes)}
        costs = self._layer_sum(widths)
        unknown = np.isnan(costs)
        if unknown.any():
            costs[unknown] = self._costs(genomes[unknown])  # says what is not known
        return found | {COST: costs}

    @cached_property
    def _layer_sum(self) -> Callable[[Widths], Values] | None:
        if isinstance(self.cost, LayerSum) and self.choices is not None:
            return layer_sum(self.choices, self.cost)
        return None

    def _costs(self, genomes: Bits) -> Values:
        """Costs that have no array form, each asked for once."""
        for genome in rows(genomes):
            if genome not in self.costs:
                self.costs[genome] = self.cost(self.space.subnet(genome))
        return np.array([self.costs[genome] for genome in rows(genomes)], dtype=np.float64)

    def _one_by_one(self, genomes: Bits) -> dict[str, Values]:
        target, specs = self.space.target, self.subnets(genomes)
        all_of = [
            quantities_of(target.info, target.profile, spec) | {COST: self.cost(spec)}
            for spec in specs
        ]
        return {name: np.array([one[name] for one in all_of]) for name in all_of[0]}


@dataclass
class Scorer:
    """Predicts and costs genomes. `predicted` counts those whose accuracy was predicted."""

    space: Space
    predictor: AccuracyModel
    cost: Cost
    budgets: Mapping[str, float]
    objectives: tuple[str, ...] = (COST,)
    predicted: int = 0

    @cached_property
    def totals(self) -> Totals:
        """What needs no predictor."""
        return Totals(self.space, self.cost)

    @cached_property
    def _encoder(self) -> Encoder | None:
        return None if self.totals.choices is None else Encoder.of(self.totals.choices)

    def score(self, genomes: Bits) -> Scores:
        """Accuracies and quantities of genomes [N, G]."""
        widths = None
        if self.totals.choices is not None:
            widths = self.totals.choices.widths(genomes)
        accuracy = self.predictor.predict(self._features(genomes, widths)).astype(np.float64)
        self.predicted += len(genomes)
        return Scores(accuracy.round(ACCURACY_DIGITS), self.totals.of(genomes, widths))

    def _features(self, genomes: Bits, widths: Widths | None) -> NDArray[np.float32]:
        if self._encoder is not None and widths is not None:
            return self._encoder.features(widths)
        info = self.space.target.info
        return np.stack([encode(info, spec) for spec in self.totals.subnets(genomes)])

    def evaluate(self, genomes: Bits) -> Evaluation:
        """For the genetic search: error and objectives, and the relative excess over budgets."""
        scores = self.score(genomes)
        columns = [1.0 - scores.accuracy] + [scores.quantities[name] for name in self.objectives]
        return Evaluation(np.stack(columns, axis=1), self._excess(scores.quantities, len(genomes)))

    def excess(self, genomes: Bits) -> Values:
        """The relative excess [N, budgets] over each budget, 0 where it is within rounding."""
        return self._excess(self.totals.of(genomes), len(genomes))

    def _excess(self, found: Mapping[str, Values], count: int) -> Values:
        columns = np.zeros((count, len(self.budgets)))
        for place, (name, limit) in enumerate(self.budgets.items()):
            columns[:, place] = found[name] / limit - 1.0
        return np.where(np.abs(columns) <= ROUNDING, 0.0, columns)

    def feasible(self, genomes: Bits) -> NDArray[np.bool_]:
        """Whether genomes [N, G] meet every budget, bool [N]."""
        return np.asarray((self.excess(genomes) <= 0).all(1))

    def candidates(self, genomes: Bits) -> list[Candidate]:
        """A candidate for each genome [N, G]."""
        if not len(genomes):
            return []
        scores, specs = self.score(genomes), self.totals.subnets(genomes)
        found = []
        for place, (genome, spec) in enumerate(zip(rows(genomes), specs, strict=True)):
            quantities = {name: float(values[place]) for name, values in scores.quantities.items()}
            found.append(Candidate(genome, spec, float(scores.accuracy[place]), quantities))
        return found


def rows(genomes: Bits) -> list[Genome]:
    """A matrix of genomes as tuples."""
    return [tuple(row) for row in genomes.tolist()]


def matrix(space: Space, genomes: Sequence[Genome]) -> Bits:
    """Genomes as int64 [N, G]."""
    return np.array(genomes, dtype=np.int64).reshape(len(genomes), len(space.choices()))
