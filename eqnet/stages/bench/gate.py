"""Whether an artifact became slower: a threshold, two tests of chance and a second look.

On a shared machine identical code differs by 10-30% between two moments, by some per cent
between two sessions, and what disturbs it lasts longer than a call. So the two are measured side
by side (or their ratios to the float model, where the baseline is a report of another day). A
look finds a regression when the median ratio is beyond a threshold, and neither a bootstrap over
sessions and blocks nor a rank test says that it is chance. The first look asks, at half of the
threshold and 30% chance; the second, with new sessions and twice the time, decides, at the whole
threshold and 2.5%: together less than 1 in 100 for equals, even without a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.machine.blocks import by_leg, drawn_medians, in_blocks, interval_of
from eqnet.spec.reports import BenchReport, Growth
from eqnet.stages.bench.measure import OURS, THEIRS, Setup, Timed


class Look(NamedTuple):
    """When a measurement finds a regression: beyond which share of the threshold, and how often
    by chance, at most, each test may do so for equals."""

    share: float
    chance: float


FIRST, SECOND = Look(0.5, 0.30), Look(1.0, 0.025)
LONGER = 2
"""Times the first look's time or rounds, for the second, which only suspects need."""
FEWEST = 3
"""Pairs of a stratum of the rank test."""
Samples = NDArray[np.floating[Any]]


class Judgement(NamedTuple):
    """Whether it is slower, in what words, and by which two measurements."""

    slower: bool
    note: str
    first: Growth
    confirming: Growth | None


def judge(first: Growth, again: Callable[[], Growth], max_regression: float) -> Judgement:
    """Take a second measurement if the first looks like a regression; an alarm needs both."""
    allowed = f"(allowed: +{max_regression:.1%})"
    if not is_slower(first, max_regression, FIRST):
        note = f"within the baseline: {_told(first)} {allowed}"
        return Judgement(False, note, first, None)
    second = again()
    if not is_slower(second, max_regression, SECOND):
        note = (
            f"a first look may be slower, {_told(first)}; a second one did not confirm it, "
            f"{_told(second)} {allowed}"
        )
        return Judgement(False, note, first, second)
    note = f"slower than the baseline: {_told(first)}, confirmed by {_told(second)} {allowed}"
    return Judgement(True, note, first, second)


def is_slower(growth: Growth, max_regression: float, look: Look) -> bool:
    """Whether one measurement finds a regression."""
    beyond = growth.ratio > 1 + look.share * max_regression
    return beyond and growth.chance <= look.chance and growth.p_value <= look.chance


def for_second_look(setup: Setup) -> Setup:
    """The settings of the measurement that decides."""
    rules = setup.rules
    changes = {
        "repeats": None if rules.repeats is None else LONGER * rules.repeats,
        "precision": rules.precision / math.sqrt(LONGER),
        "max_seconds": LONGER * rules.max_seconds,
    }
    return setup._replace(rules=rules.model_copy(update=changes))


def _told(growth: Growth) -> str:
    low, high = growth.interval
    return (
        f"{growth.ratio - 1:+.1%} (95%: {low - 1:+.1%} to {high - 1:+.1%}; p = "
        f"{growth.p_value:.1g})"
    )


def growth_side_by_side(timed: Timed, rng: np.random.Generator) -> Growth:
    """Of an artifact over another one that ran in turns with it.

    The interval is of the median of the rounds' ratios. The rank test is Mann and Whitney's
    within stretches of a few rounds, combined as van Elteren does: what lasts longer, as a load
    beside it or a session's luck, weighs on both and is no noise.
    """
    legs = timed.sampling.legs
    a, b = (np.asarray(timed.times[name], dtype=np.float64) for name in (OURS, THEIRS))
    drawn = drawn_medians(in_blocks(a / b, legs), rng)
    return Growth(
        ratio=float(np.median(a / b)),
        interval=interval_of(drawn),
        chance=float(np.mean(drawn <= 1)),
        p_value=greater_by_chance(_strata(a, legs), _strata(b, legs)),
        sampling=timed.sampling,
    )


def _strata(values: Samples, legs: Sequence[int]) -> list[Samples]:
    """Stretches of a leg, of a few values each."""
    strata: list[Samples] = []
    for leg in by_leg(values, legs):
        strata += np.array_split(leg, max(1, leg.size // FEWEST))
    return strata


def growth_over_report(now: BenchReport, before: BenchReport, rng: np.random.Generator) -> Growth:
    """Of an artifact's ratio to the float model over that of an earlier report.

    Blocks are what is drawn and, by their medians, what is ranked: the samples of one moment are
    no witnesses of their own.
    """
    precision = before.float_precision
    sides = [in_blocks(_ratios(report, precision), _legs(report)) for report in (now, before)]
    ours, theirs = sides
    middles = [float(np.median(np.concatenate(_flat(blocks)))) for blocks in sides]
    ranked = [np.array([float(np.median(block)) for block in _flat(blocks)]) for blocks in sides]
    drawn = drawn_medians(ours, rng) / drawn_medians(theirs, rng)
    return Growth(
        ratio=middles[0] / middles[1],
        interval=interval_of(drawn),
        chance=float(np.mean(drawn <= 1)),
        p_value=greater_by_chance([ranked[0]], [ranked[1]]),
    )


def _ratios(report: BenchReport, precision: str) -> Samples:
    floats = report.float_samples(precision)
    assert report.quantized is not None
    assert floats is not None, "as `bench` made sure of"
    quantized = np.asarray(report.quantized.samples, dtype=np.float64)
    ratios: Samples = quantized / np.asarray(floats, dtype=np.float64)
    return ratios


def _legs(report: BenchReport) -> tuple[int, ...]:
    return () if report.sampling is None else report.sampling.legs


def _flat(blocks: Sequence[Sequence[Samples]]) -> list[Samples]:
    return [block for leg in blocks for block in leg]


def greater_by_chance(a: Sequence[Samples], b: Sequence[Samples]) -> float:
    """One-sided p-value of the Mann-Whitney U test that `a` tends to be greater than `b`.

    a, b: samples by stratum, which are ranked within each alone and weighted by van Elteren
    (1960); one stratum is the plain test. Normal approximation with correction for ties and
    continuity (Hollander & Wolfe, 4.1); good from 5 samples each, which is what a bench takes at
    least.
    """
    total = variance = 0.0
    steps = []
    for left, right in zip(a, b, strict=True):
        weight = 1 / (left.size + right.size + 1)
        excess, spread = _rank_sum(left, right)
        total += weight * excess
        variance += weight**2 * spread
        steps.append(weight)
    if variance <= 0:
        return 1.0
    z = (total - 0.5 * min(steps)) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))


def _rank_sum(a: Samples, b: Samples) -> tuple[float, float]:
    """U of `a` less what chance expects, and U's variance."""
    pooled = np.concatenate([a, b])
    _, inverse, counts = np.unique(pooled, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    u = float(ranks[: a.size].sum()) - a.size * (a.size + 1) / 2
    size = pooled.size
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = a.size * b.size / 12 * (size + 1 - ties / (size * (size - 1)))
    return u - a.size * b.size / 2, variance
