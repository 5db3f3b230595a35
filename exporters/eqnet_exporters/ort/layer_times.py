"""What each layer of a graph takes in ONNX Runtime, by the runtime's own profiler."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.graph.layer_forms import is_layer
from eqnet.backend.graph.reading import load_graph
from eqnet.backend.protocol import REST, Array
from eqnet.spec.texts import parse_json
from eqnet_exporters.ort import session as ort
from eqnet_exporters.passes._read import producers_of

KERNEL = "_kernel_time"
# What ONNX Runtime adds to a node's name: of layout transformations, and of kernels in NCHWc.
ADDED = re.compile(r"(_token_\d+|_nchwc)+$")
FLOAT_OPS = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def layer_times(
    path: Path, inputs: Array, layers: Collection[str], *, threads: int, runs: int
) -> Mapping[str, float]:
    """Median milliseconds of kernels, by layer; those of no layer are under `REST`.

    Raises ArtifactError if the graph does not load.
    """
    options = ort.options_of(path, optimize=True, threads=threads)
    with scratch_folder() as scratch:
        options.enable_profiling = True
        options.profile_file_prefix = str(scratch / "profile")
        runner = ort.runner_of(path, options)
        for _ in range(1 + runs):
            runner(inputs)
        written = Path(runner.session.end_profiling())
        events = parse_json(written.read_bytes())
    return _sums(events, _Names(load_graph(path)), layers)


def _sums(
    events: Iterable[Mapping[str, Any]], names: _Names, layers: Collection[str]
) -> dict[str, float]:
    found = dict.fromkeys((*sorted(layers), REST), 0.0)
    for (kernel, op), times in _kernels(events).items():
        layer = names.of(kernel, op) or REST
        found[layer if layer in layers else REST] += statistics.median(times[1:]) / 1e3
    return found


def _kernels(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """Microseconds of each kernel in each run, the first one too, by its name and operator."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            operator = str(event["args"]["op_name"])
            times[ADDED.sub("", name.removesuffix(KERNEL)), operator].append(float(event["dur"]))
    return times


class _Names:
    """The layers of a graph, to be recognized by what ONNX Runtime calls kernels.

    A kernel has the name of the layer's node or, in its layout NCHWc, that of the value which it
    gives, after the activation and the sum that were fused into it.
    """

    def __init__(self, model: ir.Model) -> None:
        self._nodes = {str(node.name): node for node in model.graph}
        self._values = {str(node.outputs[0].name): node for node in model.graph}
        self._place = {node: index for index, node in enumerate(model.graph)}

    def of(self, kernel: str, op: str) -> str | None:
        """The layer of a kernel, or None."""
        node = self._nodes.get(kernel)
        if node is not None and is_layer(node):
            return kernel
        value = self._values.get(kernel)
        if value is None or op not in FLOAT_OPS:
            return None
        layers = [each for each in _before(value) if is_layer(each)]
        if not layers:
            return None
        return str(max(layers, key=lambda layer: self._place[layer]).name)


def _before(node: ir.Node) -> Iterator[ir.Node]:
    """A node and what it is computed from, up to layers and quantizers."""
    seen, stack = {node}, [node]
    while stack:
        node = stack.pop()
        yield node
        if is_layer(node) or node.op_type == "DequantizeLinear":
            continue
        for producer in producers_of(node):
            if producer not in seen:
                seen.add(producer)
                stack.append(producer)
