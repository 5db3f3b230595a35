"""When a regression is called: kinds of noise with a known truth, and the rule's parts."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from eqnet.backend.machine.blocks import drawn_medians
from eqnet.spec.reports import Growth, Sampling
from eqnet.stages.bench import gate as module
from eqnet.stages.bench.gate import (
    FIRST,
    SECOND,
    greater_by_chance,
    growth_side_by_side,
    is_slower,
    judge,
)
from eqnet.stages.bench.measure import OURS, THEIRS, Timed

LEGS, ROUNDS, RUNS = 10, 16, 16


def growth(ratio: float, *, chance: float = 0.0, p_value: float = 0.0) -> Growth:
    return Growth(
        ratio=ratio, interval=(ratio - 0.01, ratio + 0.01), chance=chance, p_value=p_value
    )


def shared(rng: np.random.Generator, kind: str, size: int) -> np.ndarray:
    """What weighs on both models of a round alike, and lasts: ms."""
    if kind == "drift":
        return np.linspace(1, 3, size)
    if kind == "bursts":
        busy = np.repeat(rng.random(size // 8 + 1) < 0.4, 8)[:size]
        return np.where(busy, 2.5, 1.0)
    return np.ones(size)


def timed(rng: np.random.Generator, kind: str, ratio: float, rounds: int) -> Timed:
    """Two models, of which the first takes `ratio` of the other's time."""
    size = LEGS * rounds
    common = shared(rng, kind, size)
    times = {}
    for name, factor in ((OURS, ratio), (THEIRS, 1.0)):
        own = rng.lognormal(0, 0.08, size)
        if kind in ("bursts", "spikes"):  # a call that another process interrupts
            own = own + np.where(rng.random(size) < 0.3, rng.exponential(4.0, size), 0.0)
        if kind == "sessions":
            own = own * np.repeat(rng.lognormal(0, 0.03, LEGS), rounds)
        times[name] = (factor * common * own).tolist()
    legs = (rounds,) * LEGS
    how = Sampling(rounds=size, legs=legs, warmup=0, seconds=0, stopped="", pinned="")
    return Timed(times, how)


def alarms(kind: str, ratio: float, allowed: float) -> int:
    rng, found = np.random.default_rng(0), 0
    for _ in range(RUNS):

        def look(rounds: int) -> Growth:
            return growth_side_by_side(timed(rng, kind, ratio, rounds), rng)

        found += judge(look(ROUNDS), partial(look, 2 * ROUNDS), allowed).slower
    return found


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(module, "drawn_medians", partial(drawn_medians, resamples=100))


@pytest.mark.parametrize("kind", ["plain", "drift", "bursts", "spikes", "sessions"])
def test_equals_raise_no_alarm_and_a_tenth_does(kind):
    assert alarms(kind, 1.0, 0.05) == 0
    assert alarms(kind, 1.0, 0.0) <= 1  # by chance 1 in 100, even without a threshold
    assert alarms(kind, 1.10, 0.05) >= RUNS - 1
    assert alarms(kind, 0.9, 0.0) == 0


@pytest.mark.parametrize("look", [FIRST, SECOND])
def test_a_look_needs_threshold_and_both_tests(look):
    edge, chance = 1 + look.share * 0.05, look.chance
    assert is_slower(growth(edge + 0.001, chance=chance, p_value=chance), 0.05, look)
    assert not is_slower(growth(edge), 0.05, look)
    assert not is_slower(growth(1.2, chance=chance + 0.01), 0.05, look)
    assert not is_slower(growth(1.2, p_value=chance + 0.01), 0.05, look)


def test_the_first_look_asks_and_the_second_decides():
    assert FIRST.share < SECOND.share == 1
    assert FIRST.chance * SECOND.chance < 0.01
    asked, decides = growth(1.03, chance=0.2, p_value=0.2), growth(1.2)
    assert judge(asked, lambda: decides, 0.05).slower
    assert not judge(decides, lambda: asked, 0.05).slower


def test_within_the_threshold_nothing_is_repeated():
    def never() -> Growth:
        raise AssertionError("measured again")

    found = judge(growth(1.02), never, 0.05)
    assert (found.slower, found.confirming) == (False, None)
    assert found.note.startswith("within the baseline: +2.0% (95%: +1.0% to +3.0%; p = 0)")
    assert found.note.endswith("(allowed: +5.0%)")


def test_a_confirmed_regression_is_an_alarm():
    found = judge(growth(1.2), lambda: growth(1.21), 0.05)
    assert found.slower
    assert found.confirming == growth(1.21)
    assert "slower than the baseline: +20.0%" in found.note
    assert "confirmed by +21.0%" in found.note


def test_a_regression_that_does_not_come_back_is_none():
    found = judge(growth(1.2), lambda: growth(1.01), 0.05)
    assert not found.slower
    assert found.confirming == growth(1.01)
    assert "did not confirm it, +1.0%" in found.note


def test_rank_test_against_exact_values():
    a, b = np.array([6.0, 7, 8, 9, 10]), np.array([1.0, 2, 3, 4, 5])
    # U = 25, mean 12.5, variance 5*5*11/12; with continuity z = 12/sqrt(22.9167) = 2.50672.
    assert greater_by_chance([a], [b]) == pytest.approx(0.0060929, abs=1e-6)
    assert greater_by_chance([b], [a]) > 0.99
    assert greater_by_chance([a], [a]) > 0.4
    # Ties: ranks 1.5, 1.5, 4, 4, 4, 6, 7, 8; U = 13, variance 16/12 * (9 - 30/56) = 11.2857.
    tied = greater_by_chance([np.array([2.0, 2, 4, 5])], [np.array([1.0, 1, 2, 3])])
    assert tied == pytest.approx(0.0902, abs=1e-4)
    assert greater_by_chance([np.ones(5)], [np.ones(5)]) == 1.0


def test_rank_test_in_strata():
    # Two strata of 3 and 3: U - mean = 4.5 each, variance 3*3*7/12 = 5.25 each, weights 1/7;
    # with continuity z = (9 - 0.5) / sqrt(10.5) = 2.6232.
    a, b = np.array([4.0, 5, 6]), np.array([1.0, 2, 3])
    assert greater_by_chance([a, a], [b, b]) == pytest.approx(0.0043558, abs=1e-6)
    # What differs between strata is no noise: ranked together these would be a tie of sorts.
    far = [np.array([1.1]), np.array([10.1]), np.array([100.1]), np.array([1000.1])] * 2
    near = [np.array([1.0]), np.array([10.0]), np.array([100.0]), np.array([1000.0])] * 2
    assert greater_by_chance(far, near) < 0.01
    assert greater_by_chance([np.concatenate(far)], [np.concatenate(near)]) > 0.1


def test_the_rank_test_calls_equals_slower_as_often_as_it_says():
    rng = np.random.default_rng(0)
    values = [
        greater_by_chance(
            [rng.lognormal(0, 1, 4) for _ in range(20)], [rng.lognormal(0, 1, 4) for _ in range(20)]
        )
        for _ in range(400)
    ]
    assert np.mean(np.array(values) <= 0.1) == pytest.approx(0.1, abs=0.045)  # 3 standard errors
