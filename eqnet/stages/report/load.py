"""Reading what a report is made of: artifacts, searches, evaluations, training logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from eqnet.backend.artifact import read_manifest
from eqnet.spec.errors import ArtifactError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.manifest import MANIFEST, Manifest
from eqnet.spec.reports import BenchReport, EvalReport, SearchReport, VerifyReport
from eqnet.spec.texts import parse_json

VERIFY = "verify.json"
BENCH = "bench.json"
SEARCH = "search.json"
EVALUATIONS = "eval*.json"
LOG_SUFFIX = ".jsonl"
_AXES = ("step", "iteration", "epoch")
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Artifact:
    """One artifact folder; `verify` and `bench` are None where they have not been run.

    sizes: bytes of the manifest's files that are there, by name.
    """

    folder: Path
    manifest: Manifest
    verify: VerifyReport | None = None
    bench: BenchReport | None = None
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """One training log: `curves` maps a quantity to its points (x, y); `axis` names x."""

    path: Path
    axis: str
    curves: dict[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class ReportInputs:
    """Everything that one report shows."""

    artifacts: tuple[Artifact, ...] = ()
    searches: tuple[SearchReport, ...] = ()
    evaluations: tuple[EvalReport, ...] = ()
    trainings: tuple[Training, ...] = ()


def load(paths: Sequence[Path]) -> ReportInputs:
    """Read artifact folders, search folders or files, what `eqnet eval --json` printed (a file, or
    ``eval*.json`` of a folder), and training folders or logs.

    HTML pages are passed over, so that ``artifacts/*`` may hold an earlier report. Raises
    ArtifactError for a path that is none of these, or when nothing is left.
    """
    artifacts: list[Artifact] = []
    searches: list[SearchReport] = []
    evaluations: list[EvalReport] = []
    trainings: list[Training] = []
    for path in paths:
        if path.suffix in (".html", ".png"):
            continue
        if (path / MANIFEST).is_file():
            artifacts.append(load_artifact(path))
            continue
        found, scores, logs = _search_files(path), _evaluations(path), _logs(path)
        if not (found or scores or logs):
            raise ArtifactError(f"{path}: {_why_not(path)}")
        searches.extend(read_model(file, SearchReport) for file in found)
        evaluations.extend(read_model(file, EvalReport) for file in scores)
        trainings.extend(read_training(log) for log in logs)
    if not (artifacts or searches or evaluations or trainings):
        raise ArtifactError(
            "nothing to report (allowed: artifacts, searches, evaluations, training logs)"
        )
    return ReportInputs(tuple(artifacts), tuple(searches), tuple(evaluations), tuple(trainings))


def load_artifact(folder: Path) -> Artifact:
    """Read an artifact's manifest and reports; the model itself is not opened."""
    manifest = read_manifest(folder)
    return Artifact(
        folder=folder,
        manifest=manifest,
        verify=_read_if_there(folder / VERIFY, VerifyReport),
        bench=_read_if_there(folder / BENCH, BenchReport),
        sizes=_sizes(folder, manifest),
    )


def _sizes(folder: Path, manifest: Manifest) -> dict[str, int]:
    """Of the files that are there: a report may be made of the JSON files alone."""
    found = {}
    for name in manifest.files:
        try:
            state = (folder / name).lstat()
        except OSError:
            continue
        if S_ISREG(state.st_mode):
            found[name] = state.st_size
    return found


def _read_if_there(path: Path, model: type[_Model]) -> _Model | None:
    if not path.is_file():
        return None
    return read_model(path, model)


def read_model(path: Path, model: type[_Model]) -> _Model:
    """Read one result file. Raises ArtifactError with one line."""
    try:
        return model.model_validate(parse_json(path.read_bytes()))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read: {error.strerror}") from error
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a valid {path.name}: {first_problem(error)}") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: not a valid {path.name}: {one_line(error)}") from error


def read_training(path: Path) -> Training:
    """Read a training log: one JSON object a line, of numbers by name."""
    rows: list[dict[str, object]] = []
    try:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip():
                rows.append(_log_row(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot read the training log: {error}") from error
    axis = _axis(rows)
    curves: dict[str, list[tuple[float, float]]] = {}
    for index, row in enumerate(rows):
        x = row.get(axis, index)
        for name, value in row.items():
            if name not in _AXES and _is_number(value) and _is_number(x):
                curves.setdefault(name, []).append((float(x), float(value)))  # type: ignore[arg-type]  # numbers, checked above
    return Training(path, axis, {name: tuple(points) for name, points in curves.items()})


def _axis(rows: Sequence[dict[str, object]]) -> str:
    """What the rows are counted by: the first of `_AXES` that any has, or else their lines."""
    for name in _AXES:
        if any(name in row for row in rows):
            return name
    return "line"


def _log_row(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ArtifactError(f"{path}: line {number}: not JSON") from error
    if not isinstance(row, dict):
        raise ArtifactError(f"{path}: line {number}: found {type(row).__name__} (allowed: object)")
    return row


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _search_files(path: Path) -> list[Path]:
    """A search file, that of a search folder, or those of a folder of search folders."""
    if path.is_file():
        return [path] if path.suffix == ".json" and not _is_evaluation(path) else []
    if (path / SEARCH).is_file():
        return [path / SEARCH]
    return sorted(path.glob(f"*/{SEARCH}"))


def _evaluations(path: Path) -> list[Path]:
    """A file that `eqnet eval --json` printed, or those of a folder."""
    if path.is_dir():
        return sorted(path.glob(EVALUATIONS))
    return [path] if path.suffix == ".json" and _is_evaluation(path) else []


def _is_evaluation(path: Path) -> bool:
    """Whether a JSON file is of one subnet's accuracy; what else it is, its reader says."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"weight_bits", "placement"} <= content.keys()


def _logs(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob(f"*{LOG_SUFFIX}"))
    if path.is_file() and path.suffix == LOG_SUFFIX:
        return [path]
    return []


def _why_not(path: Path) -> str:
    if not path.exists():
        return "no such file or folder"
    return (
        f"nothing to report in it (allowed: a folder with {MANIFEST} or {SEARCH}, "
        f"{EVALUATIONS} or *{LOG_SUFFIX}, or one of these files)"
    )
