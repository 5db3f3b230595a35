"""Which subnet is exported: a given one, the one that was searched, or the profile's default."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from eqnet.spec.errors import CheckpointError
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import Race
from eqnet.spec.subnet import SubnetSpec, load_subnet
from eqnet.subnets.membership import first_difference
from eqnet.subnets.target import Target
from eqnet.supernet.session import Session

DEFAULT, RACED = "default", "race"


class ChosenSubnet(NamedTuple):
    """A subnet, where it came from, and the race that it won, if there was one."""

    spec: SubnetSpec
    origin: str
    race: Race | None = None


def choose_subnet(
    session: Session, profile: HardwareProfile, path: Path | None, searches: Path | None
) -> ChosenSubnet:
    """The subnet to export, and where it came from.

    Raises CheckpointError for one of another supernet or profile, or that the profile's search
    could not have chosen, and what `Target.default` raises where there is none.
    """
    target = Target.of(session.supernet.info, profile)
    if path is not None:
        spec = load_subnet(path)
        _check_belongs(path, spec, session, profile)
        return ChosenSubnet(_checked(path, spec, target), str(path))
    if searches is not None:
        searched = searches / profile.name / "subnet.json"
        if searched.is_file():
            spec = load_subnet(searched)
            if spec.supernet == session.identity and spec.profile_sha256 == profile.sha256():
                return ChosenSubnet(_checked(searched, spec, target), "search")
    return ChosenSubnet(target.default(session.identity), DEFAULT)


def _checked(path: Path, spec: SubnetSpec, target: Target) -> SubnetSpec:
    """The subnet, if the profile's search could have chosen it."""
    difference = first_difference(target, spec)
    if difference is not None:
        raise CheckpointError(
            f"{path}: {difference}; no such subnet is of profile '{target.profile.name}'"
        )
    return spec


def _check_belongs(
    path: Path, spec: SubnetSpec, session: Session, profile: HardwareProfile
) -> None:
    if spec.supernet != session.identity:
        raise CheckpointError(
            f"{path}: searched in supernet {spec.supernet[:12]} (allowed: this one, "
            f"{session.identity[:12]})"
        )
    if spec.profile_sha256 != profile.sha256():
        raise CheckpointError(
            f"{path}: searched under profile '{spec.profile}' in another form "
            f"(allowed: '{profile.name}' as it is now)"
        )
