"""Finding the images of a folder, which part each is for, and which class it belongs to."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from eqnet.backend.images import SUFFIXES
from eqnet.spec.errors import DataError

CLASS_LIST = "classes.txt"
UNKNOWN = -1
LAYOUT = (
    "images; or CLASS/*.jpg; or train/ beside val/ or test/, each of images or of CLASS/*.jpg; "
    ".png, .webp and others too"
)
# Names of folders that divide the images, whatever their case.
PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# What systems and archives leave beside a user's folders. Hidden folders are skipped too.
STRAY = (
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "$RECYCLE.BIN",
    "lost+found",
    "System Volume Information",
)
WHOLE = "whole"
SHOWN = 3


class Entry(NamedTuple):
    """One image file and the index of its class, -1 where it has none."""

    path: Path
    label: int


class Listing(NamedTuple):
    """The images of a folder, by part; a part is None where the folder does not have it.

    whole: images that the folder does not divide, and part the name of the folder that holds
    them, None where it is the folder itself. classes: empty where the images have none.
    notes: what was left out, for the user's eyes.
    """

    classes: tuple[str, ...]
    train: list[Entry] | None
    validation: list[Entry] | None
    test: list[Entry] | None
    whole: list[Entry]
    part: str | None
    notes: tuple[str, ...]


class _Files(NamedTuple):
    """Image files of a folder: those in its subfolders by name, those directly in it."""

    classes: dict[str, list[Path]]
    flat: list[Path]
    empty: list[str]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.classes or self.flat)


class _Part(NamedTuple):
    """A folder and the images in it."""

    folder: Path
    files: _Files


def list_images(root: Path) -> Listing:
    """List ``root/*``, ``root/CLASS/*``, or ``root/PART/*`` and ``root/PART/CLASS/*``.

    Parts are train, val (or valid, validation) and test. Classes are the names of folders with
    images in them, sorted, or in the order of ``root/classes.txt``; images below a class folder
    belong to it. Images without a class folder have no label.
    Raises DataError with one line where there are no images or an unknown class.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (allowed: {LAYOUT})")
    try:
        return _list(root)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot read: {error.strerror}") from error


def _list(root: Path) -> Listing:
    whole = _files(root)
    parts: dict[str, _Part] = {}
    notes: list[str] = []
    for name, part in _parts(root, whole).items():
        if part.files:
            parts[name] = part
        else:
            notes.append(f"{part.folder.name}/ has no images")
    if parts:
        notes += _beside(whole, parts)
    folders = parts or {WHOLE: _Part(root, whole)}
    classes = _classes(root, folders)
    entries = {}
    for name, part in folders.items():
        entries[name] = _entries(part, classes)
        notes += _left_out(part, classes)
    if len(entries) > 1:
        lists = (entries.get("train"), entries.get("validation"), entries.get("test"))
        return Listing(classes, *lists, [], None, tuple(notes))
    name, images = next(iter(entries.items()))
    folder = None if name == WHOLE else folders[name].folder.name
    return Listing(classes, None, None, None, images, folder, tuple(notes))


def _beside(whole: _Files, parts: Mapping[str, _Part]) -> list[str]:
    """What a folder holds beside those that divide its images, which is not read."""
    dividing = {part.folder.name for part in parts.values()}
    beside = [name for name in whole.classes if name not in dividing]
    beside += [path.name for path in whole.flat]
    if not beside:
        return []
    return [f"not read, beside {', '.join(sorted(dividing))}: {_few(beside)}"]


def _parts(root: Path, whole: _Files) -> dict[str, _Part]:
    """The folders that divide the images, by part.

    A single folder of images that is named as a part, beside folders that are not, is a class:
    trains are among the classes of some data sets.
    """
    folders = (*whole.classes, *whole.empty)
    parts: dict[str, _Part] = {}
    for name, spellings in PARTS.items():
        same = sorted(folder for folder in folders if folder.lower() in spellings)
        if len(same) > 1:
            raise DataError(f"{root}: {' and '.join(same)} are there (allowed: one of them)")
        if same:
            parts[name] = _Part(root / same[0], _files(root / same[0]))
    beside = set(whole.classes)
    for part in parts.values():
        beside.discard(part.folder.name)
    divided = len(parts) > 1 or any(part.files.classes for part in parts.values())
    if divided or not beside:
        return parts
    return {}


def _classes(root: Path, folders: Mapping[str, _Part]) -> tuple[str, ...]:
    listed = root / CLASS_LIST
    if listed.is_file():
        return _read_classes(listed)
    everywhere: set[str] = set()
    for part in folders.values():
        everywhere.update(part.files.classes)
    if "train" not in folders:
        return _several(everywhere)
    files = folders["train"].files
    # A class of which training has no image has its place if another part has some.
    return _several({*files.classes, *everywhere.intersection(files.empty)})


def _several(names: set[str]) -> tuple[str, ...]:
    """Sorted; a single folder does not tell images apart, so that it is no class."""
    if len(names) < 2:
        return ()
    return tuple(sorted(names))


def _read_classes(listed: Path) -> tuple[str, ...]:
    try:
        names = [line.strip() for line in listed.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listed}: cannot read: {error}") from error
    problem = _problem_of(names)
    if problem is not None:
        raise DataError(f"{listed}: {problem} (allowed: one class folder name a line)")
    return tuple(names)


def _problem_of(names: Sequence[str]) -> str | None:
    """What is wrong with a list of classes, or None."""
    if not names:
        return "it is empty"
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return f"'{name}' is there twice"
        seen.add(name)
    return None


def _entries(part: _Part, classes: Sequence[str]) -> list[Entry]:
    folder, files = part
    if not files:
        raise DataError(f"{folder}: no images found (allowed: {LAYOUT})")
    if not files.classes:
        return [Entry(path, UNKNOWN) for path in files.flat]
    index = {name: label for label, name in enumerate(classes)}
    if not classes:
        index = dict.fromkeys(files.classes, UNKNOWN)
    entries = []
    for name, paths in files.classes.items():
        if name not in index:
            near = difflib.get_close_matches(name, classes, n=3, cutoff=0) or [CLASS_LIST]
            raise DataError(
                f"{folder}: unknown class folder '{name}' (allowed: the {len(classes)} classes "
                f"of the training folder or of {CLASS_LIST}, such as {', '.join(near)})"
            )
        for path in paths:
            entries.append(Entry(path, index[name]))
    return entries


def _left_out(part: _Part, classes: Sequence[str]) -> list[str]:
    """What a folder holds that is not read."""
    folder, files = part
    notes = []
    known = set(classes)
    empty = [name for name in files.empty if name not in known]
    if files.classes and empty:
        notes.append(f"no classes, since without images in {folder.name}/: {_few(empty)}")
    if files.classes and files.flat:
        names = [path.name for path in files.flat]
        notes.append(f"not read, beside the class folders of {folder.name}/: {_few(names)}")
    return notes


def _files(folder: Path) -> _Files:
    flat, names = _scan(folder)
    classes: dict[str, list[Path]] = {}
    empty = []
    for name in names:
        paths = _below(folder / name)
        if paths:
            classes[name] = paths
        else:
            empty.append(name)
    return _Files(classes, [folder / name for name in flat], empty)


def _below(folder: Path) -> list[Path]:
    """Image files of a class: in its folder, then in folders below. Links lead nowhere twice."""
    files, pending = [], [folder]
    while pending:
        current = pending.pop(0)
        flat, names = _scan(current)
        files += [current / name for name in flat]
        for name in names:
            below = current / name
            if not below.is_symlink():
                pending.append(below)
    return files


def _scan(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the image files and of the folders that are neither hidden nor stray."""
    files, folders = [], []
    with os.scandir(folder) as items:
        for item in items:
            if item.name.startswith(".") or item.name in STRAY:
                continue
            if item.is_dir():
                folders.append(item.name)
            elif item.name.lower().endswith(SUFFIXES) and item.is_file():
                files.append(item.name)
    return sorted(files), sorted(folders)


def _few(names: Sequence[str]) -> str:
    text = ", ".join(names[:SHOWN])
    if len(names) > SHOWN:
        text += f" and {len(names) - SHOWN} more"
    return text
