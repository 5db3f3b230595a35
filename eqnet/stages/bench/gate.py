"""Whether an artifact became slower: a threshold, a significance test and a second look.

On a shared machine identical code differs by 10-30% between two runs. So what is compared is
the ratio to the float model, measured side by side, and a regression is called only when the
median is beyond the threshold, a rank test says the difference is no chance, and both hold
again in new sessions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from eqnet.backend.machine.host import same_machine
from eqnet.spec.errors import UsageError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.hardware.limits import REPEATS
from eqnet.spec.hardware.profile import BenchRules
from eqnet.spec.manifest import Manifest
from eqnet.spec.reports import BenchReport
from eqnet.spec.texts import parse_json
from eqnet.stages.bench.measure import float_precision

SIGNIFICANCE = 0.01
Samples = NDArray[np.float64]


def read_baseline(
    path: Path, manifest: Manifest, rules: BenchRules, host: dict[str, str]
) -> BenchReport:
    """Read a bench.json to compare with.

    Raises UsageError if it is none, holds no measurement or an impossible one, or is of another
    machine, network, profile, float precision, batch or number of threads. Another supernet or
    subnet of the same network is comparable: that is what a baseline is for.
    """
    try:
        report = BenchReport.model_validate(parse_json(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path}: cannot read the baseline: {error.strerror}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: not a bench report: {first_problem(error)}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not a bench report: {one_line(error)}") from error
    if report.ratio is None or report.quantized is None or report.float32 is None:
        why = one_line(report.reason or report.verdict)
        raise UsageError(f"{path}: holds no measurement ({why})")
    _require_measurements(path, report.quantized.samples, report.float32.samples)
    if not same_machine(report.host, host):
        raise UsageError(
            f"{path}: measured on another machine, {report.host.get('cpu', 'unknown')} "
            f"(allowed: a baseline of this one, {host.get('cpu', 'unknown')})"
        )
    _require_same(path, report, manifest, rules)
    return report


def _require_measurements(path: Path, ours: Sequence[float], floats: Sequence[float]) -> None:
    """Raise UsageError for samples that no run can have given: any run would be within them."""
    if len(ours) != len(floats):
        raise UsageError(f"{path}: its samples are no pairs")
    if len(ours) < REPEATS[0]:
        raise UsageError(f"{path}: {len(ours)} pairs of samples (allowed: {REPEATS[0]} or more)")
    for sample in (*ours, *floats):
        if sample <= 0:
            raise UsageError(f"{path}: a sample of {sample} ms (allowed: above 0)")


def _require_same(path: Path, report: BenchReport, manifest: Manifest, rules: BenchRules) -> None:
    """Raise UsageError if a baseline is of another network or was measured in another way."""
    profile, network = manifest.profile, manifest.model
    pairs: dict[str, tuple[object, object]] = {
        "model": (report.model, network.source),
        "input shape": (_shape(report.input_shape), _shape(network.input_shape)),
        "profile": (report.profile, profile.name),
        "backend": (report.backend, manifest.backend),
        "float precision": (report.float_precision, float_precision(profile)),
        "batch": (report.batch, rules.batch),
        "threads": (report.threads, rules.threads),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs is None:
            raise UsageError(f"{path}: it does not say which {name} it is of (allowed: {ours})")
        if theirs != ours:
            found = one_line(theirs, 60)
            raise UsageError(f"{path}: {name} {found} (allowed: {ours}, as is measured now)")


def _shape(shape: tuple[int, int, int] | None) -> str | None:
    return None if shape is None else "x".join(str(size) for size in shape)


def gate(
    now: BenchReport,
    before: BenchReport,
    max_regression: float,
    again: Callable[[], BenchReport],
) -> BenchReport:
    """`now`, or the confirming run of `again`, with a verdict against `before`."""
    first = regression(now, before, max_regression)
    if first is None:
        note = f"within the baseline: {_growth_text(now, before)} (allowed: +{max_regression:.1%})"
        return now.model_copy(update={"reason": _noted(now, before, note)})
    second = again()
    confirmed = regression(second, before, max_regression)
    if confirmed is None:
        note = f"a first run seemed slower ({first}); a second run did not confirm it"
        return second.model_copy(update={"reason": _noted(second, before, note)})
    reason = f"slower than the baseline: {confirmed}, confirmed by a second run"
    return second.model_copy(update={"verdict": "failed", "reason": _noted(second, before, reason)})


def regression(now: BenchReport, before: BenchReport, max_regression: float) -> str | None:
    """What became slower, in words, or None within the threshold or without significance."""
    if _growth(now, before) <= max_regression:
        return None
    chance = greater_by_chance(_ratios(now), _ratios(before))
    if chance > SIGNIFICANCE:
        return None
    return f"{_growth_text(now, before)} (allowed: +{max_regression:.1%}; p = {chance:.1g})"


def _growth(now: BenchReport, before: BenchReport) -> float:
    return float(np.median(_ratios(now)) / np.median(_ratios(before))) - 1


def _growth_text(now: BenchReport, before: BenchReport) -> str:
    ours, theirs = float(np.median(_ratios(now))), float(np.median(_ratios(before)))
    return f"{ours:.3f} of the float model's time against {theirs:.3f}, {_growth(now, before):+.1%}"


def greater_by_chance(a: Samples, b: Samples) -> float:
    """One-sided p-value of the Mann-Whitney U test that `a` tends to be greater than `b`.

    Normal approximation with correction for ties and continuity (Hollander & Wolfe, 4.1);
    good from 5 samples each, which is what a bench takes at least.
    """
    pooled = np.concatenate([a, b])
    _, inverse, counts = np.unique(pooled, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    u = float(ranks[: a.size].sum()) - a.size * (a.size + 1) / 2
    total = pooled.size
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = a.size * b.size / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    z = (u - a.size * b.size / 2 - 0.5) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))


def _ratios(report: BenchReport) -> Samples:
    assert report.quantized is not None
    assert report.float32 is not None
    quantized = np.asarray(report.quantized.samples, dtype=np.float64)
    ratios: Samples = quantized / np.asarray(report.float32.samples, dtype=np.float64)
    return ratios


def _noted(now: BenchReport, before: BenchReport, note: str) -> str:
    """The reason of `now` with a note after it, and with what else a reader should know."""
    notes = [now.reason, note]
    if before.supernet != now.supernet:
        notes.append("the baseline is of another supernet")
    return "; ".join(text for text in notes if text)
