"""Latency of every model that runs here, all in turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.machine.isa import foreign_isa
from eqnet.backend.machine.timing import in_turns, paired_ratio, summarize_samples
from eqnet.backend.preprocess import preprocess
from eqnet.backend.protocol import Array, cpu_of, host_limit
from eqnet.spec.errors import EqnetError
from eqnet.spec.progress import Progress
from eqnet.spec.reports import Latency
from eqnet.stages.compare.candidates import Candidate

WARMUP = 5
Speed = tuple[Latency, float | None, tuple[float, float] | None]


def speeds(
    candidates: Sequence[Candidate],
    *,
    batch: int,
    repeats: int,
    pixels: NDArray[np.uint8] | None,
    seed: int,
    progress: Progress,
) -> list[Speed | None]:
    """Latency, and the ratio to the first candidate's with its interval; None where not known.

    pixels: images to call them with, uint8 [N, C, H, W]; noise where they do not fit.
    """
    rng = np.random.default_rng(seed)
    calls = [_call_of(one, batch, pixels, rng) for one in candidates]
    timed = [call for call in calls if call is not None]
    if not timed:
        return [None] * len(candidates)
    progress.start("latency", repeats)
    samples = iter(in_turns(timed, repeats, WARMUP, after_round=progress.advance))
    progress.finish()
    taken = [None if call is None else next(samples) for call in calls]
    base = taken[0]
    found: list[Speed | None] = []
    for index, times in enumerate(taken):
        if times is None:
            found.append(None)
            continue
        ratio = interval = None
        if base is not None and index > 0:
            ratio, interval = paired_ratio(times, base, rng)
        found.append((summarize_samples(times, batch), ratio, interval))
    return found


def _call_of(
    candidate: Candidate,
    batch: int,
    pixels: NDArray[np.uint8] | None,
    rng: np.random.Generator,
) -> partial[Array] | None:
    """A call of the model that was tried once; None, with a reason, where there is none."""
    if candidate.runner is None:
        return None
    reason = _untimed(candidate, batch)
    shape = candidate.image_shape()
    if reason is None and shape is not None:
        inputs = rng.standard_normal((batch, *shape)).astype(np.float32)
        if candidate.manifest is not None and pixels is not None and pixels.shape[1:] == shape:
            chosen = rng.choice(len(pixels), size=batch, replace=batch > len(pixels))
            inputs = preprocess(pixels[chosen], candidate.manifest.preprocessing)
        try:
            candidate.call(inputs)
            candidate.reasons.extend(_not_the_targets(candidate))
            return partial(candidate.runner, inputs)
        except EqnetError as error:
            reason = str(error)
    candidate.reasons.append(f"no latency: {reason}")
    return None


def _not_the_targets(candidate: Candidate) -> Iterator[str]:
    """Why an artifact's latency here is not that on its target."""
    if candidate.manifest is None:
        return
    exporter, profile = candidate.exporter, candidate.manifest.profile
    limit = host_limit(exporter, profile)
    other = limit.reason if limit else cpu_of(exporter).other_kernels(profile.isa)
    if other:
        yield f"not the target's latency: {other}"


def _untimed(candidate: Candidate, batch: int) -> str | None:
    """Why a model is not timed; None where it can be tried."""
    if candidate.image_shape() is None:
        return "its input is not one float32 tensor of known sizes"
    own = candidate.own_batch()
    if own not in (None, batch):
        return f"it takes batches of {own} alone (asked: {batch})"
    manifest = candidate.manifest
    return foreign_isa(manifest.profile.isa) if manifest else None
