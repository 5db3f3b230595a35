"""Finding the images of an ImageNet-style folder, and which class each belongs to."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eqnet.spec.errors import DataError

# What torchvision's ImageFolder reads.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
CLASS_LIST = "classes.txt"
LAYOUT = "train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg; .png, .webp and others too"


class Entry(NamedTuple):
    """One image file and the index of its class."""

    path: Path
    label: int


class Listing(NamedTuple):
    """The images of a folder: `val` is None where it does not divide them itself."""

    classes: tuple[str, ...]
    train: list[Entry]
    val: list[Entry] | None


def list_images(root: Path) -> Listing:
    """List ``root/train/CLASS/*`` and ``root/val/CLASS/*``, or ``root/CLASS/*``.

    Classes are the folder names in sorted order, or in the order of ``root/classes.txt``.
    Raises DataError with one line for any other layout.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (allowed: {LAYOUT})")
    try:
        return _list(root, root / "train", root / "val")
    except OSError as error:
        raise DataError(f"{error.filename}: cannot read: {error.strerror}") from error


def _list(root: Path, train: Path, val: Path) -> Listing:
    if train.is_dir() and val.is_dir():
        classes = _classes(root, train)
        return Listing(classes, _entries(train, classes), _entries(val, classes))
    only = next((folder for folder in (train, val) if folder.is_dir()), root)
    classes = _classes(root, only)
    return Listing(classes, _entries(only, classes), None)


def _classes(root: Path, folder: Path) -> tuple[str, ...]:
    listed = root / CLASS_LIST
    if not listed.is_file():
        return tuple(_subfolders(folder))
    try:
        names = [line.strip() for line in listed.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listed}: cannot read: {error}") from error
    doubled = next((name for name in names if names.count(name) > 1), None)
    if not names or doubled is not None:
        found = "it is empty" if doubled is None else f"'{doubled}' is there twice"
        raise DataError(f"{listed}: {found} (allowed: one class folder name a line)")
    return tuple(names)


def _entries(folder: Path, classes: Sequence[str]) -> list[Entry]:
    index = {name: label for label, name in enumerate(classes)}
    entries = []
    for name in _subfolders(folder):
        if name not in index:
            near = difflib.get_close_matches(name, classes, n=3, cutoff=0) or [CLASS_LIST]
            raise DataError(
                f"{folder}: unknown class folder '{name}' (allowed: the {len(classes)} classes "
                f"of the training folder or of {CLASS_LIST}, such as {', '.join(near)})"
            )
        entries += [Entry(folder / name / file, index[name]) for file in _files(folder / name)]
    if not entries:
        raise DataError(f"{folder}: no images found (allowed: {LAYOUT})")
    return entries


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as items:
        return sorted(i.name for i in items if i.is_dir() and not i.name.startswith("."))


def _files(folder: Path) -> list[str]:
    with os.scandir(folder) as items:
        names = [i.name for i in items if i.name.lower().endswith(SUFFIXES) and i.is_file()]
    return sorted(name for name in names if not name.startswith("."))
