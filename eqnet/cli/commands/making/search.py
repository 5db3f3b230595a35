"""`eqnet search`: the best subnet for a profile within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eqnet.cli.options import AllowCode, Data, Json, Quiet, Seed, SupernetOption

if TYPE_CHECKING:
    from eqnet.spec.reports import SearchReport

HELP = """Search the best subnet for a hardware profile within its budgets.

Writes subnet.json (the winner, measured) and search.json (the whole Pareto front, each point with
its subnet). A budget is an upper bound: avg_weight_bits, avg_activation_bits, size (of weights),
bitops (multiply-adds x bits x bits), latency or cost (in the profile's own unit); 0.5x is half of
what the float network has in the same cost model. What is not given is the profile's.

\b
Examples:
  eqnet search --profile custom_lowbit
  eqnet search --profile custom_lowbit --budget avg_weight_bits=3 --budget size=100KB
  eqnet search --profile custom_lowbit --budget latency=0.05x --budget bitops=800M
  eqnet search --profile custom_lowbit --min-accuracy 92.5
  eqnet search --profile custom_lowbit --objective size --pick knee
  eqnet search --profile custom_lowbit --generations 1000 --resume
  eqnet search --from runs/search/custom_lowbit/search.json --pick 3"""


def search(
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            "-p",
            help="Built-in name ('eqnet profiles list') or a YAML file's path.",
            show_default="that of --from",
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE, an upper bound such as size=300KB, latency=0.5x or "
            "avg_weight_bits=3; may be repeated.",
            show_default="the profile's",
        ),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="What else to minimise beside the profile's cost: size, bitops, avg_weight_bits "
            "or avg_activation_bits; may be repeated.",
            show_default="nothing",
        ),
    ] = None,
    min_accuracy: Annotated[
        str | None,
        typer.Option(
            help="The cheapest subnet with this top-1 accuracy on validation images, in percent.",
            show_default="none",
        ),
    ] = None,
    min_float_agreement: Annotated[
        str | None,
        typer.Option(
            help="The cheapest subnet that gives this share of validation images the float "
            "model's class, such as 0.98 or 98%.",
            show_default="none",
        ),
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(
            help="knee, fastest or most-accurate of the measured front, or a number of its "
            "table, from 0.",
            show_default="by the budgets",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A search.json to --pick another subnet from, without a search.",
            show_default="none",
        ),
    ] = None,
    supernet: SupernetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write.", show_default="runs/search/PROFILE")
    ] = None,
    data: Data = None,
    generations: Annotated[int, typer.Option(min=1, max=10_000, help="Of the search.")] = 100,
    population: Annotated[int, typer.Option(min=4, max=10_000, help="Of the search.")] = 100,
    refine: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            help="Subnets to measure and correct the predictor by, a few after each of several "
            "searches; 0: search once.",
        ),
    ] = 12,
    seed: Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a search with this --out was interrupted.")
    ] = False,
    allow_code: AllowCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search one profile."""
    from eqnet.cli.options import (
        parse_accuracy,
        parse_budgets,
        parse_percent,
        parse_pick,
        require_folder,
        require_writable,
    )
    from eqnet.cli.output import print_json
    from eqnet.cli.progress import progress
    from eqnet.spec.errors import CheckpointError, DataError, UsageError
    from eqnet.spec.hardware.load import load_profile

    picked = parse_pick(pick)
    if source is not None:
        given = (profile, budget, objective, min_accuracy, min_float_agreement)
        if picked is None or resume or any(value for value in given):
            raise UsageError(
                "--from: takes a subnet of a front that is there (allowed: with --pick, --out, "
                "--json and nothing else)"
            )
        _pick_again(source, picked, out, as_json=as_json)
        return
    if profile is None:
        raise UsageError("--profile: missing (allowed: a name or a path; or --from with --pick)")
    budgets = parse_budgets(budget or [])
    accuracy = parse_accuracy("--min-accuracy", min_accuracy)
    agreement = None
    if min_float_agreement is not None:
        agreement = parse_percent("--min-float-agreement", min_float_agreement)
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
            objectives=tuple(objective or ()),
            min_accuracy=accuracy,
            min_float_agreement=agreement,
            refine=refine,
            pick=picked,
            out=folder,
            data=data,
            seed=seed,
            generations=generations,
            population=population,
            resume=resume,
            allow_code=allow_code,
            progress=listener,
        )
    if as_json:
        print_json(report)
    else:
        _print(report, folder)


def _pick_again(source: Path, picked: str | int, out: Path | None, *, as_json: bool) -> None:
    """Another subnet of a stored front."""
    from eqnet.cli.options import require_writable
    from eqnet.cli.output import print_json
    from eqnet.stages.search.fronts.stored import pick_again

    path = source / "search.json" if source.is_dir() else source
    folder = out or path.parent
    require_writable(folder, folder=True)
    report = pick_again(path, picked, folder)
    if as_json:
        print_json(report)
    else:
        _print(report, folder)


def _print(report: SearchReport, folder: Path) -> None:
    from eqnet.cli.output import console, facts, judged
    from eqnet.cli.tables.front import front_table, measured_text

    predictor = None
    if report.kendall_tau is not None:
        predictor = f"Kendall tau {report.kendall_tau:.2f} with KL, on subnets held out"
    out = console()
    out.print(front_table(report))
    out.print(
        facts(
            {
                "chosen": f"{report.best.avg_weight_bits:.2f} weight bits, "
                f"{report.best.avg_activation_bits:.2f} activation bits on average",
                "because": report.choice or None,
                "accuracies": judged(report.judge),
                "measured": measured_text(report),
                "without quantization": _in_float(report),
                "slow": "; ".join(report.slow) or None,
                "budgets": ", ".join(f"{k} <= {v:.6g}" for k, v in report.budgets.items()) or None,
                "predictor": predictor,
                "search": f"{report.evaluations} subnets in {report.seconds:.1f} s; "
                f"{report.stop_reason}",
                "files": f"{folder}/subnet.json, {folder}/search.json",
            }
        )
    )


def _in_float(report: SearchReport) -> str | None:
    """What the float network costs in the same cost model, where that knows it."""
    from eqnet.cli.output import quantity

    if "cost" not in report.float_network:
        return None
    return f"{quantity(report.float_network['cost'], report.unit)} in {report.float_precision}"
