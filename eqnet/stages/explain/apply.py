"""Remedies as a hardware profile: a file that extends the profile and adds its pins."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eqnet.backend.files import write_file
from eqnet.sensitivity.taken_out import Reference, measure_whole
from eqnet.spec.errors import ProfileError, UsageError
from eqnet.spec.hardware.load import load_profile, profiles_dir
from eqnet.spec.hardware.profile import HardwareProfile, PinnedLayer
from eqnet.spec.reports import Applied, Remedy
from eqnet.stages.explain.candidates import Candidate, pinned_all
from eqnet.stages.explain.costs import Costs
from eqnet.stages.explain.remedies import quality
from eqnet.stages.explain.subject import Subject
from eqnet.supernet.session import Session

SUFFIX = ".yaml"


def check_target(profile: str, out: Path) -> None:
    """Raise UsageError, before long work, for a path that no profile can have."""
    if out.suffix != SUFFIX or re.fullmatch("[a-z0-9_]{1,64}", out.stem) is None:
        raise UsageError(
            f"--apply: {out}: the profile takes its name from the file (allowed: NAME.yaml with "
            "a NAME of a-z, 0-9 and _)"
        )
    if out.stem == _base_of(profile, out):
        raise UsageError(
            f"--apply: {out}: it would extend itself (allowed: another name than '{out.stem}')"
        )
    if _is_file(profile) and Path(profile).suffix != SUFFIX:
        raise UsageError(f"--apply: only a {SUFFIX} file can be extended, found {profile}")


def write_profile(
    profile: str, rules: HardwareProfile, pins: Sequence[PinnedLayer], out: Path, told: str
) -> HardwareProfile:
    """Write a profile of `rules` with these pins, all of them; returns it as it is read again.

    profile: the name or path of `rules`. told: a comment at the head of the file.
    Raises OutputError, and ProfileError where the file does not say what it should.
    """
    import yaml

    base = _base_of(profile, out)
    content = {
        "extends": base,
        "name": out.stem,
        "pinned": [pin.model_dump(mode="json") for pin in pins],
    }
    text = "".join(f"# {line}\n" for line in told.splitlines())
    text += str(yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100))
    write_file(out, text)
    written = load_profile(str(out))
    wanted = rules.model_copy(update={"name": out.stem, "pinned": tuple(pins)})
    # A lookup table's path is relative to the file.
    if written.model_copy(update={"cost": wanted.cost}) != wanted:
        raise ProfileError(f"{out}: it does not extend '{base}' as that was read")
    return written


def apply_pins(
    profile: str,
    out: Path,
    session: Session,
    subject: Subject,
    chosen: Sequence[Candidate],
    remedies: Sequence[Remedy],
    costs: Costs,
) -> Applied:
    """Write the profile, and measure the subnet of its file against that without the pins.

    On the data set's parity images, by which nothing was chosen, and settled on all images.
    """
    pins = pinned_all(subject, chosen).profile.pinned
    written = write_profile(profile, subject.profile, pins, out, _told(remedies, profile))
    specs = [subject.spec(), replace(subject, profile=written, given=None).spec()]
    images = session.batches(session.dataset.parity())
    reference = Reference.of(session, images)
    calibration = session.calibration()
    found = [measure_whole(session, spec, calibration, reference) for spec in specs]
    before, after = map(quality, found, costs.of(specs))
    return Applied(profile=str(out), images=len(images), before=before, after=after)


def _told(remedies: Sequence[Remedy], profile: str) -> str:
    """The comment at the head of the file."""
    lines = [f"{profile}, with pins of `eqnet explain`. KL to the float network, in nats:"]
    for one in remedies:
        lines.append(f"{one.name}: {one.before.kl:.4g} to {one.after.kl:.4g}")
    return "\n".join(lines)


def _is_file(profile: str) -> bool:
    return Path(profile).suffix in (".yaml", ".yml")


def _base_of(profile: str, out: Path) -> str:
    """What `extends:` says: a built-in profile's name, or a path from the new file's folder."""
    path = Path(profile)
    if not _is_file(profile):
        return profile
    if path.resolve().parent == profiles_dir().resolve():
        return path.stem
    return os.path.relpath(path.resolve().with_suffix(""), out.resolve().parent)
