"""Which subnet of a front is taken, by what the user asked for, after some are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from eqnet.spec.errors import InfeasibleError, UsageError
from eqnet.spec.reports import PICKS
from eqnet.stages.search.fronts.front import Winner, pick, require_number, spread
from eqnet.stages.search.scoring import Candidate

FINALISTS = 4
PICKED_FROM = 8
"""So many points of a front are measured for a pick by name."""
ACCURACY_SLACK = 0.005

Measure = Callable[[Sequence[Candidate]], list[Winner]]
_Accurate = TypeVar("_Accurate", Candidate, Winner)


@dataclass(frozen=True)
class Rule:
    """What is wanted of a front: at most one of these; with none, what `take` says.

    min_accuracy, min_agreement: the cheapest subnet that has it on validation images, shares in
    [0, 1]. pick: a name of PICKS, or a point's number.
    """

    min_accuracy: float | None = None
    min_agreement: float | None = None
    pick: str | int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("min_accuracy", "min_agreement", "pick") if self._has(name)]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)}: each chooses (allowed: one of them)")
        for name in ("min_accuracy", "min_agreement"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"{name}: found {value:g} (allowed: above 0, up to 1)")
        if isinstance(self.pick, str) and self.pick not in PICKS:
            raise UsageError(
                f"pick: found '{self.pick}' (allowed: {', '.join(PICKS)}, or a number)"
            )

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None


class Choice(NamedTuple):
    """What was taken, and by which rule, in words."""

    winner: Winner
    rule: str


def take(
    rule: Rule,
    front: Sequence[Candidate],
    baseline: Sequence[Candidate],
    measure: Measure,
    *,
    budgeted: bool,
) -> Choice:
    """Measure some of a front, which is sorted by cost, and take one.

    Without a rule: with budgets the one nearest to float; without, the cheapest of nearly the
    accuracy of the best. baseline: then, of a search with budgets, candidates to beat.
    Raises InfeasibleError where nothing measured has what is demanded, UsageError for a number
    that is not on the front.
    """
    if rule.min_accuracy is not None:
        wanted = f"min_accuracy={100 * rule.min_accuracy:g}%"
        floor, start = rule.min_accuracy, _first(front, rule.min_accuracy)
        return _cheapest(front, measure, lambda one: one.accuracy, floor, start, wanted)
    if rule.min_agreement is not None:
        wanted = f"min_float_agreement={rule.min_agreement:g}"
        middle = len(front) // 2
        return _cheapest(front, measure, _agreement, rule.min_agreement, middle, wanted)
    if isinstance(rule.pick, int):
        number = require_number(rule.pick, len(front))
        return Choice(measure([front[number]])[0], f"point {number} of the front")
    if rule.pick is not None:
        found = measure(spread(front, PICKED_FROM))
        costs = [one.candidate.cost for one in found]
        place = pick(rule.pick, costs, [one.accuracy for one in found])
        return Choice(found[place], f"{rule.pick} of {len(found)} measured points")
    if budgeted:
        return _most_accurate_of(front, baseline, measure)
    return _cheap_and_close(front, measure)


def _first(front: Sequence[Candidate], floor: float) -> int:
    """The place of the cheapest with the predicted accuracy, or of the most accurate."""
    for place, candidate in enumerate(front):
        if candidate.accuracy >= floor:
            return place
    return max(range(len(front)), key=lambda place: front[place].accuracy)


def _agreement(winner: Winner) -> float:
    return winner.measured.float_agreement or 0.0


def _cheapest(
    front: Sequence[Candidate],
    measure: Measure,
    of: Callable[[Winner], float],
    floor: float,
    start: int,
    wanted: str,
) -> Choice:
    """Measure along the front, from `start` on, until one holds whose cheaper neighbour does not.

    Steps double on the way up and are halved between what fails and what holds, so that of a
    front of N about 2 log2 N are measured. Where the costly end fails too, the others of the
    costlier part, a few at least, are tried one by one before giving up.
    """
    found: dict[int, Winner] = {}

    def holds(place: int) -> bool:
        if place not in found:
            found[place] = measure([front[place]])[0]
        return of(found[place]) >= floor

    low, high, step = -1, start, 1
    while not holds(high) and high < len(front) - 1:
        low, high, step = high, min(high + step, len(front) - 1), 2 * step
    if not holds(high):
        least = min(start + 1, max(len(front) - FINALISTS, 0))
        others = (place for place in range(len(front) - 1, least - 1, -1) if holds(place))
        high = next(others, -1)
        if high < 0:
            raise _nothing(list(found.values()), of, wanted)
        low = high - 1
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return Choice(found[high], f"the cheapest found with {wanted}")


def _nothing(
    found: Sequence[Winner], of: Callable[[Winner], float], wanted: str
) -> InfeasibleError:
    nearest = max(found, key=of)
    reached = f"{of(nearest):.4g}"
    if wanted.endswith("%"):
        reached = f"{100 * of(nearest):.4g}%"
    return InfeasibleError(
        f"{wanted}: none of {len(found)} measured subnets of the front has it (nearest: {reached} "
        f"at a cost of {nearest.candidate.cost:.4g})"
    )


def _most_accurate_of(
    front: Sequence[Candidate], baseline: Sequence[Candidate], measure: Measure
) -> Choice:
    """By KL, which the same images tell better: accuracies of finalists differ by chance alone."""
    accurate = most_accurate(front, FINALISTS)
    finalists = {candidate.genome: candidate for candidate in [*accurate, *baseline]}
    found = measure(list(finalists.values()))
    best = min(found, key=lambda one: (one.kl, one.candidate.cost))
    return Choice(best, f"the nearest to float (KL) of {len(found)} measured within the budgets")


def _cheap_and_close(front: Sequence[Candidate], measure: Measure) -> Choice:
    close = _near_the_best(front, 2 * ACCURACY_SLACK)
    if len(close) > FINALISTS:  # the cheapest, and the one that they are compared with
        best = max(close, key=lambda one: one.accuracy)
        close = [*[one for one in close if one is not best][: FINALISTS - 1], best]
    found = measure(close)
    near = _near_the_best(found, ACCURACY_SLACK)
    cheapest = min(near, key=lambda one: one.candidate.cost)
    points = 100 * ACCURACY_SLACK
    told = f"the cheapest within {points:g} points of the best of {len(found)} measured"
    return Choice(cheapest, told)


def most_accurate(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """At most so many candidates, by predicted accuracy."""
    return sorted(candidates, key=lambda candidate: -candidate.accuracy)[:most]


def _near_the_best(subnets: Sequence[_Accurate], slack: float) -> list[_Accurate]:
    """Those whose accuracy is at most `slack` below the best."""
    best = max(subnet.accuracy for subnet in subnets)
    return [subnet for subnet in subnets if subnet.accuracy >= best - slack]
