"""Reading anybody's ONNX file: whole or not at all, with one line that says what is wrong."""

from __future__ import annotations

import contextlib
import logging
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir
from onnx.external_data_helper import ExternalDataInfo

from eqnet.spec.errors import ArtifactError, one_line
from eqnet.spec.outside.printable import printable

ALLOWED = "an ONNX file, or a folder that 'eqnet export' wrote"
# A protobuf message holds no more; larger networks keep their weights in files beside it.
MOST_BYTES = (2 << 30) - 1


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file as it was read.

    proto: without external data. model: the same for `onnx_ir`, which maps external data when a
    tensor is read. size: bytes of the file and of `external`, the names of the files beside it.
    inlined: whether the file has functions of its own, which are written out here.
    """

    path: Path
    proto: onnx.ModelProto
    model: ir.Model
    size: int
    external: tuple[str, ...]
    inlined: bool


def read_model_file(path: Path) -> ModelFile:
    """Read an ONNX file. Raises ArtifactError, in one line, for anything else."""
    content = _content(path)
    try:
        proto = onnx.ModelProto.FromString(content)
        _require_graph(path, proto)
        external = _external_files(path, proto)
        inlined = bool(proto.functions)
        if inlined:
            from onnx.inliner import inline_local_functions

            proto = inline_local_functions(proto)
        with _quiet():
            model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
    except ArtifactError:
        raise
    except Exception as error:  # protobuf's, the inliner's and onnx_ir's have no common base
        raise ArtifactError(
            f"{path}: not an ONNX file: {_innermost(error)} (allowed: {ALLOWED})"
        ) from error
    size = len(content) + sum((path.parent / name).stat().st_size for name in external)
    return ModelFile(path, proto, model, size, external, inlined)


def _innermost(error: BaseException) -> str:
    """What began a chain of errors, in one line that may be printed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return printable(one_line(error), 300)


def _content(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path}: not a file (allowed: {ALLOWED})")
        if status.st_size > MOST_BYTES:
            raise ArtifactError(
                f"{path}: {status.st_size} bytes (allowed: an ONNX file of at most {MOST_BYTES}; "
                "a larger network keeps its weights as external data)"
            )
        with path.open("rb") as stream:
            return stream.read(status.st_size)  # room for so many bytes is made at once
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot read: {error.strerror} (allowed: {ALLOWED})"
        ) from error


def _require_graph(path: Path, proto: onnx.ModelProto) -> None:
    if not proto.graph.node or not proto.opset_import:
        what = "no nodes" if proto.opset_import else "no opset"
        raise ArtifactError(f"{path}: not an ONNX file: it has {what} (allowed: {ALLOWED})")
    for graph in graphs_of(proto.graph):
        for text in _texts(graph):
            if not isinstance(text, str):  # protobuf gives bytes for what is no UTF-8
                raise ArtifactError(
                    f"{path}: a damaged ONNX file: the name {printable(text)} is not UTF-8 "
                    f"(allowed: {ALLOWED})"
                )


def _external_files(path: Path, proto: onnx.ModelProto) -> tuple[str, ...]:
    """The files beside it that hold tensors, each whole. Raises ArtifactError."""
    names: dict[str, None] = {}
    for tensor in tensors_of(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        info = ExternalDataInfo(tensor)
        name = str(info.location)
        _require_beside(path, name)
        size = (path.parent / name).stat().st_size
        if (info.offset or 0) + (info.length or 0) > size:
            raise ArtifactError(
                f"{path}: tensor '{printable(tensor.name)}' lies beyond the {size} bytes of "
                f"'{printable(name)}' (allowed: external data that is whole)"
            )
        names[name] = None
    return tuple(names)


def _require_beside(path: Path, name: str) -> None:
    """Refuse a file that leads out of the folder, is none, or is not there."""
    pure, shown = PurePosixPath(name), printable(name)
    target = path.parent / name
    inside = not pure.is_absolute() and ".." not in pure.parts and name.strip() != ""
    if not inside or "\0" in name or not target.resolve().is_relative_to(path.parent.resolve()):
        raise ArtifactError(
            f"{path}: external data in '{shown}' (allowed: a file in the folder of the ONNX file)"
        )
    if not target.is_file():
        raise ArtifactError(
            f"{path}: its external data '{shown}' is missing (allowed: that file beside it)"
        )


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the graphs inside its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_of(attribute.g)
            for inner in attribute.graphs:
                yield from graphs_of(inner)


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph and of the graphs inside its nodes."""
    for one in graphs_of(graph):
        yield from one.initializer
        for sparse in one.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in one.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _texts(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    """Every name in a graph."""
    for node in graph.node:
        yield from (node.op_type, node.name, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for named in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        yield named.name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without onnx_ir's warnings, which repeat a file's names as they are."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
