"""The genetic search against problems small enough to try everything."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from eqnet.spec.progress import Silent
from eqnet.stages.search.evolution.genetic import Breeding, Evaluation, evolve, in_order

TARGET = (3, 0, 4, 1, 2, 3)


def distance_and_sum(genomes, most=None):
    """Objectives: distance to TARGET, and the sum of genes, which `most` bounds."""
    found = np.array([(np.abs(np.subtract(g, TARGET)).sum(), sum(g)) for g in genomes], float)
    if most is None:
        return Evaluation(found, np.zeros((len(genomes), 0)))
    return Evaluation(found, found[:, 1:] / most - 1)


class Problem:
    def __init__(self, most=None, choices=(5,) * 6):
        self.most, self.choices = most, choices
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, genomes):
        self.seen += map(tuple, genomes.tolist())
        return distance_and_sum(genomes, self.most)

    def run(self, seed=0, given=((0,) * 6, (4,) * 6), population=40, generations=40, **options):
        last = evolve(
            Breeding(
                self.choices,
                0 if self.most is None else 1,
                self,
                lambda genomes: distance_and_sum(genomes, self.most).violations,
            ),
            given=np.array(given),
            population=population,
            generations=generations,
            seed=seed,
            progress=Silent(),
            **options,
        )
        return sorted(map(tuple, last.genomes[last.feasible()].tolist()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_the_optimum_and_the_other_end_of_the_front(seed):
    found = Problem().run(seed)
    assert TARGET in found
    assert (0,) * 6 in found


def test_finds_most_of_the_exact_front():
    every = list(itertools.product(range(5), repeat=6))
    values = distance_and_sum(every).objectives
    # Along the front each unit of the sum takes one unit of distance.
    best = {total: values[values[:, 1] == total, 0].min() for total in range(sum(TARGET) + 1)}
    assert best == {total: sum(TARGET) - total for total in range(sum(TARGET) + 1)}
    found = distance_and_sum(Problem().run()).objectives
    # Those of the last population that are on the exact front.
    assert len({total for distance, total in found if best.get(int(total)) == distance}) >= 11


def test_every_gene_stays_within_its_choices_and_the_budget_of_subnets_is_kept():
    problem = Problem(choices=(2, 1, 5, 2, 3, 4))
    problem.run(given=[(0,) * 6], population=10, generations=7)
    assert len(problem.seen) <= 70
    genes = np.array(problem.seen)
    assert genes.min() == 0
    assert (genes.max(0) == [1, 0, 4, 1, 2, 3]).all()


def test_the_given_genomes_are_tried_first():
    problem = Problem()
    problem.run(given=[(1,) * 6, (2,) * 6, (3,) * 6], population=8, generations=1)
    assert {(1,) * 6, (2,) * 6, (3,) * 6} <= set(problem.seen)


@pytest.mark.parametrize("seed", range(4))
def test_the_last_given_genome_is_tried_however_small_the_population(seed):
    problem = Problem(choices=(50,) * 6)
    given = [(gene,) * 6 for gene in range(49)] + [TARGET]
    problem.run(seed, given=given, population=8, generations=1)
    assert TARGET in problem.seen
    assert len(set(problem.seen) & set(given[:-1])) >= 3  # the others still share the seats


@pytest.mark.parametrize("population", [1, 2])
def test_the_last_given_genome_has_the_only_seat(population):
    problem = Problem()
    problem.run(given=[(0,) * 6, (1,) * 6, TARGET], population=population, generations=1)
    assert TARGET in problem.seen


def test_the_same_seed_gives_the_same_result_whatever_the_global_generator():
    np.random.seed(1)
    first = Problem(most=7)
    result = first.run(seed=3)
    np.random.seed(2)
    again = Problem(most=7)
    assert again.run(seed=3) == result
    assert again.seen == first.seen
    other = Problem(most=7)
    other.run(seed=4)
    assert other.seen != first.seen


@pytest.mark.parametrize("most", [5, 9])
def test_constraints_hold_for_every_result(most):
    found = Problem(most).run(generations=60)
    assert all(sum(genome) <= most for genome in found)
    reached = distance_and_sum(found).objectives[:, 0].min()
    assert reached == sum(TARGET) - most  # the optimum under the constraint


def test_an_infeasible_problem_returns_nothing():
    class Impossible(Problem):
        def __call__(self, genomes):
            found = super().__call__(genomes)
            return Evaluation(found.objectives, np.ones((len(genomes), 1)))

    assert Impossible(most=1).run(generations=5) == []


def test_every_child_of_feasible_parents_is_feasible():
    problem = Problem(most=7)
    problem.run(seed=5, given=[(4,) * 6, (3,) * 6, (0,) * 6], generations=30)
    assert len(set(problem.seen)) > 100
    assert max(map(sum, problem.seen)) == 7


def test_a_search_goes_on_from_any_generation_to_the_same_end():
    kept: list[Any] = []
    whole = Problem(most=9)
    end = whole.run(seed=3, generations=20, after=kept.append)
    assert [one.number for one in kept] == list(range(1, 21))
    for begin in (kept[0], kept[11], kept[19]):
        again = Problem(most=9)
        assert again.run(seed=3, generations=20, begin=begin) == end
        assert again.seen == (whole.seen[-len(again.seen) :] if again.seen else [])


def test_the_survivors_are_those_of_nsga_ii():
    """By violation, front and crowding, as pymoo's own survival chooses them."""
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem as Pymoo
    from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

    rng = np.random.default_rng(0)
    found = Evaluation(rng.random((60, 2)), rng.normal(-0.5, 1, (60, 1)))
    crowd = Population.new("X", np.arange(60)[:, None], "F", found.objectives)
    crowd.set("G", found.violations)
    problem = Pymoo(n_var=1, n_obj=2, n_ieq_constr=1)
    for count in (2, 4, 6, 8, 9, 50):  # not between the two ends of a front, which are equal
        kept = RankAndCrowding().do(problem, crowd, n_survive=count, random_state=rng)
        assert set(in_order(found)[:count]) == {int(one) for one in kept.get("X")[:, 0]}
