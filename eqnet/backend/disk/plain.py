"""Opening only what is a plain file inside of the folder that it belongs to."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path

from eqnet.spec.errors import ArtifactError


def problem_of(path: Path, folder: Path) -> str | None:
    """Why a path in a folder must not be opened, or None: it leads out, or is no plain file.

    Raises OSError where there is nothing.
    """
    real = path.resolve(strict=True)
    if not real.is_relative_to(folder.resolve()):
        return f"leads out of the folder, to {real}"
    if not stat.S_ISREG(real.stat().st_mode):
        return "is not a plain file"
    return None


def require_listed(folder: Path, name: str, listed: Mapping[str, str]) -> None:
    """Compare a file of a folder with the sha256 that is listed for its name.

    Raises ArtifactError if it is missing, changed, not listed, no plain file or out of the folder.
    """
    path = folder / name
    if name not in listed:
        raise ArtifactError(f"{path}: the manifest lists no such file")
    expected = str(listed[name])
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ArtifactError(f"{folder}/manifest.json: files: '{name}' leads out of the folder")
    try:
        problem = problem_of(path, folder)
        if problem is None:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{path}: missing or unreadable: {reason}") from error
    if problem is not None:
        raise ArtifactError(f"{path}: {problem}")
    if found != expected:
        raise ArtifactError(
            f"{path}: changed or corrupt: sha256 {found[:12]} (manifest says {expected[:12]})"
        )
