"""The folder of baselines that a gate compares with, and what its first run leaves there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, NamedTuple

from eqnet.backend.artifact import foreign_content, read_manifest
from eqnet.backend.files import new_folder, write_file
from eqnet.backend.machine.host import describe_host, same_machine
from eqnet.spec.manifest import MANIFEST
from eqnet.spec.reports import BenchReport

Keep = Literal["artifact", "report"]
KEEPS: tuple[Keep, ...] = ("artifact", "report")
BENCH = "bench.json"


class Found(NamedTuple):
    """The baseline of an artifact, and why there is none where one of its name lies there."""

    path: Path | None
    note: str = ""


def find_baseline(folder: Path | None, name: str) -> Found:
    """``NAME`` where that is an artifact, which any machine can run beside the other, else
    ``NAME.bench.json`` where that is of this machine.

    A damaged one is returned: `bench` refuses it, which must not pass.
    """
    if folder is None:
        return Found(None)
    if (folder / name / MANIFEST).is_file():
        return Found(folder / name)
    path = folder / f"{name}.{BENCH}"
    if not path.is_file():
        return Found(None)
    try:
        host = BenchReport.model_validate_json(path.read_bytes()).host
    except (OSError, ValueError):
        return Found(path)
    if same_machine(host, describe_host()):
        return Found(path)
    cpu = host.get("cpu", "unknown")
    return Found(None, f"the baseline is of another machine, {cpu}: not compared")


def keep_baseline(folder: Path, name: str, artifact: Path, report: BenchReport, keep: Keep) -> str:
    """Leave what later runs are compared with; says so in a line. Raises OutputError."""
    if keep == "report":
        write_file(folder / f"{name}.{BENCH}", report.model_dump_json(indent=2) + "\n")
        return "the first of this machine: kept as the baseline"
    files = [MANIFEST, *read_manifest(artifact).files]
    with new_folder(folder / name, foreign=foreign_content) as made:
        for file in files:
            shutil.copyfile(artifact / file, made / file)
    return "the first: the artifact is kept as the baseline"
