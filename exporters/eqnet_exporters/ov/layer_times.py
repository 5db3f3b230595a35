"""What each layer of a graph takes in OpenVINO, by its performance counters."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from eqnet.backend.graph.reading import load_graph
from eqnet.backend.protocol import REST, Array
from eqnet_exporters.ov.layer_names import LayerNames
from eqnet_exporters.ov.run import Setting, compile_model


def layer_times(
    path: Path, inputs: Array, layers: Collection[str], setting: Setting, *, runs: int
) -> Mapping[str, float]:
    """Median milliseconds of primitives, by layer; those of no layer are under `REST`.

    Raises as `compile_model` does.
    """
    compiled = compile_model(path, setting, {"PERF_COUNT": True})
    request = compiled.create_infer_request()
    source = np.ascontiguousarray(inputs, dtype=np.float32)
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(1 + runs):
        request.infer({0: source}, share_inputs=True)
        for info in request.get_profiling_info():
            times[info.node_name].append(info.real_time.total_seconds() * 1e3)
    names = LayerNames(load_graph(path))
    found = dict.fromkeys((*sorted(layers), REST), 0.0)
    for node in compiled.get_runtime_model().get_ordered_ops():
        if taken := times.get(node.get_friendly_name()):
            layer = names.of(node) or REST
            found[layer if layer in layers else REST] += statistics.median(taken[1:])
    return found
