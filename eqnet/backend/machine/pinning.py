"""Keeping a measurement on CPUs of its own choice, so that no thread wanders between cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
NOT_HERE = "not pinned: this system cannot pin threads"


@contextmanager
def pinned(threads: int, wanted: bool = True) -> Iterator[str]:
    """Keep this thread, and those that begin in it, on as many CPUs as a runtime has threads.

    One thread of each core before second ones. Gives a line for the report: which CPUs, or why
    not. What was allowed before is allowed again at the end. Threads of a runtime that began
    earlier stay where they were, so sessions are opened inside.
    """
    if not wanted:
        yield "not pinned: --no-pin"
        return
    if not hasattr(os, "sched_setaffinity"):
        yield NOT_HERE
        return
    before = os.sched_getaffinity(0)
    chosen = choose(sorted(before), threads)
    try:
        os.sched_setaffinity(0, chosen)
    except OSError as error:
        yield f"{NOT_HERE} ({error.strerror})"
        return
    try:
        yield f"CPUs {', '.join(map(str, sorted(chosen)))}"
    finally:
        os.sched_setaffinity(0, before)


def choose(allowed: Sequence[int], threads: int, cpus: Path = CPUS) -> list[int]:
    """So many of the allowed CPUs, or all of them: first one of each core, then second ones."""
    cores: dict[str, int] = {}
    ranked = []
    for cpu in allowed:
        core = _siblings(cpu, cpus)
        cores[core] = cores.get(core, -1) + 1
        ranked.append((cores[core], cpu))
    return [cpu for _, cpu in sorted(ranked)[:threads]]


def _siblings(cpu: int, cpus: Path) -> str:
    """The CPUs of the same core, as the system writes them; the CPU alone where it does not."""
    try:
        path = cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return str(cpu)
