"""Standard output and error as they are: closed, full, of few characters, or read by nobody."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from eqnet.spec.errors import OutputError

STDOUT, STDERR = 1, 2


class Results(io.TextIOWrapper):
    """Standard output. What cannot be written raises OutputError, but a closed pipe its own."""

    def write(self, text: str) -> int:
        """Write a text. Raises OutputError, or BrokenPipeError where nobody reads."""
        with _refusing():
            return super().write(text)

    def flush(self) -> None:
        """Have it written. Raises as `write` does."""
        with _refusing():
            super().flush()


class Remarks(io.TextIOWrapper):
    """Standard error. What cannot be written there is lost, and the work goes on."""

    def write(self, text: str) -> int:
        """Write a text, or nothing."""
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Have it written, or lost."""
        with contextlib.suppress(OSError):
            super().flush()


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"standard output: cannot write: {error.strerror} (allowed: what takes all of it)"
        ) from error


def prepare() -> None:
    """Let this process write to its standard streams whatever they are.

    A stream that was closed takes all and keeps nothing: otherwise the next file that is opened
    would be taken for it. A character that a stream cannot say becomes a question mark.
    """
    for descriptor in range(STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = _as(Results, sys.stdout, STDOUT)
    sys.stderr = _as(Remarks, sys.stderr, STDERR)


def _as(kind: type[io.TextIOWrapper], stream: TextIO | None, descriptor: int) -> TextIO:
    """What a stream writes to, under another kind of stream; None is one that was closed."""
    if not isinstance(stream, io.TextIOWrapper):
        return kind(open(descriptor, "wb", closefd=False), encoding="utf-8", errors="replace")
    encoding, lines = stream.encoding, stream.line_buffering
    return kind(stream.detach(), encoding=encoding, errors="replace", line_buffering=lines)


def finish() -> None:
    """Give up what could not be written, so that the interpreter's end does not fail over it."""
    for stream, descriptor in ((sys.stdout, STDOUT), (sys.stderr, STDERR)):
        try:
            stream.flush()
        except (OSError, ValueError, OutputError):
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
