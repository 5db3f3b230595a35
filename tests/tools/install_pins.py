"""What pyproject.toml claims to work with: the lowest release of each dependency, by extra."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
# Extras for the work on eqnet itself; the pins of `bench` and `peers` are other tools' business.
NOT_FOR_USERS = {"dev", "docs", "bench", "peers"}


def project(path: Path = PYPROJECT) -> dict[str, Any]:
    """The table `project` of a pyproject.toml."""
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return found


def extras(table: dict[str, Any]) -> dict[str, list[Requirement]]:
    """The extras that users install, with their requirements."""
    optional = table["optional-dependencies"]
    return {
        name: [Requirement(line) for line in lines]
        for name, lines in optional.items()
        if name not in NOT_FOR_USERS
    }


def requirements(table: dict[str, Any]) -> list[Requirement]:
    """All requirements of the package and its users' extras on other packages."""
    found = [Requirement(line) for line in table["dependencies"]]
    found += [line for lines in extras(table).values() for line in lines]
    return [line for line in found if line.name != table["name"]]


def lowest(lines: Iterable[Requirement], environment: dict[str, str]) -> dict[str, Version]:
    """The lowest claimed release of each package in an environment of these markers.

    environment: markers that differ from the running Python's, such as `python_version`. Raises
    ValueError for a requirement without a lower bound: nobody could say what it claims.
    """
    found: dict[str, Version] = {}
    for line in lines:
        if line.marker is not None and not line.marker.evaluate(dict(environment)):
            continue
        bounds = [Version(part.version) for part in line.specifier if part.operator in (">=", "==")]
        if not bounds:
            raise ValueError(f"{line}: no lower bound (allowed: NAME>=VERSION)")
        found[line.name] = max([*bounds, found.get(line.name, bounds[0])])
    return found


def constraints(pins: dict[str, Version]) -> str:
    """The text of a constraints file that allows exactly these releases."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))
