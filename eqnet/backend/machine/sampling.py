"""Sampling until enough is known: a warm-up, rounds in turns, and a word on why it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from eqnet.backend.machine.blocks import half_width, in_blocks, median_interval
from eqnet.backend.machine.timing import turns

LEGS = 10
"""Sessions are opened so often: one and the same model differs from session to session, by where
its memory lies and its threads run, and no number of samples of one session shows that."""
FEWEST = 3  # rounds of a leg
MOST_WARM_UP = 50  # rounds
WINDOW, STEADY = 5, 0.05  # rounds, and how much their medians may differ from those before
FIRST_LOOK, LATER = 10, 1.5  # rounds until the first look at an interval, and factor to the next
LOOK = 200  # resamples of a look, which must cost little beside what it is about

Runs = Sequence[Callable[[], object]]
Clock = Callable[[], int]


@dataclass(frozen=True)
class Enough:
    """When to stop: after `repeats` rounds, or where that is None as soon as every interval's
    half width is at most `precision` of its median, or `max_seconds` were spent."""

    repeats: int | None = None
    precision: float = 0.02
    max_seconds: float = 10.0


@dataclass(frozen=True)
class Sampled:
    """What was measured. times: ms by function, those with one index taken side by side; legs:
    rounds of each; warmup: rounds that are not in it; seconds: of all calls; stopped: why."""

    times: list[list[float]]
    legs: tuple[int, ...]
    warmup: int
    seconds: float
    stopped: str


def sample(
    open_sessions: Callable[[int], Runs],
    enough: Enough,
    clock: Clock = time.perf_counter_ns,
    after_round: Callable[[], object] | None = None,
) -> Sampled:
    """Time functions in turns, in legs that each begin with sessions of their own.

    open_sessions: the functions of a leg, by its number from 0. There are up to ten legs, as many
    as opening and warming up allow in half the time of `max_seconds`, which is for the calls
    alone; at least two, but one for less than 20 rounds. A leg ends when its own intervals are
    as narrow as they must be for all together to have the precision, or its share of the time
    is spent, but not before three rounds. `clock` gives nanoseconds.
    """
    taken: list[_Leg] = []
    legs, spent = 1, 0.0
    while len(taken) < legs:
        leg = _Leg(len(taken), enough, clock)
        taken.append(leg)
        opening = clock()
        runs = open_sessions(leg.number)
        opened = (clock() - opening) / 1e9
        rounds = turns(runs, clock, seed=leg.number)
        leg.warm_up(rounds)
        if leg.number == 0:
            legs = _legs(enough, opened + leg.seconds)
        leg.run(rounds, legs, spent, after_round)
        spent += leg.seconds
        del runs, rounds  # or these sessions would hold memory beside the next
    counts = tuple(len(leg) for leg in taken)
    times = [list(each) for each in zip(*(row for leg in taken for row in leg.rows), strict=True)]
    warmup = sum(leg.warmup for leg in taken)
    return Sampled(times, counts, warmup, spent, _why(times, counts, enough))


def width(
    times: Sequence[Sequence[float]], legs: Sequence[int] = (), resamples: int = LOOK
) -> float:
    """The widest interval's half width, as a share of what it is about: the first function's
    median, and the median ratios of its times to each other's."""
    rng = np.random.default_rng(0)
    arrays = [np.asarray(values, dtype=np.float64) for values in times]
    watched = [arrays[0], *(arrays[0] / other for other in arrays[1:])]
    return max(
        half_width(median_interval(in_blocks(values, legs), rng, resamples), np.median(values))
        for values in watched
    )


@dataclass
class _Leg:
    """Rounds under one set of sessions."""

    number: int
    enough: Enough
    clock: Clock
    rows: list[list[float]] = field(default_factory=list)
    warmup: int = 0
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def warm_up(self, rounds: Iterator[list[float]]) -> None:
        """Take rounds until the medians of the last five are those of the five before.

        At most 50, and no longer than a hundredth of the time, which is a tenth of a leg's.
        """
        begun, taken = self.clock(), []
        for row in rounds:
            taken.append(row)
            late = self.clock() - begun > self.enough.max_seconds * 1e9 / LEGS**2
            if late or len(taken) >= MOST_WARM_UP or _is_steady(taken):
                break
        self.warmup, self.seconds = len(taken), (self.clock() - begun) / 1e9

    def run(
        self,
        rounds: Iterator[list[float]],
        legs: int,
        spent: float,
        after_round: Callable[[], object] | None,
    ) -> None:
        """Take this leg's share of what is left after `spent` seconds of other legs."""
        begun, share = self.clock(), (self.enough.max_seconds - spent) / (legs - self.number)
        look: float = FIRST_LOOK
        for row in rounds:
            self.rows.append(row)
            if after_round is not None:
                after_round()
            seconds = (self.clock() - begun) / 1e9
            if self.enough.repeats is not None:
                if len(self) >= _share(self.enough.repeats, legs, self.number):
                    break
            elif len(self) >= FEWEST:
                if self.seconds + seconds > share:
                    break
                if len(self) >= look:
                    look = len(self) * LATER
                    if (
                        width(list(zip(*self.rows, strict=True)))
                        <= self.enough.precision * legs**0.5
                    ):
                        break
        self.seconds += (self.clock() - begun) / 1e9


def _share(repeats: int, legs: int, number: int) -> int:
    """Rounds of one leg, which add up to `repeats`."""
    return repeats // legs + (number < repeats % legs)


def _legs(enough: Enough, first: float) -> int:
    """How many legs, where the first took so many seconds to open and to warm up."""
    affordable = int(min(LEGS, enough.max_seconds / 2 / max(first, 1e-9)))
    if enough.repeats is None:
        return max(2, affordable)
    return max(1, min(affordable, enough.repeats // FIRST_LOOK))


def _is_steady(taken: Sequence[Sequence[float]]) -> bool:
    if len(taken) < 2 * WINDOW:
        return False
    before = np.median(taken[-2 * WINDOW : -WINDOW], axis=0)
    now = np.median(taken[-WINDOW:], axis=0)
    return bool(np.all(np.abs(now - before) <= STEADY * before))


def _why(times: Sequence[Sequence[float]], legs: Sequence[int], enough: Enough) -> str:
    """What ended the sampling, with the widest interval."""
    reached = width(times, legs)
    told = f"widest interval ±{reached:.1%}"
    if enough.repeats is not None:
        return f"{enough.repeats} rounds were asked for; {told}"
    if reached <= enough.precision:
        return f"precise; {told}"
    return f"{enough.max_seconds:g} s were spent; {told} (wanted: ±{enough.precision:.1%})"
