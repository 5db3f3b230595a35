"""Whether budgets can be met at all, found before anything is measured or predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eqnet.search.cost import REMAINDER_BITS, Cost, size_kib
from eqnet.search.space import Genome, Space
from eqnet.spec.errors import InfeasibleError
from eqnet.spec.subnet import SubnetSpec

EXHAUSTIVE = 64
"""Spaces of at most so many subnets are tried whole."""
ROUNDING = 1e-9
MAX_PASSES = 8


def without_cost(space: Space, spec: SubnetSpec) -> dict[str, float]:
    """The budgeted quantities of a subnet that need no cost model."""
    wide = REMAINDER_BITS[space.target.profile.remainder]
    return {
        "avg_weight_bits": spec.avg_weight_bits,
        "avg_activation_bits": spec.avg_activation_bits,
        "size_kib": size_kib(space.target.info, spec, wide),
    }


def require_reachable(space: Space, budgets: Mapping[str, float]) -> None:
    """Raise InfeasibleError for a budget below the least reachable value; cost is not looked at.

    These quantities grow with bits, so the least value of each is that of a uniform genome.
    """
    ends = [without_cost(space, space.subnet(genome)) for genome in _extremes(space)]
    for name, limit in budgets.items():
        if name != "cost":
            _require(space, name, limit, min(quantities[name] for quantities in ends))


def require_cost(space: Space, limit: float, cost: Cost) -> Genome:
    """The cheapest genome that is known of; raises InfeasibleError if it costs more than `limit`.

    A cost need not grow with bits (a lookup table, a roofline of unlike layers), so in a large
    space the way leads from the cheapest uniform genome, gene by gene, to a cheaper mixture.
    """

    def of(genome: Genome) -> float:
        return cost(space.subnet(genome))

    found = min(_extremes(space), key=of)
    least = of(found)
    for _ in range(MAX_PASSES):
        if space.size() <= EXHAUSTIVE or least <= limit:
            break
        better = _pass(space, found, of)
        if better == found:
            break
        found, least = better, of(better)
    _require(space, "cost", limit, least)
    return found


def _pass(space: Space, genome: Genome, of: Callable[[Genome], float]) -> Genome:
    """Take for each gene in turn the value that makes the genome cheapest."""
    for place, count in enumerate(space.choices()):
        kept = genome[place]
        others = [gene for gene in range(count) if gene != kept]
        tried = [(*genome[:place], gene, *genome[place + 1 :]) for gene in (kept, *others)]
        genome = min(tried, key=of)
    return genome


def _require(space: Space, name: str, limit: float, least: float) -> None:
    if least > limit * (1 + ROUNDING):
        raise InfeasibleError(
            f"budget {name}={limit:g}: no subnet of profile '{space.target.profile.name}' "
            f"reaches it (nearest reachable: {least:.4g})"
        )


def _extremes(space: Space) -> list[Genome]:
    small = space.size() <= EXHAUSTIVE
    return list(space.all_genomes()) if small else space.uniform_genomes()
