"""Reading texts that may be anything: of any size, and JSON of any content."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

LARGEST = 2**63 - 1


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON text.

    Raises ValueError for a text that is none, is nested too deeply, or holds an integer beyond
    64 bits, which no number here is and arrays and floats cannot hold.
    """
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _integer(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > LARGEST:
        raise ValueError(f"an integer of {len(text)} digits (allowed: 64 bits)")
    return value


def read_bounded(path: Path, most: int) -> bytes | None:
    """The content of a file, None where it has more than `most` bytes. Raises OSError.

    Of a larger file, or a pipe without end, no more than that is read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        # Room for what is asked is made at once; a pipe's size is 0.
        content = b"" if size > most else stream.read((size or most) + 1)
    if size > most or len(content) > most:
        return None
    return content
