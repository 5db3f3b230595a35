"""`compare`: size, int8 layers, latency and agreement of several models, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eqnet.backend.discovery import exporter_names
from eqnet.backend.machine.host import describe_host
from eqnet.spec.errors import UsageError, unknown
from eqnet.spec.hardware.limits import BATCH, REPEATS, THREADS
from eqnet.spec.outside.side_by_side import ComparedModel, CompareReport
from eqnet.spec.progress import Progress, Silent
from eqnet.stages.compare.candidates import Candidate, names_of, open_candidate
from eqnet.stages.compare.quality import Quality, common_images, qualities
from eqnet.stages.compare.speed import Speed, speeds

MOST_MODELS = 16


def compare(
    models: Sequence[Path],
    *,
    backend: str = "onnxruntime",
    data: Path | None = None,
    batch: int = 1,
    threads: int = 1,
    repeats: int = 50,
    seed: int = 0,
    progress: Progress | None = None,
) -> CompareReport:
    """Compare artifacts of eqnet and anybody's ONNX files.

    models: two or more; latency is told against the first. An artifact runs in its own backend
    and precision, other files in `backend`, in float32 where they are not quantized. data: a
    folder of images, labelled or not, of which at most 1000 test images are taken; without it
    the images that the first artifact holds. Files that are no artifacts get them as that
    artifact's manifest says, or as is usual for ImageNet. Agreement is with the float model whose
    logits the artifact holds, else with the first float file, else with the first model.

    What cannot be known is None, and the model's `reasons` say why. Raises UsageError for
    settings outside their range, ArtifactError for a file that is no model, and DataError for
    `data` that cannot be read.
    """
    _check(models, backend, batch, threads, repeats)
    listener = progress or Silent()
    candidates = []
    listener.start("reading", len(models))
    for path, name in zip(models, names_of(models), strict=True):
        candidates.append(open_candidate(path, name, backend, threads))
        listener.advance()
    listener.finish()
    images = common_images(candidates, data)
    answers, reference = qualities(candidates, images, seed)
    times = speeds(
        candidates,
        batch=batch,
        repeats=repeats,
        pixels=None if images is None else images.pixels,
        seed=seed,
        progress=listener,
    )
    rows = zip(candidates, answers, times, strict=True)
    return CompareReport(
        models=tuple(_model(*row) for row in rows),
        reference=reference,
        images=0 if images is None or reference is None else len(images.pixels),
        source=None if images is None or reference is None else images.source,
        batch=batch,
        threads=threads,
        repeats=repeats,
        host=describe_host(),
    )


def _check(models: Sequence[Path], backend: str, batch: int, threads: int, repeats: int) -> None:
    if not 2 <= len(models) <= MOST_MODELS:
        raise UsageError(f"{len(models)} models (allowed: 2 to {MOST_MODELS})")
    if backend not in exporter_names():
        raise UsageError(unknown("backend", backend, exporter_names()))
    for name, value, (low, high) in (
        ("batch", batch, BATCH),
        ("threads", threads, THREADS),
        ("repeats", repeats, REPEATS),
    ):
        if not low <= value <= high:
            raise UsageError(f"{name} {value} (allowed: {low} to {high})")


def _model(candidate: Candidate, quality: Quality, speed: Speed | None) -> ComparedModel:
    found = candidate.report.model
    latency, ratio, interval = speed or (None, None, None)
    return ComparedModel(
        name=candidate.name,
        path=str(candidate.path),
        profile=candidate.report.profile,
        runtime=candidate.runtime,
        bytes=found.bytes,
        forms=found.forms,
        int8=candidate.int8(),
        latency=latency,
        ratio=ratio,
        ratio_interval=interval,
        against_reference=quality.comparison,
        agreement_interval=quality.interval,
        accuracy=quality.accuracy,
        reasons=tuple(candidate.reasons),
    )
