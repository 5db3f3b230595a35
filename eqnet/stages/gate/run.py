"""`gate`: verify and bench of every artifact, one verdict, and baselines that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from eqnet.backend.files import write_file
from eqnet.backend.machine.host import describe_host, same_machine
from eqnet.spec.errors import EqnetError, UsageError
from eqnet.spec.progress import Progress, Silent, Stages
from eqnet.spec.reports import BenchReport, GateReport, GateRow, VerifyReport
from eqnet.stages.bench import bench
from eqnet.stages.verify import to_junit, verify

Report = TypeVar("Report", VerifyReport, BenchReport)
VERIFY, BENCH, JUNIT = "verify.json", "bench.json", "junit.xml"


def gate(
    artifacts: Sequence[Path],
    *,
    reports: Path,
    baselines: Path | None = None,
    max_regression: float = 0.05,
    data: Path | None = None,
    repeats: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> GateReport:
    """Verify every artifact and time those that are right, whatever becomes of the others.

    reports: folder for ``NAME.verify.json``, ``NAME.junit.xml`` and ``NAME.bench.json``, NAME
    being the artifact's folder. baselines: folder of ``NAME.bench.json`` of earlier runs; one of
    this machine is compared with (`bench`, max_regression) and stays as it is, so that small
    losses do not add up unseen; one of another machine is passed over, with a note; where there
    is none, this run's becomes it. data, repeats, threads, seed: as of `verify` and `bench`.

    Raises UsageError where two artifacts have one name. What goes wrong with an artifact is in
    its row (`GateRow.failure`), with the exit code that its command would have ended with.
    """
    names = [artifact.resolve().name for artifact in artifacts]
    if not names:
        raise UsageError("no artifact given (allowed: one or more)")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two artifacts are named '{name}' (allowed: a name of its own each)")
    progress = progress or Silent()
    rows = []
    for name, artifact in zip(names, artifacts, strict=True):
        row = GateRow(artifact=name)
        try:
            row = _verified(row, artifact, reports, data, threads, progress)
            if row.failure is None:
                row = _timed(
                    row,
                    artifact,
                    reports,
                    baselines,
                    max_regression,
                    repeats,
                    threads,
                    seed,
                    progress,
                )
        except EqnetError as error:
            row = row.model_copy(update={"failure": str(error), "exit_code": error.exit_code})
        rows.append(row)
    return GateReport(rows=tuple(rows))


def _verified(
    row: GateRow,
    artifact: Path,
    reports: Path,
    data: Path | None,
    threads: int | None,
    progress: Progress,
) -> GateRow:
    stages = Stages(progress)
    report = verify(artifact, data=data, threads=threads, progress=stages)
    stages.close()
    write_file(reports / f"{row.artifact}.{JUNIT}", to_junit(report))
    _write(reports / f"{row.artifact}.{VERIFY}", report)
    row = row.model_copy(update={"verify": report})
    if report.verdict != "failed":
        return row
    failed = ", ".join(check.name for check in report.checks if check.verdict == "failed")
    return row.model_copy(update={"failure": f"verification failed: {failed}", "exit_code": 11})


def _timed(
    row: GateRow,
    artifact: Path,
    reports: Path,
    baselines: Path | None,
    max_regression: float,
    repeats: int | None,
    threads: int | None,
    seed: int,
    progress: Progress,
) -> GateRow:
    before, note = _baseline(baselines, row.artifact)
    report = bench(
        artifact,
        baseline=before,
        max_regression=max_regression,
        repeats=repeats,
        threads=threads,
        seed=seed,
        progress=progress,
    )
    _write(reports / f"{row.artifact}.{BENCH}", report)
    if baselines is not None and before is None and not note and report.ratio is not None:
        _write(baselines / f"{row.artifact}.{BENCH}", report)
        note = "the first of this machine: kept as the baseline"
    row = row.model_copy(update={"bench": report, "baseline": note or "compared"})
    if baselines is None:
        row = row.model_copy(update={"baseline": "none asked for"})
    if report.verdict != "failed":
        return row
    return row.model_copy(update={"failure": report.reason, "exit_code": 12})


def _baseline(folder: Path | None, name: str) -> tuple[Path | None, str]:
    """The baseline to compare with, and why there is none where one of its name lies there.

    A damaged one is returned: `bench` refuses it, which must not pass.
    """
    path = None if folder is None else folder / f"{name}.{BENCH}"
    if path is None or not path.is_file():
        return None, ""
    try:
        host = BenchReport.model_validate_json(path.read_bytes()).host
    except (OSError, ValueError):
        return path, ""
    if same_machine(host, describe_host()):
        return path, ""
    return None, f"the baseline is of another machine, {host.get('cpu', 'unknown')}: not compared"


def _write(path: Path, report: Report) -> None:
    write_file(path, report.model_dump_json(indent=2) + "\n")
