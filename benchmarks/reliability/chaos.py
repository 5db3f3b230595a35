"""kill -9 over the commands: no half file, none lost, nothing left after the next run.

    make chaos
    OMP_NUM_THREADS=1 python benchmarks/reliability/chaos.py [--kills 80] [--only export ...]

Each command runs in forks of this process, on a network of 200 weights (`tiny.py`). It is killed
just before and just after every call by which a file or folder gets or loses its name or is put
on the disk (`forks.WATCHED`), and then at random moments, until there are `--kills`. After each
kill what is there must be whole: the artifact passes, or every file of a training or a search can
be read. Then it runs to its end: a training or a search with --resume must give, bit for bit, what
one gave that was never killed; and no temporary file or folder may be there. Exits with 1 where
any of this fails.

Then two commands run at once on one artifact, --pairs times each pair: both must end well, and
the artifact must be whole.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import forks
import pairs
from forks import Point, start
from scenes import SCENES, Scene, World

LATEST = 1.0  # share of a run's duration up to which a random kill may come
MOST = 3  # times as many kills as are wanted, where random ones come too late


@dataclass
class Counts:
    """What was found of one command. left: temporaries after the next run."""

    kills: int = 0
    killed: int = 0
    points: int = 0
    not_whole: int = 0
    lost: int = 0
    left: int = 0

    @property
    def faults(self) -> int:
        """All that must not be."""
        return self.not_whole + self.lost + self.left


@dataclass(frozen=True)
class Kill:
    """At a point of the run, or after so many seconds."""

    point: Point | None = None
    delay: float = 0.0


def plan(calls: int, seconds: float, rng: random.Random) -> Iterator[Kill]:
    """Every point from both sides, then random moments without end."""
    for number in range(calls):
        yield Kill(Point(number, after=False))
        yield Kill(Point(number, after=True))
    while True:
        yield Kill(delay=rng.uniform(0, LATEST * seconds))


def killed(scene: Scene, world: World, kill: Kill) -> bool:
    """Run the command and kill it; whether that was before its end."""
    run = start(scene.command(world.folder), world.scratch, kill.point)
    if kill.point is None:
        time.sleep(kill.delay)
        run.kill()
    return run.wait().killed


def torment(
    scene: Scene, world: World, kills: int, seed: int, told: Callable[[str], None]
) -> Counts:
    """Kill a command so many times before its end, and at least at each of its points."""
    found, rng = Counts(), random.Random(f"{seed}/{scene.name}")
    scene.prepare(world)
    whole = start(scene.command(world.folder), world.scratch).wait()
    if whole.code or not forks.RENAMES & set(whole.calls):
        raise RuntimeError(f"{scene.name}: a whole run gave {whole.code}, {whole.calls}")
    usual, result = world.names(), scene.result(world)
    found.points = len(whole.calls)
    for kill in plan(len(whole.calls), whole.seconds, rng):
        if found.kills >= 2 * found.points and (
            found.killed >= kills or found.kills >= MOST * kills
        ):
            break
        scene.prepare(world)
        found.kills += 1
        found.killed += killed(scene, world, kill)
        problem = scene.problem(world)
        found.not_whole += problem == "not whole"
        again = start(scene.again(world.folder), world.scratch).wait()
        if again.code or scene.result(world) != result or problem == "lost":
            found.lost += 1
            problem = problem or f"the next run gave {again.code}"
        left = sorted(world.names() - usual)
        found.left += bool(left)
        if problem or left:
            told(f"{scene.name}: {kill}: {problem}; left {left}")
        world.clean(left)
    return found


def main() -> int:
    """One line for each command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=80)
    parser.add_argument("--pairs", type=int, default=80, help="times of each of the 5 pairs")
    parser.add_argument("--only", nargs="+", choices=[*SCENES, *pairs.PAIRS])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chosen = arguments.only or [*SCENES, *pairs.PAIRS]
    with tempfile.TemporaryDirectory() as root:
        world = World.build(Path(root))
        wrong = _killed(world, [name for name in chosen if name in SCENES], arguments)
        both = [name for name in chosen if name in pairs.PAIRS]
        if both:
            wrong += pairs.run(world, both, arguments.pairs, arguments.seed, _tell)
    return 1 if wrong else 0


def _killed(world: World, names: list[str], arguments: argparse.Namespace) -> int:
    wrong = 0
    if names:
        columns = ("command", "kills", "before its end", "points", "not whole", "lost")
        print("|", " | ".join((*columns, "left over", "seconds")), "|")
        print("|---" * 8 + "|", flush=True)
    for name in names:
        begin = time.perf_counter()
        found = torment(SCENES[name], world, arguments.kills, arguments.seed, _tell)
        row = (name, found.kills, found.killed, found.points, found.not_whole, found.lost)
        seconds = f"{time.perf_counter() - begin:.0f}"
        print("|", " | ".join(map(str, (*row, found.left, seconds))), "|", flush=True)
        wrong += found.faults
    return wrong


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
