"""What is on a front, what is picked from it, and what is measured for that."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import subnet

from eqnet.cli.main import main
from eqnet.spec.errors import InfeasibleError, UsageError
from eqnet.spec.reports import FrontPoint, MeasuredScore, SearchReport
from eqnet.spec.subnet import load_subnet
from eqnet.stages.search.fronts.choosing import FINALISTS, PICKED_FROM, Rule, take
from eqnet.stages.search.fronts.front import Winner, front_of, pick, spread
from eqnet.stages.search.fronts.stored import pick_again, write_report
from eqnet.stages.search.scoring import Candidate

VALUES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), max_size=30)


def candidate(place, accuracy, **quantities):
    return Candidate((place,), subnet(4), accuracy, quantities)


@settings(max_examples=80, deadline=None)
@given(values=VALUES)
def test_a_front_is_what_nothing_dominates(values):
    made = [candidate(i, a / 10, cost=c, size_kib=s) for i, (a, c, s) in enumerate(values)]
    front = front_of(made, ("cost", "size_kib"))
    rows = [(one.cost, one.quantities["size_kib"], -one.accuracy) for one in front]
    every = {(c, s, -a / 10) for a, c, s in values}
    wanted = {
        row
        for row in every
        if not any(other != row and all(np.array(other) <= row) for other in every)
    }
    assert set(rows) == wanted
    assert len(rows) == len(wanted)
    assert rows == sorted(rows)


def test_a_spread_has_both_ends():
    assert spread(range(9), 3) == [0, 4, 8]
    assert spread(range(3), 5) == [0, 1, 2]
    assert len(spread(range(1000), 8)) == 8


def test_picks_by_name_pass_over_what_is_dominated():
    costs = [1, 2, 3, 4, 10, 11]
    accuracies = [0.5, 0.85, 0.9, 0.7, 0.95, 0.2]
    assert pick("fastest", costs, accuracies) == 0
    assert pick("most-accurate", costs, accuracies) == 4
    assert pick("knee", costs, accuracies) == 2
    assert pick("knee", [3], [0.5]) == 0
    with pytest.raises(UsageError, match="knee, fastest, most-accurate"):
        pick("best", costs, accuracies)


class Bench:
    """Measures what it is told, and counts."""

    def __init__(self, truth):
        self.truth, self.seen = truth, []

    def __call__(self, candidates):
        found = []
        for one in candidates:
            self.seen.append(one.genome[0])
            value = self.truth(one.genome[0])
            score = MeasuredScore(accuracy=value, images=10, float_agreement=value)
            found.append(Winner(one, score))
        return found


def line(count, predicted=lambda place: 0.5 + place / 200):
    return [candidate(place, predicted(place), cost=float(place + 1)) for place in range(count)]


@settings(max_examples=200, deadline=None)
@given(count=st.integers(1, 90), edge=st.integers(0, 89), guess=st.integers(0, 100))
def test_the_cheapest_that_holds_is_found_wherever_the_predictor_begins(count, edge, guess):
    front = line(count, lambda place: 0.9 if place >= guess else 0.1)
    bench = Bench(lambda place: 0.95 if place >= edge else 0.7)
    for rule in (Rule(min_accuracy=0.9), Rule(min_agreement=0.9)):
        bench.seen.clear()
        if edge < count:
            assert take(rule, front, [], bench, budgeted=True).winner.candidate.genome == (edge,)
            assert len(bench.seen) <= 2 * math.log2(count + 1) + 2 + FINALISTS
        else:
            with pytest.raises(InfeasibleError, match=r"nearest: (70%|0.7) at a cost of"):
                take(rule, front, [], bench, budgeted=False)
        assert len(bench.seen) == len(set(bench.seen))


def test_a_dip_at_the_costly_end_does_not_hide_what_holds():
    front = line(10, lambda place: 0.95 if place >= 4 else 0.1)
    bench = Bench(lambda place: 0.95 if place == 6 else 0.5)
    rule = Rule(min_accuracy=0.9)
    assert take(rule, front, [], bench, budgeted=True).winner.candidate.genome == (6,)
    nothing = Bench(lambda place: 0.5)
    with pytest.raises(InfeasibleError, match="none of 4 measured"):
        take(rule, line(40, lambda place: place / 100), [], nothing, budgeted=True)
    assert sorted(nothing.seen) == [36, 37, 38, 39]


def test_a_pick_by_name_measures_some_points_and_one_by_number_that_one():
    bench = Bench(lambda place: 0.9 - 0.4 / (1 + place))
    named = take(Rule(pick="knee"), line(60), [], bench, budgeted=True)
    assert len(bench.seen) == PICKED_FROM
    assert 0 < named.winner.candidate.genome[0] < 59
    bench.seen.clear()
    assert take(Rule(pick=17), line(60), [], bench, budgeted=True).winner.candidate.genome == (17,)
    assert bench.seen == [17]
    with pytest.raises(UsageError, match=r"no point 60 on the front .allowed: 0 to 59"):
        take(Rule(pick=60), line(60), [], bench, budgeted=True)


def test_without_budgets_the_best_is_among_those_compared_in_any_order():
    """With further objectives the most accurate need not be the costliest."""
    front = [candidate(place, 0.9, cost=float(place)) for place in range(9)]
    front[4] = candidate(4, 0.901, cost=4.0)
    bench = Bench(lambda place: 0.95 if place == 4 else 0.9)
    assert take(Rule(), front, [], bench, budgeted=False).winner.candidate.genome == (4,)
    assert len(bench.seen) == FINALISTS


@pytest.mark.parametrize(
    "options",
    [
        {"min_accuracy": 0.9, "pick": 3},
        {"min_accuracy": 1.2},
        {"min_agreement": 0.0},
        {"pick": "best"},
    ],
)
def test_rules_that_make_no_sense_are_refused(options):
    with pytest.raises(UsageError, match="allowed"):
        Rule(**options)


def stored(folder, measured=(0, 2, 4)):
    """A search.json with a front of five subnets."""
    points = []
    for place in range(5):
        spec = subnet(2 + place)
        score = MeasuredScore(accuracy=(0.5, 0.7, 0.88, 0.89, 0.9)[place], images=9)
        points.append(
            FrontPoint(
                accuracy_predicted=0.5 + place / 10,
                cost=place + 1,
                avg_weight_bits=2 + place,
                avg_activation_bits=4,
                sha256=spec.sha256(),
                measured=score if place in measured else None,
                subnet=spec,
            )
        )
    report = SearchReport(
        profile="alpha",
        supernet="bundled",
        budgets={},
        unit="ms",
        evaluations=5,
        front=tuple(points),
        best=subnet(6),
        seconds=1,
        stop_reason="done",
    )
    write_report(report, folder)
    return folder / "search.json"


@pytest.mark.parametrize(
    ("name", "place"), [(3, 3), ("knee", 2), ("fastest", 0), ("most-accurate", 4)]
)
def test_another_subnet_is_taken_from_a_stored_front(tmp_path, name, place):
    path = stored(tmp_path)
    report = pick_again(path, name)
    assert load_subnet(tmp_path / "subnet.json") == subnet(2 + place) == report.best
    assert SearchReport.model_validate_json(path.read_bytes()) == report


def test_from_the_command_line_into_another_folder(tmp_path, capsys):
    path, out = stored(tmp_path / "found"), tmp_path / "taken"
    before = path.read_bytes()
    assert main(["search", "--from", str(path), "--pick", "1", "--out", str(out)]) == 0
    assert "point 1 of the front" in capsys.readouterr().out
    assert load_subnet(out / "subnet.json") == subnet(3)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--pick", "5"], 2, "allowed: 0 to 4"),
        (["--pick", "best"], 2, "knee"),
        ([], 2, "with --pick"),
        (["--pick", "1", "--profile", "alpha"], 2, "and nothing else"),
    ],
)
def test_what_cannot_be_taken_is_told_in_one_line(tmp_path, capsys, arguments: Any, code, told):
    path = stored(tmp_path)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    assert main(["search", "--from", str(path), *arguments]) == code
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_a_name_needs_measured_points(tmp_path):
    with pytest.raises(UsageError, match="'knee' with 1 measured points of 5"):
        pick_again(stored(tmp_path, measured=(3,)), "knee")
