"""OpenVINO on Intel CPUs: the QDQ graph is folded to its int8 kernels by the CPU plugin.

OpenVINO absorbs a quantizer and the ReLU or ReLU6 before it into the layer that they follow, so
the lowering moves quantizers to the layers and changes their storage, nothing else.

Refused because OpenVINO 2026.4 does not compute what was trained, measured on the networks of the
contract suite: int8 storage of every activation (up to 38 steps of an 8-bit grid over the logits),
and weights with a zero-point, which also drop their layer to float32 (up to 44 steps at 2 bits).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from eqnet.backend.capabilities import capability_refusals
from eqnet.backend.machine.isa import Cpu, onednn_cpu, promises_no_vnni
from eqnet.backend.protocol import Array, Capabilities, HostLimit, Probed, Runner
from eqnet.backend.refusals import Refusal
from eqnet.spec.errors import MissingExtraError, OutputError
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import MODEL
from eqnet.spec.outside.inspection import BackendFinding, LayerForm
from eqnet.spec.reports import LoweringNote
from eqnet.spec.scheme import Granularity, Symmetry
from eqnet_exporters.ov import inspect as ov_inspect
from eqnet_exporters.ov import run as ov_run
from eqnet_exporters.ov.expand_by_value import expand_by_value
from eqnet_exporters.ov.hoist_quantizers import hoist_quantizers
from eqnet_exporters.ov.layer_times import layer_times
from eqnet_exporters.ov.probed import open_probed
from eqnet_exporters.ov.quantize_transposed import quantize_transposed
from eqnet_exporters.ov.reduce_in_float import reduce_in_float
from eqnet_exporters.ov.split_norms import split_norms
from eqnet_exporters.ov.whole_swish import whole_swish
from eqnet_exporters.passes.activation_storage import activation_storage
from eqnet_exporters.passes.rewrite import Rewrite, apply, notes_of
from eqnet_exporters.passes.tidy import tidy

IR_XML, IR_BIN = "model.xml", "model.bin"


class OpenVinoExporter:
    """Intel CPUs through OpenVINO, and the GPUs and NPUs that OpenVINO finds."""

    name = "openvino"
    own_files = (IR_XML, IR_BIN)
    capabilities = Capabilities(
        weight_granularities=frozenset(Granularity),
        weight_symmetries=frozenset({Symmetry.SYMMETRIC}),
        activation_symmetries=frozenset(Symmetry),
        storages=frozenset({"uint8", "by_sign"}),
        min_bits=2,
        remainders=frozenset(ov_run.HINTS),
        devices=frozenset({"CPU", "GPU", "NPU", *ov_run.PLUGINS}),
    )

    def unavailable(self, profile: HardwareProfile | None = None) -> str | None:
        """Why OpenVINO cannot run here, or not on the profile's device, or None."""
        device = ov_run.CPU
        if profile is not None and profile.device:
            device = profile.device
        try:
            return ov_run.absent_device(device)
        except MissingExtraError as error:
            return str(error)

    def runtime_version(self) -> str:
        """Such as ``openvino 2026.4.1``. Raises MissingExtraError if not installed."""
        return ov_run.version()

    def refusals(self, profile: HardwareProfile) -> list[str]:
        """Demands without exact int8 kernels: weights with a zero-point, sums of two quantizers.

        OpenVINO fuses a sum into the convolution before it and then leaves out the rounding
        between them: with both operands quantized, 5% to 27% of a sum's integers came out one
        step off (ResNet-20 and a single block), against rounding ties alone with one.
        """
        refusals = capability_refusals(profile, self.capabilities)
        if profile.placement.add == "both":
            refusals.append(
                "placement.add: both makes OpenVINO round sums differently (allowed: skip, none)"
            )
        if "other" in profile.placement.carriers:
            refusals.append(
                "placement.carriers: other makes OpenVINO round differences differently "
                "(allowed: pool, concat, mul, activation)"
            )
        if "conv_transpose" in profile.placement.quantize:
            refusals.append(
                Refusal(
                    "placement.quantize: conv_transpose runs in float where its input has a "
                    "zero-point, and always where it is depthwise (allowed: without it)",
                    "float",
                )
            )
        if profile.remainder == "float16" and ov_run.may_use_cpu(profile.device or ov_run.CPU):
            refusals.append("remainder: float16 on the CPU (allowed: float32, bfloat16)")
        if promises_no_vnni(profile.isa) and not profile.weights.reduce_range:
            refusals.append(
                f"weights.reduce_range: false overflows OpenVINO's 16-bit sums on '{profile.isa}' "
                "(allowed: true, as in openvino_avx2)"
            )
        return refusals

    def cpu(self) -> Cpu:
        """What oneDNN uses of this CPU: all, but for ``ONEDNN_MAX_CPU_ISA``."""
        return onednn_cpu()

    def host_limit(self, profile: HardwareProfile) -> HostLimit | None:
        """Without VNNI, weights of 8 bits of storage overflow sums of 16 bits on the CPU."""
        on_cpu = ov_run.may_use_cpu(profile.device or ov_run.CPU)
        if profile.weights.reduce_range or not on_cpu or not self.cpu().adds_in_16_bits():
            return None
        return HostLimit(
            f"{self.cpu().missing('vnni')}: OpenVINO adds int8 products in 16 bits, which weights "
            "in 8 bits overflow (remedy: profile openvino_avx2, or weights.reduce_range)",
            exact=False,
        )

    def lower(self, reference: ir.Model, profile: HardwareProfile) -> ir.Model:
        """A copy with the same integers, its activations in the profile's storage.

        A quantizer after max pooling or reshaping moves before it, into the layer's kernel.
        """
        model = reference.clone()
        apply(model, _rewrites(profile))
        return model

    def explain(self, reference: ir.Model, profile: HardwareProfile) -> list[LoweringNote]:
        """What `lower` changes and leaves, node by node."""
        return notes_of(reference.clone(), _rewrites(profile))

    def finish(self, folder: Path, profile: HardwareProfile) -> list[str]:
        """Write OpenVINO's IR, ``model.xml`` and ``model.bin``, from ``model.onnx``.

        Raises EqnetError when OpenVINO cannot read the graph, OutputError when the folder
        cannot be written.
        """
        ov = ov_run.openvino()
        model = ov_run.read(ov, ov.Core(), folder / MODEL)
        temporary = folder / f".{IR_XML}.tmp.xml"
        try:
            ov.save_model(model, str(temporary), compress_to_fp16=False)
            temporary.with_suffix(".bin").replace(folder / IR_BIN)
            temporary.replace(folder / IR_XML)
        except (OSError, RuntimeError) as error:
            for leftover in (temporary, temporary.with_suffix(".bin")):
                leftover.unlink(missing_ok=True)
            raise OutputError(
                f"{folder}: cannot write the IR: {ov_run.last_line(error)}"
            ) from error
        return [IR_XML, IR_BIN]

    def open(
        self,
        model: Path,
        *,
        optimize: bool = True,
        threads: int | None = None,
        profile: HardwareProfile | None = None,
    ) -> Runner:
        """Compile for the profile's device, the graph's floats in the remainder's precision
        (float32 without a profile; OpenVINO's own default is bfloat16 where the CPU has it).

        optimize=False turns the low-precision transformations off: every quantizer is executed
        as it stands and layers multiply in float32, on the CPU. Constant folding and the fusion
        of float ops stay, which change no integer except at rounding ties.

        An artifact's ``model.onnx`` stands for the IR beside it: ``model.xml`` is what runs
        where there is one, optimized or not. Raises ArtifactError for a file that OpenVINO
        cannot load, EqnetError for a device that is not here.
        """
        setting = ov_run.Setting.of(profile, optimize=optimize, threads=threads)
        return ov_run.OpenVinoRunner(ov_run.compile_model(_shipped(model), setting))

    def open_probed(
        self,
        model: Path,
        tensors: Collection[str],
        *,
        optimize: bool = True,
        threads: int | None = None,
        profile: HardwareProfile | None = None,
    ) -> Probed:
        """As `open`, with tensors of the graph as further results."""
        setting = ov_run.Setting.of(profile, optimize=optimize, threads=threads)
        return open_probed(_shipped(model), tensors, setting)

    def int8_layers(
        self, folder: Path, layers: Mapping[str, str], profile: HardwareProfile | None = None
    ) -> list[str]:
        """Layers whose primitive is an int8 one in the compiled model's runtime graph."""
        onnx, setting = folder / MODEL, ov_run.Setting.of(profile)
        return ov_run.int8_layers(_shipped(onnx), onnx, layers, setting)

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
        """Milliseconds of each layer's primitive by OpenVINO's performance counters."""
        setting = ov_run.Setting.of(profile, threads=threads)
        return layer_times(model, inputs, layers, setting, runs=runs)

    def inspect(self, model: Path, layers: Sequence[LayerForm]) -> BackendFinding:
        """What the CPU plugin's runtime graph makes of any ONNX file."""
        return ov_inspect.inspect(model, layers)


def _rewrites(profile: HardwareProfile) -> tuple[Rewrite, ...]:
    rewrites = [
        tidy,
        hoist_quantizers,
        quantize_transposed,
        expand_by_value,
        split_norms,
        whole_swish,
        reduce_in_float,
    ]
    storage = profile.activations.storage
    if storage != "by_sign":  # as the neutral graph is stored already
        rewrites.append(activation_storage(storage))
    return (*rewrites, tidy)


def _shipped(model: Path) -> Path:
    """The IR beside an artifact's ``model.onnx``; any other file, or one without IR, itself."""
    xml = model.with_name(IR_XML)
    if model.name == MODEL and xml.is_file():
        return xml
    return model
