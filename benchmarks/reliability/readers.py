"""What every reader of files is fuzzed by: how a damaged file is made, and how it is read."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutations import damaged, flipped, written


@dataclass(frozen=True)
class Reader:
    """How a damaged file is made, and how it is read.

    spoil: writes one. read: raises an EqnetError, or accepts what is there and returns it.
    hashed: the file has a hash or checksum, so that whatever is accepted must be what a whole
    file gives.
    """

    spoil: Callable[[random.Random], object]
    read: Callable[[], object]
    hashed: bool = False


Make = Callable[[Path], Reader]


def spoiled_json(document: Any, rng: random.Random) -> bytes:
    """A JSON document with odd values, or with damaged bytes."""
    if rng.random() < 0.7:
        return written(damaged(document, rng))
    return flipped(written(document), rng)


def json_file(path: Path, whole: Any, read: Callable[[], object]) -> Reader:
    """A reader of one JSON file."""
    return Reader(lambda rng: path.write_bytes(spoiled_json(whole, rng)), read)


def binary_file(
    path: Path, wholes: list[bytes], read: Callable[[], object], *, hashed: bool = False
) -> Reader:
    """A reader of one file whose bytes are damaged, of several kinds."""
    return Reader(
        lambda rng: path.write_bytes(flipped(rng.choice(wholes), rng)), read, hashed=hashed
    )


def headed_file(path: Path, whole: bytes, read: Callable[[], object]) -> Reader:
    """A reader of a safetensors file: mostly its header is damaged, which says what all is."""
    end = int.from_bytes(whole[:8], "little") + 8

    def spoil(rng: random.Random) -> None:
        if rng.random() < 0.8:
            path.write_bytes(flipped(whole[:end], rng) + whole[end:])
        else:
            path.write_bytes(flipped(whole, rng))

    return Reader(spoil, read)
