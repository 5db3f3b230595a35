"""How long a search would take: counted from its space, timed by one pass of the network."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from eqnet.backend.discovery import find_exporter
from eqnet.latency.measure import HELD_OUT, SUBNETS
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.stages.search.cqap import CQAP_FILE
from eqnet.stages.search.measured import IMAGES
from eqnet.stages.search.reachable import EXHAUSTIVE
from eqnet.stages.search.search import FINALISTS, MEASURED_SPACE, QUICK_IMAGES, QUICK_SUBNETS
from eqnet.stages.search.space import Space
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
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
    graphs = 0
    if profile.cost.model == "measured":  # all, or those that a latency model is fitted to
        graphs = space.size() if space.size() <= EXHAUSTIVE else SUBNETS + HELD_OUT
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
        started = time.perf_counter()
        reference = to_onnx(extract(session.supernet, spec), session.header.input_shape)
        find_exporter(profile.backend).lower(reference, profile)
        seconds += work.graphs * (time.perf_counter() - started)
    return seconds


def _seconds_per_image(session: Session) -> float:
    """Of the subnet in force, in a batch, after one untimed pass."""
    shape = session.header.input_shape
    images = torch.zeros((TIMED_IMAGES, *shape), device=session.device)
    with torch.no_grad():
        session.supernet.graph(images)
        started = time.perf_counter()
        session.supernet.graph(images)
    return (time.perf_counter() - started) / TIMED_IMAGES
