"""`bench`: measure an artifact, and hold it against a baseline of the same machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from eqnet.backend.artifact import check_files, read_manifest
from eqnet.backend.discovery import find_exporter
from eqnet.backend.disk.replaced import read_as_one
from eqnet.backend.machine.host import describe_host
from eqnet.backend.machine.isa import foreign_isa
from eqnet.backend.machine.timing import paired_ratio, summarize_samples
from eqnet.backend.protocol import HostLimit, cpu_of, host_limit
from eqnet.spec.errors import UsageError, VerificationError
from eqnet.spec.hardware.limits import BATCH, REPEATS, THREADS
from eqnet.spec.hardware.profile import BenchRules
from eqnet.spec.manifest import MANIFEST, Manifest
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.reports import BenchReport
from eqnet.stages.bench.gate import gate, read_baseline
from eqnet.stages.bench.measure import Setup, deployed_agreement, float_precision, time_pairs


def bench(
    artifact: Path,
    *,
    baseline: Path | None = None,
    max_regression: float = 0.05,
    repeats: int | None = None,
    batch: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchReport:
    """Time an artifact's model and its float twin in turns, in the runtime it was made for.

    repeats, batch, threads: default to the profile's. max_regression: fraction by which the
    ratio to float may grow over `baseline`, a bench.json of this machine.

    Returns a report whose verdict is "skipped" where the runtime cannot execute here or the
    profile is of another processor architecture, "failed"
    where the artifact is slower than the baseline allows (the command line turns that into a
    RegressionError after writing the report), and "passed" otherwise; `reason` says why. Raises
    ArtifactError for a damaged folder, UsageError for settings outside their range or a
    baseline of something else (`read_baseline`), and VerificationError where this CPU computes
    the artifact otherwise than its target and the classes differ: wrong results have no latency.
    Where another process replaces the artifact meanwhile, the new one is timed.
    """
    if max_regression < 0:
        raise UsageError(f"max_regression {max_regression} (allowed: 0 or more)")
    settings = partial(_rules, repeats=repeats, batch=batch, threads=threads)
    run = partial(_bench, artifact, baseline, max_regression, settings, seed, progress)
    return read_as_one(artifact / MANIFEST, run)


def _bench(
    artifact: Path,
    baseline: Path | None,
    max_regression: float,
    settings: Callable[[BenchRules], BenchRules],
    seed: int,
    progress: Progress | None,
) -> BenchReport:
    manifest = read_manifest(artifact)
    check_files(artifact, manifest)
    rules = settings(manifest.profile.bench)
    host = describe_host()
    before = None
    if baseline is not None:
        before = read_baseline(baseline, manifest, rules, host)
    exporter = find_exporter(manifest.backend)
    reason = exporter.unavailable(manifest.profile) or foreign_isa(manifest.profile.isa)
    if reason is not None:
        return _empty(artifact, manifest, rules, host).model_copy(update={"reason": reason})
    setup = Setup(artifact, manifest, exporter, rules, progress or Silent())
    _require_right(setup, host_limit(exporter, manifest.profile))
    rng = np.random.default_rng(seed)
    report = _measured(artifact, setup, host, rng)
    if before is None:
        return report
    return gate(report, before, max_regression, lambda: _measured(artifact, setup, host, rng))


def _require_right(setup: Setup, limit: HostLimit | None) -> None:
    """Raise VerificationError where this CPU gives other classes than PyTorch."""
    if limit is None or limit.exact:
        return
    share, demanded = deployed_agreement(setup), setup.manifest.profile.parity.top1_agreement
    if share < demanded:
        raise VerificationError(
            f"{setup.folder}: {share:.4g} of the stored images have PyTorch's class (demanded: "
            f">= {demanded:.4g}): {limit.reason}"
        )


def _rules(
    rules: BenchRules, repeats: int | None, batch: int | None, threads: int | None
) -> BenchRules:
    """The profile's settings with the caller's over them, held to the same ranges."""
    limits = {"repeats": REPEATS, "batch": BATCH, "threads": THREADS}
    chosen = {"repeats": repeats, "batch": batch, "threads": threads}
    changes = {key: value for key, value in chosen.items() if value is not None}
    for key, value in changes.items():
        low, high = limits[key]
        if not low <= value <= high:
            raise UsageError(f"{key} {value} (allowed: {low} to {high})")
    return rules.model_copy(update=changes)


def _empty(
    artifact: Path, manifest: Manifest, rules: BenchRules, host: dict[str, str]
) -> BenchReport:
    return BenchReport(
        artifact=str(artifact),
        model=manifest.model.source,
        input_shape=manifest.model.input_shape,
        supernet=manifest.subnet.supernet,
        profile=manifest.profile.name,
        backend=manifest.backend,
        verdict="skipped",
        batch=rules.batch,
        threads=rules.threads,
        host=host,
    )


def _measured(
    artifact: Path, setup: Setup, host: dict[str, str], rng: np.random.Generator
) -> BenchReport:
    quantized, float32 = time_pairs(setup, rng)
    ratio, interval = paired_ratio(quantized, float32, rng)
    profile = setup.manifest.profile
    limit = host_limit(setup.exporter, profile)
    isa = limit.reason if limit else cpu_of(setup.exporter).other_kernels(profile.isa)
    reason = f"not the target's latency: {isa}" if isa else ""
    return _empty(artifact, setup.manifest, setup.rules, host).model_copy(
        update={
            "verdict": "passed",
            "reason": reason,
            "quantized": summarize_samples(quantized, setup.rules.batch),
            "float32": summarize_samples(float32, setup.rules.batch),
            "float_precision": float_precision(setup.manifest.profile),
            "ratio": ratio,
            "ratio_interval": interval,
        }
    )
