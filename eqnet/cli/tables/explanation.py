"""What `eqnet explain` prints: places, op groups and remedies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eqnet.cli.output import console, facts, share, table

if TYPE_CHECKING:
    from rich.table import Table

    from eqnet.spec.reports import ExplainReport, PlaceReport, Quality, Remedy, SuspectReport

WHAT = {
    "weights": "weights",
    "input": "tensor, as layers read it",
    "carrier": "tensor, as others read it",
    "tensor": "tensor",
    "group": "op group",
}


def print_explanation(report: ExplainReport, top: int) -> None:
    """The `top` worst places, all op groups, and the remedies."""
    out = console()
    title = f"what quantizing it alone costs under {report.profile}, worst first"
    out.print(_table(title, report.places[:top], report.unit))
    out.print(_table("op groups, each with what its layers read", report.groups, report.unit))
    if report.suspects:
        out.print(_suspects(report.suspects[:top]))
    if report.remedies:
        out.print(_remedies(report.remedies, report.unit))
    out.print(facts(_facts(report, top)))


def _table(title: str, places: Sequence[PlaceReport], unit: str) -> Table:
    numbers = ("bits", "KL", "±", "points lost", f"{unit} saved")
    rows = table(title, ("what", "name", *numbers), numbers)
    for place in places:
        rows.add_row(
            WHAT[place.kind],
            place.name,
            str(place.bits or ""),
            f"{place.kl:.5f}",
            f"{place.kl_error:.5f}",
            f"{100 * place.lost:.1f}",
            "" if place.cost_saved is None else f"{place.cost_saved:+.4g}",
        )
    return rows


def _suspects(suspects: Sequence[SuspectReport]) -> Table:
    numbers = ("channel", "dB", "expected")
    title = "weights that lose more than their bits explain, worst first"
    rows = table(title, ("layer", *numbers), numbers)
    for one in suspects:
        channel = "all" if one.channel is None else str(one.channel)
        rows.add_row(one.layer, channel, f"{one.snr_db:.1f}", f"{one.expected_db:.1f}")
    return rows


def _remedies(remedies: Sequence[Remedy], unit: str) -> Table:
    numbers = ("KL before", "after", "agreement", unit)
    rows = table("remedies, each on top of those before it", ("pin", *numbers), numbers)
    for one in remedies:
        points = 100 * (one.after.agreement - one.before.agreement)
        rows.add_row(
            one.name,
            f"{one.before.kl:.5f}",
            f"{one.after.kl:.5f}",
            f"{points:+.1f} points",
            _added(one.before, one.after),
        )
    return rows


def _added(before: Quality, after: Quality) -> str:
    if before.cost is None or after.cost is None:
        return ""
    return f"{after.cost - before.cost:+.4g}"


def _facts(report: ExplainReport, top: int) -> dict[str, str | None]:
    hidden = len(report.places) - top
    applied = None
    if report.applied is not None:
        one = report.applied
        applied = (
            f"{one.profile}: on {one.images} other images {_quality(one.before, report.unit)} "
            f"becomes {_quality(one.after, report.unit)}"
        )
    return {
        "subnet": f"{_quality(report.whole, report.unit)}, on {report.images} images",
        "not shown": f"{hidden} places that cost less (--top)" if hidden > 0 else None,
        "remedies": None if report.remedies else "no pin gains enough",
        "costs": None if report.no_cost is None else f"none: {report.no_cost}",
        "applied": applied,
        "took": f"{report.seconds:.1f} s",
    }


def _quality(found: Quality, unit: str) -> str:
    cost = "" if found.cost is None else f", {found.cost:.4g} {unit}"
    return f"KL {found.kl:.5f}, {share(found.agreement)} agreement{cost}"
