"""What `eqnet verify` prints beside its checks: the numbers of parity, and where it goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eqnet.cli.output import facts, share, table
from eqnet.spec.judging.comparison import Grid, Location, TensorError

if TYPE_CHECKING:
    from rich.table import Table

    from eqnet.spec.judging.comparison import OutputComparison

ROWS = 12


def outputs_table(rows: Sequence[OutputComparison]) -> Table:
    """Both runs against the other networks, one row each."""
    words = ("run", "against", "on")
    numeric = ("images", "agree", "top-1", "top-5", "lost points", "KL", "mean", "p99", "max")
    title = "outputs (mean, p99, max: errors in quantization steps of the logits)"
    shown = table(title, (*words, *numeric), numeric)
    for row in rows:
        shown.add_row(
            row.run,
            row.against,
            row.source,
            str(row.images),
            share(row.agreement),
            share(row.top1),
            share(row.top5),
            lost_points(row),
            _number(row.kl),
            _number(row.error_mean),
            _number(row.error_p99),
            _number(row.error_max),
        )
    return shown


def lost_points(row: OutputComparison) -> str:
    """The accuracy that is lost, with its interval; empty without labels."""
    if row.accuracy_drop is None or row.accuracy_drop_interval is None:
        return ""
    low, high = row.accuracy_drop_interval
    return f"{row.accuracy_drop:.2f} [{low:.2f}, {high:.2f}]"


def location_facts(location: Location) -> Table:
    """The first wrong tensor, its layer, scale and the likely cause."""
    run = f"{location.run}, {location.runtime}, {location.images} images"
    rows: dict[str, str | None] = {"run": run}
    if location.tensor is None:
        count = len(location.tensors)
        rows["first wrong tensor"] = f"none of {count}: each layer does what the reference does"
    else:
        rows["first wrong tensor"] = location.tensor
        rows["layer"] = location.layer
        rows["scale"] = _grid(location.grid)
        rows["reference's"] = _grid(location.reference_grid)
        first = location.beyond[0]
        rows["error it adds"] = (
            f"up to {_number(first.added) or 'no number'} steps, in {share(first.added_share)}"
        )
        rows["likely cause"] = location.cause or None
    rows["not read"] = ", ".join((*location.disturbed, *location.unseen)) or None
    rows["note"] = location.note or None
    return facts(rows)


def growth_table(location: Location) -> Table:
    """How the error grows with depth: at most 12 tensors, the wrong ones before others."""
    numeric = ("depth", "error", "largest", "added", "changed")
    columns = ("depth", "tensor", "layers", "error", "largest", "added", "changed", "")
    title = "error by depth, in quantization steps (root mean square, largest; added by the layers)"
    shown = table(title, columns, numeric)
    for row in chosen_rows(location.tensors):
        shown.add_row(
            str(row.depth),
            row.tensor,
            ", ".join(row.layers),
            _number(row.error),
            _number(row.worst),
            _number(row.added),
            share(row.added_share),
            "beyond" if row.beyond else "",
        )
    return shown


def chosen_rows(rows: Sequence[TensorError]) -> list[TensorError]:
    """At most 12: the first ones beyond their tolerance, and others at even distances."""
    beyond = [row for row in rows if row.beyond][: ROWS // 2]
    others = [row for row in rows if row not in beyond]
    room = min(ROWS - len(beyond), len(others))
    if room > 1:
        last = len(others) - 1
        others = [others[round(place * last / (room - 1))] for place in range(room)]
    return sorted([*beyond, *others[:room]], key=lambda row: row.depth)


def _grid(grid: Grid | None) -> str | None:
    if grid is None:
        return None
    return f"{grid.scale:.6g}, zero-point {grid.zero_point} (integers {grid.lo} to {grid.hi})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
