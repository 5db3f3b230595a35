"""`gate`: verify and bench of every artifact, one verdict, and baselines that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from eqnet.backend.files import write_file
from eqnet.spec.errors import EqnetError, UsageError, unknown
from eqnet.spec.progress import Progress, Silent, Stages
from eqnet.spec.reports import BenchReport, GateReport, GateRow, VerifyReport
from eqnet.stages.bench import bench
from eqnet.stages.gate.baselines import BENCH, KEEPS, Keep, find_baseline, keep_baseline
from eqnet.stages.verify import to_junit, verify

Report = TypeVar("Report", VerifyReport, BenchReport)
VERIFY, JUNIT = "verify.json", "junit.xml"


def gate(
    artifacts: Sequence[Path],
    *,
    reports: Path,
    baselines: Path | None = None,
    keep: Keep = "artifact",
    max_regression: float = 0.05,
    data: Path | None = None,
    repeats: int | None = None,
    precision: float | None = None,
    max_seconds: float | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> GateReport:
    """Verify every artifact and time those that are right, whatever becomes of the others.

    reports: folder for ``NAME.verify.json``, ``NAME.junit.xml`` and ``NAME.bench.json``, NAME
    being the artifact's folder. baselines: folder of artifacts ``NAME``, each of which runs in
    turns with the one of its name, or of ``NAME.bench.json`` of earlier runs; one of this machine
    is compared with (`bench`, max_regression), one of another is passed over, with a note. A
    baseline stays as it is, so that small losses do not add up unseen; where there is none, this
    run's artifact or report becomes it (`keep`). data, repeats, precision, max_seconds, threads,
    seed: as of `verify` and `bench`.

    Raises UsageError where two artifacts have one name. What goes wrong with an artifact is in
    its row (`GateRow.failure`), with the exit code that its command would have ended with.
    """
    names = [artifact.resolve().name for artifact in artifacts]
    if not names:
        raise UsageError("no artifact given (allowed: one or more)")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two artifacts are named '{name}' (allowed: a name of its own each)")
    if keep not in KEEPS:
        raise UsageError(f"keep: {unknown('baseline', keep, KEEPS)}")
    options = _Options(
        reports=reports,
        baselines=baselines,
        keep=keep,
        max_regression=max_regression,
        data=data,
        repeats=repeats,
        precision=precision,
        max_seconds=max_seconds,
        threads=threads,
        seed=seed,
        progress=progress or Silent(),
    )
    rows = []
    for name, artifact in zip(names, artifacts, strict=True):
        row = GateRow(artifact=name)
        try:
            row = _verified(row, artifact, options)
            if row.failure is None:
                row = _timed(row, artifact, options)
        except EqnetError as error:
            row = row.model_copy(update={"failure": str(error), "exit_code": error.exit_code})
        rows.append(row)
    return GateReport(rows=tuple(rows))


@dataclass(frozen=True)
class _Options:
    """What holds for every artifact, as of `gate`."""

    reports: Path
    baselines: Path | None
    keep: Keep
    max_regression: float
    data: Path | None
    repeats: int | None
    precision: float | None
    max_seconds: float | None
    threads: int | None
    seed: int
    progress: Progress


def _verified(row: GateRow, artifact: Path, options: _Options) -> GateRow:
    stages = Stages(options.progress)
    report = verify(artifact, data=options.data, threads=options.threads, progress=stages)
    stages.close()
    write_file(options.reports / f"{row.artifact}.{JUNIT}", to_junit(report))
    _write(options.reports / f"{row.artifact}.{VERIFY}", report)
    row = row.model_copy(update={"verify": report})
    if report.verdict != "failed":
        return row
    failed = ", ".join(check.name for check in report.checks if check.verdict == "failed")
    return row.model_copy(update={"failure": f"verification failed: {failed}", "exit_code": 11})


def _timed(row: GateRow, artifact: Path, options: _Options) -> GateRow:
    before, note = find_baseline(options.baselines, row.artifact)
    report = bench(
        artifact,
        baseline=before,
        max_regression=options.max_regression,
        repeats=options.repeats,
        precision=options.precision,
        max_seconds=options.max_seconds,
        threads=options.threads,
        seed=options.seed,
        progress=options.progress,
    )
    _write(options.reports / f"{row.artifact}.{BENCH}", report)
    if options.baselines is None:
        note = "none asked for"
    elif before is None and not note and report.ratio is not None:
        note = keep_baseline(options.baselines, row.artifact, artifact, report, options.keep)
    row = row.model_copy(update={"bench": report, "baseline": note or "compared"})
    if report.verdict != "failed":
        return row
    return row.model_copy(update={"failure": report.reason, "exit_code": 12})


def _write(path: Path, report: Report) -> None:
    write_file(path, report.model_dump_json(indent=2) + "\n")
