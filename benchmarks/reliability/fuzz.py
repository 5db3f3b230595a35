"""Damaged and hostile files for every reader: only the project's errors, in one line, in time.

    make fuzz
    python benchmarks/reliability/fuzz.py [--inputs 50000] [--only profiles ...] [--seed 0]

Each reader gets whole files of its kind, damaged at random by the seed. A fault is an exception
that is not eqnet's, a message of several lines or without end, more than 10 seconds, more than
1 GiB, or, where a file has a hash or checksum, damaged content that is accepted. Exits with 1
where there is any. The first of each kind stays as a file in --keep. With --log the outcomes are
appended to a file, and inputs that stand there are not read again.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

from mutations import Whole  # noqa: E402  # readers need the tools of the tests
from read_documents import DOCUMENTS  # noqa: E402
from read_graphs import GRAPHS  # noqa: E402
from read_tensors import TENSORS  # noqa: E402
from readers import Make, Reader  # noqa: E402

from eqnet.spec.errors import EqnetError, one_line  # noqa: E402

READERS: dict[str, Make] = {**DOCUMENTS, **GRAPHS, **TENSORS}
SECONDS, MEMORY = 10, 1 << 30
PATIENCE = 12
LONGEST = 1500
WHOLE = 20  # files that are not damaged, of each kind that a reader takes
PART = 500  # inputs that are logged together
FINE = ("accepted", "refused")


class SlowError(Exception):
    """A reader that did not come back."""


@contextmanager
def limited() -> Iterator[None]:
    """Within: at most `MEMORY` more than now, and SlowError after `SECONDS` of computing.

    A process that gets no processor may take longer, and one that sleeps: `PATIENCE` times.
    """
    begin, looks = time.process_time(), iter(range(1, PATIENCE))

    def late(number: int, frame: object) -> None:
        if time.process_time() - begin >= SECONDS or next(looks, None) is None:
            raise SlowError
        signal.alarm(SECONDS)

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(reader: Reader, whole: list[object]) -> str:
    """What became of one file: "accepted", "refused", or a fault in words.

    whole: what the reader may give for a file that has a hash.
    """
    try:
        with limited():
            found = reader.read()
    except EqnetError as error:
        text = str(error)
        fine = "\n" not in text and text.isprintable() and len(text) <= LONGEST
        return "refused" if fine else f"message: {text[:80]!r}"
    except Exception as error:  # each is a fault
        return f"{type(error).__name__}: {one_line(error, 80)}"
    if reader.hashed and found not in whole:
        return "damaged content accepted"
    return "accepted"


def fuzz(name: str, numbers: range, seed: int, keep: Path | None) -> Iterator[tuple[int, str]]:
    """The number and the outcome of each damaged file for one reader."""
    seen: set[str] = set(FINE)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reader = READERS[name](folder)
        whole = []
        for number in range(WHOLE):
            reader.spoil(Whole(number))
            found = reader.read()
            if reader.hashed and found not in whole:
                whole.append(found)
        for number in numbers:
            reader.spoil(random.Random(f"{seed}/{name}/{number}"))
            result = outcome(reader, whole)
            if keep is not None and result not in seen:
                _keep(folder, keep / f"{name}-{number}")
            seen.add(result)
            yield number, result


def _keep(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    newest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    (target / newest.name).write_bytes(newest.read_bytes())


class Log:
    """Outcomes by reader: how many inputs are done, from 0, and in how many seconds."""

    def __init__(self, path: Path | None, seed: int) -> None:
        self.path, self.seed = path, seed
        self.found: dict[str, Counter[str]] = {}
        self.seconds: Counter[str] = Counter()
        if path is not None and path.is_file():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                if row["seed"] == seed:
                    self._count(row["reader"], Counter(row["outcomes"]), row["seconds"])

    def done(self, name: str) -> int:
        """Inputs of a reader that need not be read again."""
        return self.found.get(name, Counter()).total()

    def add(self, name: str, outcomes: Counter[str], seconds: float) -> None:
        """Note the next inputs of a reader."""
        self._count(name, outcomes, seconds)
        if self.path is not None:
            row = {"reader": name, "seed": self.seed, "outcomes": outcomes, "seconds": seconds}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def _count(self, name: str, outcomes: Counter[str], seconds: float) -> None:
        self.found.setdefault(name, Counter()).update(outcomes)
        self.seconds[name] += seconds  # type: ignore[assignment]  # a Counter of floats

    def faults(self, name: str) -> Counter[str]:
        """What went wrong, and how often."""
        return Counter({text: n for text, n in self.found[name].items() if text not in FINE})

    def row(self, name: str) -> str:
        """A line of the table."""
        found = self.found[name]
        counts = (found["refused"], found["accepted"], self.faults(name).total())
        told = (name, found.total(), *counts, f"{self.seconds[name]:.0f}")
        return f"| {' | '.join(map(str, told))} |"


def run(name: str, count: int, log: Log, keep: Path | None) -> None:
    """Give a reader what is left of `count` inputs."""
    numbers, part, begin = range(log.done(name), count), Counter[str](), time.perf_counter()
    for number, result in fuzz(name, numbers, log.seed, keep):
        part[result] += 1
        if part.total() == PART or number == count - 1:
            log.add(name, part, time.perf_counter() - begin)
            part, begin = Counter[str](), time.perf_counter()


def main() -> int:
    """One line for each reader."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--only", nargs="+", choices=sorted(READERS), default=sorted(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the first file of each fault")
    parser.add_argument("--log", type=Path, help="file that outcomes are appended to")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    faults, log = 0, Log(arguments.log, arguments.seed)
    print("| reader | inputs | refused | accepted | faults | seconds |\n|---|---|---|---|---|---|")
    for name in arguments.only:
        run(name, arguments.inputs, log, arguments.keep)
        print(log.row(name), flush=True)
        faults += log.faults(name).total()
        for text, times in log.faults(name).most_common(5):
            print(f"  {times} x {text}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
