"""Another subnet of a front that was searched before: from search.json, without a search."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from eqnet.backend.files import write_files
from eqnet.spec.errors import ArtifactError, UsageError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.reports import FrontPoint, SearchReport
from eqnet.spec.texts import parse_json
from eqnet.stages.search.fronts.front import pick as picked
from eqnet.stages.search.fronts.front import require_number


def read_report(path: Path) -> SearchReport:
    """A search.json. Raises ArtifactError with one line where it is none."""
    try:
        return SearchReport.model_validate(parse_json(path.read_bytes()))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read: {error.strerror}") from error
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a search.json: {first_problem(error)}") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: not a search.json: {one_line(error)}") from error


def write_report(report: SearchReport, folder: Path) -> None:
    """Write folder/subnet.json and folder/search.json, whole or not at all."""
    subnet, whole = report.best.model_dump_json(indent=2), report.model_dump_json(indent=2)
    write_files({folder / "subnet.json": subnet, folder / "search.json": whole})


def pick_again(path: Path, pick: str | int, out: Path | None = None) -> SearchReport:
    """Take a point of a stored front: write its subnet.json, and search.json with it as best.

    pick: a point's number, or a name of PICKS, which looks at the points that were measured.
    out: None is the folder of `path`. Raises UsageError for a number that is not on the front,
    and for a name where fewer than two points were measured.
    """
    report = read_report(path)
    if isinstance(pick, int):
        number, rule = require_number(pick, len(report.front)), f"point {pick} of the front"
    else:
        number, rule = _named(report, pick)
    point = report.front[number]
    if point.subnet is None:
        raise ArtifactError(
            f"{path}: point {number} of the front holds no subnet (allowed: a search.json of "
            "this version; search again)"
        )
    chosen = report.model_copy(update={"best": point.subnet, "choice": rule})
    write_report(chosen, path.parent if out is None else out)
    return chosen


def _named(report: SearchReport, name: str) -> tuple[int, str]:
    measured: list[tuple[int, FrontPoint, float]] = []
    for number, point in enumerate(report.front):
        if point.measured is not None:
            measured.append((number, point, point.measured.accuracy))
    if len(measured) < 2:
        raise UsageError(
            f"pick: '{name}' with {len(measured)} measured points of {len(report.front)} "
            f"(allowed: a number, or a search with --pick {name}, which measures more)"
        )
    costs = [point.cost for _, point, _ in measured]
    place = picked(name, costs, [accuracy for _, _, accuracy in measured])
    return measured[place][0], f"{name} of {len(measured)} measured points"
