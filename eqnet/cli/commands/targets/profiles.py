"""`eqnet profiles`: list, show and validate hardware profiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eqnet.cli.helptext import page
from eqnet.cli.options import Json

if TYPE_CHECKING:
    from eqnet.spec.hardware.profile import HardwareProfile

app = typer.Typer(
    name="profiles",
    help="List, show and check hardware profiles.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_LIST_HELP = """List the built-in hardware profiles.

\b
Examples:
  eqnet profiles list
  eqnet profiles list --json"""

_SHOW_HELP = """Show a profile in full, with every default and everything it extends.

The YAML that is printed is a valid profile itself: a good start for your own.

\b
Examples:
  eqnet profiles show custom_lowbit
  eqnet profiles show custom_lowbit > my_chip.yaml"""

_VALIDATE_HELP = """Check a profile file; says in one line what is wrong (exit code 3).

Also asks the exporter of the profile's backend whether its target runs all that well.

\b
Examples:
  eqnet profiles validate my_chip.yaml"""


@app.command("list", help=page(_LIST_HELP))
def list_profiles(as_json: Json = False) -> None:
    """Print the built-in profiles."""
    from eqnet.cli.output import console, print_json, table
    from eqnet.spec.hardware.load import builtin_profiles, load_profile

    profiles = [load_profile(name) for name in builtin_profiles()]
    if as_json:
        print_json([profile.model_dump(mode="json") for profile in profiles])
        return
    rows = table("", ("profile", "backend", "weights", "activations", "bits", "cost", "for"))
    for profile in profiles:
        rows.add_row(*_row(profile))
    console().print(rows)


def _row(profile: HardwareProfile) -> tuple[str, ...]:
    return (
        profile.name,
        profile.backend,
        f"{profile.weights.granularity} {profile.weights.symmetry}",
        f"{profile.activations.symmetry} {profile.activations.storage}",
        _bits(profile.bits),
        profile.cost.model,
        profile.description,
    )


def _bits(pairs: tuple[tuple[int, int], ...]) -> str:
    """`w8a8` for one pair, `w2-8 a2-8` for many."""
    if len(pairs) == 1:
        return f"w{pairs[0][0]}a{pairs[0][1]}"
    weights, activations = zip(*pairs, strict=True)
    return f"w{_span(weights)} a{_span(activations)}"


def _span(bits: Sequence[int]) -> str:
    fewest, most = min(bits), max(bits)
    if fewest == most:
        return str(fewest)
    return f"{fewest}-{most}"


@app.command("show", help=page(_SHOW_HELP))
def show(
    name: Annotated[str, typer.Argument(help="Built-in name, or a YAML file's path.")],
    as_json: Json = False,
) -> None:
    """Print one profile, resolved."""
    from eqnet.cli.output import print_json
    from eqnet.spec.hardware.load import load_profile

    profile = load_profile(name)
    if as_json:
        print_json(profile)
    else:
        typer.echo(_as_yaml(profile), nl=False)


def _as_yaml(profile: HardwareProfile) -> str:
    import yaml

    content = profile.model_dump(mode="json", exclude_none=True)
    return str(yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100))


@app.command("validate", help=page(_VALIDATE_HELP))
def validate(
    file: Annotated[Path, typer.Argument(help="A profile, as a YAML file.")],
    as_json: Json = False,
) -> None:
    """Check one profile file."""
    from eqnet.backend.discovery import exporter_of
    from eqnet.backend.refusals import accepted_refusals
    from eqnet.cli.output import print_json, say
    from eqnet.spec.errors import ProfileError
    from eqnet.spec.hardware.load import load_profile

    if file.suffix not in (".yaml", ".yml"):
        raise ProfileError(f"{file}: not a YAML file by its name (allowed: .yaml or .yml)")
    profile = load_profile(str(file))
    try:
        slow = [str(line) for line in accepted_refusals(exporter_of(profile), profile)]
    except ProfileError as error:
        raise ProfileError(f"{file}: {error}") from error
    if as_json:
        print_json({"file": str(file), "valid": True, "name": profile.name, "slow": slow})
        return
    say(f"{file}: profile '{profile.name}' for backend '{profile.backend}' is valid")
    for line in slow:
        say(f"accepted as slow: {line}")
