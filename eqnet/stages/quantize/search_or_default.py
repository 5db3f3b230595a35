"""Which subnet of a supernet a profile gets: a searched one where that pays, else its default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from eqnet.backend.discovery import exporter_of
from eqnet.spec.errors import CheckpointError, UsageError, unknown
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.subnet import load_subnet
from eqnet.stages.search.duration import expected_seconds
from eqnet.stages.search.space import Space
from eqnet.subnets.budgets import COST
from eqnet.subnets.target import Target
from eqnet.supernet.session import Session

SearchMode = Literal["auto", "always", "never"]
MODES: tuple[SearchMode, ...] = ("auto", "always", "never")
# What a search may take where nobody asked for one.
PATIENCE_SECONDS = 60.0


class Choice(NamedTuple):
    """Whether to search, and why, in a line that follows "search:" or "default subnet:"."""

    search: bool
    reason: str


def require_mode(search: str) -> SearchMode:
    """A mode of `MODES`. Raises UsageError."""
    for mode in MODES:
        if search == mode:
            return mode
    raise UsageError(f"search: {unknown('mode', search, MODES)}")


def require_choosable(mode: SearchMode, profile: HardwareProfile) -> None:
    """Raise UsageError where a profile has no subnet without the search that is not wanted."""
    if mode == "never" and COST in profile.budgets:
        raise UsageError(
            f"profile '{profile.name}': budgets: {COST}: what a subnet costs is known from a "
            "search (allowed: search 'auto' or 'always')"
        )


def choose_for_profile(mode: SearchMode, session: Session, profile: HardwareProfile) -> Choice:
    """Whether to search. "auto": where the profile leaves no other way, or where a search is
    expected to take at most `PATIENCE_SECONDS`.

    Raises ProfileError for pins that match no layer, and what `Target.default` raises.
    """
    if mode == "never":
        return Choice(False, "no search was wanted")
    if mode == "always":
        return Choice(True, "as wanted")
    if COST in profile.budgets:
        return Choice(True, f"the profile's budget of {COST} needs one")
    space = Space.of(Target.of(session.supernet.info, profile), session.identity)
    if space.size() == 1:
        return Choice(False, "it is the only one")
    if profile.cost.model == "measured":
        reason = exporter_of(profile).unavailable(profile)
        if reason is not None:
            return Choice(False, f"a search would time subnets, but {reason}")
    seconds = expected_seconds(session, profile, PATIENCE_SECONDS)
    if seconds > PATIENCE_SECONDS:
        return Choice(
            False, f"a search of {_count(space.size())} would take about {_duration(seconds)}"
        )
    return Choice(True, f"{_count(space.size())} in an expected {_duration(seconds)}")


def searched_before(path: Path, identity: str, profile: HardwareProfile) -> bool:
    """Whether a subnet file is of a search of the supernet `identity` under this profile."""
    try:
        spec = load_subnet(path)
    except CheckpointError:
        return False
    return spec.supernet == identity and spec.profile_sha256 == profile.sha256()


def _count(subnets: int) -> str:
    return f"{subnets} subnets" if subnets < 1_000_000 else f"{subnets:.0e} subnets"


def _duration(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds > 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1.0, seconds):.0f} s"
