"""Helpers of the data tests: plain IDX files, and the demand that an error is one line."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest


def plain_idx(path: Path, values: np.ndarray) -> None:
    """Write an uncompressed IDX file of unsigned bytes."""
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 | values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    """The message of an error, which must be one line."""
    text = str(error.value)
    assert "\n" not in text
    return text
