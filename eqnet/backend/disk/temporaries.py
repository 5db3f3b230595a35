"""Temporary files and folders that are known to be left over once their process is dead.

A temporary is locked by the process that made it, and the system takes the lock away however
that process ends. So whoever can lock a temporary may remove it: on the same machine and, where
the file system has locks, from another; process numbers would tell neither.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

COMPLETE, ASIDE = "tmp", "old"
"""Endings: of what is being written, and of what stepped aside to make room for it."""
SCRATCH = "eqnet"
_RANDOM = r"[a-z0-9_]{8}"


def is_temporary_of(name: str, target: str) -> bool:
    """Whether a file of this name is, or was, written for one of the name `target`."""
    return (
        re.fullmatch(rf"\.{re.escape(target)}\.{_RANDOM}\.({COMPLETE}|{ASIDE})", name) is not None
    )


@contextlib.contextmanager
def temporary_file(target: Path) -> Iterator[tuple[Path, int]]:
    """A locked file beside `target`, and its descriptor; removed where it was not renamed.

    Raises OSError.
    """
    while True:
        handle, name = tempfile.mkstemp(f".{COMPLETE}", f".{target.name}.", target.parent)
        if _keep(name, handle):
            break
        os.close(handle)
    try:
        yield Path(name), handle
    finally:
        os.close(handle)
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """A locked folder beside `target`, removed with its content at the end. Raises OSError."""
    while True:
        name = tempfile.mkdtemp(f".{COMPLETE}", f".{target.name}.", target.parent)
        handle = os.open(name, os.O_RDONLY)
        if _keep(name, handle):
            break
        os.close(handle)
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name, ignore_errors=True)
        os.close(handle)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what is needed for a while, where the system keeps such; removed at the end.

    What killed processes left of theirs is removed too. Raises OSError.
    """
    target = Path(tempfile.gettempdir()) / SCRATCH
    remove_leftovers(target)
    with temporary_folder(target) as folder:
        yield folder


@contextlib.contextmanager
def marked(path: Path) -> Iterator[None]:
    """Locks a file or folder as that of a living process. Raises OSError if it is not there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        _lock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def remove_leftovers(target: Path) -> None:
    """Remove what dead processes left beside `target`, and restore what they put aside.

    A folder that stepped aside and whose place is empty goes back there. What cannot be removed
    stays: it is in nobody's way.
    """
    for path in _temporaries(target):
        with _dead(path) as dead:
            if not dead:
                continue
            if path.suffix == f".{ASIDE}" and not os.path.lexists(target):
                with contextlib.suppress(OSError):
                    path.rename(target)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def _temporaries(target: Path) -> list[Path]:
    try:
        names = os.listdir(target.parent)
    except OSError:
        return []
    return [target.parent / name for name in sorted(names) if is_temporary_of(name, target.name)]


@contextlib.contextmanager
def _dead(path: Path) -> Iterator[bool]:
    """Whether no process holds a temporary; while this lasts none can take it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone meanwhile, or somebody else's
        yield False
        return
    try:
        yield _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)


def _keep(name: str, handle: int) -> bool:
    """Lock what was just made; False where it was taken for a leftover before that."""
    _lock(handle, fcntl.LOCK_SH)
    try:
        return os.path.samestat(os.stat(name), os.fstat(handle))
    except FileNotFoundError:
        return False


def _lock(handle: int, how: int) -> bool:
    """Whether a lock was had; never where the file system has none, and so nothing is removed."""
    try:
        fcntl.flock(handle, how)
    except OSError:
        return False
    return True
