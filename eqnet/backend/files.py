"""Writing files and folders so that a reader never sees a half-written one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from eqnet.spec.errors import OutputError

CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content. Raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _mode(default: int) -> int:
    """The permission bits that a plainly created file or folder would have."""
    mask = os.umask(0)
    os.umask(mask)
    return default & ~mask


def _refused(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"{path}: cannot write: {reason} (allowed: a path that you may write to)")


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name beside it, then rename it into place.

    Missing parent folders are made. Raises OutputError with one line if that is not possible.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        temporary.chmod(_mode(0o666))
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise _refused(path, error) from error


@contextlib.contextmanager
def new_folder(
    target: Path, *, foreign: Callable[[Path], str | None] = lambda _: "other content"
) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well.

    On an exception the temporary folder is removed and `target` stays as it was. An existing
    folder is replaced only if it is empty or `foreign` finds nothing in it that is not ours
    (it returns what it found), so that a wrong path never costs a user other files. Of a link
    to a folder the folder is replaced and the link stays. Raises OutputError with one line.
    """
    _check_replaceable(target, foreign)
    if target.is_symlink():
        target = target.resolve()
    absent = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise _refused(target, error) from error
    temporary = Path(name)
    try:
        yield temporary
        _swap(temporary, target)
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(name):
            raise _refused(target, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(absent)


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders that were made for nothing, innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # it holds what was written, or is gone
            return


def _check_replaceable(target: Path, foreign: Callable[[Path], str | None]) -> None:
    try:
        if target.is_dir():
            content = foreign(target) if any(target.iterdir()) else None
            if content is not None:
                raise OutputError(
                    f"{target}: a folder with {content} "
                    "(allowed: a new path, an empty folder, or an earlier artifact)"
                )
        elif target.exists() or target.is_symlink():
            raise OutputError(f"{target}: a file (allowed: a new path or a folder)")
    except OSError as error:
        raise _refused(target, error) from error


def _swap(temporary: Path, target: Path) -> None:
    """Rename `temporary` to `target`; an old folder steps aside and comes back on failure."""
    aside = temporary.with_suffix(".old")
    try:
        temporary.chmod(_mode(0o777))
        if target.exists():
            target.rename(aside)
        temporary.rename(target)
    except OSError as error:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise _refused(target, error) from error
    shutil.rmtree(aside, ignore_errors=True)
