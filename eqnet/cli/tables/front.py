"""What `eqnet search` prints of a front."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from eqnet.spec.reports import FrontPoint, SearchReport

SHOWN = 24


def front_table(report: SearchReport) -> Table:
    """The Pareto front, a numbered row for each point, the chosen one marked."""
    from eqnet.cli.output import table

    columns = ["#", "predicted", "measured", "KL", f"cost ({report.unit})", "KiB", "G bitops"]
    columns += ["weight bits", "activation bits"]
    rows = table(f"Pareto front of {report.profile}", (*columns, ""), columns)
    best = report.best.sha256()
    shown = _shown(report)
    if len(shown) < len(report.front):
        rows.caption = f"{len(shown)} of {len(report.front)} points; all are in search.json"
    for number in shown:
        point = report.front[number]
        mark = "← chosen" if point.sha256 == best else ""
        rows.add_row(str(number), *_cells(point), mark)
    return rows


def _shown(report: SearchReport) -> list[int]:
    """Numbers of at most about SHOWN points: measured ones, the chosen one, and some between."""
    count, best = len(report.front), report.best.sha256()
    steps = min(count, SHOWN)
    numbers = {round(place * (count - 1) / max(steps - 1, 1)) for place in range(steps)}
    for number, point in enumerate(report.front):
        if point.measured is not None or point.sha256 == best:
            numbers.add(number)
    return sorted(numbers)


def _cells(point: FrontPoint) -> list[str]:
    from eqnet.cli.output import share

    measured = point.measured
    return [
        share(point.accuracy_predicted),
        "-" if measured is None else share(measured.accuracy),
        "-" if measured is None else _number(measured.kl),
        f"{point.cost:.4g}",
        _number(point.size_kib),
        _number(point.bitops),
        f"{point.avg_weight_bits:.2f}",
        f"{point.avg_activation_bits:.2f}",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def measured_text(report: SearchReport) -> str | None:
    """What was measured of the chosen subnet; None where nothing was."""
    from eqnet.cli.output import quantity, share

    measured = report.best.measured
    if measured is None:
        return None
    text = f"{share(measured.accuracy)} on {measured.images} images"
    for point in report.front:
        found = point.measured
        if point.sha256 == report.best.sha256() and found and found.float_agreement is not None:
            text += f", the float model's class on {share(found.float_agreement)}"
    return f"{text}, {quantity(measured.cost, measured.unit or '')}"
