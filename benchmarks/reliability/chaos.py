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
the artifact must be whole. With --log each kill is noted in a file, and those that stand there are
not made again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import forks
import pairs
from forks import Point, start
from scenes import SCENES, Scene, World

LATEST = 1.0  # share of a run's duration up to which a random kill may come
MOST = 3  # times as many kills as are wanted, where random ones come too late


@dataclass(frozen=True)
class Fate:
    """What one kill did. killed: before the run's end. problem: of what was there after it. lost:
    it was gone, or the next run failed or gave another result. left: names of temporaries."""

    killed: bool
    problem: str | None
    lost: bool
    left: list[str]
    seconds: float


@dataclass
class Counts:
    """What was found of one command. left: temporaries after the next run."""

    kills: int = 0
    killed: int = 0
    points: int = 0
    not_whole: int = 0
    lost: int = 0
    left: int = 0
    seconds: float = 0.0

    def add(self, one: Fate) -> None:
        """Count one kill."""
        self.kills += 1
        self.killed += one.killed
        self.not_whole += one.problem == "not whole"
        self.lost += one.lost
        self.left += bool(one.left)
        self.seconds += one.seconds

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


def fate(scene: Scene, world: World, kill: Kill, usual: set[str], result: object) -> Fate:
    """Kill a command once, and run it to its end."""
    begin = time.perf_counter()
    scene.prepare(world)
    early = killed(scene, world, kill)
    problem = scene.problem(world)
    again = start(scene.again(world.folder), world.scratch).wait()
    lost = bool(again.code) or scene.result(world) != result or problem == "lost"
    left = sorted(world.names() - usual)
    world.clean(left)
    return Fate(early, problem, lost, left, time.perf_counter() - begin)


def torment(scene: Scene, world: World, kills: int, seed: int, log: Log) -> Counts:
    """Kill a command so many times before its end, and at least at each of its points."""
    found, rng = Counts(), random.Random(f"{seed}/{scene.name}")
    scene.prepare(world)
    whole = start(scene.command(world.folder), world.scratch).wait()
    if whole.code or not forks.RENAMES & set(whole.calls):
        raise RuntimeError(f"{scene.name}: a whole run gave {whole.code}, {whole.calls}")
    usual, result = world.names(), scene.result(world)
    found.points = len(whole.calls)
    done = log.fates(scene.name)
    for number, kill in enumerate(plan(len(whole.calls), whole.seconds, rng)):
        if number >= 2 * found.points and (found.killed >= kills or number >= MOST * kills):
            break
        if number < len(done):
            found.add(done[number])
            continue
        one = fate(scene, world, kill, usual, result)
        found.add(one)
        log.add(scene.name, one)
        if one.problem or one.lost or one.left:
            _tell(f"{scene.name}: {kill}: {one}")
    return found


class Log:
    """What became of each kill, in a file; None for none."""

    def __init__(self, path: Path | None, seed: int) -> None:
        self.path, self.seed = None if path is None else path.resolve(), seed

    def fates(self, name: str) -> list[Fate]:
        """Those of one command, in order."""
        if self.path is None or not self.path.is_file():
            return []
        rows = [json.loads(line) for line in self.path.read_text().splitlines()]
        key = [name, self.seed]
        return [Fate(**row["fate"]) for row in rows if row["of"] == key]

    def add(self, name: str, one: Fate) -> None:
        """Note the next one."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"of": [name, self.seed], "fate": asdict(one)}) + "\n")


def main() -> int:
    """One line for each command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=80)
    parser.add_argument("--pairs", type=int, default=80, help="times of each of the 5 pairs")
    parser.add_argument("--only", nargs="+", choices=[*SCENES, *pairs.PAIRS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="file that each kill is noted in")
    arguments = parser.parse_args()
    log = Log(arguments.log, arguments.seed)
    chosen = arguments.only or [*SCENES, *pairs.PAIRS]
    with tempfile.TemporaryDirectory() as root:
        world = World.build(Path(root))
        wrong = _killed(world, [name for name in chosen if name in SCENES], arguments, log)
        both = [name for name in chosen if name in pairs.PAIRS]
        if both:
            wrong += pairs.run(world, both, arguments.pairs, arguments.seed, _tell)
    return 1 if wrong else 0


def _killed(world: World, names: list[str], arguments: argparse.Namespace, log: Log) -> int:
    wrong = 0
    if names:
        columns = ("command", "kills", "before its end", "points", "not whole", "lost")
        print("|", " | ".join((*columns, "left over", "seconds")), "|")
        print("|---" * 8 + "|", flush=True)
    for name in names:
        found = torment(SCENES[name], world, arguments.kills, arguments.seed, log)
        row = (name, found.kills, found.killed, found.points, found.not_whole, found.lost)
        print("|", " | ".join(map(str, (*row, found.left, round(found.seconds)))), "|", flush=True)
        wrong += found.faults
    return wrong


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
