"""A hardware target of your own: its exporter, its profile, and a verified artifact for it.

    python examples/own_exporter.py [--out my_npu]

`my_npu` is an accelerator with int8 activations and per-channel symmetric weights of 4 to 8 bits,
which has only a simulator yet: ONNX Runtime without any optimization. The bundled network is
exported for it at 4 bits, verified in the simulator, and what the exporter did to the graph is
printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from eqnet_exporters.passes.activation_storage import activation_storage
from eqnet_exporters.passes.rewrite import Rewrite, apply, notes_of
from eqnet_exporters.passes.tidy import tidy

import eqnet
from eqnet.backend.capabilities import capability_refusals
from eqnet.backend.discovery import register
from eqnet.backend.protocol import Array, Capabilities, Runner
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.reports import LoweringNote
from eqnet.spec.scheme import Granularity, Symmetry
from eqnet.stages.export.explain import explain

PROFILE = """
schema_version: 1
name: my_npu_w4a8
backend: my_npu
weights: {granularity: per_channel, symmetry: symmetric}
activations: {symmetry: asymmetric, storage: int8}
bits: [[4, 8]]
placement: {add: both, carriers: [pool]}
cost: {model: size}
parity: {float_agreement: 0.8, float_accuracy_drop: 2}
"""


class Simulator:
    """What stands for the chip: the graph as it stands, node by node."""

    def __init__(self, model: Path) -> None:
        import onnxruntime as ort  # only where something is executed

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = ort.InferenceSession(str(model), options)

    def __call__(self, inputs: Array) -> Array:
        """Float32 images [N, C, H, W] to float32 logits [N, classes]."""
        logits: Array = self._session.run(None, {"input": inputs})[0]
        return logits


class MyNpuExporter:
    """See docs/writing-an-exporter.md for what each member owes."""

    name = "my_npu"
    capabilities = Capabilities(
        weight_granularities=frozenset({Granularity.PER_CHANNEL}),
        weight_symmetries=frozenset({Symmetry.SYMMETRIC}),
        activation_symmetries=frozenset(Symmetry),
        storages=frozenset({"int8"}),
        min_bits=4,
        remainders=frozenset({"float32"}),
    )

    def unavailable(self, profile: HardwareProfile | None = None) -> str | None:
        """The simulator runs everywhere."""
        return None

    def runtime_version(self) -> str:
        """Whose simulator it is."""
        return "my_npu simulator 0.1"

    def refusals(self, profile: HardwareProfile) -> list[str]:
        """What follows from the capabilities."""
        return capability_refusals(profile, self.capabilities)

    def lower(self, reference: ir.Model, profile: HardwareProfile) -> ir.Model:
        """int8 activations, nothing else."""
        model = reference.clone()
        apply(model, self._rewrites(profile))
        return model

    def explain(self, reference: ir.Model, profile: HardwareProfile) -> list[LoweringNote]:
        """For `eqnet export --explain`."""
        return notes_of(reference.clone(), self._rewrites(profile))

    def _rewrites(self, profile: HardwareProfile) -> tuple[Rewrite, ...]:
        return tidy, activation_storage(profile.activations.storage), tidy

    def finish(self, folder: Path, profile: HardwareProfile) -> list[str]:
        """No files beside ``model.onnx``."""
        return []

    def open(
        self,
        model: Path,
        *,
        optimize: bool = True,
        threads: int | None = None,
        profile: HardwareProfile | None = None,
    ) -> Runner:
        """The simulator knows no optimizations."""
        return Simulator(model)

    def int8_layers(
        self, folder: Path, layers: Mapping[str, str], profile: HardwareProfile | None = None
    ) -> list[str] | None:
        """It multiplies floats, so it cannot tell."""
        return None


def main(arguments: Any = None) -> None:
    """Export, verify, explain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("my_npu"))
    options = parser.parse_args(arguments)
    register(MyNpuExporter)
    options.out.mkdir(parents=True, exist_ok=True)
    profile = options.out / "my_npu_w4a8.yaml"
    profile.write_text(PROFILE, encoding="utf-8")
    artifact = options.out / "artifact"
    eqnet.export(profile=str(profile), out=artifact)
    report = eqnet.verify(artifact)
    print(f"{report.runtime}: {report.verdict}, accuracy {report.accuracy:.4f}")
    changed = [note for note in explain(artifact) if note.changed]
    print(f"{len(changed)} nodes changed, such as {changed[0].node}: {changed[0].text}")


if __name__ == "__main__":
    main()
