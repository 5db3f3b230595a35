"""A gate's report as Markdown, for the summary of a CI job."""

from __future__ import annotations

from eqnet.spec.errors import one_line
from eqnet.spec.reports import GateReport, GateRow

COLUMNS = ("artifact", "verdict", "agrees with PyTorch", "with float", "int8", "of float's time",
           "baseline", "why")  # fmt: skip
MARKS = {"passed": "✅ passed", "failed": "❌ failed", "skipped": "⚪ skipped"}


def to_markdown(report: GateReport) -> str:
    """A heading with the verdict, and a row for each artifact."""
    lines = [
        f"### eqnet: {MARKS[report.verdict]}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += ["| " + " | ".join(_cell(text) for text in cells(row)) + " |" for row in report.rows]
    return "\n".join([*lines, ""])


def cells(row: GateRow) -> tuple[str, ...]:
    """One artifact in the order of `COLUMNS`."""
    checked, timed = row.verify, row.bench
    agrees = floats = int8 = ratio = "-"
    if checked is not None:
        if checked.top1_agreement is not None:
            agrees = f"{checked.top1_agreement:.2%}"
        if checked.against_float is not None:
            floats = f"{checked.against_float.agreement:.2%}"
        if checked.int8_layers is not None:
            int8 = f"{checked.int8_layers} of {checked.layers}"
    if timed is not None and timed.ratio is not None:
        low, high = timed.ratio_interval or (timed.ratio, timed.ratio)
        ratio = f"{timed.ratio:.3f} ({low:.3f} to {high:.3f})"
    return (row.artifact, MARKS[row.verdict], agrees, floats, int8, ratio, row.baseline, row.why)


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|") or "-"
