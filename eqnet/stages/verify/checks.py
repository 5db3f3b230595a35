"""The demands on an artifact, one function each: numbers in, a Check out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eqnet.backend import judge
from eqnet.backend.artifact import Parity
from eqnet.backend.decisions import decide
from eqnet.backend.protocol import Array, Exporter, cpu_of, host_limit
from eqnet.spec.judging.comparison import Location
from eqnet.spec.manifest import Manifest
from eqnet.spec.reports import Check, CheckGroup, Verdict

NAMED_LAYERS = 5
LOGIT_PERCENTILE = 99
MIN_IMAGES = judge.MIN_IMAGES
# Below it the steps of the grid are those of float32 rounding, as with random weights.
MIN_LOGIT_SPAN = 1e-5


def agreement(a: Array, b: Array) -> float:
    """Share of rows with the same class; a row that is not finite agrees with none."""
    return judge.agreement(a, b)


def accuracy(logits: Array, labels: NDArray[np.int64]) -> float | None:
    """Share of right decisions among the images whose label is known, None if no label is."""
    labelled = labels >= 0
    if not labelled.any():
        return None
    return float(np.mean(decide(logits)[labelled] == labels[labelled]))


def agreement_of(name: str, share: float, images: int, limit: float) -> Check:
    """Whether enough images have the same top-1 class.

    Where less than all is demanded, one image may always differ: its two best logits can be so
    close that a rounding tie decides, and one of N is the finest step that N images can show.
    On fewer than 16 images that would demand next to nothing, so nothing is said.
    """
    if limit == 1.0:
        return at_least(name, share, limit, "share")
    if images < MIN_IMAGES:
        return skipped(name, f"{images} images (needed: at least {MIN_IMAGES})")
    return at_least(name, share, round(min(limit, 1.0 - 1.0 / images), 9), "share")


def at_least(name: str, value: float, limit: float, unit: str) -> Check:
    """Passed if `value` reaches `limit`; not a number never does."""
    return _check(name, value, limit, unit, passed=value >= limit, sign=">=")


def at_most(name: str, value: float, limit: float, unit: str) -> Check:
    """Passed if `value` does not exceed `limit`; not a number always does."""
    return _check(name, value, limit, unit, passed=value <= limit, sign="<=")


def _check(name: str, value: float, limit: float, unit: str, *, passed: bool, sign: str) -> Check:
    if not np.isfinite(value):
        return Check(name=name, verdict="failed", limit=limit, unit=unit, reason="not a number")
    verdict: Verdict = "passed"
    reason = ""
    if not passed:
        verdict, reason = "failed", f"{value:.4g} {unit} (demanded: {sign} {limit:.4g})"
    return Check(name=name, verdict=verdict, value=value, limit=limit, unit=unit, reason=reason)


def skipped(name: str, reason: str) -> Check:
    """A demand that could not be looked at."""
    return Check(name=name, verdict="skipped", reason=reason)


def finite(logits: Array) -> Check:
    """Whether the runtime gave numbers only."""
    bad = int(np.count_nonzero(~np.isfinite(logits)))
    return at_most("finite_logits", bad, 0, "values")


def logit_error(logits: Array, parity: Parity, manifest: Manifest) -> Check:
    """99th percentile of |logit - PyTorch logit|, in steps of an 8-bit grid over their range.

    A rounding tie inside the net moves a logit by about one such step, so the limit is in steps.
    """
    step = manifest.parity.logit_step
    if 255 * step < MIN_LOGIT_SPAN:
        return skipped(
            "logit_error",
            f"the PyTorch logits span only {255 * step:.1e}: this network tells no images apart",
        )
    errors = np.abs(logits - parity.logits) / step
    value = float(np.percentile(errors, LOGIT_PERCENTILE))
    return at_most("logit_error", value, manifest.profile.parity.logit_error_steps, "steps")


def accuracy_drop(name: str, reference: float, measured: float, images: int, limit: float) -> Check:
    """Loss of accuracy against the reference, in percentage points.

    One image of N is the finest step that N images can show, so a limit above 0 is never
    below it; fewer than 16 images say nothing.
    """
    drop = round(100 * (reference - measured), 9)
    if limit == 0.0:
        return at_most(name, drop, limit, "points")
    if images < MIN_IMAGES:
        return skipped(name, f"{images} labelled images (needed: at least {MIN_IMAGES})")
    return at_most(name, drop, round(max(limit, 100 / images), 9), "points")


def tensors(location: Location) -> Check:
    """Whether every tensor of the runtime is the reference's but for rounding."""
    wrong, total = len(location.beyond), len(location.tensors)
    value, limit = float(total - wrong), float(total)
    if not wrong:
        return at_least("tensors", value, limit, "tensors")
    by = f", layer '{location.layer}'" if location.layer else ""
    return Check(
        name="tensors",
        verdict="failed",
        value=value,
        limit=limit,
        unit="tensors",
        reason=f"the first wrong one is '{location.tensor}'{by} ({location.run})",
    )


def int8_check(proved: Sequence[str], promised: Sequence[str]) -> Check:
    """Whether every layer that the manifest promises runs in int8 by the runtime's own word."""
    missing = [layer for layer in promised if layer not in set(proved)]
    value, limit = float(len(promised) - len(missing)), float(len(promised))
    if not missing:
        return at_least("int8_layers", value, limit, "layers")
    reason = f"not in int8: {', '.join(missing[:NAMED_LAYERS])}"
    if len(missing) > NAMED_LAYERS:
        reason += f" and {len(missing) - NAMED_LAYERS} more"
    return Check(
        name="int8_layers",
        verdict="failed",
        value=value,
        limit=limit,
        unit="layers",
        reason=reason,
    )


def int8_unpromised(proved: Sequence[str], manifest: Manifest) -> Check:
    """How many layers run in int8 where the profile accepts that some run in float."""
    return Check(
        name="int8_layers",
        verdict="skipped",
        value=float(len(proved)),
        unit="layers",
        reason=f"none promised, as the profile accepts: {'; '.join(manifest.slow)}",
    )


def isa(manifest: Manifest, exporter: Exporter, executed: bool, logits: Sequence[Check]) -> Check:
    """Whether this host runs the kernels of the profile's instruction set.

    Where the backend itself `executed` the graph, computes otherwise than on the target, and a
    check of the logits failed, that is why: failed too. Other kernels alone say nothing about the
    target's latency: skipped.
    """
    limit = host_limit(exporter, manifest.profile)
    wrong = executed and verdict_of(logits, executed) == "failed"
    if limit is not None and not limit.exact and wrong:
        return Check(name="isa", verdict="failed", reason=limit.reason)
    reason = limit.reason if limit else cpu_of(exporter).other_kernels(manifest.profile.isa)
    if reason is None:
        return Check(name="isa", verdict="passed")
    return skipped("isa", reason)


def verdict_of(checks: Sequence[Check], executed: bool) -> Verdict:
    """Failed if any check failed; skipped if the real backend executed nothing."""
    if any(check.verdict == "failed" for check in checks):
        return "failed"
    return "passed" if executed else "skipped"


def export_verdict(checks: Sequence[Check], executed: bool) -> Verdict:
    """Of the checks that hold the runtime to PyTorch's subnet."""
    return verdict_of(_of(checks, "export"), executed)


def quantization_verdict(checks: Sequence[Check]) -> Verdict:
    """Of the checks that hold the runtime to the float model; skipped if none could be made.

    The same integers are computed by whatever executes the graph, so a stand-in counts.
    """
    judged = [check for check in _of(checks, "quantization") if check.verdict != "skipped"]
    return verdict_of(judged, executed=bool(judged))


def _of(checks: Sequence[Check], group: CheckGroup) -> list[Check]:
    return [check for check in checks if check.group == group]
