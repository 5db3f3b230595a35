"""What a supernet was made of, so that an interrupted or repeated run knows its own."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eqnet.backend.files import sha256_file, write_file
from eqnet.models.loader import LIBRARIES
from eqnet.spec.errors import CheckpointError, OutputError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.inputs import Inputs
from eqnet.spec.scheme import Frozen
from eqnet.spec.version import __version__
from eqnet.supernet.checkpoint import SUPERNET_FILE, checkpoint_sha256

RECORD = "quantize.json"
SHOWN = 100  # characters of a setting in a message


class Settings(Frozen):
    """All that a post-training supernet follows from.

    weights, files: sha256 of the weights' file, and of the names and sizes of the files of `data`;
    None where there are none.
    """

    version: str = __version__
    model: str
    weights: str | None
    weights_key: str | None
    data: str | None
    files: str | None
    dataset: str | None
    inputs: dict[str, Any]
    images: int
    reconstruct: bool
    seed: int

    @classmethod
    def of(
        cls,
        *,
        model: str,
        weights: Path | None,
        weights_key: str | None,
        data: Path | None,
        dataset: str | None,
        inputs: Inputs,
        images: int,
        reconstruct: bool,
        seed: int,
    ) -> Settings:
        """With the hashes of files. Raises CheckpointError for weights that cannot be read."""
        told = {name: value for name, value in asdict(inputs).items() if value is not None}
        weights_sha256 = _sha256(weights) if weights else None
        folder = files = None
        if data is not None:
            folder, files = str(data.resolve()), _listing(data)
        return cls(
            model=model,
            weights=weights_sha256,
            weights_key=weights_key,
            data=folder,
            files=files,
            dataset=dataset,
            inputs=json.loads(json.dumps(told)),
            images=images,
            reconstruct=reconstruct,
            seed=seed,
        )

    @property
    def repeatable(self) -> bool:
        """Whether these settings tell the weights: the user's own code may load other ones."""
        return self.weights is not None or self.model.partition(":")[0] in LIBRARIES

    def difference(self, other: Settings) -> str | None:
        """The first setting that differs, with both values; None where all are the same."""
        for name in type(self).model_fields:
            before, now = getattr(self, name), getattr(other, name)
            if before != now:
                return f"{name.replace('_', ' ')} {_short(before)} (now: {_short(now)})"
        return None


class Record(Frozen):
    """quantize.json beside a supernet: its sha256, its settings and what was said of it."""

    supernet: str
    settings: Settings
    summary: dict[str, Any]


def read_record(folder: Path, settings: Settings) -> Record | None:
    """The record of a supernet that need not be made again; None where it must be.

    Raises OutputError where the folder holds a supernet of other settings, or of another origin.
    """
    if not (folder / SUPERNET_FILE).is_file():
        return None
    allowed = "(allowed: the same settings, another --out, or --force to make all of it anew)"
    path = folder / RECORD
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        line = error.strerror if isinstance(error, OSError) else first_problem(error)
        raise OutputError(f"{path}: not the record of a supernet: {line} {allowed}") from error
    difference = record.settings.difference(settings)
    if difference is None and record.supernet != checkpoint_sha256(folder / SUPERNET_FILE):
        difference = "another file than was written here"
    if difference is not None:
        raise OutputError(f"{folder}: holds a supernet of other settings: {difference} {allowed}")
    return record if settings.repeatable else None


def write_record(folder: Path, settings: Settings, summary: dict[str, Any]) -> Record:
    """Remember what the supernet in `folder` was made of. Raises OutputError."""
    record = Record(
        supernet=checkpoint_sha256(folder / SUPERNET_FILE), settings=settings, summary=summary
    )
    write_file(folder / RECORD, record.model_dump_json(indent=2) + "\n")
    return record


def _short(value: object) -> str:
    text = str(value)
    if len(text) == 64 and " " not in text:  # a sha256
        return text[:12]
    return f"'{one_line(text, SHOWN)}'"


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the weights: {error.strerror}") from error


def _listing(folder: Path) -> str:
    """Of the names and sizes of all files below a folder: another image changes every split."""
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{path.relative_to(folder)}\0{size}\0".encode(errors="replace"))
    return digest.hexdigest()
