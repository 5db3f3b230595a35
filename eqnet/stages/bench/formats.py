"""A bench report in the formats that continuous-benchmark services read."""

from __future__ import annotations

from typing import Any

from eqnet.spec.errors import one_line
from eqnet.spec.reports import BenchReport, Latency

NS_PER_MS = 1e6


def to_github_action(report: BenchReport) -> list[dict[str, Any]]:
    """Entries for github-action-benchmark's tool ``customSmallerIsBetter``.

    The first is the ratio to the float model, which can be compared between runs on shared
    machines; then the two medians in milliseconds. A skipped report gives no entries.
    """
    if report.quantized is None or report.float32 is None or report.ratio is None:
        return []
    low, high = report.ratio_interval or (report.ratio, report.ratio)
    extra = f"batch {report.batch}, {report.threads} threads, {report.host.get('cpu', '')}"
    entries: list[dict[str, Any]] = [
        {
            "name": f"{report.profile}: quantized / float",
            "unit": "ratio",
            "value": report.ratio,
            "range": f"{low:.4f} - {high:.4f}",
            "extra": extra,
        }
    ]
    for name, latency in _latencies(report):
        entries.append(
            {
                "name": f"{report.profile}: {name}",
                "unit": "ms",
                "value": latency.median,
                "range": f"{latency.minimum:.4f} - {latency.p99:.4f}",
                "extra": extra,
            }
        )
    return entries


def to_bencher(report: BenchReport) -> dict[str, Any]:
    """Bencher Metric Format: latency in nanoseconds and throughput in images a second."""
    if report.quantized is None or report.float32 is None:
        return {}
    metrics = {}
    for name, latency in _latencies(report):
        metrics[f"{report.profile}/{name}"] = {
            "latency": {
                "value": latency.median * NS_PER_MS,
                "lower_value": latency.minimum * NS_PER_MS,
                "upper_value": latency.p99 * NS_PER_MS,
            },
            "throughput": {"value": latency.throughput},
        }
    return metrics


def to_markdown(report: BenchReport) -> str:
    """A heading with the verdict, and a table of both models' latencies."""
    name = one_line(report.artifact).replace("|", "\\|")
    lines = [f"### bench {name}: {report.verdict}", ""]
    if report.ratio is not None:
        low, high = report.ratio_interval or (report.ratio, report.ratio)
        lines += [
            f"**{report.ratio:.3f}** of the float model's time (95%: {low:.3f} to {high:.3f}); "
            f"batch {report.batch}, {report.threads} threads, {report.host.get('cpu', '')}",
            "",
            "| model | median ms | p90 | p99 | images/s |",
            "|---|---|---|---|---|",
        ]
    for label, latency in _latencies(report):
        times = f"{latency.median:.3f} | {latency.p90:.3f} | {latency.p99:.3f}"
        lines.append(f"| {label} | {times} | {latency.throughput:.0f} |")
    if report.reason:
        lines += ["", one_line(report.reason)]
    return "\n".join([*lines, ""])


def _latencies(report: BenchReport) -> list[tuple[str, Latency]]:
    """The sessions that were timed, the float one under the name of its precision."""
    both = (("quantized", report.quantized), (report.float_precision, report.float32))
    return [(name, latency) for name, latency in both if latency is not None]
