"""How long a search would take: counted from its space, timed by one pass of the network."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from eqnet.backend.discovery import find_exporter
from eqnet.latency.measure import HELD_OUT, SUBNETS
from eqnet.sensitivity.measure import CORRECTION_IMAGES, place_images
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.accuracy.cqap import CQAP_FILE
from eqnet.stages.search.accuracy.points import point_images
from eqnet.stages.search.accuracy.sensitive import FITTED, places_to_measure
from eqnet.stages.search.fronts.choosing import FINALISTS
from eqnet.stages.search.search import MEASURED_SPACE, REFINE
from eqnet.stages.search.space import EXHAUSTIVE, Space
from eqnet.subnets.target import Target
from eqnet.supernet.graphs import Graphs
from eqnet.supernet.session import Session

TIMED_IMAGES = 8
# The generations of a genetic search.
GENETIC_SECONDS = 5.0
# What a place alone takes on average, as a part of a whole pass: it runs what is behind it.
PART_OF_A_PASS = 0.25


class Work(NamedTuple):
    """What a search has to do. images: passes of one image through whole subnets, all in all.

    graphs: subnets that are built and timed in the runtime. places: that are measured alone, each
    on `place_images` images.
    """

    images: int
    graphs: int
    places: int = 0
    place_images: int = 0


def work_of(session: Session, profile: HardwareProfile) -> Work:
    """What a search of `profile` in the session takes. Raises ProfileError for its pins."""
    target = Target.of(session.supernet.info, profile)
    space = Space.of(target, session.identity)
    settled, validation = len(session.calibration()), len(session.dataset.validation())
    finalists = min(FINALISTS, space.size()) * (settled + validation)
    if session.header.method == "post_training":
        settled = min(settled, CORRECTION_IMAGES)
    point = settled + min(validation, point_images(session))
    graphs = 0
    if profile.cost.model == "measured":  # all, or those that a latency model is fitted to
        graphs = space.size() if space.size() <= EXHAUSTIVE else SUBNETS + HELD_OUT
    if (session.folder / CQAP_FILE).is_file():
        return Work(finalists + REFINE * point, graphs)
    if space.size() <= MEASURED_SPACE:
        return Work(finalists + space.size() * point, graphs)
    specs = [target.uniform(pair) for pair in profile.bits]
    places = len(places_to_measure(session.supernet.info, specs))
    alone = CORRECTION_IMAGES + place_images(session)
    return Work(finalists + (FITTED + REFINE) * point, graphs, places, alone)


def expected_seconds(session: Session, profile: HardwareProfile, patience: float) -> float:
    """Seconds that a search of `profile` would take here, by one timed pass of its default subnet.

    Graphs are timed only where the passes alone are within `patience` seconds, else left out:
    what is returned is then too little, and above `patience`. Raises what `Target.default` does.
    """
    work = work_of(session, profile)
    spec = Target.of(session.supernet.info, profile).default(session.identity)
    session.supernet.apply(spec)
    images = work.images + PART_OF_A_PASS * work.places * work.place_images
    seconds = images * _seconds_per_image(session)
    if work.places:
        seconds += GENETIC_SECONDS
    if work.graphs and seconds <= patience:
        graphs = Graphs(session.supernet)
        first, other = (_seconds_of_graph(graphs, spec, profile) for _ in range(2))
        seconds += first + (work.graphs - 1) * other
    return seconds


def _seconds_of_graph(graphs: Graphs, spec: SubnetSpec, profile: HardwareProfile) -> float:
    started = time.perf_counter()
    find_exporter(profile.backend).lower(graphs.of(spec), profile)
    return time.perf_counter() - started


def _seconds_per_image(session: Session) -> float:
    """Of the subnet in force, in a batch, after one untimed pass."""
    shape = session.header.input_shape
    images = torch.zeros((TIMED_IMAGES, *shape), device=session.device)
    with torch.no_grad():
        session.supernet.graph(images)
        started = time.perf_counter()
        session.supernet.graph(images)
    return (time.perf_counter() - started) / TIMED_IMAGES
