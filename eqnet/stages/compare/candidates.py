"""The models of a comparison: what each is, what runs it, and how it is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from eqnet.backend.artifact import check_files, read_manifest
from eqnet.backend.discovery import find_exporter
from eqnet.backend.disk.replaced import read_as_one
from eqnet.backend.protocol import Array, Exporter, Runner, open_plain
from eqnet.spec.errors import EqnetError, MissingExtraError, one_line
from eqnet.spec.manifest import MANIFEST, MODEL, Manifest
from eqnet.spec.outside.inspection import BackendFinding, Coverage, InspectReport, TensorInfo
from eqnet.spec.outside.printable import printable
from eqnet.stages.inspect import coverage, inspect, int8_coverage

LARGEST = 64  # images of one call where the model takes any number


@dataclass
class Candidate:
    """One model that is compared.

    name: what it is called in the report. runner: None where it cannot be run here; `reasons`
    say why, and whatever else is not known.
    """

    path: Path
    name: str
    report: InspectReport
    exporter: Exporter
    manifest: Manifest | None = None
    runner: Runner | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def finding(self) -> BackendFinding:
        """What its backend makes of it."""
        return self.report.backends[0]

    @property
    def is_float(self) -> bool:
        """Whether the file quantizes no layer."""
        return set(self.report.model.forms) <= {"float"}

    @property
    def runtime(self) -> str:
        """Name and version of what runs it, or the backend's name where it is not here."""
        try:
            return self.exporter.runtime_version()
        except EqnetError:
            return self.exporter.name

    def int8(self) -> Coverage | None:
        """How much it runs in int8: of an artifact as `verify` counts it; None if not known."""
        layers = self.report.model.layers
        if self.manifest is None:
            return int8_coverage(self.finding, layers)
        try:
            names = self.exporter.int8_layers(
                self.path, {layer.name: layer.op for layer in layers}, self.manifest.profile
            )
        except EqnetError as error:
            self.reasons.append(f"int8 layers not known: {one_line(error)}")
            return None
        return None if names is None else coverage(layers, names)

    def image_shape(self) -> tuple[int, ...] | None:
        """The input without its batch, where it is one float32 tensor of known sizes."""
        sizes = _sizes(self.report.model.inputs)
        return None if sizes is None else sizes[1:]

    def own_batch(self) -> int | None:
        """The batch that the file fixes, None where it takes any."""
        first = self.report.model.inputs[0]
        size = first.shape[0] if first.shape else None
        return size if isinstance(size, int) and size > 0 else None

    def run(self, inputs: Array) -> Array:
        """Logits float32 [N, classes] of inputs [N, ...], in batches that the file takes.

        Raises EqnetError, in one line, for whatever the runtime raises and for another output.
        """
        size, parts = self.own_batch() or LARGEST, []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            count = len(part)
            if count < size and self.own_batch() is not None:
                part = np.concatenate([part, np.repeat(part[:1], size - count, axis=0)])
            logits = self.call(part)
            if logits.ndim < 2 or len(logits) != len(part) or logits[0].size != logits.shape[1]:
                shape = list(logits.shape)
                raise EqnetError(f"its output {shape} is no row of logits for each image")
            parts.append(logits.reshape(len(logits), -1)[:count])
        return np.concatenate(parts)

    def call(self, inputs: Array) -> Array:
        """The first output for one batch. Raises EqnetError for whatever the runtime raises."""
        assert self.runner is not None
        try:
            return np.asarray(self.runner(inputs), dtype=np.float32)
        except EqnetError:
            raise
        except Exception as error:  # each runtime has its own exceptions
            raise EqnetError(f"the runtime failed: {printable(one_line(error), 300)}") from error


def names_of(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or all of it where several end alike."""
    ends = Counter(path.name for path in paths)
    return [printable(path.name if path.name and ends[path.name] == 1 else path) for path in paths]


def open_candidate(path: Path, name: str, backend: str, threads: int) -> Candidate:
    """Read a model, ask its backend about it and load it there.

    An artifact runs in its own backend, any other file in `backend`. Raises as `inspect` does,
    and ArtifactError for an artifact whose files were changed.
    """
    return read_as_one(path / MANIFEST, partial(_open_candidate, path, name, backend, threads))


def _open_candidate(path: Path, name: str, backend: str, threads: int) -> Candidate:
    manifest = None
    if path.is_dir():
        manifest = read_manifest(path)
        check_files(path, manifest)
        backend = manifest.backend
    report = inspect(path, backends=[backend])
    candidate = Candidate(path, name, report, find_exporter(backend), manifest)
    reason = _why_not_here(candidate)
    if reason is None:
        try:
            candidate.runner = _runner(candidate, threads)
        except EqnetError as error:
            reason = one_line(str(error).removeprefix(f"{path}: "))
    if reason is not None:
        candidate.reasons.append(printable(reason, 300))
    return candidate


def _runner(candidate: Candidate, threads: int) -> Runner:
    exporter, manifest = candidate.exporter, candidate.manifest
    if manifest is None:
        return open_plain(exporter, candidate.path, threads=threads)
    return exporter.open(candidate.path / MODEL, threads=threads, profile=manifest.profile)


def _why_not_here(candidate: Candidate) -> str | None:
    """Why a model is not loaded here; one that broke its backend in a process of its own is not
    brought into this one."""
    profile = candidate.manifest.profile if candidate.manifest else None
    try:
        reason = candidate.exporter.unavailable(profile)
    except MissingExtraError as error:
        reason = str(error)
    if reason is None and candidate.finding.verdict in ("refused", "failed"):
        reason = candidate.finding.reason
    return reason


def _sizes(inputs: tuple[TensorInfo, ...]) -> tuple[int, ...] | None:
    """The shape of a single float32 input, with 1 for a free batch."""
    if len(inputs) != 1 or inputs[0].type != "float32" or not inputs[0].shape:
        return None
    batch, *rest = inputs[0].shape
    sizes = [size for size in rest if isinstance(size, int) and size > 0]
    if len(sizes) != len(rest):
        return None
    return (batch if isinstance(batch, int) else 1, *sizes)
