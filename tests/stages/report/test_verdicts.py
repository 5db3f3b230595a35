"""What table, page and picture tell of the two questions that verification asks."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from report_samples import benched, manifest, subnet, verified, write_artifact
from rich.console import Console

from eqnet.spec.judging.comparison import FloatComparison
from eqnet.spec.reports import Check
from eqnet.stages.report import load, report, summarize
from eqnet.stages.report.terminal import rows_table


@pytest.mark.parametrize("width", [80, 120])
def test_both_verdicts_and_both_agreements_are_told(tmp_path: Path, width: int) -> None:
    comparison = FloatComparison(
        images=2000,
        agreement=0.1234,
        snr_db=0.5,
        labelled=2000,
        float_accuracy=0.94,
        accuracy_drop=43.95,
        accuracy_drop_interval=(41.2, 46.7),
        paired=True,
    )
    checks = (
        Check(name="files", verdict="passed"),
        Check(
            name="float_agreement",
            group="quantization",
            verdict="failed",
            value=0.12,
            limit=0.9,
            unit="share",
            reason="0.12 share",
        ),
    )
    bad = verified("custom_lowbit_w4a8", "openvino", "failed", 0.9).model_copy(
        update={
            "checks": checks,
            "against_float": comparison,
            "export_verdict": "passed",
            "quantization_verdict": "failed",
        }
    )
    made = manifest("custom_lowbit_w4a8", "openvino", subnet(8))
    folder = write_artifact(
        tmp_path / "a", made, bad, benched("custom_lowbit_w4a8", "openvino", 0.31)
    )
    rows = summarize(load([folder]).artifacts)
    console = Console(width=width, record=True, file=StringIO())
    console.print(rows_table(rows))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    for told in ("99.80", "12.34", "failed", "✗ quant.", "float_agreement failed: 0.12 share"):
        assert told in text
    assert "export" not in text
    page = report([folder], tmp_path / "r.html", picture=tmp_path / "r.png").read_text()
    for told in (
        "12.34 % with float",
        "export passed",
        "quantization failed",
        "0.5 dB",
        "43.95",
        "[41.20, 46.70]",
    ):
        assert told in page


def test_what_another_check_answered_is_no_reason(tmp_path: Path) -> None:
    checks = (
        Check(name="float_agreement", group="quantization", verdict="skipped", reason="trained"),
        Check(name="float_accuracy_drop", group="quantization", verdict="passed"),
        Check(name="isa", verdict="skipped", reason="no vnni"),
    )
    good = verified("mine", "openvino", "passed", 0.9).model_copy(
        update={"checks": checks, "quantization_verdict": "passed"}
    )
    made = manifest("mine", "openvino", subnet(8))
    (row,) = summarize(load([write_artifact(tmp_path / "a", made, good, None)]).artifacts)
    assert row.reasons == ("isa skipped: no vnni",)
    unanswered = good.model_copy(update={"quantization_verdict": "skipped"})
    (row,) = summarize(load([write_artifact(tmp_path / "b", made, unanswered, None)]).artifacts)
    assert "float_agreement skipped: trained" in row.reasons
