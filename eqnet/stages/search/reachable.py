"""Whether budgets can be met at all, found before anything is measured or predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eqnet.spec.hardware.costs import Cost
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.space import Genome, Space
from eqnet.subnets.budgets import COST, quantities, require

EXHAUSTIVE = 64
"""Spaces of at most so many subnets are tried whole."""
MAX_PASSES = 8


def without_cost(space: Space, spec: SubnetSpec) -> dict[str, float]:
    """The budgeted quantities of a subnet that need no cost model."""
    return quantities(space.target.info, space.target.profile, spec)


def require_reachable(space: Space, budgets: Mapping[str, float]) -> None:
    """Raise InfeasibleError for a budget below the least reachable value; cost is not looked at.

    These quantities grow with bits, so the least value of each is that of a uniform genome.
    """
    ends = [without_cost(space, space.subnet(genome)) for genome in _extremes(space)]
    for name, limit in budgets.items():
        if name != COST:
            require(space.target.profile, name, limit, min(end[name] for end in ends))


def require_cost(space: Space, limit: float, cost: Cost) -> Genome:
    """The cheapest genome that is known of; raises InfeasibleError if it costs more than `limit`.

    A cost need not grow with bits (a lookup table, a roofline of unlike layers), so in a large
    space the way leads from the cheapest uniform genome, gene by gene, to a cheaper mixture.
    """

    def of(genome: Genome) -> float:
        return cost(space.subnet(genome))

    cheapest = min(_extremes(space), key=of)
    least = of(cheapest)
    for _ in range(MAX_PASSES):
        if space.size() <= EXHAUSTIVE or least <= limit:
            break
        better = _pass(space, cheapest, of)
        if better == cheapest:
            break
        cheapest, least = better, of(better)
    require(space.target.profile, COST, limit, least)
    return cheapest


def _pass(space: Space, genome: Genome, of: Callable[[Genome], float]) -> Genome:
    """Take for each gene in turn the value that makes the genome cheapest."""
    for place, count in enumerate(space.choices()):
        tried = [genome]
        for gene in range(count):
            if gene != genome[place]:
                tried.append((*genome[:place], gene, *genome[place + 1 :]))
        genome = min(tried, key=of)
    return genome


def _extremes(space: Space) -> list[Genome]:
    if space.size() <= EXHAUSTIVE:
        return list(space.all_genomes())
    return space.uniform_genomes()
