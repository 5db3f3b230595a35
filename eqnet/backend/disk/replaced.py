"""Reading a folder as one, while another process may put a new one in its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from eqnet.spec.errors import ArtifactError

_Result = TypeVar("_Result")
TRIES = 10


def read_as_one(marker: Path, read: Callable[[], _Result]) -> _Result:
    """What `read` returns or raises of a folder that was the same one from its begin to its end.

    marker: a file of the folder that is new in each folder that takes its place, such as
    ``manifest.json``. Where it has changed, `read` may have seen files of both folders, and reads
    anew. Raises ArtifactError where that happens again and again.
    """
    for _ in range(TRIES):
        before = _identity(marker)
        try:
            result = read()
        except Exception:  # of files that are gone, or do not belong together
            if _identity(marker) == before:
                raise
            continue
        if _identity(marker) == before:
            return result
    raise ArtifactError(
        f"{marker.parent}: replaced {TRIES} times while it was read (allowed: no process that "
        "exports there all the time)"
    )


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What no other file has that was there before; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # also of no path, such as one with a null byte
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns
