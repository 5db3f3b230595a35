"""How a long-running function tells its caller how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener to one task at a time; the command line draws a bar on stderr from it."""

    def start(self, task: str, total: int | None) -> None:
        """A task begins: what it is called and how many steps it has, None where unknown."""
        ...

    def advance(self, n: int = 1, **info: float | str) -> None:
        """`n` steps are done; `info` is shown beside the bar, such as ``loss=0.31``."""
        ...

    def finish(self) -> None:
        """The task that was started last is over."""
        ...


class Silent:
    """A Progress that shows nothing."""

    def start(self, task: str, total: int | None) -> None:
        """Do nothing."""

    def advance(self, n: int = 1, **info: float | str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class Stages:
    """Calls of the form ``(stage, done, total)``, turned into a Progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage: str | None = None
        self._done = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` steps of a stage are over; a new name begins a new task."""
        if stage != self._stage:
            self.close()
            self._progress.start(stage, total)
            self._stage, self._done = stage, 0
        self._progress.advance(done - self._done)
        self._done = done

    def close(self) -> None:
        """The last stage is over."""
        if self._stage is not None:
            self._progress.finish()
        self._stage = None
