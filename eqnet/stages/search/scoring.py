"""Scoring many genomes: predicted accuracy, cost, and how far budgets are exceeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.hardware.costs import Cost
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.features import encode
from eqnet.stages.search.genetic import Evaluation
from eqnet.stages.search.measured import AccuracyModel
from eqnet.stages.search.reachable import without_cost
from eqnet.stages.search.space import Genome, Space


@dataclass(frozen=True)
class Candidate:
    """A subnet with its predicted accuracy in [0, 1], its cost, and its budgeted quantities."""

    genome: Genome
    spec: SubnetSpec
    accuracy: float
    cost: float
    quantities: Mapping[str, float]


@dataclass
class Scorer:
    """Predicts, costs and remembers genomes."""

    space: Space
    predictor: AccuracyModel
    cost: Cost
    budgets: Mapping[str, float]
    scored: dict[Genome, Candidate] = field(default_factory=dict)

    def score(self, genomes: Sequence[Genome]) -> list[Candidate]:
        """A candidate for each genome."""
        fresh = [genome for genome in dict.fromkeys(genomes) if genome not in self.scored]
        if fresh:
            specs = [self.space.subnet(genome) for genome in fresh]
            info = self.space.target.info
            accuracies = self.predictor.predict(np.stack([encode(info, spec) for spec in specs]))
            for genome, spec, accuracy in zip(fresh, specs, accuracies, strict=True):
                self.scored[genome] = self._candidate(genome, spec, float(accuracy))
        return [self.scored[genome] for genome in genomes]

    def _candidate(self, genome: Genome, spec: SubnetSpec, accuracy: float) -> Candidate:
        cost = self.cost(spec)
        quantities = without_cost(self.space, spec) | {"cost": cost}
        return Candidate(genome, spec, accuracy, cost, quantities)

    def evaluate(self, genomes: list[Genome]) -> Evaluation:
        """For the genetic search: (error, cost) and the relative excess over each budget."""
        objectives, violations = [], []
        for candidate in self.score(genomes):
            objectives.append((1.0 - candidate.accuracy, candidate.cost))
            violations.append(self._excess(candidate))
        return Evaluation(np.asarray(objectives), np.stack(violations))

    def _excess(self, candidate: Candidate) -> NDArray[np.float64]:
        excess = [candidate.quantities[k] / limit - 1.0 for k, limit in self.budgets.items()]
        return np.asarray(excess, dtype=np.float64)

    def feasible(self, candidate: Candidate) -> bool:
        """Whether a candidate meets every budget."""
        return bool((self._excess(candidate) <= 1e-9).all())
