"""Budgets of the search: met, tightened, and out of reach."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from artifacts import profile
from search_tools import ALL_PAIRS, lowbit, size_of, space_of

import eqnet.stages.search.costing as costing
import eqnet.stages.search.search as module
from eqnet.cli.main import main
from eqnet.spec.errors import InfeasibleError
from eqnet.stages.search.evolution import explore as exploring
from eqnet.stages.search.evolution.genetic import Evaluation, Generation, evolve
from eqnet.stages.search.reachable import require_reachable
from eqnet.stages.search.scoring import Scorer, matrix

FREE = ("conv1", "depthwise", "conv2")


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("avg_weight_bits", 4.5, 8), ("avg_activation_bits", 4.5, 8), ("size_kib", 0.6, 0.95)],
)
def test_a_tighter_budget_never_gives_more_bits(world, name, low, high):
    world.measure_as(lambda spec: sum(map(float, [spec.avg_weight_bits, spec.avg_activation_bits])))
    values = []
    for limit in np.linspace(high, low, 4):
        best = world(budgets={name: float(limit)}).best
        values.append(getattr(best, name, size_of(world.info, best)))
        assert values[-1] <= limit * (1 + 1e-9)
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


def test_a_cost_budget_holds_for_the_result_and_the_front(world):
    rules = lowbit(cost={"model": "bit_serial"})
    cheapest, widest = (world(rules).front[place].cost for place in (0, -1))
    limit = (cheapest + widest) / 2
    report = world(rules, {"cost": limit})
    assert cheapest < report.best.measured.cost <= limit
    assert all(point.cost <= limit for point in report.front)


@pytest.mark.parametrize(
    ("name", "limit", "nearest"),
    [
        # All free layers at 2 bits, the pinned ones at 8: (2 x 696 + 8 x 286) / 982.
        ("avg_weight_bits", 3, "3.747"),
        ("avg_activation_bits", 1, "4.043"),
        ("size_kib", 0.1, "0.4492"),
        ("cost", 0.1, "0.4492"),
    ],
)
def test_an_infeasible_budget_ends_before_anything_is_predicted(world, name, limit, nearest):
    started = []
    world.patch.setattr(exploring, "evolve", lambda *_, **__: started.append("evolve"))
    world.patch.setattr(module, "_predictor", lambda *_: started.append("predictor"))
    with pytest.raises(InfeasibleError, match=rf"{name}={limit:g}.*nearest reachable: {nearest}"):
        world(budgets={name: limit})
    assert started == []
    assert not (world.folder / "out").exists()


def test_the_nearest_reachable_value_is_reachable(world):
    with pytest.raises(InfeasibleError) as caught:
        world(budgets={"avg_weight_bits": 1})
    nearest = float(str(caught.value).rpartition(" ")[2].rstrip(")"))
    found = world(budgets={"avg_weight_bits": nearest * 1.001}).best
    assert found.avg_weight_bits == pytest.approx(nearest, rel=1e-3)


def test_bits_budgets_are_checked_before_latency_is_measured(world):
    world.patch.setattr(costing, "measure_latency", lambda *_: pytest.fail("timed"))
    rules = profile(bits=[[8, 8]], cost={"model": "measured"})
    with pytest.raises(InfeasibleError, match="avg_weight_bits"):
        world(rules, {"avg_weight_bits": 4})


def test_an_infeasible_budget_is_exit_8_and_one_line(world, capsys):
    path = world.write(lowbit())
    arguments = ["search", "-p", path, "--budget", "size_kib=0.01", "--out"]
    assert main([*arguments, str(world.folder / "out"), "-q"]) == 8
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "nearest reachable: 0.4492" in captured.err
    assert not (world.folder / "out").exists()


def test_budgets_that_cannot_be_met_together_are_refused(world):
    rules = lowbit(bits=[[2, 8], [8, 2]], pinned=[])
    with pytest.raises(InfeasibleError, match="each can be met, but no subnet found meets all"):
        world(rules, {"avg_weight_bits": 3, "avg_activation_bits": 3})


def write_table(folder, info):
    """A table whose cheapest subnet is a mixture that no uniform subnet comes near."""
    table = {layer.name: {f"w{w}a{a}": 10.0 for w, a in ALL_PAIRS} for layer in info.layers}
    for name, pair in {"conv1": "w3a7", "depthwise": "w8a2", "conv2": "w5a5"}.items():
        table[name][pair] = 1.0
    (folder / "table.json").write_text(json.dumps(table))


def test_a_cost_that_only_a_mixture_reaches_is_found(world):
    write_table(world.folder, world.info)
    rules = lowbit(cost={"model": "lookup", "table": "table.json"})
    best = world(rules, {"cost": 23}).best
    assert best.predicted.cost == 23
    assert [best.weights[name] for name in FREE] == [3, 8, 5]
    with pytest.raises(InfeasibleError, match=r"cost=22: .*nearest reachable: 23\)"):
        world(rules, {"cost": 22})


@pytest.mark.parametrize("seed", range(4))
def test_a_genome_known_to_be_feasible_is_never_lost(world, seed):
    write_table(world.folder, world.info)
    rules = lowbit(cost={"model": "lookup", "table": "table.json"})
    best = world(rules, {"cost": 23}, seed=seed, population=8, generations=1).best
    assert best.predicted.cost == 23


def test_a_feasible_given_genome_is_a_candidate_whatever_evolution_returns(world):
    write_table(world.folder, world.info)
    rules = lowbit(cost={"model": "lookup", "table": "table.json"})
    nothing = Generation(1, np.zeros((0, 3), int), Evaluation(np.zeros((0, 2)), np.zeros((0, 1))))
    world.patch.setattr(exploring, "evolve", lambda *_, **__: nothing)
    assert world(rules, {"cost": 23}).best.predicted.cost == 23
    with pytest.raises(InfeasibleError, match="no subnet found meets all"):
        world(rules, {"cost": 23, "avg_weight_bits": 4})  # feasible for the cost alone


@pytest.mark.parametrize("cheapest", [(3, 7), (2, 2), (8, 8)])
def test_the_cheapest_uniform_genome_is_given_last(world, cheapest):
    """It keeps its seat in the first population only there."""
    name = f"w{cheapest[0]}a{cheapest[1]}"
    pairs = {f"w{w}a{a}": 10.0 for w, a in ALL_PAIRS} | {name: 1.0}
    pinned = {"stem", "head"}
    table = {
        layer.name: dict.fromkeys(pairs, 10.0) if layer.name in pinned else pairs
        for layer in world.info.layers
    }
    (world.folder / "table.json").write_text(json.dumps(table))
    seen: list[Any] = []

    def watched(*args, given, **options):
        seen.extend(map(tuple, given.tolist()))
        return evolve(*args, given=given, **options)

    world.patch.setattr(exploring, "evolve", watched)
    rules = lowbit(cost={"model": "lookup", "table": "table.json"})
    world(rules, {"cost": 25})
    assert seen[-1] == (ALL_PAIRS.index(list(cheapest)),) * 3
    assert len(seen) == len(set(seen)) >= 49


def test_the_way_to_the_cheapest_mixture_is_bounded(world):
    space, asked = space_of(world.info, lowbit()), []

    def cost(spec):
        asked.append(spec)
        return 1e6 - len(asked)  # always "cheaper"

    with pytest.raises(InfeasibleError):
        require_reachable(space, {"cost": 1.0}, cost)
    assert len(asked) < 49 + 10 * 3 * 49


def test_scorer_counts_relative_excess(world):
    rules = lowbit(bits=[[2, 2], [4, 4], [8, 8]])
    space = space_of(world.info, rules)
    budgets = {"avg_weight_bits": 4.0, "cost": 2.0}
    scorer = Scorer(space, world.predictor, lambda spec: spec.avg_weight_bits / 2, budgets)
    genomes = matrix(space, [(0, 0, 0), (2, 2, 2), (0, 0, 0)])
    found = scorer.evaluate(genomes)
    assert scorer.predicted == world.predictor.subnets == 3
    average = [space.subnet(genome).avg_weight_bits for genome in genomes.tolist()]
    assert found.violations == pytest.approx(np.array([[a / 4 - 1, a / 4 - 1] for a in average]))
    assert found.objectives[:, 1] == pytest.approx([a / 2 for a in average])
    assert scorer.feasible(genomes).tolist() == [True, False, True]
