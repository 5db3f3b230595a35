"""Whether budgets can be met at all, found before anything is measured or predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from eqnet.spec.hardware.costs import Cost
from eqnet.stages.search.scoring import Totals, matrix, rows
from eqnet.stages.search.space import EXHAUSTIVE, Genome, Space
from eqnet.stages.search.vector.choices import Bits
from eqnet.stages.search.vector.totals import Values
from eqnet.subnets.budgets import COST, ROUNDING, require

MAX_PASSES = 8


def require_reachable(space: Space, budgets: Mapping[str, float], cost: Cost | None = None) -> None:
    """Raise InfeasibleError for a budget below the least value that is known of.

    Without a cost function the budget of cost is not looked at. No quantity need be least in a
    uniform subnet (a lookup table, a roofline of unlike layers, products of unlike pairs), so in
    a large space the way leads from the least uniform genome, gene by gene, to a lesser mixture.
    """
    totals = Totals(space, cost or (lambda _: 0.0))
    for name, limit in budgets.items():
        if name != COST or cost is not None:
            least = _least(totals, partial(_quantity, totals, name), limit)[1]
            require(space.target.profile, name, limit, least)


def _quantity(totals: Totals, name: str, genomes: Bits) -> Values:
    return totals.of(genomes)[name]


def within_all(space: Space, budgets: Mapping[str, float], cost: Cost) -> Genome | None:
    """A genome that meets all budgets at once; None where none was found."""
    totals = Totals(space, cost)

    def excess(genomes: Bits) -> Values:
        found = totals.of(genomes)
        total = np.zeros(len(genomes))
        for name, limit in budgets.items():
            total += np.maximum(found[name] / limit - 1, 0)
        return total

    genome, least = _least(totals, excess, 0.0)
    return genome if least <= ROUNDING * len(budgets) else None


def _least(totals: Totals, of: Callable[[Bits], Values], limit: float) -> tuple[Genome, float]:
    """The genome with the least value, as far as it is known; the way ends at `limit`."""
    space = totals.space
    begin = matrix(space, _extremes(space))
    values = of(begin)
    genome, least = begin[values.argmin()], float(values.min())
    for _ in range(MAX_PASSES):
        if space.size() <= EXHAUSTIVE or least <= limit * (1 + ROUNDING):
            break
        better, value = _pass(space, genome, of)
        if value >= least:
            break
        genome, least = better, value
    return rows(genome[None])[0], least


def _pass(space: Space, genome: Bits, of: Callable[[Bits], Values]) -> tuple[Bits, float]:
    """Take for each gene in turn the value with which the whole is least."""
    least = float("inf")
    for place, count in enumerate(space.choices()):
        tried = np.repeat(genome[None], count, axis=0)
        tried[:, place] = np.arange(count)
        values = of(tried)
        if values.min() < values[genome[place]]:
            genome = tried[values.argmin()]
        least = float(values.min())
    return genome, least


def _extremes(space: Space) -> list[Genome]:
    if space.size() <= EXHAUSTIVE:
        return list(space.all_genomes())
    return space.uniform_genomes()
