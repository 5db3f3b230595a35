"""Which layers of anybody's ONNX file TensorRT would run in int8, by its rules alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from eqnet.backend.graph.layer_forms import is_layer, nodes_of
from eqnet.spec.outside.inspection import BackendFinding, LayerForm
from eqnet.spec.outside.printable import printable
from eqnet_exporters.trt.rules import Broken, broken_rules
from eqnet_exporters.why_not import COMMON, Why, findings, first_of, incomplete

PROFILE = "tensorrt_int8"
PROOF = "its rules for the graph; no engine was built"
SIGNED = Why(
    "quantizers in uint8, or with a zero-point other than 0 (allowed: int8 and 0)",
    f"profile {PROFILE}; quantize_static: QInt8 for both types, ActivationSymmetric=True",
)
FLOAT_BIAS = Why(
    "its bias is an integer (allowed: a float constant)",
    "quantize_static: QuantizeBias=False",
)
# What a broken rule's line holds, and how it is told of a layer.
TOLD = (
    ("integers of type int32", FLOAT_BIAS),
    ("bias comes from", FLOAT_BIAS),
    ("zero-point", SIGNED),
    ("stored as", SIGNED),
    ("integers of type", SIGNED),
    ("scales on an activation", Why("several scales on an activation", "one for the whole tensor")),
    ("along axis", Why("weights' scales along another axis", "along the output channels")),
    ("read by Clip", Why("a Clip on integers", "8-bit activations, which need no Clip")),
    ("from Clip", Why("a Clip on integers", "8-bit activations, which need no Clip")),
    ("opset", Why("an opset that TensorRT does not read", "convert the file to one of 9 to 25")),
)
OTHERWISE = Why("by TensorRT's rules it stays in float", "")
DOMAINS = ("", "ai.onnx", "trt", "trt.plugins")
FOREIGN = Why(
    "operators that are not ONNX's, which TensorRT knows only from a plugin",
    "export without them, or register the plugin",
)
INTEGER_OPERATORS = Why(
    "TensorRT's parser takes quantizers as QuantizeLinear and DequantizeLinear alone",
    f"the QDQ form instead of QOperator (profile {PROFILE})",
)


def inspect(path: Path, layers: Sequence[LayerForm]) -> BackendFinding:
    """By the rules that `eqnet verify` holds an artifact to; no engine is built."""
    model = ir.load(path)
    broken = broken_rules(model)
    blamed = _blamed(broken)

    def breaks_a_rule(layer: LayerForm) -> Why | None:
        return blamed.get(layer.name)

    rules = (_integer_operator, _qonnx, breaks_a_rule, incomplete(PROFILE), *COMMON, _transposed)
    taken = {layer.name for layer in layers if layer.form == "qdq" and not first_of(layer, rules)}
    made = findings(layers, taken, rules, OTHERWISE)
    operators = [layer for layer in layers if _integer_operator(layer) is not None]
    foreign = _foreign(model)
    lines = [str(one) for one in broken] + [f"layer '{one.name}': {one.op}" for one in operators]
    lines += [f"operator {op}" for op in foreign]
    if not lines:
        return BackendFinding(
            backend="tensorrt",
            verdict="checked",
            proof=PROOF,
            layers=made,
            notes=_notes(layers),
        )
    why = INTEGER_OPERATORS if operators else FOREIGN
    if broken:
        why = _why(broken[0])
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return BackendFinding(
        backend="tensorrt",
        verdict="refused",
        reason=printable(lines[0], 300) + more,
        remedy=FOREIGN.remedy if foreign else why.remedy,
        proof=PROOF,
        layers=made,
    )


def _why(broken: Broken) -> Why:
    for said, why in TOLD:
        if said in broken.text:
            return why
    return Why(broken.text, f"the form of profile {PROFILE}")


def _blamed(broken: Sequence[Broken]) -> dict[str, Why]:
    """All that is broken before or at each layer, together."""
    blamed: dict[str, dict[Why, None]] = {}
    for one in broken:
        for name in _layers_behind(one.node):
            blamed.setdefault(name, {})[_why(one)] = None
    return {name: _together(list(reasons)) for name, reasons in blamed.items()}


def _together(reasons: Sequence[Why]) -> Why:
    ordered = sorted(reasons, reverse=True)
    remedies = dict.fromkeys(why.remedy for why in ordered)
    return Why("; ".join(why.reason for why in ordered), "; ".join(remedies))


def _layers_behind(node: ir.Node | None) -> Iterator[str]:
    """The node itself, and what reads it over quantizers."""
    stack = [] if node is None else [node]
    seen = set(stack)
    while stack:
        current = stack.pop()
        if not current.op_type.endswith(("QuantizeLinear", "DequantizeLinear", "Clip")):
            yield str(current.name)
            continue
        for reader in (reader for value in current.outputs for reader in value.consumers()):
            if reader not in seen:
                seen.add(reader)
                stack.append(reader)


def _foreign(model: ir.Model) -> list[str]:
    """Operators of other domains, as ``domain:type``, sorted; layers are told by themselves."""
    return sorted(
        {
            f"{node.domain}:{node.op_type}"
            for node in nodes_of(model)
            if node.domain not in DOMAINS and not is_layer(node)
        }
    )


def _qonnx(layer: LayerForm) -> Why | None:
    return FOREIGN if layer.form == "qonnx" else None


def _integer_operator(layer: LayerForm) -> Why | None:
    return INTEGER_OPERATORS if layer.form in ("qoperator", "dynamic") else None


def _transposed(layer: LayerForm) -> Why | None:
    if layer.kind != "transposed" or not layer.is_quantized:
        return None
    return Why(
        "TensorRT has no int8 kernel for a transposed convolution and computes it in float16",
        "leave it in float (placement.quantize without conv_transpose)",
    )


def _notes(layers: Sequence[LayerForm]) -> tuple[str, ...]:
    notes = []
    if any(layer.form == "qdq" for layer in layers):
        notes.append("which kernels the builder picks is seen when an engine is built")
    if any(layer.kind == "depthwise" and layer.form == "qdq" for layer in layers):
        notes.append("many depthwise convolutions have no int8 kernel there")
    return tuple(notes)
