"""What an artifact's latency is compared with: another artifact, or an earlier report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from eqnet.backend.artifact import check_files, read_manifest
from eqnet.backend.machine.host import same_machine
from eqnet.spec.errors import UsageError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.hardware.limits import REPEATS
from eqnet.spec.hardware.profile import BenchRules
from eqnet.spec.manifest import MANIFEST, Manifest
from eqnet.spec.reports import BenchReport
from eqnet.spec.texts import parse_json
from eqnet.stages.bench.measure import Rival

SANE = (1e-6, 1e9)
"""Milliseconds of a call: ratios of what is within are numbers."""


def read_rival(path: Path, artifact: Path, manifest: Manifest) -> Rival:
    """The artifact to compare with: `path`, or the folder in it with the name of `artifact`, or
    the only one in it.

    Raises ArtifactError where it is damaged, UsageError where there is none, or it is of another
    network, profile or backend. Another supernet or subnet is what a baseline is for.
    """
    folder = _artifact_in(path, artifact.resolve().name)
    theirs = read_manifest(folder)
    check_files(folder, theirs)
    network, ours = theirs.model, manifest.model
    pairs: dict[str, tuple[object, object]] = {
        "model": (network.source, ours.source),
        "input shape": (_shape(network.input_shape), _shape(ours.input_shape)),
        "profile": (theirs.profile.name, manifest.profile.name),
        "backend": (theirs.backend, manifest.backend),
    }
    _require_same(folder, pairs)
    return Rival(folder, theirs)


def _artifact_in(path: Path, name: str) -> Path:
    if (path / MANIFEST).is_file():
        return path
    if (path / name / MANIFEST).is_file():
        return path / name
    found = sorted(each.parent for each in path.glob(f"*/{MANIFEST}"))
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} artifacts, none named '{name}'" if found else "no artifact in it"
    raise UsageError(f"{path}: {what} (allowed: an artifact, or a folder with one)")


def read_report(
    path: Path,
    manifest: Manifest,
    rules: BenchRules,
    host: dict[str, str],
    anywhere: bool = False,
) -> BenchReport:
    """Read a bench.json to compare with, of the batch that is measured.

    anywhere: take one of another machine too. Raises UsageError if it is none, holds no
    measurement or an impossible one, or is of another machine, network, profile, batch or number
    of threads. Another supernet or subnet of the same network is comparable.
    """
    try:
        report = BenchReport.model_validate(parse_json(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path}: cannot read the baseline: {error.strerror}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: not a bench report: {first_problem(error)}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not a bench report: {one_line(error)}") from error
    report = next((one for one in report.batches if one.batch == rules.batch), report)
    if report.ratio is None or report.quantized is None or report.float32 is None:
        why = one_line(report.reason or report.verdict)
        raise UsageError(f"{path}: holds no measurement ({why})")
    _require_measurements(path, report.quantized.samples, report.float32.samples)
    if not anywhere and not same_machine(report.host, host):
        raise UsageError(
            f"{path}: measured on another machine, {report.host.get('cpu', 'unknown')} "
            f"(allowed: a baseline of this one, {host.get('cpu', 'unknown')}; an artifact as the "
            "baseline; or --allow-other-machine)"
        )
    profile, network = manifest.profile, manifest.model
    pairs: dict[str, tuple[object, object]] = {
        "model": (report.model, network.source),
        "input shape": (_shape(report.input_shape), _shape(network.input_shape)),
        "profile": (report.profile, profile.name),
        "backend": (report.backend, manifest.backend),
        "batch": (report.batch, rules.batch),
        "threads": (report.threads, rules.threads),
    }
    _require_same(path, pairs)
    return report


def _require_measurements(path: Path, ours: Sequence[float], floats: Sequence[float]) -> None:
    """Raise UsageError for samples that no run can have given: any run would be within them."""
    if len(ours) != len(floats):
        raise UsageError(f"{path}: its samples are no pairs")
    if len(ours) < REPEATS[0]:
        raise UsageError(f"{path}: {len(ours)} pairs of samples (allowed: {REPEATS[0]} or more)")
    low, high = SANE
    for sample in (*ours, *floats):
        if not low <= sample <= high:
            raise UsageError(f"{path}: a sample of {sample} ms (allowed: {low:g} to {high:g})")


def _require_same(path: Path, pairs: dict[str, tuple[object, object]]) -> None:
    """Raise UsageError if a baseline is of another network or was measured in another way."""
    for name, (theirs, ours) in pairs.items():
        if theirs is None:
            raise UsageError(f"{path}: it does not say which {name} it is of (allowed: {ours})")
        if theirs != ours:
            found = one_line(theirs, 60)
            raise UsageError(f"{path}: {name} {found} (allowed: {ours}, as is measured now)")


def _shape(shape: tuple[int, int, int] | None) -> str | None:
    return None if shape is None else "x".join(str(size) for size in shape)
