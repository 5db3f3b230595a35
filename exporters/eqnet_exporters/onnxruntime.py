"""ONNX Runtime on CPUs: uint8 activations with int8 weights on x86, int8 with int8 on ARM."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from eqnet.backend.capabilities import capability_refusals
from eqnet.backend.machine.isa import Cpu, promises_no_vnni, this_cpu
from eqnet.backend.protocol import Array, Capabilities, HostLimit, Probed, Runner
from eqnet.backend.refusals import Refusal
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import MODEL
from eqnet.spec.outside.inspection import BackendFinding, LayerForm
from eqnet.spec.reports import LoweringNote
from eqnet.spec.scheme import Granularity, Symmetry
from eqnet_exporters.ort import inspect as ort_inspect
from eqnet_exporters.ort import session as ort
from eqnet_exporters.ort.guard_requantization import guard_requantization
from eqnet_exporters.ort.keep_float_weights import keep_float_weights
from eqnet_exporters.ort.layer_times import layer_times
from eqnet_exporters.ort.own_zero_points import own_zero_points
from eqnet_exporters.ort.probed import open_probed
from eqnet_exporters.passes.activation_storage import activation_storage
from eqnet_exporters.passes.fold_activations import fold_activations
from eqnet_exporters.passes.integer_bias import integer_bias
from eqnet_exporters.passes.rewrite import Rewrite, apply, notes_of
from eqnet_exporters.passes.share_quantizers import share_quantizers
from eqnet_exporters.passes.tidy import tidy

X86_ISA = ("sse", "avx", "vnni", "amx", "x86")


class OnnxRuntimeExporter:
    """Lowers the neutral graph so that every Conv meets a Q, and runs it with ONNX Runtime."""

    name = "onnxruntime"
    capabilities = Capabilities(
        weight_granularities=frozenset(Granularity),
        weight_symmetries=frozenset(Symmetry),
        activation_symmetries=frozenset(Symmetry),
        storages=frozenset({"uint8", "int8"}),
        min_bits=8,
        remainders=frozenset({"float32"}),
        # Fewer bits run as 8-bit integers with a Clip: exact, and no faster than 8.
        slow=frozenset({"bits", "pinned"}),
    )

    def unavailable(self, profile: HardwareProfile | None = None) -> str | None:
        """Why ONNX Runtime cannot execute here, or None."""
        return ort.unavailable()

    def runtime_version(self) -> str:
        """``onnxruntime`` and its version."""
        return ort.version()

    def refusals(self, profile: HardwareProfile) -> list[str]:
        """What of the profile has no fast kernels in ONNX Runtime, one line each."""
        return [
            *capability_refusals(profile, self.capabilities),
            *_slow_storage(profile),
            *_slow_weights(profile),
            *_float_sums(profile),
            *_float_transposed(profile),
        ]

    def cpu(self) -> Cpu:
        """All of this CPU: ONNX Runtime has no switch."""
        return this_cpu()

    def host_limit(self, profile: HardwareProfile) -> HostLimit | None:
        """Without VNNI, weights of 8 bits of storage run in the exact kernels, which are slow."""
        return ort.host_limit(profile)

    def lower(self, reference: ir.Model, profile: HardwareProfile) -> ir.Model:
        """A copy of the neutral graph with the same integers, in the form that fuses."""
        model = reference.clone()
        apply(model, _rewrites(profile))
        return model

    def explain(self, reference: ir.Model, profile: HardwareProfile) -> list[LoweringNote]:
        """What `lower` changes and leaves, node by node."""
        return notes_of(reference.clone(), _rewrites(profile))

    def finish(self, folder: Path, profile: HardwareProfile) -> list[str]:
        """ONNX Runtime needs no file beside ``model.onnx``."""
        return []

    def open(
        self,
        model: Path,
        *,
        optimize: bool = True,
        threads: int | None = None,
        profile: HardwareProfile | None = None,
    ) -> Runner:
        """Load an ONNX file on the CPU. Raises ArtifactError if ONNX Runtime refuses it."""
        return ort.open_model(model, optimize=optimize, threads=threads)

    def int8_layers(
        self, folder: Path, layers: Mapping[str, str], profile: HardwareProfile | None = None
    ) -> list[str]:
        """Layers that ONNX Runtime's optimized graph runs as QLinearConv, QGemm and the like."""
        return ort.int8_layers(folder / MODEL, layers)

    def layer_times(
        self,
        model: Path,
        inputs: Array,
        layers: Collection[str],
        *,
        profile: HardwareProfile,
        threads: int,
        runs: int,
    ) -> Mapping[str, float]:
        """Milliseconds of each layer's kernel by ONNX Runtime's profiler."""
        return layer_times(model, inputs, layers, threads=threads, runs=runs)

    def open_probed(
        self,
        model: Path,
        tensors: Collection[str],
        *,
        optimize: bool = True,
        threads: int | None = None,
        profile: HardwareProfile | None = None,
    ) -> Probed:
        """As `open`, with tensors of the graph as further outputs."""
        return open_probed(model, tensors, optimize=optimize, threads=threads)

    def open_plain(self, model: Path, *, threads: int) -> Runner:
        """Load any ONNX file with the session's default options, which `inspect` tells of."""
        return ort.open_plain(model, threads)

    def inspect(self, model: Path, layers: Sequence[LayerForm]) -> BackendFinding:
        """What ONNX Runtime's own optimized graph makes of any ONNX file."""
        return ort_inspect.inspect(model, layers)


def _rewrites(profile: HardwareProfile) -> tuple[Rewrite, ...]:
    return (
        tidy,
        share_quantizers,
        fold_activations,
        activation_storage(profile.activations.storage),
        guard_requantization,
        keep_float_weights,
        integer_bias,
        own_zero_points,
        tidy,
    )


def _slow_storage(profile: HardwareProfile) -> list[str]:
    isa = (profile.isa or "").lower()
    if profile.activations.storage == "int8" and isa.startswith(X86_ISA):
        line = f"activations.storage: int8 runs 3 to 8 times slower than uint8 on '{isa}'"
        return [Refusal(f"{line} (allowed: uint8)", "slow")]
    return []


def _slow_weights(profile: HardwareProfile) -> list[str]:
    wide = not profile.weights.reduce_range and profile.activations.storage == "uint8"
    if not wide or not promises_no_vnni(profile.isa):
        return []
    line = (
        f"weights.reduce_range: false needs session.x64quantprecision on '{profile.isa}', without "
        "which 16-bit sums overflow (allowed: true, as in onnxruntime_avx2)"
    )
    return [Refusal(line, "slow")]


def _float_sums(profile: HardwareProfile) -> list[str]:
    if profile.placement.add != "both":
        line = (
            f"placement.add: '{profile.placement.add}' leaves convolutions before a sum in float, "
            "because QLinearConv needs a quantized output (allowed: both)"
        )
        return [Refusal(line, "float")]
    return []


def _float_transposed(profile: HardwareProfile) -> list[str]:
    if "conv_transpose" in profile.placement.quantize:
        line = (
            "placement.quantize: conv_transpose runs in float, because ONNX Runtime has no integer "
            "kernel for it (allowed: without it)"
        )
        return [Refusal(line, "float")]
    return []
