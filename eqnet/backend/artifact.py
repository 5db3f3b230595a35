"""Reading an artifact folder: manifest, integrity of its files, and the stored parity set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from eqnet.backend.discovery import find_exporter
from eqnet.backend.disk.plain import problem_of, require_listed
from eqnet.backend.disk.replaced import read_as_one
from eqnet.backend.disk.temporaries import is_temporary_of
from eqnet.backend.files import write_file
from eqnet.backend.graph.external import external_files
from eqnet.backend.protocol import OwnFiles
from eqnet.spec.errors import ArtifactError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.manifest import (
    MANIFEST,
    MODEL,
    PARITY,
    REFERENCE,
    SCHEMA_VERSION,
    Manifest,
)
from eqnet.spec.seal import KEY, broken_seal, sealed
from eqnet.spec.texts import parse_json, read_bounded

MAX_MANIFEST = 64 << 20
REQUIRED = (MODEL, REFERENCE, PARITY)
REPORTS = ("verify.json", "bench.json")
PARITY_DTYPES = {
    "pixels": np.uint8,
    "logits": np.float32,
    "labels": np.int64,
    "float_logits": np.float32,
}
OPTIONAL = "float_logits"


@dataclass(frozen=True)
class Parity:
    """pixels uint8 [N,C,H,W], PyTorch logits float32 [N,K], labels int64 [N] (-1: unknown).

    float_logits: float32 [N,K] of the float model, None where the artifact has none.
    """

    pixels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    float_logits: NDArray[np.float32] | None = None


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write ``manifest.json`` with its digest; returns the manifest with it. Raises OutputError."""
    content = sealed(json.loads(manifest.model_dump_json()))
    write_file(folder / MANIFEST, json.dumps(content, indent=2) + "\n")
    return manifest.model_copy(update={KEY: content[KEY]})


def read_manifest(folder: Path, *, expect: str | None = None) -> Manifest:
    """Read ``manifest.json``, whose digest must be its own and, where one is given, `expect`.

    Raises ArtifactError with one line if it is missing, changed, invalid or of another digest.
    """
    path, content = folder / MANIFEST, _read_json(folder)
    manifest = _parsed(path, content)
    if (broken := broken_seal(content)) is not None:
        raise ArtifactError(f"{path}: {broken}")
    if expect is not None and expect.lower() != manifest.digest:
        raise ArtifactError(f"{path}: digest {manifest.digest} (expected: {expect.lower()})")
    return manifest


def _parsed(path: Path, content: Any) -> Manifest:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version {version} is of a later eqnet (allowed: {SCHEMA_VERSION})"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a manifest: {first_problem(error)}") from error


def _read_json(folder: Path) -> Any:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder}: no such folder (allowed: a folder that `eqnet export` made)"
        )
    try:
        if (problem := problem_of(path, folder)) is not None:
            raise ArtifactError(f"{path}: {problem}")
        content = read_bounded(path, MAX_MANIFEST)
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot read: {error.strerror} (allowed: a folder that `eqnet export` made)"
        ) from error
    if content is None:
        raise ArtifactError(f"{path}: too large (allowed: {MAX_MANIFEST} bytes)")
    try:
        return parse_json(content)
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON: {one_line(error)}") from error


def foreign_content(folder: Path) -> str | None:
    """What a folder holds that no artifact does; None if it is an artifact with its reports.

    A manifest that says what belongs to it is enough, whatever its digest.
    """
    return read_as_one(folder / MANIFEST, partial(_foreign, folder))


def _foreign(folder: Path) -> str | None:
    try:
        manifest = _parsed(folder / MANIFEST, _read_json(folder))
    except ArtifactError:
        return "other content"
    names = {MANIFEST, *REPORTS, *manifest.files}
    others = sorted(path.name for path in folder.iterdir() if not _is_of(path.name, names))
    if not others:
        return None
    return f"a file that is not the artifact's: '{others[0]}'"


def _is_of(name: str, names: set[str]) -> bool:
    """Whether a file is one of these, or was to become one when its process was killed."""
    return name in names or any(is_temporary_of(name, whole) for whole in names)


def check_files(folder: Path, manifest: Manifest) -> int:
    """Compare every file that the manifest lists with its sha256 there.

    Returns how many were checked. Raises ArtifactError for the first that is missing, changed,
    no plain file or out of the folder, and for one that would be opened and is not listed: of
    the backend's own, or named by an ONNX file as holding its tensors.
    """
    absent = [name for name in REQUIRED if name not in manifest.files]
    if absent:
        raise ArtifactError(f"{folder / MANIFEST}: files: lists no {absent[0]}")
    for name in manifest.files:
        check_file(folder, manifest, name)
    for name in sorted(_opened(folder, manifest)):
        if name not in manifest.files:
            raise ArtifactError(f"{folder / name}: would be read, and the manifest lists no such")
    return len(manifest.files)


def check_file(folder: Path, manifest: Manifest, name: str) -> None:
    """Compare one file with its sha256 in the manifest. Raises ArtifactError as `check_files`."""
    require_listed(folder, name, manifest.files)


def _opened(folder: Path, manifest: Manifest) -> set[str]:
    """Names that the backend would read of a folder, beside those that every artifact has."""
    exporter = find_exporter(manifest.backend)
    patterns = exporter.own_files if isinstance(exporter, OwnFiles) else ()
    names = {path.name for pattern in patterns for path in folder.glob(pattern)}
    for name in manifest.files:
        if name.endswith(".onnx"):
            names |= external_files(folder / name)
    return names


def read_parity(folder: Path, manifest: Manifest) -> Parity:
    """Read ``parity.safetensors``. Raises ArtifactError if it is damaged or of another form."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / PARITY
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"{path}: not a safetensors file: {one_line(error)}") from error
    except (TypeError, AttributeError) as error:  # a type that numpy has not, such as bfloat16
        raise ArtifactError(f"{path}: tensors of another type: {one_line(error)}") from error
    images = manifest.parity.images
    shapes = {
        "pixels": (images, *manifest.model.input_shape),
        "logits": (images, manifest.model.classes),
        "labels": (images,),
        OPTIONAL: (images, manifest.model.classes),
    }
    for name, shape in shapes.items():
        array = tensors.get(name)
        if array is None and name == OPTIONAL:
            continue
        if array is None or array.dtype != PARITY_DTYPES[name] or array.shape != shape:
            stored = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
            wanted = f"{np.dtype(PARITY_DTYPES[name])} {list(shape)}"
            raise ArtifactError(f"{path}: {name}: found {stored} (allowed: {wanted})")
    return Parity(tensors["pixels"], tensors["logits"], tensors["labels"], tensors.get(OPTIONAL))
