"""Measured cost in spaces too large to time whole: a model fitted to some of their subnets."""

from __future__ import annotations

from pathlib import Path

from eqnet.backend.discovery import exporter_of
from eqnet.backend.machine.host import describe_host, same_machine
from eqnet.backend.protocol import Exporter
from eqnet.latency.measure import Plan, measure
from eqnet.spec.hardware.costs import Cost
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.latency.file import LatencyFile, latency_name, network_sha256, read_latency
from eqnet.spec.network import NetworkInfo
from eqnet.spec.progress import Progress
from eqnet.supernet.session import Session
from eqnet.supernet.whole import subject_of


def modelled_latency(session: Session, profile: HardwareProfile, progress: Progress) -> Cost:
    """Milliseconds by the latency model of a supernet on this machine, for any subnet.

    It is the file beside the supernet, as `eqnet profile-device` writes it; it is made there
    where there is none of this network, profile, runtime, batch, threads and machine. Raises
    ProfileError for a file there that is none, MissingExtraError where the runtime cannot
    execute.
    """
    info, path = session.supernet.info, session.folder / latency_name(profile.name)
    exporter = exporter_of(profile)
    file = _beside(path, info, profile, exporter)
    if file is None:
        subject = subject_of(session.supernet, profile, session.identity)
        plan = Plan(threads=profile.bench.threads, batch=profile.bench.batch)
        file = measure(subject, exporter, plan, path, progress)
    made = file
    return lambda spec: made.milliseconds(info, spec)


def _beside(
    path: Path, info: NetworkInfo, profile: HardwareProfile, exporter: Exporter
) -> LatencyFile | None:
    """The complete file at `path`, where it tells of this network, profile and machine."""
    if not path.is_file() or exporter.unavailable(profile) is not None:
        return None
    file = read_latency(path)
    wanted = {
        "graph_sha256": profile.graph_sha256(),
        "network": network_sha256(info),
        "runtime": exporter.runtime_version(),
        "threads": profile.bench.threads,
        "batch": profile.bench.batch,
    }
    same = all(getattr(file.setting, key) == value for key, value in wanted.items())
    here = same_machine(file.host, describe_host())
    return file if same and here and file.fit is not None else None
