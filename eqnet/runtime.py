"""Use an artifact from Python, with numpy alone: ``load("artifacts/x")(pixels)``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.artifact import check_files, read_manifest
from eqnet.backend.discovery import find_exporter
from eqnet.backend.preprocess import preprocess
from eqnet.backend.protocol import Array, Runner, host_limit
from eqnet.spec.errors import HostWarning, UsageError
from eqnet.spec.manifest import MODEL, Manifest


@dataclass(frozen=True)
class Model:
    """A loaded artifact. `runtime` is the name and version of what executes it."""

    manifest: Manifest
    runtime: str
    runner: Runner

    def __call__(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> Array:
        """Logits float32 [N, classes] of images [N, C, H, W].

        uint8 pixels are normalized as the manifest says; float32 is taken as normalized
        already. Raises UsageError on another dtype or shape.
        """
        shape = self.manifest.model.input_shape
        if pixels.ndim != 4 or pixels.shape[1:] != shape or pixels.dtype not in DTYPES:
            raise UsageError(
                f"input is {pixels.dtype} {list(pixels.shape)} (allowed: uint8 pixels or "
                f"normalized float32, [N, {', '.join(str(size) for size in shape)}])"
            )
        if pixels.dtype == np.uint8:
            return self.runner(preprocess(pixels.astype(np.uint8), self.manifest.preprocessing))
        return self.runner(pixels.astype(np.float32))


DTYPES = (np.uint8, np.float32)


def load(artifact: Path | str, *, optimize: bool = True, threads: int | None = None) -> Model:
    """Load an artifact folder into the runtime, precision and device that it was exported for.

    `optimize=False` turns the runtime's graph optimizations off; `threads=None` leaves their
    number to the runtime. Raises ArtifactError if the folder is damaged, and UsageError if this
    machine cannot execute it. Warns, with `HostWarning`, where this CPU computes the artifact
    otherwise or by slower kernels than the one that it was exported for.
    """
    folder = Path(artifact)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    exporter = find_exporter(manifest.backend)
    reason = exporter.unavailable(manifest.profile)
    if reason is not None:
        raise UsageError(f"{folder}: backend '{manifest.backend}' cannot execute here: {reason}")
    limit = host_limit(exporter, manifest.profile)
    if limit is not None and optimize:
        warnings.warn(f"{folder}: {limit.reason}", HostWarning, stacklevel=2)
    runner = exporter.open(
        folder / MODEL, optimize=optimize, threads=threads, profile=manifest.profile
    )
    return Model(manifest, exporter.runtime_version(), runner)
