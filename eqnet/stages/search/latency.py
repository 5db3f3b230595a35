"""Measured cost: a subnet's latency in the target's own runtime, on this machine.

Of few subnets each is measured; for many a model is fitted to some (`eqnet.latency`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from eqnet.backend.discovery import exporter_of
from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.machine.host import describe_host, same_machine
from eqnet.backend.machine.timing import in_turns
from eqnet.backend.protocol import Exporter
from eqnet.latency.measure import Plan, measure
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.errors import MissingExtraError
from eqnet.spec.hardware.costs import Cost
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.latency.file import LatencyFile, latency_name, network_sha256, read_latency
from eqnet.spec.network import NetworkInfo
from eqnet.spec.progress import Progress
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.extract import extract
from eqnet.supernet.session import Session
from eqnet.supernet.supernet import Supernet
from eqnet.supernet.whole import subject_of

WARM_UP = 5
REPEATS = 40


def measure_latency(
    supernet: Supernet,
    exporter: Exporter,
    profile: HardwareProfile,
    specs: Sequence[SubnetSpec],
    progress: Progress,
) -> list[float]:
    """Median milliseconds of each subnet, all timed in turns so that drift hits all alike.

    Batch norm statistics do not matter to latency and are left as they are. Raises
    MissingExtraError where the runtime cannot execute.
    """
    reason = exporter.unavailable(profile)
    if reason is not None:
        raise MissingExtraError(f"cost model 'measured' needs {exporter.name}: {reason}")
    shape = supernet.info.input_shape
    inputs = np.random.default_rng(0).standard_normal((profile.bench.batch, *shape))
    progress.start("measuring latency", len(specs) + 1)
    with scratch_folder() as scratch:
        runs = []
        for index, spec in enumerate(specs):
            path = scratch / f"{index}.onnx"
            reference = to_onnx(extract(supernet, spec), shape)
            ir.save(exporter.lower(reference, profile), path)
            runner = exporter.open(path, threads=profile.bench.threads, profile=profile)
            runs.append(partial(runner, inputs.astype(np.float32)))
            progress.advance()
        samples = in_turns(runs, REPEATS, WARM_UP)
    progress.advance()
    progress.finish()
    return [float(np.median(times)) for times in samples]


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
