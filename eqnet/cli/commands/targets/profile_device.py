"""`eqnet profile-device`: a model of latency on this machine, from measured subnets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eqnet.cli.options import AllowCode, Json, Quiet, Seed, SupernetOption, Threads
from eqnet.spec.hardware.limits import BATCH

if TYPE_CHECKING:
    from eqnet.spec.latency.file import LatencyFile, Quality

HELP = """Measure a network's latency on this machine, and fit a model of it.

Times random subnets, layers and groups of them in float, in the profile's own runtime, each in
turns with the fully quantized one, and fits what each layer and each change of precision costs.
Subnets that were held out say how well it predicts. A search with 'cost: measured' uses the file
beside the supernet for spaces of any size. A run that was stopped goes on where it was.

For a board without torch: --write-graphs here, --graphs there, and back here the file is the
table of 'cost: lookup'.

\b
Examples:
  eqnet profile-device --profile openvino_asym --supernet runs/mine
  eqnet profile-device -p onnxruntime_arm --supernet runs/mine \\
    --write-graphs board
  eqnet profile-device --graphs board --out latency.json"""


def profile_device(
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", "-p", help="Built-in name ('eqnet profiles list') or a YAML file's path."
        ),
    ] = None,
    supernet: SupernetOption = None,
    graphs: Annotated[
        Path | None, typer.Option(help="Folder of --write-graphs, in place of a supernet.")
    ] = None,
    write_graphs: Annotated[
        Path | None, typer.Option(help="Measure nothing; write what a board needs.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write.", show_default="SUPERNET/latency.PROFILE.json"),
    ] = None,
    subnets: Annotated[int, typer.Option(min=8, max=10_000, help="That the model is of.")] = 100,
    held_out: Annotated[int, typer.Option(min=2, max=10_000, help="That judge the model.")] = 30,
    threads: Threads = None,
    batch: Annotated[
        int | None,
        typer.Option(min=BATCH[0], max=BATCH[1], help="Images.", show_default="the profile's"),
    ] = None,
    seed: Seed = 0,
    allow_code: AllowCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure one network under one profile."""
    from eqnet.cli.options import require_folder, require_writable
    from eqnet.cli.output import print_json, say
    from eqnet.cli.progress import progress
    from eqnet.spec.errors import ArtifactError, CheckpointError, UsageError

    if (profile is None) == (graphs is None):
        raise UsageError("--profile and --graphs: give one of them (allowed: the other left out)")
    if graphs is not None and (supernet is not None or write_graphs is not None):
        raise UsageError("--graphs: the folder holds the network (allowed: no --supernet with it)")
    require_folder("--supernet", supernet, CheckpointError)
    require_folder("--graphs", graphs, ArtifactError)
    if out is not None:
        require_writable(out, folder=False)
    from eqnet.stages import profile_device as stage

    if write_graphs is not None:
        assert profile is not None
        require_writable(write_graphs, folder=True)
        rules = stage.write_graphs(
            write_graphs, profile=profile, supernet=supernet, allow_code=allow_code
        )
        if as_json:
            print_json({"graphs": str(write_graphs), "profile": rules.name})
        else:
            say(f"{write_graphs}: on the board, `eqnet profile-device --graphs {write_graphs}`")
        return
    with progress(quiet) as listener:
        file = stage.profile_device(
            profile=profile,
            supernet=supernet,
            graphs=graphs,
            out=out,
            subnets=subnets,
            held_out=held_out,
            threads=threads,
            batch=batch,
            seed=seed,
            allow_code=allow_code,
            progress=listener,
        )
    if as_json:
        print_json(_document(file))
    else:
        _print(file)


def _document(file: LatencyFile) -> dict[str, Any]:
    """The file without what is long: samples, where tensors come from."""
    return file.model_dump(mode="json", exclude={"samples", "origins"})


def _print(file: LatencyFile) -> None:
    from eqnet.cli.output import console, facts, table
    from eqnet.spec.latency.features import LAYER, key

    assert file.fit is not None
    assert file.reference_ms is not None
    setting, out = file.setting, console()
    columns = ("layer", "int8 ms", "float ms", "float instead of int8", "")
    title = f"{setting.profile}: batch {setting.batch}, {setting.threads} threads"
    rows = table(title, columns, columns[1:4])
    for layer in file.layers:
        more = file.fit.coefficients.get(key(LAYER, layer.name), 0.0)
        mark = "int8 is slower here" if more < 0 else ""
        cells = (f"{layer.integer:.3f}", f"{layer.floating:.3f}", f"{more:+.3f} ms")
        rows.add_row(layer.name, *cells, mark)
    out.print(rows)
    out.print(
        facts(
            {
                "fully quantized": f"{file.reference_ms:.3f} ms in {setting.runtime}",
                "held out": _quality(file.fit.held_out),
                "each left out": _quality(file.fit.crossed),
                "machine": f"{file.host.get('cpu', '')}, {file.host.get('cores', '')} cores",
            }
        )
    )


def _quality(quality: Quality | None) -> str | None:
    if quality is None:
        return None
    return (
        f"mean error {quality.mean_error:.1%}, worst {quality.worst_error:.1%}, Kendall tau "
        f"{quality.kendall_tau:.2f} on {quality.subnets} subnets"
    )
