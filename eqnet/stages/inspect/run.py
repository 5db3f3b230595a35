"""`inspect`: what an ONNX file holds in integers, and what each backend makes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import onnx_ir as ir

from eqnet.backend.artifact import check_file, read_manifest
from eqnet.backend.discovery import exporter_names, find_exporter
from eqnet.backend.disk.replaced import read_as_one
from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.graph.layer_forms import layer_ends, layer_forms, name_layers
from eqnet.backend.graph.model_file import ModelFile, read_model_file
from eqnet.backend.machine.isolated import Questions
from eqnet.backend.protocol import Inspects
from eqnet.spec.errors import (
    ArtifactError,
    EqnetError,
    MissingExtraError,
    UsageError,
    one_line,
    unknown,
)
from eqnet.spec.manifest import MANIFEST, MODEL
from eqnet.spec.outside.inspection import BackendFinding, InspectReport, ModelSurvey
from eqnet.spec.outside.printable import printable
from eqnet.stages.inspect.survey import survey, with_work

# A copy of more than this keeps its weights beside it, as a protobuf message must.
INLINE_BYTES = 1 << 30
SENTENCE = 400  # characters of a reason


def inspect(model: Path, *, backends: Sequence[str] | None = None) -> InspectReport:
    """Read any ONNX file, or an artifact of eqnet, and ask each backend what it makes of it.

    model: an ONNX file in any form, or a folder that `export` wrote, whose ``model.onnx`` is
    taken. backends: names of exporters (None: every installed one that can tell).

    Each backend is asked in a process of its own. One that is not installed is "skipped" in the
    report, one that breaks down on the file "failed". Nothing is executed on data, and the file
    is not changed. Raises ArtifactError for what is no ONNX file or a changed artifact, and
    UsageError for an unknown backend.
    """
    names = _backends(backends)
    return read_as_one(model / MANIFEST, partial(_inspect, model, names))


def _inspect(model: Path, names: Sequence[str]) -> InspectReport:
    profile = None
    if model.is_dir():
        manifest = read_manifest(model)
        check_file(model, manifest, MODEL)
        profile, model = manifest.profile.name, model / MODEL
    file = read_model_file(model)
    with _damage(file), scratch_folder() as scratch:
        renamed = name_layers(file.model) or file.inlined
        layers, ends = layer_forms(file.model), layer_ends(file.model)
        path = model
        if renamed:  # a backend tells layers by names, which some lack
            path = scratch / MODEL
            _copy(file, path)
        with Questions(path, file.size) as questions:
            questions.ask_shapes(name for pair in ends for name in pair)
            questions.ask(names, layers)
            found = survey(file, with_work(layers, ends, questions.shapes()))
            findings = [questions.finding(name, layers) for name in names]
    return InspectReport(
        profile=profile,
        model=_safe(found),
        backends=tuple(_safe_finding(finding) for finding in findings),
    )


@contextlib.contextmanager
def _damage(file: ModelFile) -> Iterator[None]:
    """What a damaged tensor or attribute raises, as an ArtifactError in one line."""
    try:
        yield
    except (EqnetError, OSError):
        raise
    except Exception as error:  # onnx_ir's, numpy's and Python's own have no common base
        raise ArtifactError(
            f"{file.path}: a damaged ONNX file: {printable(one_line(error), 300)}"
        ) from error


def _backends(wanted: Sequence[str] | None) -> list[str]:
    """Names to ask: those wanted, or every exporter that can tell or whose package is missing."""
    if wanted is not None:
        for name in wanted:
            if name not in exporter_names():
                raise UsageError(unknown("backend", name, exporter_names()))
        return list(dict.fromkeys(wanted))
    return [name for name in exporter_names() if _can_tell(name)]


def _can_tell(name: str) -> bool:
    try:
        return isinstance(find_exporter(name), Inspects)
    except MissingExtraError:
        return True  # it is told as skipped, with the reason
    except UsageError:
        return False


def _copy(file: ModelFile, path: Path) -> None:
    beside = f"{path.stem}.data" if file.external or file.size > INLINE_BYTES else None
    ir.save(file.model, path, external_data=beside)


def _safe(found: ModelSurvey) -> ModelSurvey:
    layers = tuple(
        layer.model_copy(
            update={
                "name": printable(layer.name),
                "op": printable(layer.op),
                "producer": printable(layer.producer),
                "input_via": _all_printable(layer.input_via),
                "output_via": _all_printable(layer.output_via),
                "readers": _all_printable(layer.readers),
            }
        )
        for layer in found.layers
    )
    return found.model_copy(update={"layers": layers})


def _safe_finding(finding: BackendFinding) -> BackendFinding:
    layers = tuple(
        layer.model_copy(
            update={
                "name": printable(layer.name),
                "reason": printable(layer.reason, SENTENCE),
                "remedy": printable(layer.remedy, SENTENCE),
            }
        )
        for layer in finding.layers
    )
    changes: dict[str, object] = {"layers": layers, "notes": _all_printable(finding.notes)}
    for key in ("runtime", "reason", "remedy", "proof"):
        changes[key] = printable(getattr(finding, key), SENTENCE)
    return finding.model_copy(update=changes)


def _all_printable(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(printable(text, SENTENCE) for text in texts)
