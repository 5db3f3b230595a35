"""eqnet installed and used in clean environments: Pythons x extras x lowest and highest releases.

    make matrix
    python tests/tools/install_matrix.py --python python3.11 python3.13 \\
        --only board all --json runs/matrix.jsonl

Builds the wheel and the sdist once and exports two artifacts of the bundled supernet. Each row is
a new virtual environment in which eqnet is installed from the wheel, and in the row `sdist` from
the sdist, with the lowest releases that pyproject.toml claims or with the highest that the index
has, and in which `install_smoke.py` does real work. `--json` keeps the rows; those that are there
and did not fail are not run again: remove the file when pyproject.toml has changed. Exits with 1
where a row failed.

`skipped: no wheel` is a release without a wheel for that Python and machine: nothing is compiled.
`skipped: not to be had here`: TensorRT's packages are sources that fetch wheels from elsewhere.
With `--uv` (a path, or `uv`) that tool installs instead of pip, in a tenth of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import install_pins as pins

ROOT = Path(__file__).resolve().parents[2]
SMOKE = Path(__file__).with_name("install_smoke.py")
PROFILES = ("onnxruntime_avx2", "openvino_avx2")  # exact on every x86 CPU
VERSIONS = ("lowest", "highest")
# What pip and uv say of releases that have nothing for this Python or machine.
NO_WHEEL = re.compile(r"no matching distribution|no (usable )?wheels?\b|building .* disabled", re.I)
# Told in the table; the others are in the file of --json.
SHOWN = ("torch", "onnx", "onnxruntime", "openvino", "numpy")
# Published as a source that fetches its wheels elsewhere, where that can be reached.
FROM_SOURCE = {"tensorrt", "tensorrt-rtx"}
# The work of a row, see install_smoke.py; a row that is not here imports these modules.
JOBS = {
    "board": "board",
    "sdist": "board",
    "openvino": "board",
    "train": "train",
    "all": "all",
    "report": "report",
    "images": "images",
}
MODULES = {
    "timm": ["timm"],
    "tensorboard": ["tensorboard.summary.writer.event_file_writer"],
    "qonnx": ["qonnx.core.modelwrapper"],
    "tensorrt": ["tensorrt"],
    "tensorrt-rtx": ["tensorrt_rtx"],
}


class RefusedError(Exception):
    """A command that ended badly, with all that it wrote."""

    def line(self, pattern: str = "") -> str:
        """What fits into a table: the first line that tells by the pattern, else the last one."""
        lines = [line.strip() for line in str(self).splitlines() if line.strip()]
        telling = [line for line in lines if pattern and re.search(pattern, line, re.I)]
        return (telling or lines[-1:])[0].replace("|", "/")[:200]


@dataclass(frozen=True)
class Built:
    """What all rows use: distributions, and artifacts in the order of PROFILES."""

    wheel: Path
    sdist: Path
    artifacts: list[Path]


@dataclass(frozen=True)
class Row:
    """One environment and what became of it; packages are name: version."""

    python: str
    what: str
    versions: str
    installer: str
    result: str
    seconds: int
    packages: dict[str, str]

    def line(self) -> str:
        """A row of the table."""
        shown = ", ".join(
            f"{name} {self.packages[name]}" for name in SHOWN if name in self.packages
        )
        cells = (self.python, self.what, self.versions, self.installer, shown, self.result)
        return f"| {' | '.join(cells)} |"


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints that sees nothing of this environment; raises RefusedError."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    usual = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=cwd, env=usual, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RefusedError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def build(folder: Path, artifacts: Path) -> Built:
    """The wheel and the sdist of this checkout, and artifacts, made here where they are not yet."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = [artifacts / profile for profile in PROFILES]
    for path in found:
        if not (path / "manifest.json").exists():
            made = ["export", "--profile", path.name, "--no-race", "--out", str(path), "-q"]
            subprocess.run([sys.executable, "-m", "eqnet", *made], cwd=folder, check=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist, found)


class Environment:
    """A new virtual environment in a folder of its own."""

    def __init__(self, folder: Path, interpreter: str, uv: str | None) -> None:
        self.folder, self.uv = folder, uv
        run(interpreter, "-m", "venv", *["--without-pip"] * bool(uv), folder / "venv", cwd=folder)
        self.python = folder / "venv" / "bin" / "python"

    def install(self, what: str, versions: str, minor: str, built: Built) -> None:
        """Install eqnet and all that it asks for, of which nothing is compiled."""
        extra = "" if what in ("board", "sdist") else f"[{what}]"
        source = built.sdist if what == "sdist" else built.wheel
        command: list[str] = [str(self.python), "-m", "pip", "install"]
        if self.uv:
            command = [self.uv, "pip", "install", "--python", str(self.python)]
        if what not in FROM_SOURCE:
            command += ["--only-binary", ":all:"]
        if what == "sdist":
            command += ["--no-binary", "eqnet"]
        if versions == "lowest":
            limits = self.folder / "constraints.txt"
            claimed = pins.lowest(pins.requirements(pins.project()), {"python_version": minor})
            limits.write_text(pins.constraints(claimed), encoding="utf-8")
            command += ["-c", str(limits)]
        run(*command, f"eqnet{extra} @ {source.as_uri()}", cwd=self.folder)

    def packages(self) -> dict[str, str]:
        """All that is installed here."""
        code = (
            "import json; from importlib.metadata import distributions as d; "
            "print(json.dumps({p.metadata['Name'].lower(): p.version for p in d()}))"
        )
        found: dict[str, str] = json.loads(run(self.python, "-I", "-c", code, cwd=self.folder))
        return found

    def work(self, what: str, built: Built) -> None:
        """The row's work, on copies of the artifacts; raises RefusedError where it fails."""
        scratch = self.folder / "work"
        copies = [shutil.copytree(path, scratch / path.name) for path in built.artifacts]
        job = [JOBS.get(what, "import"), *MODULES.get(what, [])]
        if job[0] in ("board", "report", "images"):
            job += [copies[what == "openvino"].name]
        run(self.python, "-P", SMOKE, *job, cwd=scratch)


def why_not(what: str, told: str) -> str:
    """What an installation that an installer refused is called."""
    if NO_WHEEL.search(told):
        return "skipped: no wheel"
    return "skipped: not to be had here" if what in FROM_SOURCE else "failed: install"


def attempt(environment: Environment, what: str, versions: str, minor: str, built: Built) -> str:
    """The result of a row: install, then work."""
    try:
        environment.install(what, versions, minor, built)
    except RefusedError as refusal:
        return f"{why_not(what, str(refusal))}: {refusal.line('error|failed|because')}"
    try:
        environment.work(what, built)
    except RefusedError as refusal:
        return f"failed: {refusal.line()}"
    return "passed"


def try_row(interpreter: str, what: str, versions: str, built: Built, uv: str | None) -> Row:
    """One environment, made, used and removed."""
    python, start = version_of(interpreter), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="eqnet-matrix-") as scratch:
        environment = Environment(Path(scratch), interpreter, uv)
        result = attempt(environment, what, versions, python.rpartition(".")[0], built)
        packages = environment.packages()
    seconds = round(time.monotonic() - start)
    return Row(python, what, versions, "uv" if uv else "pip", result, seconds, packages)


def version_of(interpreter: str) -> str:
    """Such as 3.11.7."""
    return run(interpreter, "-c", "import platform; print(platform.python_version())", cwd=ROOT)[
        :-1
    ]


def kept(path: Path | None) -> dict[tuple[str, str, str], Row]:
    """The rows of an earlier run that did not fail."""
    if path is None or not path.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    good = [row for row in rows if not row.result.startswith("failed")]
    return {(row.python, row.what, row.versions): row for row in good}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ["board", "sdist", *pins.extras(pins.project())]
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters")
    parser.add_argument("--only", nargs="+", choices=known, default=known)
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="one row a line; goes on there")
    parser.add_argument("--artifacts", type=Path, help="folder to keep the exported artifacts in")
    parser.add_argument("--uv", metavar="PATH", help="uv, to install with it instead of pip")
    return parser.parse_args()


def main() -> int:
    """One line for each environment, as soon as it is known."""
    asked = arguments()
    have, failed = kept(asked.json), 0
    print("| Python | installed | releases | by | versions | result |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="eqnet-dist-") as folder:
        built: Built | None = None
        for interpreter in asked.python:
            for what in asked.only:
                for versions in asked.versions:
                    row = have.get((version_of(interpreter), what, versions))
                    if row is None:
                        built = built or build(Path(folder), asked.artifacts or Path(folder))
                        row = try_row(interpreter, what, versions, built, asked.uv)
                        if asked.json:
                            with asked.json.open("a", encoding="utf-8") as file:
                                file.write(json.dumps(asdict(row)) + "\n")
                    failed += row.result.startswith("failed")
                    print(row.line(), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
