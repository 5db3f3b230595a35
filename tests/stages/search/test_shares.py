"""Budgets that are shares of what the float network has, several at once, and objectives."""

from __future__ import annotations

import json

import pytest
from artifacts import profile
from search_tools import ALL_PAIRS, lowbit

import eqnet.stages.search.costing as costing
from eqnet.cli.main import main
from eqnet.spec.errors import InfeasibleError, UsageError

# Of the small network: multiply-adds, and weights.
MACS, WEIGHTS = 7776 + 20736 + 2592 + 1728 + 70, 982


def test_shares_are_of_the_float_network_in_the_same_cost_model(world):
    rules = lowbit(cost={"model": "bitops"})
    report = world(rules, {"cost": "0.03x", "size": "0.2x", "bitops": "1T"})
    whole = MACS * 32 * 32 / 1e9
    assert report.float_network["cost"] == pytest.approx(whole)
    assert report.float_network["bitops"] == pytest.approx(whole)
    assert report.float_network["size_kib"] == WEIGHTS * 4 / 1024
    assert report.budgets == pytest.approx(
        {"cost": 0.03 * whole, "size_kib": 0.2 * WEIGHTS * 4 / 1024, "bitops": 1000}
    )
    for point in report.front:
        assert point.cost == pytest.approx(point.bitops)
        assert point.cost <= report.budgets["cost"] * (1 + 1e-9)
        assert point.size_kib <= report.budgets["size_kib"] * (1 + 1e-9)


def test_a_share_that_nothing_reaches_names_the_nearest(world):
    with pytest.raises(InfeasibleError, match=r"size_kib=0.0383594: .*nearest reachable: 0.4492"):
        world(budgets={"size": "0.01x"})


def test_a_table_without_float_times_is_refused_for_shares_alone(world):
    table = {layer.name: {f"w{w}a{a}": 1.0 for w, a in ALL_PAIRS} for layer in world.info.layers}
    (world.folder / "table.json").write_text(json.dumps(table))
    rules = lowbit(cost={"model": "lookup", "table": "table.json"})
    with pytest.raises(UsageError, match=r"cost=0.5x: .*'lookup'.*has no 'remainder'") as caught:
        world(rules, {"latency": "0.5x"})
    assert "\n" not in str(caught.value)
    assert "cost" not in world(rules, {"latency": 6}).float_network


def test_with_measured_cost_the_float_network_is_timed_where_a_share_asks_for_it(world):
    counts = []

    def times(supernet, exporter, rules, specs, progress):
        counts.append(len(specs))
        floats = [all(bits == "remainder" for bits in spec.weights.values()) for spec in specs]
        return [
            8.0 if one else 3.0 if spec.weights["head"] == 8 else 2.0
            for one, spec in zip(floats, specs, strict=True)
        ]

    world.patch.setattr(costing, "measure_latency", times)
    world.measure_as(lambda spec: 0.9)
    rules = profile(cost={"model": "measured"}, search_groups=["linear"])
    best = world(rules, {"latency": "0.3x"}).best
    assert best.measured.cost == 2.0
    assert best.weights["head"] == "remainder"
    world(rules, {"latency": "2ms"})
    assert counts == [3, 2]


def test_several_objectives_give_a_front_over_all_of_them(world):
    one = world(lowbit(cost={"model": "bit_serial"}), generations=30)
    two = world(lowbit(cost={"model": "bit_serial"}), generations=30, objectives=["size"])
    assert two.objectives == ("cost", "size_kib")
    costs = [point.cost for point in two.front]
    assert costs == sorted(costs)
    # Some point gives up accuracy at its cost for a smaller size, which one objective never keeps.
    accuracies = [point.accuracy_predicted for point in two.front]
    assert accuracies != sorted(accuracies)
    assert [point.accuracy_predicted for point in one.front] == sorted(
        point.accuracy_predicted for point in one.front
    )
    with pytest.raises(UsageError, match="did you mean 'size'"):
        world(objectives=["sizes"])


def test_a_demand_on_accuracy_takes_the_cheapest_and_holds_whole_subnets(world):
    world.measure_as(lambda spec: spec.avg_weight_bits / 10)
    report = world(min_accuracy=0.6)
    assert report.best.measured.accuracy >= 0.6
    cheaper = [point for point in report.front if point.cost < report.best.measured.cost]
    assert cheaper[-1].measured.accuracy < 0.6
    assert all(point.subnet.sha256() == point.sha256 for point in report.front)
    assert {point.label for point in report.baselines} >= {"w2a2", "w4a8", "w8a8"}
    assert report.choice == "the cheapest found with min_accuracy=60%"
    assert report.sensitivities.keys() == {"conv1", "depthwise", "conv2"}
    with pytest.raises(InfeasibleError, match=r"min_accuracy=90%: none of .* \(nearest: 80%"):
        world(min_accuracy=0.9)


def test_agreement_with_the_float_model_is_measured(world):
    report = world(min_float_agreement=0.05)
    chosen = next(point for point in report.front if point.sha256 == report.best.sha256())
    assert chosen.measured.float_agreement >= 0.05
    assert chosen.measured.images == 40


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--min-accuracy", "0.9"], "1 to 100 percent"),
        (["--min-accuracy", "90", "--pick", "knee"], "each chooses"),
        (["--min-float-agreement", "2"], "0% to 100%"),
        (["--budget", "latency=2ms"], "is in KiB"),
        (["--objective", "speed"], "unknown objective"),
        (["--pick", "-1"], "knee"),
    ],
)
def test_options_that_make_no_sense_are_one_line(world, capsys, arguments, told):
    path = world.write(lowbit())
    out = ["--out", str(world.folder / "out"), "-q"]
    assert main(["search", "-p", path, *arguments, *out]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (world.folder / "out").exists()
