"""`eqnet export --explain`: what the exporter did to each node of an artifact's neutral graph."""

from __future__ import annotations

from pathlib import Path

from eqnet.backend.artifact import check_file, read_manifest
from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import load_graph
from eqnet.backend.protocol import Explains
from eqnet.spec.manifest import REFERENCE
from eqnet.spec.reports import LoweringNote


def explain(folder: Path) -> list[LoweringNote]:
    """What `lower` changed and left of ``reference.onnx``, node by node, in order.

    Empty for an exporter that gives no account. Raises ArtifactError for a damaged artifact.
    """
    manifest = read_manifest(folder)
    check_file(folder, manifest, REFERENCE)
    exporter = find_exporter(manifest.backend)
    if not isinstance(exporter, Explains):
        return []
    return exporter.explain(load_graph(folder / REFERENCE), manifest.profile)
