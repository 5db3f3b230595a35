"""Readers of networks: ONNX files, strangers' too, OpenVINO's IR, packed weights, programs."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
from artifacts import profile, rewrite, write_artifact
from eqnet_exporters.lowbit.integer import integer_program
from eqnet_exporters.lowbit.layers import packed_tensors
from graphs import inputs, residual_net
from mutations import damaged, flipped, written
from readers import Make, Reader, binary_file
from strangers import float_net

from eqnet.backend.artifact import check_files, read_manifest
from eqnet.backend.discovery import find_exporter
from eqnet.backend.files import sha256_file
from eqnet.backend.graph.layer_forms import layer_ends, layer_forms
from eqnet.backend.graph.model_file import read_model_file
from eqnet.backend.graph.reading import load_graph
from eqnet.backend.lowbit.integer import INTEGER, PACKED, load_integer
from eqnet.backend.lowbit.packed import read_packed, write_packed
from eqnet.spec.manifest import MANIFEST, MODEL
from eqnet.stages.inspect import run as inspecting
from eqnet.stages.inspect.survey import survey

IR_FILES = ("model.xml", "model.bin")


def graphs(folder: Path) -> Reader:
    """ONNX files of an artifact."""
    artifact, path = folder / "a", folder / MODEL
    write_artifact(artifact, residual_net(), profile())
    whole = (artifact / MODEL).read_bytes()
    return binary_file(path, [whole], lambda: list(load_graph(path).graph))


def strangers(folder: Path) -> Reader:
    """Anybody's ONNX files, with their tensors inside or beside them, as `inspect` reads them
    before it asks a runtime, which it does in a process of its own."""
    path = folder / "stranger.onnx"
    kinds = [float_net().SerializeToString(), residual_net().SerializeToString()]
    onnx.save(float_net(), path, save_as_external_data=True, location="w", size_threshold=0)
    kinds.append(path.read_bytes())

    def read() -> object:
        file = read_model_file(path)
        with inspecting._damage(file):
            layers = layer_forms(file.model)
            layer_ends(file.model)
            return survey(file, layers)

    return binary_file(path, kinds, read)


def artifact_files(folder: Path) -> Reader:
    """Every file of an artifact with OpenVINO's IR, its manifest too, held against the hashes."""
    artifact, rules = folder / "a", profile("openvino")
    manifest = write_artifact(artifact, residual_net(), rules)
    find_exporter("openvino").finish(artifact, rules)
    added = {name: sha256_file(artifact / name) for name in IR_FILES}
    rewrite(artifact, files={**manifest.files, **added})
    wholes = {path: path.read_bytes() for path in sorted(artifact.iterdir())}

    def spoil(rng: random.Random) -> None:
        chosen = rng.choice(list(wholes))
        for path, content in wholes.items():
            if path == chosen:
                path.write_bytes(flipped(content, rng))
            elif last and last[0] == path:
                path.write_bytes(content)
        last[:] = [chosen]

    def read() -> object:
        found = read_manifest(artifact)
        check_files(artifact, found)
        contents = [path.read_bytes() for path in wholes if path.name != MANIFEST]
        return found.model_dump_json(), contents

    last: list[Path] = []
    return Reader(spoil, read, hashed=True)


def integer_programs(folder: Path) -> Reader:
    """Programs of integer-only hardware with their packed weights, run on one image."""
    from onnx_ir import from_proto

    graph, image = from_proto(residual_net()), inputs(1)
    whole = integer_program(graph)
    write_packed(folder / PACKED, packed_tensors(graph))
    weights = (folder / PACKED).read_bytes()

    def spoil(rng: random.Random) -> None:
        (folder / INTEGER).write_bytes(written(damaged(whole, rng)))
        (folder / PACKED).write_bytes(flipped(weights, rng) if rng.random() < 0.2 else weights)

    return Reader(spoil, lambda: load_integer(folder)(image))


def packed(folder: Path) -> Reader:
    """Bit-packed weights."""
    from onnx_ir import from_proto

    path = folder / PACKED
    write_packed(path, packed_tensors(from_proto(residual_net())))

    def read() -> object:
        found = []
        for name, one in read_packed(path).items():
            arrays = (one.values, one.scale, one.zero_point)
            contents = [None if array is None else array.tobytes() for array in arrays]
            found.append((name, one.bits, one.axis, one.values.shape, contents))
        return found

    return binary_file(path, [path.read_bytes()], read, hashed=True)


GRAPHS: dict[str, Make] = {
    "artifact files": artifact_files,
    "graphs": graphs,
    "integer": integer_programs,
    "packed": packed,
    "strangers' graphs": strangers,
}
