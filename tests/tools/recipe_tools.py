"""A recipe that trains in a second, and a listener that interrupts it."""

from __future__ import annotations

from pathlib import Path

import pytest
from nets import SmallNet, TinyData

from eqnet.spec.progress import Silent

RECIPE = """
schema_version: 1
model: nets:SmallNet
seed: 5
float_model: {epochs: 1, batch: 8, learning_rate: 0.02}
elastic:
  epochs: 2
  batch: 10
  styles: [paper, onnxruntime_x86]
"""


class InterruptedRunError(Exception):
    """What stops a run in these tests."""


class StopAfter(Silent):
    """A progress listener that ends the run when so many epochs of a phase are saved."""

    def __init__(self, epochs: int, phase: str = "elastic training") -> None:
        self.epochs, self.phase, self.on = epochs, phase, False

    def start(self, task: str, total: int | None = None) -> None:
        self.on = task == self.phase

    def advance(self, n: int = 1, **info: object) -> None:
        if self.on and n:
            self.epochs -= n
            if self.epochs == 0:
                raise InterruptedRunError


def write_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch, images: int = 24) -> Path:
    """Write the recipe; elastic training finds its small network and so many images."""
    monkeypatch.setattr(
        "eqnet.stages.train.begin.start.open_dataset", lambda name, root: TinyData(images)
    )
    monkeypatch.setattr(
        "eqnet.stages.train.begin.start.load_model",
        lambda source, **options: SmallNet(options["classes"], in_channels=1).eval(),
    )
    path = folder / "recipe.yaml"
    path.write_text(RECIPE)
    return path
