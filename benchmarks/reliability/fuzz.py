"""Damaged and hostile files for every reader: only the project's errors, in one line, in time.

    make fuzz
    python benchmarks/reliability/fuzz.py [--inputs 50000] [--only profiles ...] [--seed 0]

Each reader gets whole files of its kind, damaged at random by the seed. A fault is an exception
that is not eqnet's, a message of several lines or without end, more than 10 seconds, or more than
1 GiB. Exits with 1 where there is any. The first of each kind stays as a file in --keep.
"""

from __future__ import annotations

import argparse
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
from readers import READERS, Reader  # noqa: E402

from eqnet.spec.errors import EqnetError, one_line  # noqa: E402

SECONDS, MEMORY = 10, 1 << 30
LONGEST = 1500
WHOLE = 20  # files that are not damaged, of each kind that a reader takes


class SlowError(Exception):
    """A reader that did not come back."""


@contextmanager
def limited() -> Iterator[None]:
    """Within: at most `MEMORY` more than now, and SlowError after `SECONDS`."""

    def late(number: int, frame: object) -> None:
        raise SlowError

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


def outcome(reader: Reader) -> str:
    """What became of one file: "accepted", "refused", or a fault in words."""
    try:
        with limited():
            reader.read()
    except EqnetError as error:
        text = str(error)
        fine = "\n" not in text and text.isprintable() and len(text) <= LONGEST
        return "refused" if fine else f"message: {text[:80]!r}"
    except Exception as error:  # each is a fault
        return f"{type(error).__name__}: {one_line(error, 80)}"
    return "accepted"


def fuzz(name: str, count: int, seed: int, keep: Path | None) -> Counter[str]:
    """Outcomes of `count` damaged files for one reader."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reader, rng = READERS[name](folder), random.Random(f"{seed}/{name}")
        for number in range(WHOLE):
            reader.spoil(Whole(number))
            reader.read()
        for number in range(count):
            reader.spoil(rng)
            result = outcome(reader)
            found[result] += 1
            if keep is not None and found[result] == 1 and result not in ("accepted", "refused"):
                _keep(folder, keep / f"{name}-{number}")
    return found


def _keep(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    newest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    (target / newest.name).write_bytes(newest.read_bytes())


def main() -> int:
    """One line for each reader."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--only", nargs="+", choices=sorted(READERS), default=sorted(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the first file of each fault")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    faults = 0
    print("| reader | inputs | refused | accepted | faults | seconds |\n|---|---|---|---|---|---|")
    for name in arguments.only:
        start = time.perf_counter()
        found = fuzz(name, arguments.inputs, arguments.seed, arguments.keep)
        refused, accepted = found.pop("refused", 0), found.pop("accepted", 0)
        wrong = sum(found.values())
        faults += wrong
        seconds = time.perf_counter() - start
        print(
            f"| {name} | {arguments.inputs} | {refused} | {accepted} | {wrong} | {seconds:.0f} |",
            flush=True,
        )
        for text, times in found.most_common(5):
            print(f"  {times} x {text}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
