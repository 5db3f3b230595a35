"""A folder that carries a network to a target board: one graph, and what may be cut from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import onnx_ir as ir
from pydantic import ValidationError

from eqnet.backend.files import new_folder, sha256_file
from eqnet.backend.graph.reading import load_graph
from eqnet.latency.measure import Subject
from eqnet.spec.errors import ArtifactError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.network import NetworkInfo
from eqnet.spec.scheme import Frozen
from eqnet.spec.texts import parse_json

GRAPH, CONTENT = "whole.onnx", "network.json"


class Content(Frozen):
    """network.json: what the graph is of. graph_sha256: of whole.onnx."""

    schema_version: Literal[1] = 1
    kind: Literal["eqnet.graphs"] = "eqnet.graphs"
    profile: HardwareProfile
    supernet: str
    network: NetworkInfo
    graph_sha256: str


def write_graphs(folder: Path, subject: Subject) -> None:
    """Write a folder. An earlier one is replaced, one with other files is refused (OutputError)."""
    with new_folder(folder, foreign=_foreign) as made:
        ir.save(subject.whole, made / GRAPH)
        content = Content(
            profile=subject.profile,
            supernet=subject.supernet,
            network=subject.info,
            graph_sha256=sha256_file(made / GRAPH),
        )
        (made / CONTENT).write_text(content.model_dump_json(indent=2), encoding="utf-8")


def _foreign(folder: Path) -> str | None:
    others = {path.name for path in folder.iterdir()} - {GRAPH, CONTENT}
    return f"'{min(others)}'" if others else None


def read_graphs(folder: Path) -> Subject:
    """Read a folder. Raises ArtifactError with one line if it is none, or is damaged."""
    path = folder / CONTENT
    try:
        content = Content.model_validate(parse_json(path.read_bytes()))
        whole = sha256_file(folder / GRAPH)
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a folder of graphs: {first_problem(error)}") from error
    except OSError as error:
        raise ArtifactError(
            f"{error.filename}: cannot read: {error.strerror} "
            "(allowed: a folder of `eqnet profile-device --write-graphs`)"
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{path}: not a folder of graphs: {one_line(error)}") from error
    if whole != content.graph_sha256:
        raise ArtifactError(f"{folder / GRAPH}: not the file that {CONTENT} was written with")
    return Subject(load_graph(folder / GRAPH), content.network, content.profile, content.supernet)
