"""Searching, measuring what was found, correcting the accuracy model by it, and searching again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from eqnet.stages.search.accuracy.refined import Point, Refined
from eqnet.stages.search.evolution.explore import Outcome
from eqnet.stages.search.fronts.choosing import most_accurate
from eqnet.stages.search.fronts.front import front_of, spread
from eqnet.stages.search.journal import Journal
from eqnet.stages.search.scoring import Candidate, Scorer
from eqnet.stages.search.space import Genome

EACH = 4
"""Subnets that are measured after a search."""
APART = 2
"""Genes that subnets of one round differ in, where there are enough that do: more is learned."""


def refined_search(
    model: Refined,
    scorer: Scorer,
    search: Callable[..., Outcome],
    measure: Callable[[Sequence[Genome]], list[Point]],
    journal: Journal,
    *,
    count: int,
) -> tuple[Scorer, Outcome]:
    """The last scorer, and what the search with it found.

    search: `explore`, of a scorer and `known` genomes. count: of subnets that are measured in all,
    a few after each search; the last search has learned from all of them.
    """
    measured: list[Genome] = []
    for chosen in journal.rounds(scorer.space.choices()):
        model = model.with_points(measure(chosen))
        measured += chosen
    while True:
        scorer = replace(scorer, predictor=model, predicted=0)
        outcome = search(scorer, known=measured)
        chosen = promising(scorer, outcome, min(EACH, count - len(measured)), set(measured))
        if not chosen:
            return scorer, outcome
        journal.end_round(chosen, scorer.predicted)
        model = model.with_points(measure(chosen))
        measured += chosen


def promising(
    scorer: Scorer, outcome: Outcome, count: int, known: Collection[Genome]
) -> list[Genome]:
    """Up to `count` genomes of the candidates to measure, none of them known.

    With budgets those predicted most accurate, else points along the whole front.
    """
    if count <= 0:
        return []
    if not scorer.budgets:
        front = front_of(outcome.candidates, scorer.objectives)
        fresh = [one for one in front if one.genome not in known]
        return [one.genome for one in spread(fresh, count)]
    fresh = [one for one in outcome.candidates if one.genome not in known]
    ordered = most_accurate(fresh, len(fresh))
    chosen = _apart(ordered, count)
    others = [one for one in ordered if one not in chosen]
    return [one.genome for one in [*chosen, *others[: count - len(chosen)]]]


def _apart(ordered: Sequence[Candidate], count: int) -> list[Candidate]:
    """The first ones that differ from each other in `APART` genes at least."""
    chosen: list[Candidate] = []
    for one in ordered:
        gaps = [np.count_nonzero(np.subtract(one.genome, other.genome)) for other in chosen]
        if all(gap >= APART for gap in gaps):
            chosen.append(one)
        if len(chosen) == count:
            break
    return chosen
