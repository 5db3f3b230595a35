"""How long a search would take: counted from its space, timed by one pass of the network."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from eqnet.backend.discovery import find_exporter
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.cqap import CQAP_FILE
from eqnet.stages.search.fronts.choosing import FINALISTS
from eqnet.stages.search.measured import IMAGES
from eqnet.stages.search.search import MEASURED_SPACE, QUICK_IMAGES, QUICK_SUBNETS
from eqnet.stages.search.space import Space
from eqnet.subnets.target import Target
from eqnet.supernet.graphs import Graphs
from eqnet.supernet.session import Session

TIMED_IMAGES = 8
# Fitting a predictor to its labels, and the generations of a genetic search.
PREDICTOR_SECONDS = 30.0


class Work(NamedTuple):
    """What a search has to do. subnets: that are measured, each on `images` images in PyTorch.

    graphs: subnets that are built and timed in the runtime. predictor: whether one is fitted.
    """

    subnets: int
    images: int
    graphs: int
    predictor: bool


def work_of(session: Session, profile: HardwareProfile) -> Work:
    """What a search of `profile` in the session takes. Raises ProfileError for its pins."""
    space = Space.of(Target.of(session.supernet.info, profile), session.identity)
    validation = len(session.dataset.validation())
    has_predictor = (session.folder / CQAP_FILE).is_file()
    fits = not has_predictor and space.size() > MEASURED_SPACE
    subnets, limit = space.size(), IMAGES
    if has_predictor:
        subnets = 0
    elif fits:
        subnets, limit = QUICK_SUBNETS, QUICK_IMAGES
    images = len(session.calibration()) + min(validation, limit)
    graphs = space.size() if profile.cost.model == "measured" else 0
    return Work(subnets + min(FINALISTS, space.size()), images, graphs, fits)


def expected_seconds(session: Session, profile: HardwareProfile, patience: float) -> float:
    """Seconds that a search of `profile` would take here, by one timed pass of its default subnet.

    Graphs are timed only where the passes alone are within `patience` seconds, else left out:
    what is returned is then too little, and above `patience`. Raises what `Target.default` does.
    """
    work = work_of(session, profile)
    spec = Target.of(session.supernet.info, profile).default(session.identity)
    session.supernet.apply(spec)
    seconds = work.subnets * work.images * _seconds_per_image(session)
    if work.predictor:
        seconds += PREDICTOR_SECONDS
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
