"""Genetic search over genomes: NSGA-II, its sorting and crowding from pymoo, on matrices.

A generation depends on the seed, its number and the population before it, and on nothing else:
a search that was interrupted goes on from any population to the very same end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from eqnet.spec.progress import Progress
from eqnet.stages.search.vector.choices import Bits

MUTATION_RATE = 0.1
ATTEMPTS = 5
"""How often parents are drawn again where children were duplicates."""
STEPS = (0.25, 0.5, 0.75)
"""Shares of genes that a child takes from a feasible subnet until it is feasible itself."""

Values = NDArray[np.float64]


class Evaluation(NamedTuple):
    """Of N genomes: objectives float64 [N, M] (to be minimised) and violations [N, K] (<= 0)."""

    objectives: Values
    violations: Values


class Generation(NamedTuple):
    """A population after `number` generations: genomes int64 [N, G], and their evaluation."""

    number: int
    genomes: Bits
    evaluation: Evaluation

    def feasible(self) -> NDArray[np.bool_]:
        """Which genomes meet all constraints, bool [N]."""
        return np.asarray((self.evaluation.violations <= 0).all(1))


@dataclass(frozen=True)
class Breeding:
    """What a search is over: genes, constraints, and how genomes are evaluated.

    choices: number of values of each gene. evaluate: called with every genome of the search.
    excess: the violations [N, constraints] alone, which need no prediction.
    """

    choices: Sequence[int]
    constraints: int
    evaluate: Callable[[Bits], Evaluation]
    excess: Callable[[Bits], Values]

    def feasible(self, genomes: Bits) -> NDArray[np.bool_]:
        """Which genomes [N, G] meet all constraints, bool [N]."""
        return np.asarray((self.excess(genomes) <= 0).all(1))


def evolve(
    breeding: Breeding,
    *,
    given: Bits,
    population: int,
    generations: int,
    seed: int,
    progress: Progress,
    begin: Generation | None = None,
    after: Callable[[Generation], None] = lambda _: None,
) -> Generation:
    """The population after all generations, the first of which is made of `given` genomes.

    given: distinct genomes [N, G]; where the population has no room for all of them, the last one
    is in it for certain. Where that meets all constraints, every genome that is evaluated does.
    begin: a population to go on from. after: told of each generation that is new.
    """
    progress.start("genetic search", generations)
    now = begin
    if now is None:
        first = first_genomes(breeding, given, population, np.random.default_rng([seed, 0]))
        now = Generation(1, first, breeding.evaluate(first))
        after(now)
    progress.advance(now.number)
    while now.number < generations:
        now = _next(breeding, now, population, np.random.default_rng([seed, now.number]))
        after(now)
        progress.advance()
    progress.finish()
    return now


def first_genomes(breeding: Breeding, given: Bits, count: int, rng: np.random.Generator) -> Bits:
    """Given genomes first, then random ones, each a mixture of two of the given.

    Where the given are more than half of the population, the last one, those that meet the
    constraints and then a random choice of the others are taken: the last may be the only one
    known to meet them, and what does not is then brought within them.
    Random genes alone have averages near the middle; a mixture of two uniform genomes reaches
    the ends of the space, where tight budgets lie.
    """
    order = rng.permutation(len(given))
    order = order[np.argsort(~breeding.feasible(given)[order], kind="stable")][: max(1, count // 2)]
    last = len(given) - 1
    if last not in order:
        order[-1] = last
    missing = (max(0, count - len(order)), given.shape[1])
    first, second = (given[rng.integers(0, len(given), missing[0])] for _ in range(2))
    mixed = np.where(rng.random(missing) < 0.5, first, second)
    made = np.concatenate([given[order], mixed])
    made = _brought_within(breeding, made, given[last:], rng)
    _, places = np.unique(made, axis=0, return_index=True)
    found: Bits = made[np.sort(places)]
    return found


def _brought_within(
    breeding: Breeding, genomes: Bits, anchors: Bits, rng: np.random.Generator
) -> Bits:
    """The genomes, those that are infeasible moved towards random ones of the anchors.

    In the end they are these themselves. Anchors that are infeasible leave all as it was.
    """
    if not breeding.constraints or not breeding.feasible(anchors).all():
        return genomes
    genomes = genomes.copy()
    for share in (*STEPS, 1.0):
        bad = np.flatnonzero(~breeding.feasible(genomes))
        if not len(bad):
            break
        towards = anchors[rng.integers(0, len(anchors), len(bad))]
        taken = rng.random(towards.shape) < share
        genomes[bad] = np.where(taken, towards, genomes[bad])
    return genomes


def _next(breeding: Breeding, now: Generation, count: int, rng: np.random.Generator) -> Generation:
    """One generation: children of the population, and the survivors of both."""
    children = _children(breeding, now, count, rng)
    genomes, evaluation = now.genomes, now.evaluation
    if len(children):
        found = breeding.evaluate(children)
        genomes = np.concatenate([genomes, children])
        evaluation = Evaluation(*map(np.concatenate, zip(evaluation, found, strict=True)))
    kept = in_order(evaluation)[:count]
    survivors = Evaluation(evaluation.objectives[kept], evaluation.violations[kept])
    return Generation(now.number + 1, genomes[kept], survivors)


def in_order(evaluation: Evaluation) -> NDArray[np.intp]:
    """Places [N] of genomes, best first: by violation, then by front, then by crowding."""
    violation = np.maximum(evaluation.violations, 0).sum(1)
    rank, crowding = np.zeros(len(violation)), np.zeros(len(violation))
    met = np.flatnonzero(violation <= 0)
    objectives = evaluation.objectives[met]
    if len(met):
        distance = get_crowding_function("cd")
        for number, front in enumerate(NonDominatedSorting().do(objectives)):
            rank[met[front]] = number
            crowding[met[front]] = distance.do(objectives[front], n_remove=0)
    return np.lexsort((-crowding, rank, violation))


def _children(breeding: Breeding, now: Generation, count: int, rng: np.random.Generator) -> Bits:
    """Up to `count` distinct genomes that the population has not, all feasible if any of it is."""
    parents = now.genomes[in_order(now.evaluation)]
    known = set(map(bytes, parents))
    anchors = now.genomes[now.feasible()]
    children: list[Bits] = []
    for _ in range(ATTEMPTS):
        made = _bred(breeding, parents, count - len(children), rng)
        if len(anchors):
            made = _brought_within(breeding, made, anchors, rng)
        for child in made:
            if bytes(child) not in known:
                known.add(bytes(child))
                children.append(child)
        if len(children) >= count:
            break
    return np.array(children, dtype=np.int64).reshape(len(children), parents.shape[1])


def _bred(breeding: Breeding, parents: Bits, count: int, rng: np.random.Generator) -> Bits:
    """Children [count, G] of parents that are sorted, the best first.

    Binary tournaments choose each pair, genes come from either alike, and each is drawn anew
    with a small probability (paper: 0.1).
    """
    first, second = rng.integers(0, len(parents), (2, count, 2)).min(2)
    shape = (count, parents.shape[1])
    mixed = np.where(rng.random(shape) < 0.5, parents[first], parents[second])
    fresh = rng.integers(0, np.asarray(breeding.choices), shape)
    return np.where(rng.random(shape) < MUTATION_RATE, fresh, mixed)
