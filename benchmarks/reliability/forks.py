"""Command lines in forks of this process, which has imported everything once: a second saved.

A fork can kill itself just before or just after any call by which a file gets or loses its name
or its content is put on the disk, so that each such point of a command is met, every time.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import pkgutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eqnet.backend.disk import exchange

WATCHED: tuple[tuple[Any, str], ...] = (
    *((os, name) for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync")),
    (exchange, "exchange"),
)
RENAMES = frozenset({"replace", "rename", "exchange"})
LATE = 600.0  # seconds after which a run hangs: an export alone takes 4 of computing


@dataclass(frozen=True)
class Point:
    """The call of a run, from 0, at which it is killed, and on which side of it."""

    number: int
    after: bool


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, or minus the signal; the watched calls, in order."""

    code: int
    calls: tuple[str, ...]
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether it was killed before its end."""
        return self.code == -signal.SIGKILL


class Started:
    """A run in a process of its own."""

    def __init__(self, run: Callable[[], int], scratch: Path, point: Point | None) -> None:
        self.begin = time.perf_counter()
        self.pipe, there = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _become(run, scratch, point, there)
        os.close(there)

    def kill(self) -> None:
        """SIGKILL, whether it still runs or not."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Ended:
        """Its end. Raises TimeoutError, after killing it, where there is none."""
        timer = threading.Timer(LATE, self.kill)
        timer.start()
        told = b""
        while part := os.read(self.pipe, 1 << 16):
            told += part
        _, status = os.waitpid(self.pid, 0)
        timer.cancel()
        timer.join()
        os.close(self.pipe)
        seconds = time.perf_counter() - self.begin
        if seconds > LATE:
            raise TimeoutError(f"a run took more than {LATE} seconds")
        return Ended(os.waitstatus_to_exitcode(status), tuple(told.decode().split()), seconds)


def start(arguments: list[str], scratch: Path, point: Point | None = None) -> Started:
    """An eqnet command line, silent, with its temporary files in `scratch`."""

    def run() -> int:
        from eqnet.cli.main import main

        return main([*arguments, "-q"])

    return Started(run, scratch, point)


def ask(question: Callable[[], bool], scratch: Path) -> bool:
    """A question that a process of its own answers: runtimes would start threads in this one."""
    return Started(lambda: 0 if question() else 1, scratch, None).wait().code == 0


def import_all() -> None:
    """Import what the commands do, and run none of it."""
    import eqnet.stages

    for module in pkgutil.walk_packages(eqnet.stages.__path__, "eqnet.stages."):
        importlib.import_module(module.name)
    for name in ("eqnet.cli.app", "eqnet_exporters.onnxruntime", "eqnet_exporters.lowbit"):
        importlib.import_module(name)
    from torch.onnx._internal.exporter._registration import ONNXRegistry
    from tqdm import tqdm  # type: ignore[import-untyped]  # its package has no types

    # A second of each export, and the same each time: what ONNX torch's operators become.
    once = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    setattr(ONNXRegistry, "from_torchlib", once)  # noqa: B010  # what mypy lets nobody assign
    tqdm.monitor_interval = 0  # a thread


def warm(supernet: Path, profile: str) -> None:
    """Trace a supernet to ONNX once here, which imports and compiles what forks then have.

    Nothing is trained here, because torch's gradients do not survive a fork, and no runtime is
    imported, because it starts threads. Raises RuntimeError where there is any.
    """
    from eqnet.qdq.to_onnx import to_onnx
    from eqnet.spec.hardware.load import load_profile
    from eqnet.stages.export.choose_subnet import choose_subnet
    from eqnet.supernet.extract import extract
    from eqnet.supernet.session import open_session

    session = open_session(supernet, allow_code=True)
    spec = choose_subnet(session, load_profile(profile), None, None).spec
    session.settle(spec, session.calibration())
    to_onnx(extract(session.supernet, spec), session.header.input_shape)
    gc.collect()
    gc.freeze()
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"{threads} threads before a fork (allowed: 1; set OMP_NUM_THREADS=1)")


def _become(run: Callable[[], int], scratch: Path, point: Point | None, pipe: int) -> None:
    """What the child does, which never returns."""
    code = 99
    try:
        log = os.open(scratch.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        tempfile.tempdir = str(scratch)
        calls = _watch(point)
        code = run()
        os.write(pipe, " ".join(calls).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(point: Point | None) -> list[str]:
    """Have the watched calls noted from now on, and one of them kill this process."""
    calls: list[str] = []

    def watched(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            number = len(calls)
            calls.append(name)
            if point == Point(number, after=False):
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*arguments, **options)
            finally:  # after a call that failed too, such as a mkdir of what is there
                if point == Point(number, after=True):
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for module, name in WATCHED:
        setattr(module, name, watched(getattr(module, name), name))
    return calls
