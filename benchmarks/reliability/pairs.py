"""Two commands at once on one artifact: each ends well, and the artifact stays whole."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import tiny
from forks import start
from scenes import World, artifact_problem


def export(folder: Path) -> list[str]:
    """Without a race, which only takes time."""
    return [*tiny.export(folder), "--no-race"]


PAIRS = {
    "export, export": (export, export),
    "export, verify": (export, tiny.verify),
    "export, bench": (export, tiny.bench),
    "verify, verify": (tiny.verify, tiny.verify),
    "bench, verify": (tiny.bench, tiny.verify),
}


def run(
    world: World, names: Sequence[str], times: int, seed: int, told: Callable[[str], None]
) -> int:
    """A table of pairs, each so many times; returns how many failed."""
    print("\n| two at once | times | failed | not whole | left over | seconds |")
    print("|---|---|---|---|---|---|", flush=True)
    wrong = 0
    for name in names:
        begin, found = time.perf_counter(), _pair(world, name, times, seed, told)
        row = (name, times, found["failed"], found["not whole"], found["left"])
        seconds = f"{time.perf_counter() - begin:.0f}"
        print("|", " | ".join(map(str, (*row, seconds))), "|", flush=True)
        wrong += found.total()
    return wrong


def _pair(
    world: World, name: str, times: int, seed: int, told: Callable[[str], None]
) -> Counter[str]:
    rng, found = random.Random(f"{seed}/{name}"), Counter[str]()
    first, second = PAIRS[name]
    world.restore("artifact")
    world.do(second(world.folder))
    seconds = start(first(world.folder), world.scratch).wait().seconds
    world.do(tiny.bench(world.folder))
    world.do(tiny.verify(world.folder))
    usual = world.names()
    for number in range(times):
        one = start(first(world.folder), world.scratch)
        time.sleep(rng.uniform(0, 0.95 * seconds))
        other = start(second(world.folder), world.scratch)
        codes = (one.wait().code, other.wait().code)
        found["failed"] += any(codes)
        broken = artifact_problem(world) is not None
        found["not whole"] += broken
        if any(codes) or broken:
            log = (world.scratch.parent / "log").read_text().strip().splitlines()[-1:]
            told(f"{name}: {number}: exit codes {codes}, broken {broken}: {log}")
    # What one has to leave because the other holds it, the next run removes.
    for command in (export, tiny.bench, tiny.verify):
        world.do(command(world.folder))
    left = world.names() - usual
    found["left"] += len(left)
    if left:
        told(f"{name}: left {sorted(left)}")
    return found
