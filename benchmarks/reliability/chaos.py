"""kill -9 over the commands: no half artifact, none lost, nothing left after the next run.

    make chaos
    python benchmarks/reliability/chaos.py [--kills 80] [--only export ...] [--seed 0]

Each command is run once to its end, for its duration. Then it is started `--kills` times in a
folder that holds a whole artifact of the bundled supernet, and killed at a random moment of that
duration. After each kill the artifact must verify; after the next whole run, no temporary file or
folder may be there. Exits with 1 where that fails.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eqnet.spec.errors import EqnetError
from eqnet.stages.verify import verify

PROFILE = "onnxruntime_x86"
# A kill after these shares of a run: what a command writes, it writes at its end.
EARLIEST, LATEST = 0.5, 1.05


def commands(artifact: Path) -> dict[str, list[str]]:
    """The command lines that write into an artifact's folder."""
    return {
        "export": ["export", "--profile", PROFILE, "--out", str(artifact), "--force"],
        "verify": ["verify", str(artifact)],
        "bench": ["bench", str(artifact), "--repeats", "5"],
    }


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """The command in a process of its own, silent."""
    command = [sys.executable, "-m", "eqnet", *arguments, "-q"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def is_whole(artifact: Path) -> bool:
    """Whether the artifact is there and passes."""
    try:
        return verify(artifact).verdict == "passed"
    except EqnetError:
        return False


def names(folder: Path) -> set[str]:
    """All that a folder holds, hidden files and folders included."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def kill(name: str, folder: Path, kills: int, seed: int) -> tuple[int, int, int]:
    """Kills, artifacts that were not whole after one, and files left after the next run."""
    artifact, rng = folder / "artifact", random.Random(f"{seed}/{name}")
    arguments = commands(artifact)[name]
    begin = time.perf_counter()
    start(arguments).wait()
    duration, usual = time.perf_counter() - begin, names(folder)
    killed = broken = 0
    for _ in range(kills):
        process = start(arguments)
        time.sleep(duration * rng.uniform(EARLIEST, LATEST))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        broken += not is_whole(artifact)
    start(arguments).wait()
    return killed, broken, len(names(folder) - usual)


def main() -> int:
    """One line for each command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=80)
    parser.add_argument("--only", nargs="+", choices=["export", "verify", "bench"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wrong = 0
    print("| command | kills | before the end | not whole | left over |\n|---|---|---|---|---|")
    for name in arguments.only or ("export", "verify", "bench"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            start(commands(folder / "artifact")["export"]).wait()
            killed, broken, left = kill(name, folder, arguments.kills, arguments.seed)
        shutil.rmtree(scratch, ignore_errors=True)
        wrong += broken + left
        print(f"| {name} | {arguments.kills} | {killed} | {broken} | {left} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
