"""Calling a loaded graph: what each runtime raises in its own way becomes one error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eqnet.backend.protocol import Array, Runner
from eqnet.spec.errors import ArtifactError, EqnetError, one_line


@contextlib.contextmanager
def runtime_errors(path: Path) -> Iterator[None]:
    """Whatever a runtime raises as an ArtifactError in one line that names the graph."""
    try:
        yield
    except EqnetError:
        raise
    except Exception as error:  # each runtime has its own exceptions
        raise ArtifactError(f"{path}: the runtime failed: {one_line(error)}") from error


@dataclass(frozen=True)
class CheckedRunner:
    """A loaded graph that gives logits of its network's shape or an ArtifactError."""

    path: Path
    runner: Runner
    classes: int

    def __call__(self, inputs: Array) -> Array:
        """Logits float32 [N, classes] of float32 inputs [N, C, H, W].

        Raises ArtifactError if the runtime fails or gives another shape.
        """
        with runtime_errors(self.path):
            logits = self.runner(inputs)
        wanted = (len(inputs), self.classes)
        if logits.shape != wanted:
            raise ArtifactError(
                f"{self.path}: gives {list(logits.shape)} (allowed: {list(wanted)})"
            )
        return logits
