"""Putting a folder in the place of another at once, and making renames survive power loss."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from eqnet.backend.disk.temporaries import ASIDE, marked

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_LACKING = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
_MEANWHILE = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY}
_TRIES = 20


def put_in_place(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`; of a folder that is there, `folder` is then the name.

    A reader sees the one or the other at every moment, where the file system can exchange two
    names. Elsewhere the old folder steps aside for a moment, and the next run beside it puts it
    back should this process be killed in that moment. Raises OSError.
    """
    for _ in range(_TRIES):  # another process may do the same at the same time
        try:
            if not os.path.lexists(target):
                folder.rename(target)
            elif not exchange(folder, target):
                _by_two_renames(folder, target)
            break
        except OSError as error:
            if error.errno not in _MEANWHILE:
                raise
    else:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))
    sync_folder(target.parent)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once; False where the system or the file system cannot.

    Raises OSError for what is wrong with the paths.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _LACKING:
        return False
    raise OSError(code, os.strerror(code), str(one))


def _by_two_renames(folder: Path, target: Path) -> None:
    aside = folder.with_suffix(f".{ASIDE}")
    with marked(target):
        target.rename(aside)
        try:
            folder.rename(target)
        except OSError:
            if not os.path.lexists(target):
                aside.rename(target)
            raise
        aside.rename(folder)


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk. Nothing where the file system has no such thing."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync_content(folder: Path) -> None:
    """Have all files of a folder, and its names, on the disk. Raises OSError."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    sync_folder(folder)
