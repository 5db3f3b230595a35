"""Writing files and folders so that a reader never sees a half-written one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from eqnet.backend.disk.exchange import put_in_place, sync_content, sync_folder
from eqnet.backend.disk.temporaries import remove_leftovers, temporary_file, temporary_folder
from eqnet.spec.errors import OutputError

CHUNK = 1 << 20
TRIES = 20


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
    """Write a file whole or not at all: as `write_files` does. Raises OutputError."""
    write_files({path: content})


def write_files(contents: Mapping[Path, bytes | str]) -> None:
    """Write files under temporary names beside them, then rename all into place, in order.

    What cannot be written, as on a full disk, is found before any of them has changed. Missing
    parent folders are made. Of a link the file that it points to is written; what is no plain
    file, such as ``/dev/stdout``, is written to. Where another process puts a new folder in the
    place of theirs meanwhile, they are written into that. Raises OutputError with one line.
    """
    left = dict(contents)
    for _ in range(TRIES):
        left = _write_those(left)
        if not left:
            return
    gone = FileNotFoundError(errno.ENOENT, "its folder was replaced again and again")
    raise _refused(next(iter(left)), gone)


def _write_those(contents: Mapping[Path, bytes | str]) -> dict[Path, bytes | str]:
    """Write files; returns those whose temporaries went away with the folder they were in."""
    left: dict[Path, bytes | str] = {}
    with contextlib.ExitStack() as stack:
        ready: list[tuple[Path, Path, Path]] = []
        for path, content in contents.items():
            data = content.encode() if isinstance(content, str) else content
            with _refusing(path):
                target = Path(os.path.realpath(path)) if path.is_symlink() else path
                if _takes_writes_only(path):
                    path.write_bytes(data)
                else:
                    temporary = stack.enter_context(_written(target, data))
                    ready.append((temporary, target, path))
        for temporary, target, path in ready:
            try:
                with _refusing(target):
                    temporary.replace(target)
                    sync_folder(target.parent)
            except OutputError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                left[path] = contents[path]
    return left


def _takes_writes_only(path: Path) -> bool:
    """Whether a path is a device, a pipe or the like, which no file may replace."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def _written(target: Path, data: bytes) -> Iterator[Path]:
    """A temporary file beside `target` that holds the data for good."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    with temporary_file(target) as (temporary, handle):
        with os.fdopen(handle, "wb", closefd=False) as stream:
            stream.write(data)
        os.fchmod(handle, _mode(0o666))
        os.fsync(handle)
        yield temporary


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refused(path, error) from error


@contextlib.contextmanager
def new_folder(
    target: Path, *, foreign: Callable[[Path], str | None] = lambda _: "other content"
) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well.

    On an exception the temporary folder is removed and `target` stays as it was. An existing
    folder is replaced only if it is empty or `foreign` finds nothing in it that is not ours
    (it returns what it found), so that a wrong path never costs a user other files. Of a link
    to a folder the folder is replaced and the link stays. What processes that were killed left
    beside `target` is removed, or put back where it stood. Raises OutputError with one line.
    """
    if target.is_symlink() and target.is_dir():
        target = target.resolve()
    remove_leftovers(target)
    _check_replaceable(target, foreign)
    absent = [parent for parent in target.parents if not parent.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, absent)
        with _refusing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(temporary_folder(target))
        try:
            yield temporary
        except OSError as error:
            if error.filename is None or str(error.filename).startswith(str(temporary)):
                raise _refused(target, error) from error
            raise
        with _refusing(target):
            temporary.chmod(_mode(0o777))
            sync_content(temporary)
            put_in_place(temporary, target)


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
