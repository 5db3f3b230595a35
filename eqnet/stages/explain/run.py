"""`eqnet explain`: what quantization costs and saves, place by place, and what to pin."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from eqnet.backend.discovery import exporter_of
from eqnet.backend.refusals import accepted_refusals
from eqnet.sensitivity.measure import Alone, light_calibration, place_images, ranked
from eqnet.sensitivity.places import Place, groups_in, places_of
from eqnet.sensitivity.store import Found
from eqnet.sensitivity.taken_out import Reference, measure_whole
from eqnet.spec.errors import UsageError
from eqnet.spec.hardware.load import load_profile, profiles_dir
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.reports import ExplainReport
from eqnet.stages.explain.apply import apply_pins, check_target
from eqnet.stages.explain.candidates import Candidate, candidates, of_group
from eqnet.stages.explain.costs import Costs, Prices, price
from eqnet.stages.explain.remedies import as_remedies, choose, quality, try_each
from eqnet.stages.explain.subject import Subject
from eqnet.stages.explain.told import told_group, told_place, told_suspects
from eqnet.supernet.session import Session, open_session

IMAGES = 128
TRIED = 32
"""Images that each remedy is tried on alone; the ones that are taken are measured on all."""
TOP = 12
TIMED = 6
"""Worst places whose layers are timed in float, and tried as remedies."""


def explain(
    *,
    profile: str,
    supernet: Path | None = None,
    subnet: Path | None = None,
    data: Path | None = None,
    images: int = IMAGES,
    top: int = TOP,
    latency: bool = True,
    apply: Path | None = None,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> ExplainReport:
    """Rank what quantizing each layer, tensor and op group of a network costs under a profile.

    subnet: a file of `eqnet search`, or None for the profile's default subnet. images: unlabelled
    ones that the worst `top` places and the remedies are measured on. latency: whether costs are
    told, timed in the profile's runtime where its cost model is measured. apply: a profile to
    write with the remedies' pins, which are then measured anew on other images. Nothing is random.
    What was measured of places is kept in the supernet's folder.
    Raises UsageError for a wrong path or count, ProfileError for a profile that its target
    refuses, CheckpointError for a subnet of another supernet.
    """
    started = time.perf_counter()
    if images < 2 or top < 1:
        raise UsageError(f"images {images}, top {top} (allowed: 2 or more images, top 1 or more)")
    if apply is not None:
        check_target(profile, apply)
    rules, progress = load_profile(profile), progress or Silent()
    accepted_refusals(exporter_of(rules), rules)
    session = open_session(supernet, data, allow_code=allow_code)
    subject = Subject.of(session, rules, subnet)
    spec, info = subject.spec(), session.supernet.info
    reference = Reference.of(session, session.batches(session.dataset.validation(), images))
    found, groups = _sensitivities(session, subject, reference, top, progress)
    wanted = candidates(subject, spec, found, TIMED)
    costs = Costs(session, rules, _folder(profile), latency, progress)
    grouped = [of_group(info, spec, place.name) for place in groups]
    prices = price(costs, subject, [*wanted, *(one for one in grouped if one.layers)])
    chosen, steps = _remedies(session, subject, wanted, prices, reference, progress)
    remedies = as_remedies(subject, chosen, steps, costs)
    applied = None
    if apply is not None and chosen:
        applied = apply_pins(profile, apply, session, subject, chosen, remedies, costs)
    return ExplainReport(
        profile=rules.name,
        supernet=session.label,
        subnet=spec.sha256(),
        images=len(reference.images),
        unit=costs.unit,
        whole=quality(steps[0], prices.base),
        places=tuple(told_place(info, spec, one, found[one], prices) for one in ranked(found)),
        groups=tuple(told_group(info, spec, one, groups[one], prices) for one in ranked(groups)),
        suspects=told_suspects(session, spec),
        remedies=remedies,
        no_cost=costs.reason,
        applied=applied,
        seconds=time.perf_counter() - started,
    )


def _folder(profile: str) -> Path:
    path = Path(profile)
    return path.parent if path.suffix in (".yaml", ".yml") else profiles_dir()


def _sensitivities(
    session: Session, subject: Subject, reference: Reference, top: int, progress: Progress
) -> tuple[dict[Place, Found], dict[Place, Found]]:
    """KL of each place and of each op group alone: all on few images, the worst on all."""
    spec, info = subject.spec(), session.supernet.info
    alone = Alone(session, spec, reference.images)
    few = place_images(session)
    found = alone.measure(places_of(info, spec), few, progress)
    worst = ranked(found)[:top]
    found |= alone.measure(worst, len(reference.images), progress)
    return found, alone.measure(groups_in(info, spec), few, progress)


def _remedies(
    session: Session,
    subject: Subject,
    wanted: Sequence[Candidate],
    prices: Prices,
    reference: Reference,
    progress: Progress,
) -> tuple[list[Candidate], list[Found]]:
    few = reference.first(TRIED)
    calibration = light_calibration(session)
    before = measure_whole(session, subject.spec(), calibration, few)
    tried = try_each(session, subject, wanted, few, progress)
    return choose(session, subject, tried, before, prices, reference, progress)
