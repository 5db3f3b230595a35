"""`eqnet demo`: every profile from search to benchmark, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eqnet.cli.options import Data, Json, Quiet, Seed, SupernetOption

HELP = """Search, export, verify and bench the built-in profiles; then one table and one page.

Writes OUT/PROFILE/ for each profile and OUT/report.html. A profile that fails has its reason in
its row, the others go on, and the exit code is 11.

\b
Examples:
  eqnet demo
  eqnet demo --out artifacts --profiles openvino_asym,custom_lowbit --seed 1
  eqnet demo --profiles onnxruntime_avx2,onnxruntime_arm,custom_pow2"""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for artifacts and page.")] = Path("artifacts"),
    profiles: Annotated[
        str | None,
        typer.Option(
            help="Names, with commas.", show_default="one of each kind, as this CPU can run it"
        ),
    ] = None,
    supernet: SupernetOption = None,
    data: Data = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole chain."""
    from eqnet.cli.options import parse_names, require_folder, require_writable
    from eqnet.cli.output import console, print_json, say
    from eqnet.cli.progress import progress
    from eqnet.spec.errors import CheckpointError, DataError, VerificationError
    from eqnet.spec.hardware.load import builtin_profiles

    named = parse_names("--profiles", profiles, builtin_profiles())
    require_folder("--supernet", supernet, CheckpointError)
    require_folder("--data", data, DataError)
    require_writable(out, folder=True)
    from eqnet.demo import demo as run
    from eqnet.stages.report.terminal import rows_table

    with progress(quiet) as listener:
        result = run(
            out,
            profiles=named if profiles else None,
            supernet=supernet,
            data=data,
            seed=seed,
            progress=listener,
        )
    if as_json:
        print_json(result)
    else:
        console().print(rows_table(result.rows))
        say(f"report in {result.report}")
    failed = [row.profile for row in result.rows if row.verdict == "failed"]
    if failed:
        raise VerificationError(f"failed: {', '.join(failed)} (the table says why)")
