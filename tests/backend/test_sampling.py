"""Sampling until it is precise or the time is spent, on a clock of the test's own."""

from __future__ import annotations

import numpy as np
import pytest

from eqnet.backend.machine.blocks import by_leg, in_blocks, median_interval
from eqnet.backend.machine.sampling import FEWEST, LEGS, MOST_WARM_UP, Enough, sample

MS = 1_000_000


class World:
    """Functions that take so many milliseconds by a rule, and a clock that only they move.

    opening: milliseconds of opening the sessions. rule: (function, leg, call of the leg) -> ms.
    """

    def __init__(self, rule, functions: int = 2, opening: float = 1.0) -> None:
        self.now, self.rule, self.functions, self.opening = 0, rule, functions, opening
        self.opened: list[int] = []

    def clock(self) -> int:
        return self.now

    def open_sessions(self, leg: int):
        self.now += int(self.opening * MS)
        self.opened.append(leg)
        return [self._run(index, leg) for index in range(self.functions)]

    def _run(self, index: int, leg: int):
        calls = 0

        def run() -> None:
            nonlocal calls
            self.now += int(self.rule(index, leg, calls) * MS)
            calls += 1

        return run

    def sample(self, enough: Enough, **options):
        return sample(self.open_sessions, enough, clock=self.clock, **options)


def noisy(spread: float, base: float = 1.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    return lambda index, leg, call: base * float(rng.lognormal(0, spread))


def test_what_is_steady_is_precise_at_once():
    world = World(noisy(0.001))
    made = world.sample(Enough(precision=0.02, max_seconds=60))
    assert made.stopped.startswith("precise; widest interval ±")
    assert made.seconds < 5
    assert len(made.legs) == LEGS
    assert world.opened == list(range(LEGS))


def test_what_is_never_precise_spends_its_time_and_says_so():
    world = World(noisy(1.5))
    made = world.sample(Enough(precision=0.001, max_seconds=2.0))
    assert made.stopped.startswith("2 s were spent; widest interval ±")
    assert made.stopped.endswith("(wanted: ±0.1%)")
    assert made.seconds == pytest.approx(2.0, rel=0.2)


def test_more_noise_takes_more_rounds():
    rounds = [
        sum(World(noisy(spread)).sample(Enough(precision=0.05, max_seconds=600)).legs)
        for spread in (0.01, 0.2)
    ]
    assert rounds[0] < rounds[1]


@pytest.mark.parametrize("repeats", [5, 7, 19, 20, 43, 200])
def test_a_fixed_number_is_taken_whatever_the_noise(repeats):
    told = []
    world = World(noisy(1.0), functions=3)
    made = world.sample(Enough(repeats=repeats), after_round=lambda: told.append(1))
    assert [len(times) for times in made.times] == [repeats] * 3
    assert sum(made.legs) == len(told) == repeats
    assert max(made.legs) - min(made.legs) <= 1
    assert len(made.legs) == max(1, min(LEGS, repeats // 10))
    assert made.stopped.startswith(f"{repeats} rounds were asked for")


def test_sessions_that_are_slow_to_open_are_opened_less_often():
    quick = World(noisy(0.1), opening=1.0).sample(Enough(max_seconds=1))
    slow = World(noisy(0.1), opening=200.0).sample(Enough(max_seconds=1))
    slower = World(noisy(0.1), opening=60_000.0).sample(Enough(max_seconds=1))
    assert len(quick.legs) == LEGS
    assert len(slow.legs) == 2
    assert len(slower.legs) == 2
    assert slower.seconds < 1.1


def test_calls_of_a_second_are_still_taken_thrice_a_leg():
    made = World(noisy(0.1, base=1_000.0)).sample(Enough(max_seconds=10))
    assert made.legs == (FEWEST, FEWEST)


def test_slow_first_calls_are_a_warm_up():
    def rule(index, leg, call):
        return 50.0 / (1 + call) if call < 20 else 1.0

    made = World(rule).sample(Enough(max_seconds=60))
    assert 10 <= made.warmup / len(made.legs) <= MOST_WARM_UP
    assert max(max(times) for times in made.times) < 4.0


def test_a_difference_between_sessions_widens_the_interval():
    """Samples of one session are alike, and say nothing of the next."""
    factors = np.random.default_rng(0).lognormal(0, 0.05, 100)
    noise = noisy(0.02)

    def lucky(index, leg, call):
        return noise(index, leg, call) * (factors[leg] if index == 0 else 1.0)

    widths = []
    for rule in (noisy(0.02), lucky):
        made = World(rule).sample(Enough(repeats=200))
        ratios = np.divide(*made.times)
        low, high = median_interval(in_blocks(ratios, made.legs), np.random.default_rng(0))
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]


def test_blocks_follow_legs_and_hold_every_value_once():
    for size, legs in ((160, (40, 40, 80)), (7, (7,)), (6, (3, 3)), (1000, ()), (5, (2, 2))):
        values = np.arange(float(size))
        blocks = in_blocks(values, legs)
        assert np.array_equal(np.concatenate([each for leg in blocks for each in leg]), values)
        assert len(blocks) == len(by_leg(values, legs))
        assert all(len(leg) <= 20 for leg in blocks)
    assert len(by_leg(np.arange(5.0), (2, 2))) == 1  # legs of something else


def autocorrelated(rng: np.random.Generator, size: int, memory: float) -> np.ndarray:
    noise = rng.standard_normal(size)
    for index in range(1, size):
        noise[index] += memory * noise[index - 1]
    return noise


def test_an_interval_of_blocks_holds_the_truth_where_neighbours_are_alike():
    """In three quarters of the cases at a memory of ten values; drawn value by value in a third."""
    rng = np.random.default_rng(0)
    held = {"blocks": 0, "values": 0}
    for _ in range(50):
        values = autocorrelated(rng, 200, 0.9)
        drawn = {"blocks": in_blocks(values), "values": [list(values.reshape(-1, 1))]}
        for name, blocks in drawn.items():
            low, high = median_interval(blocks, rng, resamples=60)
            held[name] += low <= 0.0 <= high
    assert held["blocks"] >= 34
    assert held["values"] <= 25
