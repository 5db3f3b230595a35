"""What a file of weights is, by its first bytes: a suffix says what its name says, no more."""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Literal

from eqnet.spec.errors import CheckpointError, one_line

FileKind = Literal["safetensors", "pytorch"]
ALLOWED = "safetensors, or a PyTorch file of tensors alone, such as a state dict"
PYTORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
HEAD = 1024
GIT_LFS = "a Git LFS pointer, not the file it stands for (`git lfs pull` fetches that)"
# (offset, bytes, what begins so)
MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", GIT_LFS),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"model_checkpoint_path:", "a TensorFlow checkpoint's index"),
    (0, b"\x08\x01\x12", "a TensorFlow SavedModel"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"ptrt", "a TensorRT engine"),
    (0, b"ftrt", "a TensorRT engine"),
    (0, b"\x1f\x8b", "a gzip archive (unpack it)"),
    (0, b"BZh", "a bzip2 archive (unpack it)"),
    (0, b"\xfd7zXZ", "an xz archive (unpack it)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive (unpack it)"),
    (0, b"Rar!", "a RAR archive (unpack it)"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive (unpack it)"),
    (257, b"ustar", "a tar archive (unpack it)"),
    (0, b"\x89PNG", "a picture"),
    (0, b"\xff\xd8\xff", "a picture"),
    (0, b"%PDF", "a PDF"),
)
TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # of TensorFlow's tables of variables
SHARD = re.compile(r"\.(data-\d+-of-\d+|index)$")
# An ONNX ModelProto: its version, then a string or a message of the model.
ONNX = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x3a\x42]", re.DOTALL)
# Signs that a text does not have: all below the space but tabs and ends of lines and pages.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f]")
# What zipfile raises for archives that are damaged, encrypted or compressed in an unknown way.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    IndexError,
    struct.error,
    RuntimeError,
)
ZIPPED = (
    ("constants.pkl", "a TorchScript archive, which is code (allowed: its model's state dict)"),
    ("model.json", "a PyTorch export archive, which is code (allowed: its model's state dict)"),
    ("config.json", "a Keras archive"),
    (".npy", "a NumPy archive"),
)


def kind_of(path: Path) -> FileKind:
    """How the weights of a file are read.

    Raises CheckpointError that says what the file is instead, where that can be told.
    """
    if path.is_dir():
        raise _refused(path, _folder(path))
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file (allowed: {ALLOWED})")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            file.seek(max(0, path.stat().st_size - len(TABLE_END)))
            tail = file.read()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    what = _foreign(path, head, tail)
    if what is not None:
        raise _refused(path, what)
    if _is_safetensors(head) or path.suffix == ".safetensors":
        return "safetensors"
    if (head[0] == 0x80 and head[1:2] <= b"\x05") or path.suffix in PYTORCH_SUFFIXES:
        return "pytorch"
    kind = path.suffix or path.name
    raise CheckpointError(f"{path}: unknown kind of weights '{kind}' (allowed: {ALLOWED})")


def _refused(path: Path, what: str) -> CheckpointError:
    if "(allowed:" in what:
        return CheckpointError(f"{path}: {what}")
    return CheckpointError(f"{path}: {what}, no weights (allowed: {ALLOWED})")


def _foreign(path: Path, head: bytes, tail: bytes) -> str | None:
    """What the file is, if it is certainly no file of weights that can be read."""
    if not head:
        return "an empty file"
    for offset, magic, what in MAGIC:
        if head[offset:].startswith(magic):
            return what
    if tail == TABLE_END or SHARD.search(path.name):
        return "a part of a TensorFlow checkpoint"
    if _is_safetensors(head):
        return None
    if ONNX.match(head):
        return "an ONNX model"
    return _text(head)


def _text(head: bytes) -> str | None:
    errors = "strict" if len(head) < HEAD else "ignore"  # a head may end within a character
    try:
        text = head.decode("utf-8", errors).lstrip("\ufeff")
    except UnicodeDecodeError:
        return None
    if not text.strip() or CONTROL.search(text):
        return None
    start = text.lstrip().lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "an HTML page, not the file that it offers"
    if start.startswith("<"):
        return "an XML text"
    if start.startswith(("{", "[")):
        return "a JSON text (of shards, give the files joined into one)"
    return "a text file"


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes of the header's length, then the header in JSON."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**31


def _zip(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_ERRORS as error:
        raise _damaged(path) from error
    for end, what in ZIPPED:
        if any(name.endswith(end) for name in names):
            raise _refused(path, what)
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return "pytorch"
    content = ""
    if names:
        content = f" of '{names[0]}' and other files"
    raise _refused(path, f"a zip archive{content} (unpack it)")


def require_whole(path: Path) -> None:
    """Compare every file of a zip archive with its checksum, which PyTorch does not.

    A file that is no zip archive has none. Raises CheckpointError for the first that differs.
    """
    try:
        if not zipfile.is_zipfile(path):  # it raises too, where the record at the end is damaged
            return
        with zipfile.ZipFile(path) as archive:
            name = archive.testzip()
    except ZIP_ERRORS as error:
        raise _damaged(path) from error
    if name is not None:
        raise CheckpointError(f"{path}: damaged: '{one_line(name, 80)}' in it has another checksum")


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: damaged or cut off zip archive, as a PyTorch file is one (allowed: {ALLOWED})"
    )


def _folder(path: Path) -> str:
    """What a folder is: those of TensorFlow and of model hubs hold files of weights."""
    try:
        names = sorted(os.listdir(path))
    except OSError:
        names = []
    if "saved_model.pb" in names:
        return "a folder with a TensorFlow SavedModel"
    for name in names:
        if name.endswith((".safetensors", ".bin", ".pth", ".pt")):
            return f"a folder (give '{name}' of it)"
    return "a folder"
