"""Which layers of anybody's ONNX file ONNX Runtime runs in int8, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.machine.isa import this_cpu
from eqnet.spec.errors import ArtifactError
from eqnet.spec.outside.inspection import BackendFinding, LayerForm
from eqnet_exporters.ort import session as ort
from eqnet_exporters.why_not import COMMON, Rule, Why, findings, incomplete, said_of

PROFILE = "onnxruntime_x86"
RELUS = ("Relu", "Clip")
OTHERWISE = Why(
    "ONNX Runtime did not fuse it, for a reason that the file does not show",
    f"compare with the form that 'eqnet export --profile {PROFILE}' writes",
)
INT8_SESSION = Why(
    "int8 activations: on x86 ONNX Runtime takes them only with the session's entry "
    "session.qdqisint8allowed=1",
    f"uint8 activations (QuantType.QUInt8, profile {PROFILE}), which run 3 to 8 times faster "
    "there; or that entry",
)
OVERFLOW = (
    "without VNNI uint8 x int8 sums overflow in 16 bits: set session.x64quantprecision=1, or 7-bit "
    "weights (reduce_range, profile onnxruntime_avx2)"
)


def inspect(path: Path, layers: Sequence[LayerForm]) -> BackendFinding:
    """By the graph that a session with default options writes after its optimizations."""
    if (reason := ort.unavailable()) is not None:
        return BackendFinding(backend="onnxruntime", verdict="skipped", reason=reason)
    try:
        nodes = _optimized(path, int8_activations=False)
    except ArtifactError as error:
        return BackendFinding(
            backend="onnxruntime",
            verdict="refused",
            runtime=ort.version(),
            reason=said_of(path, error),
            remedy=_remedy(str(error)),
        )
    int8 = ort.int8_names(nodes)
    with_entry = _with_entry(path, layers, int8)

    def needs_entry(layer: LayerForm) -> Why | None:
        return INT8_SESSION if layer.name in with_entry else None

    rules = (incomplete(PROFILE), needs_entry, *RULES)
    return BackendFinding(
        backend="onnxruntime",
        verdict="loaded",
        runtime=ort.version(),
        proof="the graph that a default session optimizes",
        layers=findings(layers, int8, rules, OTHERWISE),
        quantizers_left=sum(
            node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes
        ),
        notes=_notes(layers),
    )


def _optimized(path: Path, *, int8_activations: bool) -> list[onnx.NodeProto]:
    options = ort.default_options()
    if int8_activations:
        options.add_session_config_entry(ort.INT8_ALLOWED, "1")
    with scratch_folder() as folder:
        return ort.optimized_nodes(path, options, folder)


def _with_entry(path: Path, layers: Sequence[LayerForm], int8: set[str]) -> set[str]:
    """Layers with int8 activations that run in int8 only with a session's entry."""
    candidates = {
        layer.name
        for layer in layers
        if layer.input is not None and layer.input.type == "int8" and layer.name not in int8
    }
    if not candidates:
        return set()
    return candidates & ort.int8_names(_optimized(path, int8_activations=True))


def _transposed(layer: LayerForm) -> Why | None:
    if layer.kind != "transposed":
        return None
    return Why(
        "ONNX Runtime has no integer kernel for a transposed convolution",
        "leave it in float, without quantizers around it (placement.quantize without "
        "conv_transpose)",
    )


def _float_output(layer: LayerForm) -> Why | None:
    """QLinearConv gives integers, so that a quantizer must follow; a Gemm may give floats."""
    if "Conv" not in layer.op or layer.output is not None:
        return None
    readers = ", ".join(layer.readers[:3]) or "nothing"
    after = f" behind {', '.join(layer.output_via)}" if layer.output_via else ""
    return Why(
        f"no quantizer at its output{after}, which {readers} reads in float: QLinearConv gives "
        "integers",
        f"QuantizeLinear and DequantizeLinear after it (profile {PROFILE}: placement.add: both)",
    )


def _float_bias(layer: LayerForm) -> Why | None:
    """A Conv takes a float bias and rounds it; a Gemm takes none."""
    if layer.op != "Gemm" or layer.bias in (None, "int32"):
        return None
    return Why(
        f"its bias is {layer.bias}: QGemm takes one in int32",
        f"an int32 bias behind a DequantizeLinear, at the scale of its input times that of its "
        f"weights (profile {PROFILE}; quantize_static with QuantizeBias)",
    )


def _activation_between(layer: LayerForm) -> Why | None:
    """What stands between a layer and its output's quantizer and cannot be folded into it."""
    others = [op for op in layer.output_via if op not in RELUS]
    if others:
        return Why(
            f"{', '.join(others)} between it and the quantizer of its output",
            "a quantizer directly after the layer too",
        )
    output = layer.output
    if layer.output_via and output is not None and output.zero_point != output.lowest:
        return Why(
            f"{layer.output_via[0]} in front of a quantizer with zero-point {output.zero_point}: "
            f"ONNX Runtime absorbs it only at {output.lowest}",
            "a non-negative tensor has its zero-point at the lowest integer",
        )
    return None


RULES: tuple[Rule, ...] = (_transposed, *COMMON, _float_output, _float_bias, _activation_between)


def _notes(layers: Sequence[LayerForm]) -> tuple[str, ...]:
    lacks = this_cpu().missing("vnni")
    wide = any(
        layer.is_quantized and layer.input is not None and layer.input.type == "uint8"
        for layer in layers
    )
    return (f"{lacks}: {OVERFLOW}",) if lacks and wide and ort.on_x86() else ()


def _remedy(said: str) -> str:
    if "is not a registered function/op" in said or "No Op registered" in said:
        return "register the library of these operators, or export without them"
    if "opset" in said.lower() or "IR version" in said:
        return "convert to an opset that this onnxruntime knows, or install a later onnxruntime"
    return ""
