"""Exploring a space: all of a small one, a genetic search in a large one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from pymoo.indicators.hv import HV

from eqnet.spec.progress import Progress
from eqnet.spec.reports import GenerationRecord
from eqnet.stages.search.evolution.genetic import Breeding, Generation, evolve
from eqnet.stages.search.evolution.seeds import Sensitivities, seeds
from eqnet.stages.search.journal import Journal
from eqnet.stages.search.scoring import Candidate, Scorer, matrix
from eqnet.stages.search.space import EXHAUSTIVE, Genome
from eqnet.stages.search.vector.totals import Values


class Outcome(NamedTuple):
    """Feasible candidates, what ended the exploration, and how many predictions it took.

    sensitivities: by layer, where they were predicted.
    """

    candidates: list[Candidate]
    reason: str
    evaluations: int
    sensitivities: dict[str, float]


def explore(
    scorer: Scorer,
    anchor: Genome | None,
    journal: Journal,
    *,
    generations: int,
    population: int,
    seed: int,
    progress: Progress,
    known: Sequence[Genome] = (),
) -> Outcome:
    """Candidates for a front, all within the budgets.

    anchor: a genome that meets all budgets, where one is known; then all that are tried do.
    known: others that do, and are among the candidates.
    """
    space = scorer.space
    if space.size() <= EXHAUSTIVE:
        every = matrix(space, list(space.all_genomes()))
        reason = f"all {space.size()} subnets of the space were tried"
        return Outcome(scorer.candidates(every[scorer.feasible(every)]), reason, space.size(), {})
    sensitivities = Sensitivities.of(scorer)
    given = seeds(scorer, sensitivities, anchor, known)
    worst = _worst_uniform(scorer)
    begin = journal.population(space.choices(), 1 + len(scorer.objectives), generations)
    if begin is not None:
        scorer.predicted = journal.state.predicted
    last = evolve(
        Breeding(space.choices(), len(scorer.budgets), scorer.evaluate, scorer.excess),
        given=given,
        population=population,
        generations=generations,
        seed=seed,
        progress=progress,
        begin=begin,
        after=_keeping(journal, scorer, worst),
    )
    # A crowded population may have dropped a genome that was given, or hold nothing feasible.
    found = np.concatenate([last.genomes[last.feasible()], given[scorer.feasible(given)]])
    reason = f"{generations} generations of {population} were done"
    evaluations = scorer.predicted
    candidates = scorer.candidates(np.unique(found, axis=0))
    return Outcome(candidates, reason, evaluations, sensitivities.by_layer(scorer))


def _worst_uniform(scorer: Scorer) -> Values:
    """The largest error and the largest cost of uniform subnets, [2]."""
    space = scorer.space
    found = scorer.evaluate(matrix(space, space.uniform_genomes()))
    worst: Values = found.objectives[:, :2].max(0)
    return worst


def _keeping(journal: Journal, scorer: Scorer, worst: Values) -> Callable[[Generation], None]:
    def keep(now: Generation) -> None:
        journal.keep(now, scorer.predicted, record(now, worst))

    return keep


def record(now: Generation, worst: Values) -> GenerationRecord:
    """How far a population is. worst: the largest error and cost that count, [2]."""
    objectives = now.evaluation.objectives[now.feasible()][:, :2]
    if not len(objectives):
        return GenerationRecord(generation=now.number, accuracy=None, hypervolume=0.0)
    volume = float(HV(ref_point=np.ones(2))(objectives / worst))
    accuracy = 1.0 - float(objectives[:, 0].min())
    return GenerationRecord(generation=now.number, accuracy=accuracy, hypervolume=volume)
