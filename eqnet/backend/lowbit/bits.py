"""Integers of 2 to 8 bits as a stream of bits, without gaps; needs numpy alone.

Element i occupies the bits ``[i * b, (i + 1) * b)`` of the stream, its lowest bit first; bit k
of the stream is bit ``k % 8``, counted from the lowest, of byte ``k // 8``. Signed integers are
in two's complement of b bits. Unused bits of the last byte are 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SmallInts = NDArray[np.int8] | NDArray[np.uint8]

# A multiple of 8, so that every chunk but the last fills whole bytes; bounds the memory.
CHUNK = 1 << 18


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` integers of `bits` bits take."""
    return (count * bits + 7) // 8


def pack_bits(values: SmallInts, bits: int) -> bytes:
    """Pack int8 or uint8 integers of any shape, in C order. Raises ValueError if one is wider."""
    flat = np.ascontiguousarray(values).reshape(-1)
    lo, hi = int_range(bits, signed=flat.dtype == np.int8)
    if flat.size and (int(flat.min()) < lo or int(flat.max()) > hi):
        raise ValueError(f"{bits} bits hold {lo} to {hi}, found {flat.min()} to {flat.max()}")
    raw = flat.view(np.uint8)
    parts = []
    for start in range(0, raw.size, CHUNK):
        lanes = np.unpackbits(raw[start : start + CHUNK, None], axis=1, bitorder="little")
        parts.append(np.packbits(lanes[:, :bits], bitorder="little").tobytes())
    return b"".join(parts)


def unpack_bits(data: bytes, count: int, bits: int, *, signed: bool) -> SmallInts:
    """The `count` integers of a stream, int8 or uint8 [count].

    `data` must be of exactly ``packed_bytes(count, bits)`` bytes; raises ValueError otherwise.
    """
    if len(data) != packed_bytes(count, bits):
        raise ValueError(f"{len(data)} bytes for {count} integers of {bits} bits")
    raw = np.frombuffer(data, dtype=np.uint8)
    result = np.empty(count, dtype=np.uint8)
    for start in range(0, count, CHUNK):
        length = min(CHUNK, count - start)
        block = raw[start * bits // 8 : start * bits // 8 + packed_bytes(length, bits)]
        lanes = np.zeros((length, 8), dtype=np.uint8)
        stream = np.unpackbits(block, count=length * bits, bitorder="little")
        lanes[:, :bits] = stream.reshape(length, bits)
        if signed:
            lanes[:, bits:] = lanes[:, bits - 1 : bits]
        result[start : start + length] = np.packbits(lanes, axis=1, bitorder="little")[:, 0]
    if signed:
        return result.view(np.int8)
    return result


def int_range(bits: int, *, signed: bool) -> tuple[int, int]:
    """The lowest and the highest integer of `bits` bits."""
    half = 1 << (bits - 1)
    if signed:
        return -half, half - 1
    return 0, 2 * half - 1
