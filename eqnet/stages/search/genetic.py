"""Genetic search over genomes: NSGA-II from pymoo, on predicted error and cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.callback import Callback
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.core.sampling import Sampling
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.optimize import minimize

from eqnet.spec.progress import Progress
from eqnet.stages.search.space import Genome

MUTATION_RATE = 0.1


class Evaluation(NamedTuple):
    """Of N genomes: objectives float64 [N, 2] (to be minimised) and violations [N, G] (<= 0)."""

    objectives: NDArray[np.float64]
    violations: NDArray[np.float64]


Evaluate = Callable[[list[Genome]], Evaluation]


class _Problem(Problem):  # type: ignore[misc]  # pymoo has no types
    def __init__(self, choices: Sequence[int], constraints: int, evaluate: Evaluate) -> None:
        super().__init__(
            n_var=len(choices),
            n_obj=2,
            n_ieq_constr=constraints,
            xl=0,
            xu=np.asarray(choices) - 1,
            vtype=int,
        )
        self.evaluate_genomes = evaluate

    def _evaluate(
        self, x: NDArray[np.int64], out: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        evaluation = self.evaluate_genomes(_genomes(x))
        out["F"], out["G"] = evaluation.objectives, evaluation.violations


def _genomes(rows: NDArray[np.int64]) -> list[Genome]:
    return [tuple(map(int, row)) for row in rows]


class _Seeded(Sampling):  # type: ignore[misc]  # pymoo has no types
    """Given genomes first, then random ones, each a mixture of two of the given.

    Where the given are more than half of the population, the last one and a random choice of
    the others are taken: the last may be the only one known to meet the constraints.
    Random genes alone have averages near the middle; a mixture of two uniform genomes reaches
    the ends of the space, where tight budgets lie.
    """

    def __init__(self, genomes: Sequence[Genome]) -> None:
        super().__init__()
        self.genomes = np.asarray(genomes)

    def _do(
        self, problem: Problem, n_samples: int, *args: Any, random_state: Any = None, **kwargs: Any
    ) -> NDArray[np.int64]:
        order = random_state.permutation(len(self.genomes))[: max(1, n_samples // 2)]
        last = len(self.genomes) - 1
        if last not in order:
            order[-1] = last
        missing = (n_samples - len(order), problem.n_var)
        first = self.genomes[random_state.integers(0, len(self.genomes), missing[0])]
        second = self.genomes[random_state.integers(0, len(self.genomes), missing[0])]
        mixed = np.where(random_state.random(missing) < 0.5, first, second)
        return np.concatenate([self.genomes[order], mixed])


class _Redraw(Mutation):  # type: ignore[misc]  # pymoo has no types
    """Redraw each gene with a small probability (paper: 0.1)."""

    def _do(
        self,
        problem: Problem,
        x: NDArray[np.int64],
        *args: Any,
        random_state: Any = None,
        **kwargs: Any,
    ) -> NDArray[np.int64]:
        fresh = random_state.integers(0, problem.xu + 1, size=x.shape)
        return np.where(random_state.random(x.shape) < MUTATION_RATE, fresh, x)


class _Listener(Callback):  # type: ignore[misc]  # pymoo has no types
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def notify(self, algorithm: Any) -> None:
        """Called once a generation."""
        self.progress.advance()


def evolve(
    choices: Sequence[int],
    constraints: int,
    evaluate: Evaluate,
    *,
    given: Sequence[Genome],
    population: int,
    generations: int,
    seed: int,
    progress: Progress,
) -> list[Genome]:
    """The feasible genomes that no other of the last population dominates; empty if none is.

    choices: number of values of each gene. given: distinct genomes to begin with; where the
    population has no room for all of them, the last one is in it for certain.
    """
    progress.start("genetic search", generations)
    algorithm = NSGA2(
        pop_size=population,
        sampling=_Seeded(given),
        crossover=UniformCrossover(),
        mutation=_Redraw(),
        eliminate_duplicates=True,
    )
    result = minimize(
        _Problem(choices, constraints, evaluate),
        algorithm,
        ("n_gen", generations),
        seed=seed,
        callback=_Listener(progress),
        verbose=False,
    )
    progress.finish()
    if result.X is None:
        return []
    return sorted(set(_genomes(np.atleast_2d(result.X))))
