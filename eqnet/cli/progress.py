"""Progress on stderr: a bar on a terminal, one line a task elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eqnet.spec.errors import without_controls

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from eqnet.spec.progress import Progress


class Bar:
    """A Progress drawn by rich."""

    def __init__(self, rich: RichProgress) -> None:
        self._rich = rich
        self._task: TaskID | None = None

    def start(self, task: str, total: int | None) -> None:
        """Begin a bar; an unknown total pulses."""
        self._task = self._rich.add_task(without_controls(task), total=total, info="")

    def advance(self, n: int = 1, **info: float | str) -> None:
        """Move the bar and show `info` after it."""
        if self._task is None:
            return
        if info:
            self._rich.update(self._task, advance=n, info=describe_values(info))
        else:
            self._rich.advance(self._task, n)

    def finish(self) -> None:
        """Fill the bar, also where the total was not known."""
        for task in self._rich.tasks:
            if task.id == self._task:
                total = max(task.completed, 1)
                self._rich.update(task.id, total=total, completed=task.completed or 1)
        self._task = None


class Lines:
    """A Progress for logs: one line when a task begins and one when it is over."""

    def __init__(self) -> None:
        self._name = ""
        self._done = 0
        self._info: dict[str, float | str] = {}

    def start(self, task: str, total: int | None) -> None:
        """Say what begins."""
        self._name, self._done, self._info = task, 0, {}
        if total is None:
            self._write(f"{task} ...")
        else:
            self._write(f"{task}: 0/{total}")

    def advance(self, n: int = 1, **info: float | str) -> None:
        """Count in silence."""
        self._done += n
        self._info.update(info)

    def finish(self) -> None:
        """Say that it is over."""
        text = f"{self._name}: done ({self._done})"
        if self._info:
            text += f"  {describe_values(self._info)}"
        self._write(text)

    def _write(self, text: str) -> None:
        print(without_controls(text), file=sys.stderr, flush=True)


def describe_values(info: dict[str, float | str]) -> str:
    """`loss=0.312 step=4` from the information of a step."""
    parts = []
    for name, value in info.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f"{name}={shown}")
    return without_controls(" ".join(parts))


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """The Progress that fits where stderr goes; the bar is cleared however the block ends."""
    from eqnet.spec.progress import Silent

    if quiet:
        yield Silent()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        with _bars() as rich:
            yield Bar(rich)


def _bars() -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}", style="dim", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
