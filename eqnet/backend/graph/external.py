"""Files that an ONNX file names as holding its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

LOCATION = b"location"


def external_files(path: Path) -> set[str]:
    """Where an ONNX file says that tensors of it lie, as it says it. Raises OSError.

    Empty for what is no ONNX file: whoever runs it says so.
    """
    content = path.read_bytes()
    if LOCATION not in content:
        return set()
    try:
        model = onnx.load_from_string(content)
    except Exception:  # protobuf's DecodeError has no public base
        return set()
    graphs = [model.graph, *model.functions]
    return {place for graph in graphs for tensor in _tensors(graph) for place in _places(tensor)}


def _places(tensor: onnx.TensorProto) -> list[str]:
    return [entry.value for entry in tensor.external_data if entry.key == LOCATION.decode()]


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph, those of its nodes' attributes and inner graphs too."""
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
