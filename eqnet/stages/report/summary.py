"""One row an artifact: what the terminal's table, the page and the picture all show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eqnet.spec.judging.comparison import FloatComparison
from eqnet.spec.manifest import DEFAULT, Manifest
from eqnet.spec.reports import BenchReport, Check, Verdict, VerifyReport
from eqnet.spec.scheme import Frozen
from eqnet.stages.report.load import Artifact

NOT_VERIFIED = "not verified yet: run 'eqnet verify'"


class Row(Frozen):
    """An artifact in one line.

    Accuracies and agreements are in [0, 1]; `top1_agreement` is with PyTorch's subnet and
    `against_float` compares with the float model: in the runtime, or in PyTorch before it was
    verified. `verdict` is the worst of all, `export_verdict` and `quantization_verdict` those
    of the two questions that verification asks. `ratio` is quantized time / float time, so below 1
    is faster; `weight_bytes` counts the bits of all weights. `without_quantization` says so where
    nothing is quantized, and why. None means not known.
    """

    profile: str
    backend: str = ""
    runtime: str | None = None
    form: str = ""
    avg_weight_bits: float | None = None
    avg_activation_bits: float | None = None
    int8_layers: int | None = None
    int8_promised: int = 0
    layers: int = 0
    weight_bytes: int | None = None
    accuracy_float: float | None = None
    accuracy_pytorch: float | None = None
    accuracy_runtime: float | None = None
    top1_agreement: float | None = None
    against_float: FloatComparison | None = None
    images: int | None = None
    ratio: float | None = None
    ratio_interval: tuple[float, float] | None = None
    verdict: Verdict
    export_verdict: Verdict | None = None
    quantization_verdict: Verdict | None = None
    reasons: tuple[str, ...] = ()
    without_quantization: str | None = None

    @property
    def int8_share(self) -> float | None:
        """Share of the layers that ran in int8, as proved by the runtime."""
        if self.int8_layers is None or not self.layers:
            return None
        return self.int8_layers / self.layers

    @property
    def float_agreement(self) -> float | None:
        """Share of images with the float model's top-1 class, where its logits are known."""
        return None if self.against_float is None else self.against_float.agreement


def summarize(
    artifacts: Sequence[Artifact], failures: Mapping[str, str] | None = None
) -> list[Row]:
    """A row for each artifact, in order.

    `failures` maps a profile's name to why it failed: its row says so, and a profile that has
    no artifact gets a row of its own at the end.
    """
    failures = failures or {}
    rows = [_row(artifact, failures) for artifact in artifacts]
    seen = {row.profile for row in rows}
    for name, reason in failures.items():
        if name not in seen:
            rows.append(Row(profile=name, verdict="failed", reasons=(reason,)))
    return rows


def _row(artifact: Artifact, failures: Mapping[str, str]) -> Row:
    manifest, verify, bench = artifact.manifest, artifact.verify, artifact.bench
    verdict, reasons = _verdict(artifact)
    failure = failures.get(manifest.profile.name)
    if failure is not None:
        verdict, reasons = "failed", tuple(dict.fromkeys((failure, *reasons)))
    against_float = verify.against_float if verify else manifest.parity.against_float
    return Row(
        profile=manifest.profile.name,
        backend=manifest.backend,
        form=manifest.subnet.form.label(),
        avg_weight_bits=manifest.subnet.avg_weight_bits,
        avg_activation_bits=manifest.subnet.avg_activation_bits,
        int8_promised=len(manifest.int8_layers),
        layers=len(manifest.layers),
        weight_bytes=manifest.weight_bytes,
        accuracy_float=manifest.model.float_accuracy,
        accuracy_pytorch=manifest.parity.accuracy,
        against_float=against_float,
        verdict=verdict,
        reasons=reasons,
        without_quantization=_without_quantization(manifest),
        **_verified(verify),
        **_timed(bench),
    )


def _without_quantization(manifest: Manifest) -> str | None:
    """That the float model is what runs here, and what integers took in the race, if any."""
    subnet = manifest.subnet
    if subnet.quantized_layers() or subnet.activations or subnet.carriers:
        return None
    told = "without quantization: the float model is what runs here"
    race = manifest.race
    tried = [] if race is None else [one for one in race.entries if one.name == DEFAULT]
    if not tried:
        return told
    return (
        f"{told}; in the race at export the default subnet took {tried[0].milliseconds:.3g} ms, "
        f"{tried[0].to_float:.2f} of the float model's time"
    )


def _verified(verify: VerifyReport | None) -> dict[str, Any]:
    """What only verification tells of a row."""
    if verify is None:
        return {}
    return {
        "runtime": verify.runtime,
        "int8_layers": verify.int8_layers,
        "accuracy_runtime": verify.accuracy,
        "top1_agreement": verify.top1_agreement,
        "images": verify.images,
        "export_verdict": verify.export_verdict,
        "quantization_verdict": verify.quantization_verdict,
    }


def _timed(bench: BenchReport | None) -> dict[str, Any]:
    """What only the benchmark tells of a row."""
    if bench is None:
        return {}
    return {"ratio": bench.ratio, "ratio_interval": bench.ratio_interval}


def _verdict(artifact: Artifact) -> tuple[Verdict, tuple[str, ...]]:
    """The worse of verification and benchmark, with every reason for not having passed."""
    verify, bench = artifact.verify, artifact.bench
    verdict: Verdict = "skipped"
    reasons = [NOT_VERIFIED]
    if verify is not None:
        verdict, reasons = verify.verdict, _reasons(verify)
    if bench is not None and bench.verdict != "passed":
        reasons.append(f"latency {bench.verdict}: {bench.reason or 'no reason given'}")
        if bench.verdict == "failed":
            verdict = "failed"
    return verdict, tuple(dict.fromkeys(reasons))


def _reasons(verify: VerifyReport) -> list[str]:
    """Failed checks first, then skipped ones, unless others answered their question."""
    answered = verify.quantization_verdict == "passed"
    failed = [_reason(check) for check in verify.checks if check.verdict == "failed"]
    skipped = []
    for check in verify.checks:
        if check.verdict == "skipped" and not (answered and check.group == "quantization"):
            skipped.append(_reason(check))
    return failed + skipped


def _reason(check: Check) -> str:
    if check.reason:
        return f"{check.name} {check.verdict}: {check.reason}"
    if check.value is None or check.limit is None:
        return f"{check.name} {check.verdict}"
    return f"{check.name} {check.verdict}: {check.value:.4g} {check.unit}, limit {check.limit:.4g}"
