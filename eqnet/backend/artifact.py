"""Reading an artifact folder: manifest, integrity of its files, and the stored parity set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from eqnet.backend.disk.temporaries import is_temporary_of
from eqnet.backend.files import sha256_file
from eqnet.spec.errors import ArtifactError
from eqnet.spec.fields import first_problem
from eqnet.spec.manifest import (
    MANIFEST,
    MODEL,
    PARITY,
    REFERENCE,
    SCHEMA_VERSION,
    Manifest,
)

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


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json``. Raises ArtifactError with one line if it is missing or invalid."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder}: no such folder (allowed: a folder that `eqnet export` made)"
        )
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot read: {error.strerror} (allowed: a folder that `eqnet export` made)"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON: {' '.join(str(error).split())}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version {version} is of a later eqnet (allowed: {SCHEMA_VERSION})"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a manifest: {first_problem(error)}") from error


def foreign_content(folder: Path) -> str | None:
    """What a folder holds that no artifact does; None if it is an artifact with its reports."""
    try:
        manifest = read_manifest(folder)
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

    Returns how many were checked. Raises ArtifactError for the first that is missing, changed
    or of a name that leads out of the folder.
    """
    absent = [name for name in REQUIRED if name not in manifest.files]
    if absent:
        raise ArtifactError(f"{folder / MANIFEST}: files: lists no {absent[0]}")
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{folder / MANIFEST}: files: '{name}' leads out of the folder")
        try:
            sha256 = sha256_file(path)
        except OSError as error:
            raise ArtifactError(f"{path}: missing or unreadable: {error.strerror}") from error
        if sha256 != expected:
            raise ArtifactError(
                f"{path}: changed or corrupt: sha256 {sha256[:12]} (manifest says {expected[:12]})"
            )
    return len(manifest.files)


def read_parity(folder: Path, manifest: Manifest) -> Parity:
    """Read ``parity.safetensors``. Raises ArtifactError if it is damaged or of another form."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / PARITY
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"{path}: not a safetensors file: {error}") from error
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
