"""`bench`: measure an artifact, and hold it against a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from eqnet.backend.artifact import check_files, read_manifest
from eqnet.backend.discovery import find_exporter
from eqnet.backend.disk.replaced import read_as_one
from eqnet.backend.machine.float_twin import float_precisions
from eqnet.backend.machine.host import describe_host
from eqnet.backend.machine.isa import foreign_isa
from eqnet.backend.machine.timing import paired_ratio, summarize_samples
from eqnet.backend.protocol import HostLimit, cpu_of, host_limit
from eqnet.spec.errors import UsageError, VerificationError
from eqnet.spec.hardware.limits import BATCH, MAX_SECONDS, PRECISION, REPEATS, THREADS
from eqnet.spec.hardware.profile import BenchRules
from eqnet.spec.manifest import MANIFEST
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.reports import (
    BaselineComparison,
    BenchReport,
    FloatPrecision,
    FloatTwin,
    Growth,
)
from eqnet.stages.bench.baseline import read_report, read_rival
from eqnet.stages.bench.gate import (
    Judgement,
    for_second_look,
    growth_over_report,
    growth_side_by_side,
    judge,
)
from eqnet.stages.bench.measure import (
    OURS,
    Rival,
    Setup,
    Timed,
    deployed_agreement,
    time_models,
)

LIMITS = {
    "repeats": REPEATS,
    "precision": PRECISION,
    "max_seconds": MAX_SECONDS,
    "batch": BATCH,
    "threads": THREADS,
}


def bench(
    artifact: Path,
    *,
    baseline: Path | None = None,
    max_regression: float = 0.05,
    allow_other_machine: bool = False,
    repeats: int | None = None,
    precision: float | None = None,
    max_seconds: float | None = None,
    batch: int | Sequence[int] | None = None,
    threads: int | None = None,
    pin: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchReport:
    """Time an artifact's model and its float model in turns, in the runtime it was made for.

    The float model runs in float32 and in whatever else a user would run here (bfloat16 where
    this CPU has it, float16 on a GPU); what counts is the one that is fastest.

    repeats, precision, max_seconds, batch, threads: default to the profile's
    (`eqnet.spec.hardware.profile.BenchRules`). Several batches make one report, with those after
    the first in `more`. pin: keep all threads on as many CPUs.

    baseline: an artifact, or a folder with one, that runs in turns with this one; or a bench.json
    of this machine, whose ratio to float is compared (allow_other_machine: of any). max_regression:
    the fraction by which the time, or that ratio, may grow (`eqnet.stages.bench.gate`).

    Returns a report whose verdict is "skipped" where the runtime cannot execute here or the
    profile is of another processor architecture, "failed"
    where the artifact is slower than the baseline allows (the command line turns that into a
    RegressionError after writing the report), and "passed" otherwise; `reason` says why. Raises
    ArtifactError for a damaged folder, UsageError for settings outside their range or a
    baseline of something else (`read_report`, `read_rival`), and VerificationError where this CPU
    computes the artifact otherwise than its target and the classes differ: wrong results have no
    latency. Where another process replaces the artifact meanwhile, the new one is timed.
    """
    if max_regression < 0:
        raise UsageError(f"max_regression {max_regression} (allowed: 0 or more)")
    asked = {"repeats": repeats, "precision": precision, "max_seconds": max_seconds}
    settings = partial(_settings, batch=batch, asked=asked | {"threads": threads})
    compared = _Baseline(baseline, max_regression, allow_other_machine)
    run = partial(_bench, artifact, settings, compared, pin, seed, progress or Silent())
    return read_as_one(artifact / MANIFEST, run)


class _Baseline(NamedTuple):
    """What to compare with, if anything."""

    path: Path | None
    max_regression: float
    anywhere: bool


def _bench(
    artifact: Path,
    settings: Callable[[BenchRules], list[BenchRules]],
    baseline: _Baseline,
    pin: bool,
    seed: int,
    progress: Progress,
) -> BenchReport:
    manifest = read_manifest(artifact)
    check_files(artifact, manifest)
    rules = settings(manifest.profile.bench)
    host = describe_host()
    exporter = find_exporter(manifest.backend)
    runs = [
        _Run(Setup(artifact, manifest, exporter, one, pin, progress), host, seed) for one in rules
    ]
    before = None if baseline.path is None else _read(baseline.path, runs, baseline.anywhere)
    reason = exporter.unavailable(manifest.profile) or foreign_isa(manifest.profile.isa)
    if reason is not None:
        reports = [run.empty().model_copy(update={"reason": reason}) for run in runs]
        return _together(reports)
    _require_right(runs[0].setup, host_limit(exporter, manifest.profile))
    if before is None:
        return _together([run.measured(time_models(run.setup, run.rng)) for run in runs])
    if isinstance(before, Rival):
        return _together([run.against_artifact(before, baseline.max_regression) for run in runs])
    assert baseline.path is not None
    return _together(
        [
            run.against_report(one, baseline.path, baseline.max_regression)
            for run, one in zip(runs, before, strict=True)
        ]
    )


def _read(baseline: Path, runs: Sequence[_Run], anywhere: bool) -> Rival | list[BenchReport]:
    setup, host = runs[0].setup, runs[0].host
    if baseline.is_dir():
        return read_rival(baseline, setup.folder, setup.manifest)
    rules = [run.setup.rules for run in runs]
    reports = [read_report(baseline, setup.manifest, one, host, anywhere) for one in rules]
    known = float_precisions(setup.exporter, setup.manifest.profile)
    for report in reports:
        if report.float_precision not in known:
            raise UsageError(
                f"{baseline}: the float model ran in {report.float_precision}, which is not "
                f"measured here (allowed: {', '.join(known)})"
            )
    return reports


def _batches(batch: int | Sequence[int] | None, default: int) -> list[int]:
    if batch is None:
        return [default]
    batches = [batch] if isinstance(batch, int) else list(batch)
    if not batches or len(set(batches)) < len(batches):
        raise UsageError(f"batch {batches} (allowed: one or more, each once)")
    return batches


def _settings(
    rules: BenchRules, *, batch: int | Sequence[int] | None, asked: dict[str, float | None]
) -> list[BenchRules]:
    """The settings of each batch. Raises UsageError."""
    return [_rules(rules, asked | {"batch": one}) for one in _batches(batch, rules.batch)]


def _rules(rules: BenchRules, asked: dict[str, float | None]) -> BenchRules:
    """The profile's settings with the caller's over them, held to the same ranges.

    Who asks for a precision or a time wants no fixed number of rounds.
    """
    changes: dict[str, object] = {key: value for key, value in asked.items() if value is not None}
    for key, value in asked.items():
        low, high = LIMITS[key]
        if value is not None and not low <= value <= high:
            raise UsageError(f"{key} {value} (allowed: {low} to {high})")
    if "repeats" not in changes and not changes.keys().isdisjoint(("precision", "max_seconds")):
        changes["repeats"] = None
    return rules.model_copy(update=changes)


def _together(reports: Sequence[BenchReport]) -> BenchReport:
    """One report of several batches: failed if any is, with the reasons of those."""
    first, *more = reports
    if not more:
        return first
    failed = [one for one in reports if one.verdict == "failed"]
    changes: dict[str, object] = {"more": tuple(more)}
    if failed:
        told = "; ".join(f"batch {one.batch}: {one.reason}" for one in failed)
        changes |= {"verdict": "failed", "reason": told}
    return first.model_copy(update=changes)


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


@dataclass
class _Run:
    """The measurements at one batch size."""

    setup: Setup
    host: dict[str, str]
    seed: int

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def empty(self) -> BenchReport:
        """A report of nothing."""
        manifest, rules = self.setup.manifest, self.setup.rules
        return BenchReport(
            artifact=str(self.setup.folder),
            model=manifest.model.source,
            input_shape=manifest.model.input_shape,
            supernet=manifest.subnet.supernet,
            profile=manifest.profile.name,
            backend=manifest.backend,
            verdict="skipped",
            batch=rules.batch,
            threads=rules.threads,
            host=self.host,
        )

    def measured(self, timed: Timed) -> BenchReport:
        """What was timed, against the float model."""
        legs, batch, ours = timed.sampling.legs, self.setup.rules.batch, timed.times[OURS]
        twins = [self._twin(precision, timed) for precision in timed.floats()]
        fastest = min(twins, key=lambda twin: twin.latency.median)
        return self.empty().model_copy(
            update={
                "verdict": "passed",
                "reason": self._not_the_targets(),
                "quantized": summarize_samples(ours, batch, legs),
                "float32": fastest.latency,
                "float_precision": fastest.precision,
                "ratio": fastest.ratio,
                "ratio_interval": fastest.ratio_interval,
                "other_floats": tuple(twin for twin in twins if twin is not fastest),
                "sampling": timed.sampling,
            }
        )

    def _twin(self, precision: FloatPrecision, timed: Timed) -> FloatTwin:
        legs, plain = timed.sampling.legs, timed.times[precision]
        ratio, interval = paired_ratio(timed.times[OURS], plain, self.rng, legs)
        latency = summarize_samples(plain, self.setup.rules.batch, legs)
        return FloatTwin(precision=precision, latency=latency, ratio=ratio, ratio_interval=interval)

    def _not_the_targets(self) -> str:
        profile, exporter = self.setup.manifest.profile, self.setup.exporter
        limit = host_limit(exporter, profile)
        isa = limit.reason if limit else cpu_of(exporter).other_kernels(profile.isa)
        return f"not the target's latency: {isa}" if isa else ""

    def against_artifact(self, rival: Rival, max_regression: float) -> BenchReport:
        """Both artifacts and the float model in turns; a second look is at both artifacts."""
        timed = time_models(self.setup, self.rng, rival)

        def again() -> Growth:
            second = time_models(for_second_look(self.setup), self.rng, rival, floats=False)
            return growth_side_by_side(second, self.rng)

        found = judge(growth_side_by_side(timed, self.rng), again, max_regression)
        other = rival.manifest.subnet.supernet
        judged = _judged(self.measured(timed), found, other)
        digest = rival.manifest.digest
        return _with_baseline(judged, "artifact", rival.folder, max_regression, found, digest)

    def against_report(self, before: BenchReport, path: Path, max_regression: float) -> BenchReport:
        """The ratio to float against that of an earlier report."""
        now = self.measured(time_models(self.setup, self.rng))

        def again() -> Growth:
            second = self.measured(time_models(for_second_look(self.setup), self.rng))
            grown = growth_over_report(second, before, self.rng)
            return grown.model_copy(update={"sampling": second.sampling})

        found = judge(growth_over_report(now, before, self.rng), again, max_regression)
        judged = _judged(now, found, before.supernet)
        return _with_baseline(judged, "report", path, max_regression, found)


def _judged(now: BenchReport, found: Judgement, other: str | None) -> BenchReport:
    """A report with the verdict against a baseline of the supernet `other`."""
    notes = [now.reason, found.note]
    if other != now.supernet:
        notes.append("the baseline is of another supernet")
    changes: dict[str, object] = {"reason": "; ".join(text for text in notes if text)}
    if found.slower:
        changes["verdict"] = "failed"
    return now.model_copy(update=changes)


def _with_baseline(
    report: BenchReport,
    kind: Literal["artifact", "report"],
    path: Path,
    max_regression: float,
    found: Judgement,
    digest: str | None = None,
) -> BenchReport:
    comparison = BaselineComparison(
        kind=kind,
        path=str(path),
        digest=digest,
        max_regression=max_regression,
        first=found.first,
        confirming=found.confirming,
    )
    return report.model_copy(update={"baseline": comparison})
