"""Opening only what is a plain file inside of the folder that it belongs to."""

from __future__ import annotations

import stat
from pathlib import Path


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
