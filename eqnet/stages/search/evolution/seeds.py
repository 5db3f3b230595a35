"""Where the genetic search begins: uniform subnets, and greedy ones by predicted sensitivities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eqnet.stages.search.scoring import Scorer, matrix, rows
from eqnet.stages.search.space import Genome
from eqnet.stages.search.vector.choices import Bits
from eqnet.stages.search.vector.totals import Values

EXCHANGES = np.geomspace(1e-4, 10.0, 24)
"""What a whole network's cost is worth in accuracy, from next to nothing to everything."""


@dataclass(frozen=True)
class Sensitivities:
    """What each value of each gene alone changes, from the most accurate uniform genome on.

    single: genomes int64 [S, G] with one gene changed, each value of each gene in order. loss
    [S]: predicted accuracy lost. savings: by quantity [S], as shares of the whole.
    """

    base: Genome
    single: Bits
    loss: Values
    savings: dict[str, Values]

    @classmethod
    def of(cls, scorer: Scorer) -> Sensitivities:
        """Predict every single change."""
        space = scorer.space
        uniform = matrix(space, space.uniform_genomes())
        base = uniform[scorer.score(uniform).accuracy.argmax()]
        single = []
        for place, count in enumerate(space.choices()):
            changed = np.repeat(base[None], count, axis=0)
            changed[:, place] = np.arange(count)
            single.append(changed)
        genomes = np.concatenate(single)
        scores, whole = scorer.score(genomes), scorer.score(base[None])
        savings = {
            name: (whole.quantities[name] - values) / whole.quantities[name]
            for name, values in scores.quantities.items()
        }
        return cls(rows(base[None])[0], genomes, whole.accuracy - scores.accuracy, savings)

    def greedy(self, scorer: Scorer) -> Bits:
        """Genomes [K, G]: for each rate at which accuracy is exchanged for a quantity, each
        gene's best value. The quantities are those minimised and those with a budget."""
        found = []
        for name in dict.fromkeys((*scorer.objectives, *scorer.budgets)):
            for rate in EXCHANGES:
                found.append(self._best(self.loss - rate * self.savings[name], scorer))
        return matrix(scorer.space, list(dict.fromkeys(found)))

    def _best(self, price: Values, scorer: Scorer) -> Genome:
        genes, start = [], 0
        for count in scorer.space.choices():
            genes.append(int(price[start : start + count].argmin()))
            start += count
        return tuple(genes)

    def by_layer(self, scorer: Scorer) -> dict[str, float]:
        """Predicted accuracy lost when a layer alone has the pair of the fewest bits."""
        bits, lost = scorer.space.target.profile.bits, {}
        fewest = min(range(len(bits)), key=lambda index: (sum(bits[index]), bits[index]))
        for place, name in enumerate(scorer.space.layers):
            lost[name] = float(self.loss[place * len(bits) + fewest])
        return lost


def seeds(
    scorer: Scorer,
    sensitivities: Sensitivities,
    anchor: Genome | None,
    known: Sequence[Genome] = (),
) -> Bits:
    """Distinct genomes to begin with: known, uniform and greedy ones, and last the anchor, which
    meets all budgets where one is known that does."""
    space = scorer.space
    greedy = rows(sensitivities.greedy(scorer))
    given = [*known, *space.uniform_genomes(), *greedy]
    given = [genome for genome in dict.fromkeys(given) if genome != anchor]
    return matrix(space, given if anchor is None else [*given, anchor])
