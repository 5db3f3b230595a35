"""`eqnet export`: a subnet in the form that its target runs fastest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eqnet.cli.options import AllowCode, Data, Json, Profile, Quiet, SupernetOption

if TYPE_CHECKING:
    from eqnet.spec.manifest import Manifest
    from eqnet.spec.reports import LoweringNote

HELP = """Export a subnet as a deployable artifact for one hardware profile.

Without --subnet it takes runs/search/PROFILE/subnet.json where that was searched in this
supernet under the profile as it is now, else the default subnet (one pair of bits throughout,
the widest within the budgets), and says which. A default subnet is raced against the float model
first where the profile's cost is time on this machine: if it is not clearly faster, what slows it
down stays in float, and if nothing is faster than float that is said (--no-race: no race). The
artifact is complete and verifiable on any
machine. How far the subnet is from the float model is said at once, with a warning where that
is less than the profile demands (`parity`).

\b
Examples:
  eqnet export --profile tensorrt_int8
  eqnet export --profile custom_lowbit \\
    --subnet runs/search/custom_lowbit/subnet.json
  eqnet export -p openvino_asym --supernet runs/mine --out deploy/mine
  eqnet export -p onnxruntime_x86 --explain"""

RANDOM_WEIGHTS = (
    "the supernet has random weights: the artifact shows that the pipeline works, and its accuracy "
    "means nothing"
)


def export(
    profile: Profile,
    supernet: SupernetOption = None,
    subnet: Annotated[
        Path | None,
        typer.Option(help="A subnet.json.", show_default="the last search's, or the default one"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Artifact folder.", show_default="artifacts/PROFILE")
    ] = None,
    data: Data = None,
    allow_code: AllowCode = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an artifact of another supernet or profile.")
    ] = False,
    race: Annotated[
        bool, typer.Option(help="Time a default subnet against the float model first.")
    ] = True,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Say what the exporter changed in the graph and what it left, and why.",
        ),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export one artifact."""
    from eqnet.cli.options import require_folder, require_writable
    from eqnet.cli.output import print_json
    from eqnet.cli.progress import progress
    from eqnet.spec.errors import CheckpointError, DataError
    from eqnet.spec.hardware.load import load_profile

    name = load_profile(profile).name
    require_folder("--supernet", supernet, CheckpointError)
    require_folder("--data", data, DataError)
    if subnet is not None and not subnet.is_file():
        raise CheckpointError(f"--subnet: {subnet}: no such file")
    folder = out or Path("artifacts") / name
    require_writable(folder, folder=True)
    from eqnet.stages.export.export import export as run

    with progress(quiet) as listener:
        manifest = run(
            profile=profile,
            supernet=supernet,
            subnet=subnet,
            out=out,
            data=data,
            allow_code=allow_code,
            force=force,
            race=race,
            progress=listener,
        )
    if manifest.model.random_weights:
        typer.echo(f"warning: {RANDOM_WEIGHTS}", err=True)
    notes = _explained(folder) if explain else None
    if as_json:
        document = manifest.model_dump(mode="json")
        if notes is not None:
            document["lowering"] = [note.model_dump(mode="json") for note in notes]
        print_json(document)
    else:
        _print(manifest, folder)
        _print_notes(notes)
    _warn(manifest)


def _explained(folder: Path) -> list[LoweringNote]:
    from eqnet.stages.export.explain import explain

    return explain(folder)


def _print_notes(notes: list[LoweringNote] | None) -> None:
    """What was left, node by node, and how many nodes each rewrite changed in which way."""
    from collections import Counter

    from eqnet.cli.output import console, table

    if notes is None:
        return
    counts = Counter((note.rewrite, note.text) for note in notes if note.changed)
    columns = ("rewrite", "nodes", "what")
    changed = table("what the exporter changed in the graph", columns, ("nodes",))
    for (rewrite, text), count in counts.items():
        changed.add_row(rewrite, str(count), text)
    console().print(changed)
    left = table("what it left, and why", ("rewrite", "node", "why"))
    for note in notes:
        if not note.changed:
            left.add_row(note.rewrite, note.node, note.text)
    if left.row_count:
        console().print(left)


def _warn(manifest: Manifest) -> None:
    """Say at once where the artifact is slower than the float model, and where the PyTorch subnet
    is worse than the profile demands of an artifact."""
    from eqnet.backend.judge import float_checks
    from eqnet.cli.output import note

    race = manifest.race
    if race is not None and race.slower_than_float:
        note(
            f"warning: nothing of profile '{manifest.profile.name}' is faster than the float model "
            f"on this machine ({race.winner.to_float:.2f} of its time): deploy the float model "
            "here, or try another profile of this runtime (`eqnet profiles list`)"
        )
    for check in float_checks(manifest.parity.against_float, manifest.profile.parity):
        if check.verdict == "failed":
            note(
                f"warning: {check.name}: {check.reason}: the subnet in PyTorch is that far from "
                "the float model, and eqnet verify will fail the artifact"
            )


def _raced(manifest: Manifest) -> str | None:
    """The subnets of a race with their times over the float model's, the chosen one first."""
    race = manifest.race
    if race is None:
        return None
    others = sorted(race.entries, key=lambda entry: entry is not race.winner)
    times = [f"{entry.name} {entry.milliseconds:.3g} ms ({entry.to_float:.2f})" for entry in others]
    return ", ".join(times)


def _print(manifest: Manifest, folder: Path) -> None:
    from eqnet.cli.output import against_float, build_table, console, facts, share

    subnet, model = manifest.subnet, manifest.model
    built: dict[str, str] = {}
    if manifest.build is not None:
        console().print(build_table(manifest.build))
        built |= manifest.build.facts
    accuracy = None
    if manifest.parity.accuracy is not None:
        of_images = f"in PyTorch, on {manifest.parity.images} parity images"
        accuracy = f"{share(manifest.parity.accuracy)} {of_images}"
    console().print(
        facts(
            {
                "artifact": str(folder),
                "subnet": f"{manifest.subnet_origin}: {subnet.avg_weight_bits:.2f} weight bits, "
                f"{subnet.avg_activation_bits:.2f} activation bits on average",
                "race": _raced(manifest),
                "form": subnet.form.label(),
                "model": f"{model.source}, input {list(model.input_shape)}",
                "int8": f"{len(manifest.int8_layers)} of {len(manifest.layers)} layers promised",
                "slow": "; ".join(manifest.slow) or None,
                "weights": f"{manifest.weight_bytes / 1024:.1f} KiB",
                "accuracy": accuracy,
                "against float": against_float(manifest.parity.against_float),
                "files": ", ".join(sorted(manifest.files)),
                "digest": manifest.digest,
                **built,
                "next": f"eqnet verify {folder}",
            }
        )
    )
