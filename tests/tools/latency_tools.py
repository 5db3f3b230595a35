"""What the tests of the latency model share: a small subject, and a target with a clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from artifacts import profile
from nets import small_supernet

from eqnet.backend.protocol import REST
from eqnet.latency.measure import Subject
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.supernet.whole import subject_of

COSTS = {"Conv": 3.0, "Gemm": 2.0, "QuantizeLinear": 0.25, "DequantizeLinear": 0.125}
INTEGER = 1.0


def rules(**changes: object) -> HardwareProfile:
    """Carriers at sums and pools, and layers that a search may leave in float."""
    groups = ["conv", "depthwise_conv", "linear", "add"]
    backend = str(changes.pop("backend", "onnxruntime"))
    return profile(backend, **{"search_groups": groups, **changes})


def small_subject(**changes: object) -> Subject:
    """The small network, whole."""
    return subject_of(small_supernet(), rules(**changes), "5" * 64)


class ClockTarget:
    """An exporter whose graphs take as long as their operators cost, on a clock of their own.

    opened: how many graphs. fails_at: the graph at which it stops with KeyboardInterrupt.
    """

    name = "fake"
    capabilities = None

    def __init__(self, reason: str | None = None, fails_at: int | None = None) -> None:
        self.reason, self.fails_at = reason, fails_at
        self.opened, self.now = 0, 0.0
        self.shapes: set[tuple[int, ...]] = set()

    def unavailable(self, rules: HardwareProfile | None = None) -> str | None:
        return self.reason

    def runtime_version(self) -> str:
        return "fake 1.0"

    def lower(self, reference: ir.Model, rules: HardwareProfile) -> ir.Model:
        return reference

    def open(self, path: Path, *, threads: int, profile: HardwareProfile) -> Callable[..., None]:
        if self.opened == self.fails_at:
            raise KeyboardInterrupt
        self.opened += 1
        taken = duration(path)

        def run(inputs: np.ndarray) -> None:
            self.shapes.add(inputs.shape)
            self.now += taken

        return run

    def layer_times(
        self, path: Path, inputs: np.ndarray, layers: Collection[str], **_: Any
    ) -> Mapping[str, float]:
        """Half of the truth: the model must not take a profiler's word for more than it is."""
        found = dict.fromkeys((*layers, REST), 0.0)
        for node in onnx.load(path).graph.node:
            if node.name in found:
                found[node.name] = 0.5 * _of(onnx.load(path), node)
        return found

    def in_turns(
        self, runs: Sequence[Callable[[], object]], repeats: int, warm_up: int
    ) -> list[list[float]]:
        """The real timing loop's form, on this clock."""
        samples: list[list[float]] = [[] for _ in runs]
        for index in range(repeats + warm_up):
            for run, kept in zip(runs, samples, strict=True):
                before = self.now
                run()
                if index >= warm_up:
                    kept.append(self.now - before)
        return samples


def duration(path: Path) -> float:
    """Milliseconds of a graph: its operators', layers with integer weights being cheaper."""
    model = onnx.load(path)
    return sum(_of(model, node) for node in model.graph.node)


def _of(model: onnx.ModelProto, node: onnx.NodeProto) -> float:
    if node.op_type in ("Conv", "Gemm"):
        weights = {each.output[0]: each for each in model.graph.node}
        dequantized = weights.get(node.input[1])
        return INTEGER if dequantized is not None else COSTS[node.op_type]
    if node.op_type.endswith("quantizeLinear") and not node.name.endswith((".q", ".dq")):
        return 0.0  # of a weight
    return COSTS.get(node.op_type, 0.0)
