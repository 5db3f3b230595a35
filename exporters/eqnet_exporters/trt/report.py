"""What became of each layer in each engine, and why it is not int8 where it is not.

``build.json`` has every layer; the manifest has a table with one row for each engine and reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.reading import constant
from eqnet.spec.manifest import BuildReport
from eqnet_exporters.passes._read import operand, producer_of
from eqnet_exporters.trt import log as trt_log
from eqnet_exporters.trt.build import Engine

# Turing stores int8 weights and multiplies in float16 (seen in its engine's layers), so the
# proof of int8 arithmetic is asked of the later ones.
WITHOUT_INT8_CONVOLUTION = ("SM75",)
COLUMNS = ("engine", "layers", "computed in", "why not int8", "weights KiB")
NAMED = 3


class BuiltLayer(NamedTuple):
    """A Conv or Gemm of the graph that is built.

    amount: weights; width: bytes of one in the graph. reads_int8: whether its input is quantized.
    """

    name: str
    op: str
    groups: int
    amount: int
    width: int
    reads_int8: bool


def layers(model: ir.Model) -> list[BuiltLayer]:
    """Every layer with constant weights, in graph order."""
    rows = []
    for node in model.graph:
        if node.op_type not in LAYER_OPS or not node.name:
            continue
        array = _weights(node)
        if array is not None:
            rows.append(_layer(node, array))
    return rows


def _layer(node: ir.Node, array: np.ndarray) -> BuiltLayer:
    producer = producer_of(node.inputs[0])
    return BuiltLayer(
        name=str(node.name),
        op=node.op_type,
        groups=node.attributes.get_int("group", 1),
        amount=int(array.size),
        width=array.dtype.itemsize,
        reads_int8=producer is not None and producer.op_type == "DequantizeLinear",
    )


def _weights(node: ir.Node) -> np.ndarray | None:
    value = operand(node, 1)
    producer = producer_of(value)
    if producer is not None and producer.inputs:
        value = producer.inputs[0]
    return constant(value)


def why_not(layer: BuiltLayer, target: str, kind: str | None) -> str:
    """Why an engine does not compute a layer in int8; empty where it does.

    kind: the type that its kernel reads, None where the log does not name the layer.
    """
    if kind == "Int8":
        return ""
    if layer.width > 1:
        return "in the remainder: the subnet leaves it in float"
    if not layer.reads_int8:
        return "its input is not quantized"
    if target in WITHOUT_INT8_CONVOLUTION and layer.op.startswith("Conv"):
        return f"{target} has no int8 convolution kernels here: weights int8, arithmetic {kind}"
    if kind is None:
        return "the build log names no kernel of it"
    if layer.op == "ConvTranspose":
        return "no int8 kernel for a transposed convolution"
    if layer.groups > 1:
        return f"no int8 kernel for this convolution of {layer.groups} groups"
    return f"the builder chose a kernel of {kind}"


def layer_rows(model: ir.Model, engines: Sequence[Engine]) -> list[dict[str, Any]]:
    """One entry for each layer: the type that each engine computes it in, and reasons."""
    all_layers = layers(model)
    names = [layer.name for layer in all_layers]
    types = {engine.target: trt_log.compute_types(engine.log, names) for engine in engines}
    rows = []
    for layer in all_layers:
        computes, why = {}, {}
        for target, types_of_layers in types.items():
            kind = types_of_layers.get(layer.name)
            computes[target] = kind
            reason = why_not(layer, target, kind)
            if reason:
                why[target] = reason
        rows.append(
            {
                "name": layer.name,
                "op": layer.op,
                "groups": layer.groups,
                "weights": layer.amount,
                "bytes_expected": layer.amount * layer.width,
                "computes": computes,
                "why_not_int8": why,
            }
        )
    return rows


def build_report(sums: Mapping[str, Any]) -> BuildReport:
    """The table and the facts of a ``build.json``."""
    rows = sums["layers"]
    table: list[tuple[str, ...]] = []
    for engine in sums["engines"]:
        table += _engine_rows(engine, rows)
    expected = sum(row["bytes_expected"] for row in rows)
    facts = {
        "builder": str(sums["builder"]),
        "int8 weights": f"{expected / 1024:.0f} KiB expected in an engine",
        "trtexec": str(sums["trtexec"]),
    }
    for name, why in sums.get("left_out", {}).items():
        facts[f"no engine for {name}"] = why
    return BuildReport(facts=facts, columns=COLUMNS, rows=tuple(table))


def _engine_rows(
    engine: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, ...]]:
    """One row for the layers in int8 and one for each reason of the others."""
    target = str(engine["target"])
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        key = (str(row["computes"][target] or "?"), row["why_not_int8"].get(target, ""))
        groups.setdefault(key, []).append(str(row["name"]))
    table: list[tuple[str, ...]] = []
    for (kind, why), names in sorted(groups.items(), key=_int8_first):
        count = f"{len(names)} of {len(rows)}"
        if why:
            count += f" ({_named(names)})"
        name, size = "", ""
        if not table:  # an engine's first row says which it is
            name, size = target, f"{int(engine['weights_bytes']) / 1024:.0f}"
        table.append((name, count, kind.lower(), why, size))
    return table


def _named(layers: Sequence[str]) -> str:
    first = ", ".join(layers[:NAMED])
    if len(layers) > NAMED:
        return f"{first}, ..."
    return first


def _int8_first(item: tuple[tuple[str, str], list[str]]) -> tuple[bool, str, str]:
    (kind, why), _ = item
    return (why != "", kind, why)
