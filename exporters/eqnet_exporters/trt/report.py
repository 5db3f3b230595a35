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
from eqnet_exporters.trt import log as trt_log
from eqnet_exporters.trt.build import Engine

# Turing stores int8 weights and multiplies in float16 (seen in its engine's layers), so the
# proof of int8 arithmetic is asked of the later ones.
WITHOUT_INT8_CONVOLUTION = ("SM75",)
COLUMNS = ("engine", "layers", "computed in", "why not int8", "weights KiB")
NAMED = 3


class Layer(NamedTuple):
    """A Conv or Gemm of the graph that is built.

    amount: weights; width: bytes of one in the graph. reads_int8: whether its input is quantized.
    """

    name: str
    op: str
    groups: int
    amount: int
    width: int
    reads_int8: bool


def layers(model: ir.Model) -> list[Layer]:
    """Every layer with constant weights, in graph order."""
    found = []
    for node in model.graph:
        array = _weights(node) if node.op_type in LAYER_OPS and node.name else None
        if array is not None:
            source = node.inputs[0]
            maker = source.producer() if source is not None else None
            reads = maker is not None and maker.op_type == "DequantizeLinear"
            groups = node.attributes.get_int("group", 1)
            width = array.dtype.itemsize
            found.append(Layer(str(node.name), node.op_type, groups, int(array.size), width, reads))
    return found


def _weights(node: ir.Node) -> np.ndarray | None:
    value = node.inputs[1] if len(node.inputs) > 1 else None
    maker = value.producer() if value is not None else None
    return constant(maker.inputs[0] if maker is not None and maker.inputs else value)


def why_not(layer: Layer, target: str, found: str | None) -> str:
    """Why an engine does not compute a layer in int8; empty where it does.

    found: the type that its kernel reads, None where the log does not name the layer.
    """
    if found == "Int8":
        return ""
    if layer.width > 1:
        return "in the remainder: the subnet leaves it in float"
    if not layer.reads_int8:
        return "its input is not quantized"
    if target in WITHOUT_INT8_CONVOLUTION and layer.op.startswith("Conv"):
        return f"{target} has no int8 convolution kernels here: weights int8, arithmetic {found}"
    if found is None:
        return "the build log names no kernel of it"
    if layer.op == "ConvTranspose":
        return "no int8 kernel for a transposed convolution"
    if layer.groups > 1:
        return f"no int8 kernel for this convolution of {layer.groups} groups"
    return f"the builder chose a kernel of {found}"


def layer_rows(model: ir.Model, engines: Sequence[Engine]) -> list[dict[str, Any]]:
    """One entry for each layer: the type that each engine computes it in, and reasons."""
    all_layers = layers(model)
    names = [layer.name for layer in all_layers]
    types = {engine.target: trt_log.compute_types(engine.log, names) for engine in engines}
    rows = []
    for layer in all_layers:
        computes = {target: found.get(layer.name) for target, found in types.items()}
        why = {t: text for t, found in computes.items() if (text := why_not(layer, t, found))}
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
    table = [row for engine in sums["engines"] for row in _engine_rows(engine, rows)]
    expected = sum(row["bytes_expected"] for row in rows)
    facts = {
        "builder": str(sums["builder"]),
        "int8 weights": f"{expected / 1024:.0f} KiB expected in an engine",
        "trtexec": str(sums["trtexec"]),
    } | {f"no engine for {name}": why for name, why in sums.get("left_out", {}).items()}
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
    made: list[tuple[str, ...]] = []
    for index, ((kind, why), names) in enumerate(sorted(groups.items(), key=_int8_first)):
        size = f"{int(engine['weights_bytes']) / 1024:.0f}" if index == 0 else ""
        named = f" ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        count = f"{len(names)} of {len(rows)}" + (named if why else "")
        made.append((target if index == 0 else "", count, kind.lower(), why, size))
    return made


def _int8_first(item: tuple[tuple[str, str], list[str]]) -> tuple[bool, str, str]:
    (kind, why), _ = item
    return (why != "", kind, why)
