"""The files of a low-bit artifact beside ``model.onnx``: writing them, and what to say of them."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir

from eqnet.backend.files import write_file
from eqnet.backend.graph.reading import load_graph
from eqnet.backend.lowbit.integer import INTEGER, PACKED
from eqnet.backend.lowbit.packed import content_bits, read_packed, write_packed
from eqnet.spec.errors import EqnetError
from eqnet.spec.manifest import REFERENCE, BuildReport
from eqnet_exporters.lowbit.integer import integer_program
from eqnet_exporters.lowbit.integer_parts import NotIntegerOnlyError
from eqnet_exporters.lowbit.layers import packed_tensors
from eqnet_exporters.lowbit.packed_onnx import to_packed_onnx
from eqnet_exporters.lowbit.qonnx import to_qonnx

QONNX, PACKED_ONNX = "model.qonnx.onnx", "model.packed.onnx"


def read_reference(folder: Path) -> ir.Model:
    """The neutral graph of an artifact. Raises ArtifactError with one line."""
    return load_graph(folder / REFERENCE)


def write_files(folder: Path) -> list[str]:
    """Write QONNX, packed weights and, where the network has one, the integer program.

    Reads ``reference.onnx``; returns the names of the files. Each is written whole or not at all.
    """
    reference = read_reference(folder)
    _save(to_qonnx(reference), folder / QONNX)
    _save(to_packed_onnx(reference), folder / PACKED_ONNX)
    write_packed(folder / PACKED, packed_tensors(reference))
    written = [QONNX, PACKED_ONNX, PACKED]
    try:
        program = integer_program(reference)
    except NotIntegerOnlyError:
        return written  # `describe` says why
    write_file(folder / INTEGER, json.dumps(program, separators=(",", ":")) + "\n")
    return [*written, INTEGER]


def _save(model: ir.Model, path: Path) -> None:
    write_file(path, ir.to_proto(model).SerializeToString())


def refusal_of(reference: ir.Model) -> str | None:
    """Why a network has no integer program, or None if it has one."""
    try:
        integer_program(reference)
    except NotIntegerOnlyError as error:
        return str(error)
    return None


def describe(folder: Path) -> BuildReport:
    """What the files hold: their size, and the integer program or why there is none."""
    program = _program(folder)
    return BuildReport(facts={"packed weights": _size(folder / PACKED), "integer program": program})


def _program(folder: Path) -> str:
    if not (folder / INTEGER).is_file():
        reason = refusal_of(read_reference(folder))
        if reason is not None:
            return f"not written: {reason}"
    return INTEGER


def _size(path: Path) -> str:
    try:
        tensors, size = read_packed(path), path.stat().st_size
    except (EqnetError, OSError) as error:
        return str(error)
    pure = content_bits(tensors.values()) / 8
    return f"{path.name}, {size} bytes, {100 * (size / pure - 1):.1f} % above its bits"
