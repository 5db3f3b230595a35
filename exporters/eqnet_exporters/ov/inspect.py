"""Which layers of anybody's ONNX file OpenVINO runs in int8 on the CPU, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from eqnet.backend.machine.isa import onednn_cpu
from eqnet.spec.errors import EqnetError, MissingExtraError
from eqnet.spec.outside.inspection import BackendFinding, LayerForm
from eqnet_exporters.ov import run as ov_run
from eqnet_exporters.ov.layer_names import LayerNames, node_info
from eqnet_exporters.why_not import COMMON, Rule, Why, findings, incomplete, nonzero, said_of

NAME, PROFILE = "openvino", "openvino_asym"
OTHERWISE = Why(
    "OpenVINO chose a float primitive, for a reason that the file does not show",
    f"compare with the form that 'eqnet export --profile {PROFILE}' writes",
)
UNKNOWN = Why("OpenVINO renamed its layers so that this one is not found again", "")


def inspect(path: Path, layers: Sequence[LayerForm]) -> BackendFinding:
    """By the primitives of the compiled model's runtime graph, float32 for what is not int8."""
    try:
        version = ov_run.version()
    except MissingExtraError as error:
        return BackendFinding(backend=NAME, verdict="skipped", reason=str(error))
    try:
        runtime = ov_run.runtime_graph(path, ov_run.Setting())
    except EqnetError as error:
        return BackendFinding(
            backend=NAME,
            verdict="refused",
            runtime=version,
            reason=said_of(path, error),
            remedy=_remedy(str(error), layers),
        )
    names = LayerNames(ir.load(path))
    found = [names.of(node) for node in ov_run.int8_nodes(runtime)]
    int8 = {name for name in found if name is not None}
    made = findings(layers, int8, (incomplete(PROFILE), *RULES), OTHERWISE)
    if None in found:  # an int8 primitive is of a layer that is not known
        made = tuple(
            one.model_copy(update={"precision": "unknown", "reason": UNKNOWN.reason})
            if one.reason == OTHERWISE.reason
            else one
            for one in made
        )
    kinds = [node_info(node).get("layerType") for node in runtime.get_ordered_ops()]
    return BackendFinding(
        backend=NAME,
        verdict="loaded",
        runtime=version,
        proof="the compiled model's primitives on the CPU",
        layers=made,
        quantizers_left=kinds.count("FakeQuantize"),
        notes=_notes(layers),
    )


def _asymmetric_weights(layer: LayerForm) -> Why | None:
    form = layer.weight
    if form is None or not nonzero(form):
        return None
    return Why(
        "its weights have a zero-point other than 0: OpenVINO multiplies them in float",
        f"symmetric int8 weights (profile {PROFILE}; quantize_static: QInt8 weights)",
    )


def _product(layer: LayerForm) -> Why | None:
    if layer.kind != "product":
        return None
    return Why(
        "a product of two activations, for which OpenVINO chose a float primitive, as in attention",
        "leave both operands without quantizers, which then only cost time",
    )


def _transposed(layer: LayerForm) -> Why | None:
    if layer.kind != "transposed":
        return None
    return Why(
        "a transposed convolution is int8 only with an input without zero-point, and never "
        "depthwise",
        "leave it in float (placement.quantize without conv_transpose)",
    )


def _integer_operator(layer: LayerForm) -> Why | None:
    if layer.form not in ("qoperator", "dynamic"):
        return None
    return Why(
        f"OpenVINO takes {layer.op} apart and computes it in float",
        "the QDQ form with fixed scales (quantize_static with QuantFormat.QDQ, or eqnet quantize "
        f"--profile {PROFILE})",
    )


RULES: tuple[Rule, ...] = (
    _integer_operator,
    *COMMON,
    _product,
    _asymmetric_weights,
    _transposed,
)


def _notes(layers: Sequence[LayerForm]) -> tuple[str, ...]:
    if not any(layer.is_quantized for layer in layers) or not onednn_cpu().adds_in_16_bits():
        return ()
    return (
        f"{onednn_cpu().missing('vnni')}: int8 sums overflow in 16 bits: 7-bit weights "
        "(profile openvino_avx2)",
    )


def _remedy(said: str, layers: Sequence[LayerForm]) -> str:
    if any(layer.form == "qoperator" for layer in layers):
        return "the QDQ form instead of QOperator (quantize_static with QuantFormat.QDQ)"
    if "Conversion is failed" in said or "not supported" in said:
        return "export without these operators"
    return ""
