"""The strict reader and writer of IDX files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from idx_files import one_line, plain_idx

from eqnet.data.idx import read_idx, write_idx
from eqnet.spec.errors import DataError


@pytest.fixture(params=["plain", "gzipped"])
def idx_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    values = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "values"
    (plain_idx if request.param == "plain" else write_idx)(path, values)
    return path


def test_idx_reads_what_was_written(idx_file: Path) -> None:
    expected = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(read_idx(idx_file, 3), expected)


def test_idx_with_other_dimensions_is_refused(idx_file: Path) -> None:
    with pytest.raises(DataError, match=r"magic 0x00000803 .*0x00000801") as error:
        read_idx(idx_file, 1)
    assert str(idx_file) in one_line(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, shorter"),
        (b"\x00\x00\x08\x03\x00", "5 bytes, shorter"),
        (struct.pack(">4I", 0x0803, 2, 2, 2) + b"1234567", "promises 8 bytes, found 7"),
        (struct.pack(">4I", 0x0803, 2, 2, 2) + b"123456789", "promises 8 bytes, found more"),
        (struct.pack(">4I", 0x0D03, 1, 1, 1) + b"1234", "magic 0x00000d03"),
        (struct.pack(">4I", 0x0803, 60_000, 65_535, 65_535), "allowed: at most"),
        (gzip.compress(struct.pack(">4I", 0x0803, 1, 1, 1) + b"1")[:-9], "damaged gzip"),
        (b"\x1f\x8bnot really", "damaged gzip"),
        (gzip.compress(bytes(100))[:10] + b"\xff" * 20, "damaged gzip"),
    ],
    ids=["empty", "header", "short", "long", "type", "huge", "cut gzip", "no gzip", "bad gzip"],
)
def test_damaged_idx_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_idx(path, 3)
    assert str(path) in one_line(error)


def test_a_changed_byte_in_a_gzip_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "values"
    write_idx(path, np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        read_idx(path, 3)


def test_a_missing_idx_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "none", 3)


def test_written_idx_depends_on_the_values_alone(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "a", values)
    write_idx(tmp_path / "b", values)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
