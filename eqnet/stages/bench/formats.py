"""A bench report in the formats that continuous-benchmark services read."""

from __future__ import annotations

from typing import Any

from eqnet.spec.errors import one_line
from eqnet.spec.reports import BenchReport, Latency

NS_PER_MS = 1e6


def to_github_action(report: BenchReport) -> list[dict[str, Any]]:
    """Entries for github-action-benchmark's tool ``customSmallerIsBetter``, batch by batch.

    The first is the ratio to the float model, which can be compared between runs on shared
    machines; then the medians in milliseconds. A skipped report gives no entries.
    """
    entries: list[dict[str, Any]] = []
    for name, one in _by_name(report, " batch "):
        if one.ratio is None:
            continue
        low, high = one.ratio_interval or (one.ratio, one.ratio)
        extra = f"batch {one.batch}, {one.threads} threads, {one.host.get('cpu', '')}"
        shown = [(f"{name}: quantized / float", "ratio", one.ratio, low, high)]
        for model, latency in latencies(one):
            low, high = latency.minimum, latency.p99
            shown.append((f"{name}: {model}", "ms", latency.median, low, high))
        for title, unit, value, low, high in shown:
            reach = f"{low:.4f} - {high:.4f}"
            entries.append(
                {"name": title, "unit": unit, "value": value, "range": reach, "extra": extra}
            )
    return entries


def to_bencher(report: BenchReport) -> dict[str, Any]:
    """Bencher Metric Format: latency in nanoseconds and throughput in images a second."""
    metrics = {}
    for name, one in _by_name(report, "/batch"):
        for model, latency in latencies(one):
            metrics[f"{name}/{model}"] = {
                "latency": {
                    "value": latency.median * NS_PER_MS,
                    "lower_value": latency.minimum * NS_PER_MS,
                    "upper_value": latency.p99 * NS_PER_MS,
                },
                "throughput": {"value": latency.throughput},
            }
    return metrics


def to_markdown(report: BenchReport) -> str:
    """A heading with the verdict, and a table of all models' latencies for each batch size."""
    name = one_line(report.artifact).replace("|", "\\|")
    lines = [f"### bench {name}: {report.verdict}", ""]
    for one in report.batches:
        if one.ratio is None:
            continue
        low, high = one.ratio_interval or (one.ratio, one.ratio)
        lines += [
            f"**{one.ratio:.3f}** of the float model's time (95%: {low:.3f} to {high:.3f}); "
            f"batch {one.batch}, {one.threads} threads, {one.host.get('cpu', '')}",
            "",
            "| model | median ms | p90 | p99 | images/s |",
            "|---|---|---|---|---|",
        ]
        for label, latency in latencies(one):
            times = f"{latency.median:.3f} | {latency.p90:.3f} | {latency.p99:.3f}"
            lines.append(f"| {label} | {times} | {latency.throughput:.0f} |")
        lines.append("")
    if report.reason:
        lines += [one_line(report.reason), ""]
    return "\n".join(lines)


def _by_name(report: BenchReport, further: str) -> list[tuple[str, BenchReport]]:
    """Each batch's report with the name that its figures go by: a series must keep its name, so
    that of the first is the same whether others were measured or not."""
    names = [report.profile, *(f"{report.profile}{further}{one.batch}" for one in report.more)]
    return list(zip(names, report.batches, strict=True))


def latencies(report: BenchReport) -> list[tuple[str, Latency]]:
    """The sessions that were timed, the float ones under the names of their precisions."""
    both = [("quantized", report.quantized), (str(report.float_precision), report.float32)]
    both += [(twin.precision, twin.latency) for twin in report.other_floats]
    return [(name, latency) for name, latency in both if latency is not None]
