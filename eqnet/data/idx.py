"""A strict reader and writer of IDX files, the format of MNIST and Fashion-MNIST.

Format: a big-endian magic number (two zero bytes, a type code, the number of dimensions), one
big-endian uint32 for each dimension, then the values in C order (yann.lecun.com/exdb/mnist).
Only type code 0x08, unsigned bytes, is read.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.errors import DataError

UNSIGNED_BYTE = 0x08
# Bounds what a damaged or hostile header can make us allocate: 20 times the training images.
MAX_BYTES = 1 << 30


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read a plain or gzipped IDX file of unsigned bytes with this many dimensions.

    Raises DataError with one line if the file cannot be read, is no such file, is shorter or
    longer than its header says, or is not valid gzip.
    """
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=raw) as stream:
                    return _parse(path, stream, dimensions)
            return _parse(path, raw, dimensions)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error


def _parse(path: Path, stream: BufferedIOBase, dimensions: int) -> NDArray[np.uint8]:
    wanted = (UNSIGNED_BYTE << 8) | dimensions
    header = stream.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{path}: {len(header)} bytes, shorter than an IDX header")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    if magic != wanted:
        raise DataError(f"{path}: not an IDX file: magic 0x{magic:08x} (allowed: 0x{wanted:08x})")
    size = 1
    for extent in shape:
        size *= extent
    if size > MAX_BYTES:
        raise DataError(f"{path}: its header promises {size} bytes (allowed: at most {MAX_BYTES})")
    body = stream.read(size + 1)  # one more than allowed, to notice what should not be there
    if len(body) != size:
        length = f"{len(body)} bytes" if len(body) < size else "more"
        raise DataError(
            f"{path}: truncated or foreign: header promises {size} bytes, found {length}"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """Write a gzipped IDX file whose bytes depend on the values alone (no name, no time)."""
    header = struct.pack(f">{1 + values.ndim}I", (UNSIGNED_BYTE << 8) | values.ndim, *values.shape)
    temporary = path.with_name(f".{path.name}.tmp")
    with (
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as stream,
    ):
        stream.write(header + values.tobytes())
    os.replace(temporary, path)
