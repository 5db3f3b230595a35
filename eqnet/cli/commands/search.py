"""`eqnet search`: the best subnet for a profile within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eqnet.cli.options import AllowCode, Data, Json, Profile, Quiet, Seed, SupernetOption

if TYPE_CHECKING:
    from eqnet.spec.reports import SearchReport

HELP = """Search the best subnet for a hardware profile within its budgets.

Writes subnet.json (the winner, measured) and search.json (the whole Pareto front). A budget is
one of avg_weight_bits, avg_activation_bits, size_kib and cost (in the profile's own unit); what
is not given is the profile's.

\b
Examples:
  eqnet search --profile custom_lowbit
  eqnet search --profile custom_lowbit --budget avg_weight_bits=4
  eqnet search -p my_chip.yaml --budget cost=2.5 --budget size_kib=150"""


def search(
    profile: Profile,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE, an upper bound; may be repeated.", show_default="the profile's"
        ),
    ] = None,
    supernet: SupernetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write.", show_default="runs/search/PROFILE")
    ] = None,
    data: Data = None,
    generations: Annotated[int, typer.Option(min=1, max=10_000, help="Of the search.")] = 100,
    population: Annotated[int, typer.Option(min=4, max=10_000, help="Of the search.")] = 100,
    seed: Seed = 0,
    allow_code: AllowCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search one profile."""
    from eqnet.cli.options import parse_budgets, require_folder, require_writable
    from eqnet.cli.output import print_json
    from eqnet.cli.progress import progress
    from eqnet.spec.errors import CheckpointError, DataError
    from eqnet.spec.hardware.load import load_profile

    budgets = parse_budgets(budget or [])
    name = load_profile(profile).name
    require_folder("--supernet", supernet, CheckpointError)
    require_folder("--data", data, DataError)
    folder = out or Path("runs/search") / name
    require_writable(folder, folder=True)
    from eqnet.stages.search.search import search as run

    with progress(quiet) as listener:
        report = run(
            profile=profile,
            supernet=supernet,
            budgets=budgets,
            out=folder,
            data=data,
            seed=seed,
            generations=generations,
            population=population,
            allow_code=allow_code,
            progress=listener,
        )
    if as_json:
        print_json(report)
    else:
        _print(report, folder)


def _print(report: SearchReport, folder: Path) -> None:
    from eqnet.cli.output import console, facts, judged, share, table

    columns = ("predicted accuracy", f"cost ({report.unit})", "weight bits", "activation bits")
    rows = table(f"Pareto front of {report.profile}", (*columns, ""), columns)
    best = report.best.sha256()
    for point in report.front:
        mark = "← chosen" if point.sha256 == best else ""
        rows.add_row(
            share(point.accuracy_predicted),
            f"{point.cost:.4g}",
            f"{point.avg_weight_bits:.2f}",
            f"{point.avg_activation_bits:.2f}",
            mark,
        )
    predictor = None
    if report.kendall_tau is not None:
        predictor = f"Kendall tau {report.kendall_tau:.2f}"
    out = console()
    out.print(rows)
    out.print(
        facts(
            {
                "chosen": f"{report.best.avg_weight_bits:.2f} weight bits, "
                f"{report.best.avg_activation_bits:.2f} activation bits on average",
                "accuracies": judged(report.judge),
                "measured": _measured(report),
                "without quantization": _in_float(report),
                "slow": "; ".join(report.slow) or None,
                "budgets": ", ".join(f"{k} <= {v:g}" for k, v in report.budgets.items()) or None,
                "predictor": predictor,
                "search": f"{report.evaluations} subnets in {report.seconds:.1f} s; "
                f"{report.stop_reason}",
                "files": f"{folder}/subnet.json, {folder}/search.json",
            }
        )
    )


def _in_float(report: SearchReport) -> str | None:
    from eqnet.cli.output import quantity

    if report.cost_in_float is None:
        return None
    return f"{quantity(report.cost_in_float, report.unit)} in {report.float_precision}"


def _measured(report: SearchReport) -> str | None:
    from eqnet.cli.output import quantity, share

    measured = report.best.measured
    if measured is None:
        return None
    cost = quantity(measured.cost, measured.unit or "")
    return f"{share(measured.accuracy)} on {measured.images} images, {cost}"
