"""Budgets with units, and as shares of what the float network has."""

from __future__ import annotations

import pytest
from artifacts import profile

from eqnet.spec.errors import UsageError
from eqnet.subnets.limits import Budget, Limit, named, parse_limit, resolved


@pytest.mark.parametrize(
    ("name", "text", "own", "value"),
    [
        ("size", "300KiB", "size_kib", 300),
        ("size", "300KB", "size_kib", 300_000 / 1024),
        ("size", "1.2 MB", "size_kib", 1_200_000 / 1024),
        ("size", "2mib", "size_kib", 2048),
        ("size", "1024B", "size_kib", 1),
        ("size_kib", "120", "size_kib", 120),
        ("bitops", "1.2G", "bitops", 1.2),
        ("bitops", "800M", "bitops", 0.8),
        ("bitops", "2T", "bitops", 2000),
        ("bitops", "3", "bitops", 3),
        ("avg_weight_bits", "3", "avg_weight_bits", 3),
        ("cost", "1e-3", "cost", 0.001),
        ("latency", "4", "latency", 4),
        ("latency", "0.5x", "latency", Limit(0.5, "x")),
        ("latency", "2.5ms", "latency", Limit(2.5, "ms")),
        ("size", "0.1x", "size_kib", Limit(0.1, "x")),
    ],
)
def test_every_spelling(name, text, own, value):
    assert parse_limit(name, text) == (own, pytest.approx(value) if type(value) is float else value)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("size", "300", "with its unit"),
        ("size", "300KG", "300KB"),
        ("avg_weight_bits", "3KB", "avg_weight_bits=4"),
        ("latency", "-1", "2.5ms"),
        ("cost", "2ms", "cost=4"),
        ("bitops", "0", "1.2G"),
        ("cost", "nan", "found 'nan'"),
        ("cost", "1.2.3", "found '1.2.3'"),
        ("cost", "1e999", "found '1e999'"),
        ("sizes", "3", "did you mean 'size'"),
    ],
)
def test_what_is_no_bound_is_refused_in_one_line(name, text, told):
    with pytest.raises(UsageError, match=told) as caught:
        parse_limit(name, text)
    assert "\n" not in str(caught.value)


def test_latency_is_the_cost_of_profiles_whose_cost_is_a_time():
    cycles, times, size = (
        profile("lowbit", cost={"model": model}) for model in ("bit_serial", "roofline", "size")
    )
    assert named({"latency": "0.5x"}, cycles) == {"cost": Limit(0.5, "x")}
    assert named({"latency": Limit(2, "ms")}, times) == {"cost": 2.0}
    assert named({"latency": 2.5}, cycles) == {"cost": 2.5}
    with pytest.raises(UsageError, match=r"latency=2ms: .* is in M cycles"):
        named({"latency": "2ms"}, cycles)
    with pytest.raises(UsageError, match=r"latency=0.5x: .* is in KiB .allowed: cost=0.5x"):
        named({"latency": "0.5x"}, size)


@pytest.mark.parametrize("budgets", [{"size": "3KB", "size_kib": 4}, {"latency": 3, "cost": 2}])
def test_two_names_of_one_budget_are_refused(budgets):
    with pytest.raises(UsageError, match="given twice"):
        named(budgets, profile("lowbit", cost={"model": "bit_serial"}))


def test_shares_are_of_what_the_float_network_has():
    budgets: dict[str, Budget] = {"size_kib": Limit(0.25, "x"), "cost": 3.0}
    assert resolved(budgets, {"size_kib": 400.0}.__getitem__) == {"size_kib": 100.0, "cost": 3.0}
