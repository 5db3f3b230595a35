"""A module of eqnet in a process of its own, with limits on memory and time.

It leaves one file; whatever else becomes of it is told in a line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eqnet.spec.outside.printable import printable

TAIL = 1 << 16  # bytes of what a process said on stderr that are looked at


@dataclass(frozen=True)
class Process:
    """A running module. out: the file that it leaves; said: where its stderr goes."""

    running: subprocess.Popen[bytes]
    out: Path
    said: Path

    def wait(self, end: float) -> str | None:
        """Wait until `end` of the monotonic clock; why it left no file, or None if it did."""
        try:
            code = self.running.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return "no answer in time"
        if code == 0 and self.out.is_file():
            return None
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"its process was ended by {signal.Signals(-code).name} on this file"
        with self.said.open("rb") as stream:
            lines = stream.read(TAIL).decode(errors="replace").strip().splitlines()
        last = printable(lines[-1], 300) if lines else "nothing said"
        return f"its process ended with code {code}: {last}"

    def end(self) -> None:
        """Kill it if it still runs."""
        self.running.kill()
        self.running.wait()


def start(module: str, arguments: Sequence[str], out: Path) -> Process:
    """Run ``python -m module arguments`` with this process's modules, silently.

    Modules are found where this process finds them, and in the current folder only if it is among
    those: a stranger's file may lie beside a stranger's ``numpy.py``.
    """
    said = out.with_name(f"{out.name}.said")
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    with said.open("wb") as errors:
        running = subprocess.Popen(  # noqa: S603  # this interpreter, arguments of our own
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": paths},
        )
    return Process(running, out, said)


def limit_memory(most: int) -> None:
    """Let this process allocate at most so many bytes, where the system can be told."""
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
