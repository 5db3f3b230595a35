"""Which pins to recommend: the most KL for its cost first, each measured on top of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eqnet.sensitivity.measure import light_calibration
from eqnet.sensitivity.store import Found
from eqnet.sensitivity.taken_out import Reference, measure_whole
from eqnet.spec.progress import Progress
from eqnet.spec.reports import Quality, Remedy
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.explain.candidates import Candidate, pinned_all
from eqnet.stages.explain.costs import Costs, Prices
from eqnet.stages.explain.subject import Subject
from eqnet.supernet.session import Session

MOST = 3
LEAST_GAIN = 0.05
"""Of the subnet's KL: a remedy that gains less is not worth a pin."""
SURE = 2.0
"""Standard errors that a gain must exceed."""
LEAST_COST = 0.02
"""Of the subnet's cost: below it, cheaper remedies are not preferred to better ones."""


class Tried(NamedTuple):
    """A candidate alone on top of the subnet, and its KL image by image."""

    candidate: Candidate
    found: Found


def quality(found: Found, cost: float | None = None) -> Quality:
    """As a report says it."""
    return Quality(kl=found.mean_kl(), agreement=1.0 - found.lost(), cost=cost)


def gains(before: Found, after: Found) -> bool:
    """Whether the KL falls by enough, and by more than chance explains. On the same images."""
    fall = before.kl.astype(np.float64) - after.kl
    error = float(fall.std()) / len(fall) ** 0.5
    least = max(SURE * error, LEAST_GAIN * before.mean_kl())
    return bool(fall.mean() > least)


def try_each(
    session: Session,
    subject: Subject,
    wanted: Sequence[Candidate],
    reference: Reference,
    progress: Progress,
) -> list[Tried]:
    """Measure each candidate alone, on top of the subnet."""
    calibration = light_calibration(session)
    tried = []
    progress.start("remedies, one by one", len(wanted))
    for one in wanted:
        spec = pinned_all(subject, [one]).spec()
        tried.append(Tried(one, measure_whole(session, spec, calibration, reference)))
        progress.advance(candidate=one.name)
    progress.finish()
    return tried


def choose(
    session: Session,
    subject: Subject,
    tried: Sequence[Tried],
    before: Found,
    prices: Prices,
    reference: Reference,
    progress: Progress,
) -> tuple[list[Candidate], list[Found]]:
    """Up to three candidates, best first, and the KL with each on top of those before it.

    before: of the subnet, on the images that `tried` was measured on. Each one that is taken must
    gain again on top of the others, measured whole on all images of `reference`.
    """
    calibration = light_calibration(session)
    worth = [one for one in tried if gains(before, one.found)]
    worth.sort(key=lambda one: -_merit(one, before, prices))
    chosen: list[Candidate] = []
    steps = [measure_whole(session, subject.spec(), calibration, reference)]
    progress.start("remedies", min(MOST, len(worth)))
    for one in worth:
        if len(chosen) == MOST:
            break
        if set(one.candidate.layers) <= {name for taken in chosen for name in taken.layers}:
            continue
        pinned = pinned_all(subject, [*chosen, one.candidate])
        if not pinned.allowed():
            continue
        after = measure_whole(session, pinned.spec(), calibration, reference)
        progress.advance(candidate=one.candidate.name)
        if not gains(steps[-1], after):
            break
        chosen.append(one.candidate)
        steps.append(after)
    progress.finish()
    return chosen, steps


def _merit(one: Tried, before: Found, prices: Prices) -> float:
    """KL gained for the share of the cost that is added."""
    gain = before.mean_kl() - one.found.mean_kl()
    added = prices.added(one.candidate)
    if added is None or not prices.base:
        return gain
    return gain / max(LEAST_COST, added / prices.base)


def as_remedies(
    subject: Subject, chosen: Sequence[Candidate], steps: Sequence[Found], costs: Costs
) -> tuple[Remedy, ...]:
    """What is reported, with all costs timed in turns."""
    if not chosen:
        return ()
    subjects = [pinned_all(subject, chosen[:count]) for count in range(len(chosen) + 1)]
    specs: list[SubnetSpec] = [one.spec() for one in subjects]
    measured = [quality(found, cost) for found, cost in zip(steps, costs.of(specs), strict=True)]
    remedies = []
    for index, one in enumerate(chosen):
        remedies.append(
            Remedy(
                name=one.name,
                layers=one.layers,
                bits=one.bits,
                before=measured[index],
                after=measured[index + 1],
            )
        )
    return tuple(remedies)
