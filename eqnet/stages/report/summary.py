"""One row an artifact: what the terminal's table, the page and the picture all show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eqnet.spec.comparison import FloatComparison
from eqnet.spec.reports import Check, Verdict, VerifyReport
from eqnet.spec.scheme import Frozen
from eqnet.stages.report.load import Artifact

NOT_VERIFIED = "not verified yet: run 'eqnet verify'"


class Row(Frozen):
    """An artifact in one line.

    Accuracies and agreements are in [0, 1]; `top1_agreement` is with PyTorch's subnet and
    `against_float` compares with the float model: in the runtime, or in PyTorch before it was
    verified. `verdict` is the worst of all, `export_verdict` and `quantization_verdict` those
    of the two questions that verification asks. `ratio` is quantized time / float time, so below 1
    is faster; `weight_bytes` counts the bits of all weights. None means not known.
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
    rows += [
        Row(profile=name, verdict="failed", reasons=(reason,))
        for name, reason in failures.items()
        if name not in seen
    ]
    return rows


def _row(artifact: Artifact, failures: Mapping[str, str]) -> Row:
    manifest, verify, bench = artifact.manifest, artifact.verify, artifact.bench
    verdict, reasons = _verdict(artifact)
    failure = failures.get(manifest.profile.name)
    if failure is not None:
        verdict, reasons = "failed", tuple(dict.fromkeys((failure, *reasons)))
    return Row(
        profile=manifest.profile.name,
        backend=manifest.backend,
        runtime=verify.runtime if verify else None,
        form=manifest.subnet.form.label(),
        avg_weight_bits=manifest.subnet.avg_weight_bits,
        avg_activation_bits=manifest.subnet.avg_activation_bits,
        int8_layers=verify.int8_layers if verify else None,
        int8_promised=len(manifest.int8_layers),
        layers=len(manifest.layers),
        weight_bytes=manifest.weight_bytes,
        accuracy_float=manifest.model.float_accuracy,
        accuracy_pytorch=manifest.parity.accuracy,
        accuracy_runtime=verify.accuracy if verify else None,
        top1_agreement=verify.top1_agreement if verify else None,
        against_float=verify.against_float if verify else manifest.parity.against_float,
        images=verify.images if verify else None,
        ratio=bench.ratio if bench else None,
        ratio_interval=bench.ratio_interval if bench else None,
        verdict=verdict,
        export_verdict=verify.export_verdict if verify else None,
        quantization_verdict=verify.quantization_verdict if verify else None,
        reasons=reasons,
    )


def _verdict(artifact: Artifact) -> tuple[Verdict, tuple[str, ...]]:
    """The worse of verification and benchmark, with every reason for not having passed."""
    verify, bench = artifact.verify, artifact.bench
    reasons = [NOT_VERIFIED] if verify is None else _reasons(verify)
    verdict: Verdict = "skipped" if verify is None else verify.verdict
    if bench is not None and bench.verdict != "passed":
        reasons.append(f"latency {bench.verdict}: {bench.reason or 'no reason given'}")
        verdict = "failed" if bench.verdict == "failed" else verdict
    return verdict, tuple(dict.fromkeys(reasons))


def _reasons(verify: VerifyReport) -> list[str]:
    """Failed checks first, then skipped ones, unless others answered their question."""
    ordered = sorted(verify.checks, key=lambda check: check.verdict != "failed")
    answered = verify.quantization_verdict == "passed"
    return [
        _reason(check)
        for check in ordered
        if check.verdict == "failed"
        or (check.verdict == "skipped" and not (answered and check.group == "quantization"))
    ]


def _reason(check: Check) -> str:
    if check.reason:
        return f"{check.name} {check.verdict}: {check.reason}"
    if check.value is None or check.limit is None:
        return f"{check.name} {check.verdict}"
    return f"{check.name} {check.verdict}: {check.value:.4g} {check.unit}, limit {check.limit:.4g}"
