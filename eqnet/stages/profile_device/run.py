"""`profile_device`: time subnets of a supernet here, or of a folder of graphs on a board."""

from __future__ import annotations

from pathlib import Path

from eqnet.backend.discovery import exporter_of
from eqnet.backend.refusals import accepted_refusals
from eqnet.latency import folder as graphs_folder
from eqnet.latency.measure import HELD_OUT, SUBNETS, Plan, Subject, measure
from eqnet.spec.errors import UsageError
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.latency.file import LatencyFile, latency_name
from eqnet.spec.progress import Progress, Silent


def profile_device(
    *,
    profile: str | None = None,
    supernet: Path | None = None,
    graphs: Path | None = None,
    out: Path | None = None,
    subnets: int = SUBNETS,
    held_out: int = HELD_OUT,
    threads: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> LatencyFile:
    """Measure subnets in the profile's runtime on this machine, fit a latency model, write both.

    profile, supernet: what is measured; None is the bundled supernet. graphs: a folder of
    `write_graphs` in their place, for which no torch is needed. out: the file; by default
    ``latency.PROFILE.json`` in the supernet's folder, where a search looks for it, or in the
    current one. It is written every few seconds, and a run that was stopped goes on with it.
    Raises UsageError for both or neither of profile and graphs, MissingExtraError where the
    runtime cannot execute.
    """
    if (profile is None) == (graphs is None):
        raise UsageError("profile and graphs: give one of them (allowed: the other left out)")
    if graphs is not None:
        if supernet is not None:
            raise UsageError("supernet and graphs: the folder says which network it is of")
        subject, beside = graphs_folder.read_graphs(graphs), Path()
    else:
        assert profile is not None
        subject, beside = _opened(profile, supernet, allow_code)
    rules = subject.profile
    exporter = exporter_of(rules)
    accepted_refusals(exporter, rules)
    plan = Plan(
        threads=threads or rules.bench.threads,
        batch=batch or rules.bench.batch,
        seed=seed,
        subnets=subnets,
        held_out=held_out,
    )
    target = out or beside / latency_name(rules.name)
    return measure(subject, exporter, plan, target, progress or Silent())


def write_graphs(
    folder: Path, *, profile: str, supernet: Path | None = None, allow_code: bool = False
) -> HardwareProfile:
    """Write what a target board needs to run `profile_device` without torch; the profile.

    Raises OutputError for a folder with other files.
    """
    subject, _ = _opened(profile, supernet, allow_code)
    accepted_refusals(exporter_of(subject.profile), subject.profile)
    graphs_folder.write_graphs(folder, subject)
    return subject.profile


def _opened(profile: str, supernet: Path | None, allow_code: bool) -> tuple[Subject, Path]:
    """What is measured of a supernet, and its folder."""
    from eqnet.supernet.checkpoint import bundled_supernet, load_supernet
    from eqnet.supernet.whole import subject_of

    rules = load_profile(profile)
    folder = supernet or bundled_supernet()
    net, _, identity = load_supernet(folder, allow_code=allow_code)
    return subject_of(net, rules, identity), folder
