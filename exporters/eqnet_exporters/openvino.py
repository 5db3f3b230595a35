"""OpenVINO on Intel CPUs: the QDQ graph is folded to its int8 kernels by the CPU plugin.

The graph needs no lowering beyond storage: OpenVINO absorbs ReLU and ReLU6 before a quantizer,
and data movers between two. Weights with a zero-point would drop their layer to float32, so
they are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from eqnet.backend.capabilities import capability_refusals
from eqnet.backend.graphs import LAYER_OPS
from eqnet.backend.protocol import Array, Capabilities, Runner
from eqnet.spec.errors import ArtifactError, EqnetError, MissingExtraError, OutputError
from eqnet.spec.manifest import MODEL
from eqnet.spec.profile import HardwareProfile
from eqnet.spec.scheme import Granularity, Symmetry
from eqnet_exporters.passes.activation_storage import activation_storage
from eqnet_exporters.passes.tidy import tidy

IR_XML, IR_BIN = "model.xml", "model.bin"
# Integer weights of depthwise and transposed convolutions are of these runtime types too.
LAYER_TYPES = frozenset({"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected"})
LAYER_TYPES |= {"MatMul"}
# The CPU plugin's own switch for its low-precision transformations: with it off, quantizers
# stay in the graph as they are and every layer multiplies in float32.
LOW_PRECISION = "LP_TRANSFORMS_MODE"


class OpenVinoExporter:
    """Intel CPUs through OpenVINO."""

    name = "openvino"
    capabilities = Capabilities(
        weight_granularities=frozenset(Granularity),
        weight_symmetries=frozenset({Symmetry.SYMMETRIC}),
        activation_symmetries=frozenset(Symmetry),
        storages=frozenset({"uint8", "int8"}),
        min_bits=2,
        remainders=frozenset({"float32"}),
    )

    def unavailable(self) -> str | None:
        """Why OpenVINO cannot run here, or None."""
        try:
            _openvino()
        except MissingExtraError as error:
            return str(error)
        return None

    def runtime_version(self) -> str:
        """Such as ``openvino 2026.4.1``. Raises MissingExtraError if not installed."""
        return f"openvino {_openvino().__version__.split('-', 1)[0]}"

    def refusals(self, profile: HardwareProfile) -> list[str]:
        """Demands without exact int8 kernels: weights with a zero-point, sums of two quantizers.

        OpenVINO fuses a sum into the convolution before it and then leaves out the rounding
        between them: with both operands quantized, 5% to 27% of a sum's integers came out one
        step off (ResNet-20 and a single block), against rounding ties alone with one.
        """
        found = capability_refusals(profile, self.capabilities)
        if profile.placement.add == "both":
            found.append(
                "placement.add: both makes OpenVINO round sums differently (allowed: skip, none)"
            )
        return found

    def lower(self, reference: ir.Model, profile: HardwareProfile) -> ir.Model:
        """A copy with the same integers, its activations in the profile's storage."""
        model = reference.clone()
        tidy(model)
        activation_storage(model, profile.activations.storage)
        tidy(model)
        return model

    def finish(self, folder: Path, profile: HardwareProfile) -> list[str]:
        """Write OpenVINO's IR, ``model.xml`` and ``model.bin``, from ``model.onnx``.

        Raises EqnetError when OpenVINO cannot read the graph, OutputError when the folder
        cannot be written.
        """
        ov = _openvino()
        model = _read(ov, ov.Core(), folder / MODEL)
        temporary = folder / f".{IR_XML}.tmp.xml"
        try:
            ov.save_model(model, str(temporary), compress_to_fp16=False)
            temporary.with_suffix(".bin").replace(folder / IR_BIN)
            temporary.replace(folder / IR_XML)
        except (OSError, RuntimeError) as error:
            for leftover in (temporary, temporary.with_suffix(".bin")):
                leftover.unlink(missing_ok=True)
            raise OutputError(f"{folder}: cannot write the IR: {_one_line(error)}") from error
        return [IR_XML, IR_BIN]

    def open(self, model: Path, *, optimize: bool = True, threads: int | None = None) -> Runner:
        """Compile for the CPU, in float32 where the graph is float (OpenVINO's own default is
        bfloat16 where the CPU has it).

        optimize=False turns the low-precision transformations off: every quantizer is executed
        as it stands and layers multiply in float32. Constant folding and the fusion of float
        ops stay, which change no integer except at rounding ties.

        An artifact's ``model.onnx`` stands for the IR beside it: ``model.xml`` is what runs
        where there is one, optimized or not. Raises ArtifactError for a file that OpenVINO
        cannot load.
        """
        return OpenVinoRunner(_compile(_shipped(model), optimize=optimize, threads=threads))

    def int8_layers(self, folder: Path, layers: Mapping[str, str]) -> list[str]:
        """Layers whose primitive is an int8 one in the compiled model's runtime graph."""
        compiled = _compile(_shipped(folder / MODEL))
        aliases = _aliases(folder / MODEL, layers)
        proved = {aliases[name] for name in _int8_names(compiled) if name in aliases}
        return [name for name in layers if name in proved]


class OpenVinoRunner:
    """A compiled model with one input and one output."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def __call__(self, inputs: Array) -> Array:
        """float32 [N, C, H, W] -> float32 [N, classes], a copy that stays valid."""
        source = np.ascontiguousarray(inputs, dtype=np.float32)
        result = self._request.infer({0: source}, share_inputs=True, share_outputs=True)
        return np.array(result[0], dtype=np.float32)


def _shipped(model: Path) -> Path:
    """The IR beside an artifact's ``model.onnx``; any other file, or one without IR, itself."""
    xml = model.with_name(IR_XML)
    return xml if model.name == MODEL and xml.is_file() else model


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "OpenVINO is not installed (install it: pip install 'eqnet[openvino]')"
        ) from error
    return openvino


def _read(ov: Any, core: Any, path: Path) -> Any:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file (allowed: an ONNX or OpenVINO model)")
    try:
        return core.read_model(str(path))
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: OpenVINO {ov.__version__} cannot read it: {_one_line(error)}"
        ) from error


def _compile(path: Path, *, optimize: bool = True, threads: int | None = None) -> Any:
    ov = _openvino()
    core = ov.Core()
    model = _read(ov, core, path)
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    if not optimize:
        config[LOW_PRECISION] = "NO"
    try:
        return core.compile_model(model, "CPU", config)
    except RuntimeError as error:
        raise EqnetError(f"{path}: OpenVINO cannot compile it: {_one_line(error)}") from error


def _aliases(path: Path, layers: Mapping[str, str]) -> dict[str, str]:
    """Names that OpenVINO may give a layer -> the layer's name.

    OpenVINO calls a node by its ONNX name, or, as for Gemm, by the name of its output.
    """
    found = {}
    for node in ir.load(path).graph:
        if node.op_type in LAYER_OPS and node.name is not None and node.name in layers:
            found[str(node.outputs[0].name)] = node.name
    return found | {name: name for name in layers}


def _int8_names(compiled: Any) -> Iterator[str]:
    """Names of the original nodes behind every int8 layer of a runtime graph."""
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        primitive = info.get("primitiveType", "").lower()
        if info.get("layerType") in LAYER_TYPES and primitive.endswith(("_i8", "_int8")):
            yield from info.get("originalLayersNames", "").split(",")


def _one_line(error: BaseException) -> str:
    """The last line of OpenVINO's message that says something; the first ones name C++ files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
