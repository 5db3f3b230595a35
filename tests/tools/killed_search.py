"""A search of the small network that kills its own process: `FOLDER TASK COUNT`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from nets import small_supernet
from search_tools import World, lowbit

from eqnet.spec.progress import Silent

RULES = lowbit(cost={"model": "bit_serial"})
OPTIONS: dict[str, Any] = {
    "budgets": {"avg_weight_bits": 5, "avg_activation_bits": 6},
    "generations": 36,
    "population": 16,
    "objectives": ["size"],
    "seed": 4,
}


class Killer(Silent):
    """Ends the process by SIGKILL after so many steps of a task."""

    def __init__(self, task: str, count: int) -> None:
        self.task, self.left = task, count
        self.running = False

    def start(self, task: str, total: int | None) -> None:
        """Look whether it is the task."""
        self.running = task == self.task

    def advance(self, n: int = 1, **info: float | str) -> None:
        """Count down."""
        self.left -= n * self.running
        if self.running and self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, task: str, count: int) -> None:
    """Search, and do not return."""
    world = World(folder, small_supernet(), pytest.MonkeyPatch())
    world(RULES, progress=Killer(task, count), **OPTIONS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
