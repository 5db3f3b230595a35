"""``weights.eqpack``: a network's weights in as many bits as they have; needs numpy alone.

The format, byte by byte, is in ``docs/packed-format.md``. Every integer is little-endian::

    magic "EQPK" | u16 version | u16 0 | u32 tensors | u32 directory bytes | u64 file bytes |
    u32 CRC-32 of all that follows | directory | data, each block on a 4-byte boundary
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.files import write_file
from eqnet.backend.lowbit.bits import SmallInts, pack_bits, packed_bytes, unpack_bits
from eqnet.spec.errors import ArtifactError

Number = TypeVar("Number", bound=np.generic)

MAGIC, VERSION = b"EQPK", 1
HEADER = struct.Struct("<4sHHIIQI")
ALIGN = 4
MAX_DIMS = 8
SIGNED, INT32, FLOAT32 = 0x80, 0xA0, 0x40
NONE, ONE, PER_INDEX, SHARED = range(4)
SMALL = tuple(range(2, 9))


@dataclass(frozen=True)
class Shared:
    """Scales that are those of another tensor times a factor: a bias's, ``s_x * s_w[c]``."""

    name: str
    factor: float


@dataclass(frozen=True)
class PackedTensor:
    """One tensor of the file.

    values: int8 or uint8 of 2 to 8 bits, int32, or float32, in their own shape. scale: float32
    [1] or one for each index of `axis`, None for floats and for shared scales. zero_point:
    integers of the values' type, [1] or one for each index; None means 0.
    """

    name: str
    values: SmallInts | NDArray[np.int32] | NDArray[np.float32]
    bits: int
    scale: NDArray[np.float32] | None = None
    zero_point: SmallInts | None = None
    axis: int = 0
    shared: Shared | None = None

    def real(self, scale: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """``(q - z) * s`` as float32, in the shape of the values.

        scale: what to use in place of the tensor's own, for a tensor with shared scales. The
        product with int32 values is rounded once, from float64.
        """
        factor = self.scale if scale is None else scale
        if self.values.dtype == np.float32 or factor is None:
            return self.values.astype(np.float32)
        if self.values.dtype == np.int32:
            return (self.values * self._along(factor).astype(np.float64)).astype(np.float32)
        wide = self.values.astype(np.int32)
        if self.zero_point is not None:
            wide = wide - self._along(self.zero_point.astype(np.int32))
        result: NDArray[np.float32] = wide.astype(np.float32) * self._along(factor)
        return result

    def _along(self, vector: NDArray[Number]) -> NDArray[Number]:
        shape = [1] * self.values.ndim
        if vector.size > 1:
            shape[self.axis] = vector.size
        return vector.reshape(shape)


def real_values(tensors: dict[str, PackedTensor], name: str) -> NDArray[np.float32]:
    """The float32 values of a tensor, its shared scales resolved."""
    tensor = tensors[name]
    if tensor.shared is None:
        return tensor.real()
    source = tensors[tensor.shared.name].scale
    assert source is not None
    return tensor.real(np.float32(tensor.shared.factor) * source)


def content_bits(tensors: Iterable[PackedTensor]) -> int:
    """What the tensors take without any format: values, zero-points and 32-bit scales."""
    total = 0
    for tensor in tensors:
        total += tensor.values.size * tensor.bits
        if tensor.scale is not None:
            total += tensor.scale.size * 32
        if tensor.zero_point is not None:
            total += tensor.zero_point.size * tensor.bits
    return total


def write_packed(path: Path, tensors: Iterable[PackedTensor]) -> None:
    """Write a file whole or not at all. Raises ValueError for what the format cannot hold."""
    items = list(tensors)
    order = {tensor.name: index for index, tensor in enumerate(items)}
    directory = b"".join(_entry(tensor, order) for tensor in items)
    body = bytearray(_padded(directory, HEADER.size))
    for tensor in items:
        for block in _blocks(tensor):
            body += _padded(block)
    total = HEADER.size + len(body)
    head = (MAGIC, VERSION, 0, len(items), len(directory), total, zlib.crc32(body))
    write_file(path, HEADER.pack(*head) + bytes(body))


def _padded(block: bytes, before: int = 0) -> bytes:
    return block + bytes(-(before + len(block)) % ALIGN)


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def _type_byte(tensor: PackedTensor) -> int:
    kind = tensor.values.dtype
    if kind == np.float32:
        return FLOAT32
    if kind == np.int32:
        return INT32
    if kind not in (np.int8, np.uint8) or tensor.bits not in SMALL:
        raise ValueError(f"{tensor.name}: {kind} of {tensor.bits} bits has no packed form")
    if kind == np.int8:
        return tensor.bits | SIGNED
    return tensor.bits


def _mode(vector: NDArray[np.generic] | None, tensor: PackedTensor) -> int:
    if vector is None:
        return NONE
    if vector.size != 1 and vector.size != tensor.values.shape[tensor.axis]:
        raise ValueError(f"{tensor.name}: {vector.size} parameters along axis {tensor.axis}")
    if vector.size == 1:
        return ONE
    return PER_INDEX


def _entry(tensor: PackedTensor, order: dict[str, int]) -> bytes:
    shape, name = tensor.values.shape, tensor.name.encode()
    if len(shape) > MAX_DIMS or 0 in shape:
        raise ValueError(f"{tensor.name}: shape {list(shape)} (allowed: up to {MAX_DIMS} sizes)")
    scales = SHARED if tensor.shared is not None else _mode(tensor.scale, tensor)
    modes = scales | _mode(tensor.zero_point, tensor) << 4
    fixed = bytes([_type_byte(tensor), modes, tensor.axis])
    sizes = b"".join(_varint(value) for value in (len(shape), *shape))
    entry = _varint(len(name)) + name + fixed + sizes
    if tensor.shared is not None:
        entry += _varint(order[tensor.shared.name]) + struct.pack("<f", tensor.shared.factor)
    return entry


def _blocks(tensor: PackedTensor) -> Iterator[bytes]:
    if tensor.scale is not None:
        yield tensor.scale.astype("<f4").tobytes()
    if tensor.zero_point is not None:
        yield pack_bits(tensor.zero_point, tensor.bits)
    if tensor.values.dtype in (np.int8, np.uint8):
        yield pack_bits(tensor.values, tensor.bits)  # type: ignore[arg-type]  # by the dtype
    else:
        yield tensor.values.astype(tensor.values.dtype.newbyteorder("<")).tobytes()


def read_packed(path: Path) -> dict[str, PackedTensor]:
    """Every tensor of a file by name, in the file's order.

    Raises ArtifactError with one line if the file is missing, truncated, changed, of another
    kind or of a later version. Memory stays within a small multiple of the file's size.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read: {error.strerror}") from error
    try:
        return _parse(data)
    except (ValueError, IndexError, struct.error) as error:
        raise ArtifactError(f"{path}: not a sound eqpack file: {error}") from error


def _parse(data: bytes) -> dict[str, PackedTensor]:
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise ValueError("it does not begin with EQPK")
    _, version, reserved, count, directory, total, crc = HEADER.unpack_from(data)
    if version != VERSION or reserved:
        raise ValueError(f"version {version}.{reserved} (allowed: {VERSION}.0)")
    if total != len(data):
        raise ValueError(f"{len(data)} bytes (its header says {total})")
    if zlib.crc32(data[HEADER.size :]) != crc:
        raise ValueError("its checksum differs")
    if directory > total - HEADER.size:
        raise ValueError("its directory is longer than the file")
    entries = _Cursor(data[: HEADER.size + directory], HEADER.size)
    blocks = _Cursor(data, HEADER.size + directory)
    tensors: list[PackedTensor] = []
    while entries.at < len(entries.data):
        tensors.append(_read_tensor(entries, blocks, tensors))
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) != count or len(tensors) != count:
        raise ValueError(f"{len(by_name)} tensors (its header says {count})")
    if -(-blocks.at // ALIGN) * ALIGN != total:
        raise ValueError("data follows its last tensor")
    return by_name


@dataclass
class _Cursor:
    """A place in bytes; nothing is read past their end."""

    data: bytes
    at: int

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError("it ends within a tensor")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def aligned(self, count: int) -> bytes:
        self.at += -self.at % ALIGN
        return self.take(count)


def _read_tensor(entries: _Cursor, blocks: _Cursor, before: list[PackedTensor]) -> PackedTensor:
    name = entries.take(entries.varint()).decode()
    kind, modes, axis = entries.take(3)
    dims = entries.varint()
    if dims > MAX_DIMS:
        raise ValueError(f"{name}: {dims} dimensions (allowed: up to {MAX_DIMS})")
    shape = tuple(entries.varint() for _ in range(dims))
    if 0 in shape:
        raise ValueError(f"{name}: shape {list(shape)} holds nothing")
    scales, zeros = modes & 0xF, modes >> 4
    bits, signed = kind & 0x7F, kind >= SIGNED
    if kind not in (INT32, FLOAT32) and bits not in SMALL:
        raise ValueError(f"{name}: type {kind:#04x} is unknown")
    if scales > SHARED or zeros > PER_INDEX or (zeros and bits not in SMALL):
        raise ValueError(f"{name}: modes {modes:#04x} are unknown")
    if max(scales, zeros) >= PER_INDEX and axis >= dims and scales != SHARED:
        raise ValueError(f"{name}: axis {axis} of {dims}")
    shared = scale = zero = None
    if scales == SHARED:
        shared = _read_shared(entries, before, shape)
    if length := _parameters(scales, shape, axis):
        scale = _floats(blocks, length)
    if length := _parameters(zeros, shape, axis):
        zero = _small(blocks, length, bits, signed)
    count, width = math.prod(shape), 32
    values: SmallInts | NDArray[np.int32] | NDArray[np.float32]
    if kind == FLOAT32:
        values = _floats(blocks, count)
    elif kind == INT32:
        values = np.frombuffer(blocks.aligned(4 * count), "<i4").astype(np.int32)
    else:
        values, width = _small(blocks, count, bits, signed), bits
    return PackedTensor(name, values.reshape(shape), width, scale, zero, axis, shared)


def _parameters(mode: int, shape: tuple[int, ...], axis: int) -> int:
    """How many scales, or zero-points, a tensor of that mode has in the file."""
    if mode == ONE:
        return 1
    if mode == PER_INDEX and axis < len(shape):
        return shape[axis]
    return 0


def _floats(blocks: _Cursor, count: int) -> NDArray[np.float32]:
    return np.frombuffer(blocks.aligned(4 * count), "<f4").astype(np.float32)


def _small(blocks: _Cursor, count: int, bits: int, signed: bool) -> SmallInts:
    return unpack_bits(blocks.aligned(packed_bytes(count, bits)), count, bits, signed=signed)


def _read_shared(entries: _Cursor, before: list[PackedTensor], shape: tuple[int, ...]) -> Shared:
    index = entries.varint()
    (factor,) = struct.unpack("<f", entries.take(4))
    scale = before[index].scale if index < len(before) else None
    if scale is None:
        raise ValueError("a tensor shares the scales of one without")
    count = shape[0] if shape else 1
    if scale.size not in (1, count):
        raise ValueError(f"a tensor shares {scale.size} scales for {shape[0]} values")
    return Shared(before[index].name, factor)
