"""Which runtime executes an artifact here, and running images through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.discovery import find_exporter
from eqnet.backend.preprocess import preprocess
from eqnet.backend.protocol import Array, Exporter
from eqnet.backend.running import CheckedRunner
from eqnet.spec.manifest import Manifest

BATCH = 64
STAND_IN = "onnxruntime"

BatchProgress = Callable[[str, int, int], None]
"""Called with what is being done, images done and images in all."""


@dataclass(frozen=True)
class Deployment:
    """The artifact's own exporter, and what executes its graph on this machine.

    reason: why the backend itself cannot execute here, None if it does.
    """

    exporter: Exporter
    executor: Exporter
    reason: str | None

    @property
    def runtime(self) -> str:
        """Name and version of what executes the graph."""
        return self.executor.runtime_version()


def choose_target(manifest: Manifest) -> Deployment:
    """The manifest's backend, with ONNX Runtime to stand in where it cannot execute."""
    exporter = find_exporter(manifest.backend)
    reason = exporter.unavailable(manifest.profile)
    executor = exporter if reason is None else find_exporter(STAND_IN)
    return Deployment(exporter, executor, reason)


@dataclass(frozen=True)
class Execution:
    """Runs pixels through a graph in batches, with the manifest's preprocessing."""

    runner: CheckedRunner
    manifest: Manifest

    def __call__(self, pixels: NDArray[np.uint8]) -> Array:
        """Logits float32 [N, classes] of uint8 pixels [N, C, H, W], as one batch.

        Raises ArtifactError if the runtime fails or gives another shape.
        """
        return self.runner(preprocess(pixels, self.manifest.preprocessing))


def open_graph(
    executor: Exporter, path: Path, manifest: Manifest, *, optimize: bool, threads: int | None
) -> Execution:
    """Load a graph of the artifact for execution, as its profile says."""
    runner = executor.open(path, optimize=optimize, threads=threads, profile=manifest.profile)
    return Execution(CheckedRunner(path, runner, manifest.model.classes), manifest)


def run_batches(
    execution: Execution, pixels: NDArray[np.uint8], stage: str, progress: BatchProgress | None
) -> Array:
    """Logits of all images, BATCH at a time."""
    total, parts = len(pixels), []
    for start in range(0, total, BATCH):
        parts.append(execution(pixels[start : start + BATCH]))
        if progress is not None:
            progress(stage, min(start + BATCH, total), total)
    return np.concatenate(parts)
