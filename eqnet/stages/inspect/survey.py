"""What an ONNX file says by itself, without any runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx

from eqnet.backend.graph.layer_forms import nodes_of, operator_counts, shared_names
from eqnet.backend.graph.model_file import ModelFile
from eqnet.backend.graph.tensor_forms import type_name
from eqnet.backend.graph.work import Shape, macs_of
from eqnet.spec.outside.inspection import (
    BackendFinding,
    Coverage,
    LayerForm,
    ModelSurvey,
    TensorInfo,
)
from eqnet.spec.outside.printable import printable

DOMAIN = "ai.onnx"  # which files leave empty


def survey(file: ModelFile, layers: Sequence[LayerForm]) -> ModelSurvey:
    """The layers' forms, work and weights together, and the file's own facts."""
    work, weights = total([layer.macs for layer in layers]), _bytes(layers)
    return ModelSurvey(
        path=str(file.path),
        bytes=file.size,
        external_files=tuple(printable(name) for name in file.external),
        producer=printable(f"{file.proto.producer_name} {file.proto.producer_version}".strip()),
        opsets=_opsets(file),
        inputs=_tensors(_true_inputs(file.proto)),
        outputs=_tensors(file.proto.graph.output),
        layers=tuple(layers),
        forms=dict(Counter(layer.form for layer in layers).most_common()),
        operators={printable(op): n for op, n in operator_counts(file.model).items()},
        macs=work,
        weight_bytes=weights,
        quantized=coverage(layers, [layer.name for layer in layers if layer.is_quantized]),
        notes=tuple(_notes(file)),
    )


def _notes(file: ModelFile) -> Iterator[str]:
    if file.inlined:
        yield "the functions of the file are written out: layers are those inside of them"
    shared = shared_names(file.model)
    if shared:
        yield (
            f"{len(shared)} names are those of several nodes, such as '{printable(shared[0])}': "
            "what is said of one is said of all, and ONNX Runtime refuses such a file"
        )


def coverage(layers: Sequence[LayerForm], names: Iterable[str]) -> Coverage:
    """How much of the layers those of `names` are."""
    wanted = set(names)
    chosen = [layer for layer in layers if layer.name in wanted]
    work, all_work = total([one.macs for one in chosen]), total([one.macs for one in layers])
    weights = _bytes(layers)
    return Coverage(
        layers=len(chosen),
        of_layers=len(layers),
        macs=work / all_work if work is not None and all_work else None,
        weight_bytes=_bytes(chosen) / weights if weights else None,
    )


def int8_coverage(finding: BackendFinding, layers: Sequence[LayerForm]) -> Coverage | None:
    """How much of the layers a backend runs in int8; None where it did not take the file."""
    if finding.verdict not in ("loaded", "checked"):
        return None
    return coverage(layers, [one.name for one in finding.layers if one.precision == "int8"])


def total(numbers: Sequence[int | None]) -> int | None:
    """The sum; None where a part is not known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _bytes(layers: Sequence[LayerForm]) -> int:
    return sum(layer.weight_bytes for layer in layers)


def with_work(
    layers: Sequence[LayerForm],
    ends: Sequence[tuple[str, str]],
    shapes: Mapping[str, Shape],
) -> tuple[LayerForm, ...]:
    """The layers with their multiplications; `ends`: the names of each one's input and output."""
    made = []
    for layer, (x, y) in zip(layers, ends, strict=True):
        macs = macs_of(layer, shapes.get(x, ()), shapes.get(y, ()))
        made.append(layer.model_copy(update={"macs": macs}))
    return tuple(made)


def _opsets(file: ModelFile) -> dict[str, int]:
    """Of the domains that nodes are of; all where that is none."""
    used = {node.domain or DOMAIN for node in nodes_of(file.model)}
    versions = {one.domain or DOMAIN: one.version for one in file.proto.opset_import}
    chosen = {domain: version for domain, version in versions.items() if domain in used}
    return {printable(domain): version for domain, version in (chosen or versions).items()}


def _true_inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs without the constants that old files list among them."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in constants]


def _tensors(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorInfo, ...]:
    return tuple(_tensor(value) for value in values)


def _tensor(value: onnx.ValueInfoProto) -> TensorInfo:
    if not value.type.HasField("tensor_type"):
        return TensorInfo(name=printable(value.name), type="?", shape=None)
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(_dimension(dim) for dim in tensor.shape.dim)
    return TensorInfo(name=printable(value.name), type=_type(tensor.elem_type), shape=shape)


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return printable(dim.dim_param, 40) or "?"


def _type(number: int) -> str:
    import onnx_ir as ir

    try:
        return type_name(ir.DataType(number))
    except ValueError:
        return "?"
