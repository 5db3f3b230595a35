"""Measured cost: a subnet's latency in the target's own runtime, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.machine.timing import in_turns
from eqnet.backend.protocol import Exporter
from eqnet.spec.errors import MissingExtraError
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.progress import Progress
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.graphs import Graphs
from eqnet.supernet.supernet import Supernet

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
    graphs = Graphs(supernet)
    with scratch_folder() as scratch:
        runs = []
        for index, spec in enumerate(specs):
            path = scratch / f"{index}.onnx"
            ir.save(exporter.lower(graphs.of(spec), profile), path)
            runner = exporter.open(path, threads=profile.bench.threads, profile=profile)
            runs.append(partial(runner, inputs.astype(np.float32)))
            progress.advance()
        samples = in_turns(runs, REPEATS, WARM_UP)
    progress.advance()
    progress.finish()
    return [float(np.median(times)) for times in samples]
