"""What each tensor of a whole graph is computed from."""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.point_names import is_part, part_name, point_name, tensor_of
from eqnet.backend.graph.reading import constant
from eqnet.spec.latency.features import Origin
from eqnet.spec.network import NetworkInfo

DEQUANTIZE = "DequantizeLinear"


def origins(whole: ir.Model, info: NetworkInfo) -> dict[str, Origin]:
    """For each tensor the layers and tensors that its values come from. whole: as for `cut`."""
    nodes = {node.name: node for node in whole.graph}
    layers = set(info.layer_names())
    found = {}
    for tensor in info.tensors:
        for role in ("carrier", "narrow"):
            point = point_name(tensor.name, role)
            quantize = nodes.get(part_name(point, "QuantizeLinear"))
            if quantize is not None:
                found[tensor.name] = _origin(quantize, layers)
                break
    return found


def _origin(quantize: ir.Node, known: set[str]) -> Origin:
    layers, tensors = set(), set()
    seen, stack = {quantize}, [quantize]
    while stack:
        for value in stack.pop().inputs:
            node = value.producer() if value is not None else None
            if node is None or node in seen or constant(value) is not None:
                continue
            seen.add(node)
            name = str(node.name)
            if node.op_type in LAYER_OPS and name in known:
                layers.add(name)
            elif is_part(name, DEQUANTIZE):
                tensors.add(tensor_of(name.removesuffix(".dq")))
            else:
                stack.append(node)
    return Origin(layers=tuple(sorted(layers)), tensors=tuple(sorted(tensors)))
