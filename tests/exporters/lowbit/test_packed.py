"""``weights.eqpack``: bits without gaps, exact round trips, one-line refusals of damaged files."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from eqnet.backend.lowbit.bits import CHUNK, int_range, pack_bits, packed_bytes, unpack_bits
from eqnet.backend.lowbit.packed import (
    HEADER,
    PackedTensor,
    Shared,
    content_bits,
    read_packed,
    real_values,
    write_packed,
)
from eqnet.spec.errors import ArtifactError

WIDTHS = range(2, 9)


def integers(bits, signed, shape, seed=0):
    lo, hi = int_range(bits, signed=signed)
    values = np.random.default_rng(seed).integers(lo, hi + 1, shape)
    return values.astype(np.int8 if signed else np.uint8)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", WIDTHS)
def test_the_stream_is_what_the_document_says(bits, signed):
    values = integers(bits, signed, 37)
    stream = sum((int(v) & (1 << bits) - 1) << i * bits for i, v in enumerate(values))
    expected = stream.to_bytes(packed_bytes(37, bits), "little")
    assert pack_bits(values, bits) == expected
    found = unpack_bits(expected, 37, bits, signed=signed)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("bits", WIDTHS)
def test_chunks_join_without_a_seam(bits):
    values = integers(bits, True, 2 * CHUNK + 5)
    data = pack_bits(values, bits)
    assert len(data) == packed_bytes(values.size, bits)
    np.testing.assert_array_equal(unpack_bits(data, values.size, bits, signed=True), values)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 bits hold -2 to 1, found 0 to 2"):
        pack_bits(np.array([0, 2], np.int8), 2)
    with pytest.raises(ValueError, match="3 bytes for 9 integers"):
        unpack_bits(b"abc", 9, 3, signed=False)


def sample():
    """A tensor of every width and sign, a bias, floats, and every mode of parameters."""
    rng = np.random.default_rng(1)
    found = []
    for bits in WIDTHS:
        for signed in (False, True):
            scale = rng.uniform(0.1, 1, 5).astype(np.float32)
            zero = integers(bits, signed, 5, seed=bits)
            values = integers(bits, signed, (5, 3, 3, 3), seed=7 * bits)
            form = {
                0: {"scale": scale},
                1: {"scale": scale, "zero_point": zero},
                2: {"scale": scale[:1], "zero_point": zero[:1]},
                3: {"scale": scale[:3], "zero_point": zero[:3], "axis": 1},
            }[(bits + signed) % 4]
            found.append(PackedTensor(f"w{bits}{signed}", values, bits, **form))
    steps = rng.integers(-(2**31), 2**31, 5).astype(np.int32)
    shared = Shared("w5True", 2.0**-9)
    found.append(PackedTensor("fünf.bias", steps, 32, shared=shared))
    found.append(PackedTensor("float", rng.normal(size=(2, 3)).astype(np.float32), 32))
    found.append(PackedTensor("scalar", np.array(3, np.float32), 32))
    return found


def test_everything_comes_back(tmp_path):
    path, tensors = tmp_path / "w.eqpack", sample()
    write_packed(path, tensors)
    read = read_packed(path)
    assert list(read) == [tensor.name for tensor in tensors]
    for tensor in tensors:
        found = read[tensor.name]
        assert (found.bits, found.axis, found.shared) == (tensor.bits, tensor.axis, tensor.shared)
        for key in ("values", "scale", "zero_point"):
            one, other = getattr(found, key), getattr(tensor, key)
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)


def test_real_values_are_integers_less_zero_point_times_scale(tmp_path):
    tensors = {tensor.name: tensor for tensor in sample()}
    w = tensors["w4False"]  # one zero-point and one scale for each index of axis 0 or 1
    shape = [1] * 4
    shape[w.axis] = -1
    zero = 0 if w.zero_point is None else w.zero_point.astype(int).reshape(shape)
    expected = (w.values.astype(int) - zero).astype(np.float32) * w.scale.reshape(shape)
    np.testing.assert_array_equal(real_values(tensors, "w4False"), expected)
    bias = real_values(tensors, "fünf.bias")
    step = np.float32(2.0**-9) * tensors["w5True"].scale
    exact = tensors["fünf.bias"].values * step.astype(np.float64)
    np.testing.assert_array_equal(bias, exact.astype(np.float32))
    assert real_values(tensors, "float").dtype == np.float32


def test_the_size_is_the_sum_of_the_bits_and_little_more(tmp_path):
    tensors = [PackedTensor("w", integers(3, True, (64, 64, 3, 3)), 3, np.ones(64, np.float32))]
    assert content_bits(tensors) == 64 * 64 * 9 * 3 + 64 * 32
    write_packed(tmp_path / "w", tensors)
    size = (tmp_path / "w").stat().st_size
    assert content_bits(tensors) / 8 < size <= 1.005 * content_bits(tensors) / 8


def test_a_reader_needs_numpy_alone():
    code = (
        "import sys, eqnet.backend.lowbit.packed, eqnet.backend.lowbit.integer; "
        "kept = {'onnx', 'onnx_ir', 'onnxruntime', 'pydantic', 'torch', 'yaml', 'safetensors'}; "
        "print(sorted(kept & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def refused(path, data: bytes, text: str = "") -> None:
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="eqpack") as caught:
        read_packed(path)
    assert "\n" not in str(caught.value)
    assert text in str(caught.value)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "w.eqpack"
    tensors = [
        PackedTensor("w", integers(5, True, (3, 7)), 5, np.ones(3, np.float32)),
        PackedTensor("b", np.arange(3, dtype=np.int32), 32, shared=Shared("w", 0.5)),
    ]
    write_packed(path, tensors)
    return path


def test_every_changed_byte_is_noticed(small):
    data = small.read_bytes()
    for index in range(len(data)):
        refused(small, data[:index] + bytes([data[index] ^ 0x21]) + data[index + 1 :])


def test_every_truncation_is_noticed(small):
    data = small.read_bytes()
    for length in range(len(data)):
        refused(small, data[:length])
    refused(small, data + b"\0", "its header says")


@pytest.mark.parametrize("data", [b"", b"PK\3\4" + bytes(100), b"{}" * 40])
def test_a_foreign_file_is_one_line(tmp_path, data):
    refused(tmp_path / "w.eqpack", data, "does not begin with EQPK")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ArtifactError, match="cannot read"):
        read_packed(tmp_path / "none.eqpack")


def forged(directory: bytes, data: bytes = b"", count: int = 1, version: int = 1) -> bytes:
    """A file whose header and checksum are right and whose directory is the caller's."""
    body = directory + bytes(-(HEADER.size + len(directory)) % 4) + data
    total = HEADER.size + len(body)
    crc = zlib.crc32(body)
    return HEADER.pack(b"EQPK", version, 0, count, len(directory), total, crc) + body


ONE = bytes([1]) + b"w"
WEIGHT = ONE + bytes([0x82, 2, 0, 1, 2])
BIAS_OF_THREE = bytes([1]) + b"b" + bytes([0xA0, 3, 0, 1, 3, 0]) + struct.pack("<f", 1)
HUGE = bytes([0xFF] * 5 + [0x7F])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (forged(b"", version=2, count=0), "version 2"),
        (forged(b"", count=3), "0 tensors (its header says 3)"),
        (forged(ONE + bytes([0x82, 0, 0, 1]) + HUGE), "ends within a tensor"),
        (forged(ONE + bytes([0x82, 0, 0, 8]) + HUGE * 8), "ends within a tensor"),
        (forged(HUGE + b"w"), "ends within a tensor"),
        (forged(bytes([0xFF] * 12)), "more than 64 bits"),
        (forged(ONE + bytes([0x89, 0, 0, 1, 4]), bytes(4)), "type 0x89"),
        (forged(ONE + bytes([0x01, 0, 0, 1, 4]), bytes(4)), "type 0x01"),
        (forged(ONE + bytes([0x82, 0, 0, 9])), "9 dimensions"),
        (forged(ONE + bytes([0x82, 0, 0, 1, 0])), "holds nothing"),
        (forged(ONE + bytes([0x82, 2, 1, 1, 4]), bytes(20)), "axis 1 of 1"),
        (forged(ONE + bytes([0x82, 4, 0, 1, 4]), bytes(4)), "modes"),
        (forged(ONE + bytes([0x82, 0x30, 0, 1, 4]), bytes(4)), "modes"),
        (forged(ONE + bytes([0xA0, 3, 0, 1, 1, 0]) + struct.pack("<f", 1), bytes(4)), "shares"),
        (forged(WEIGHT + BIAS_OF_THREE, bytes(24), count=2), "shares 2 scales for 3"),
        (forged(ONE + bytes([0x82, 0, 0, 1, 4]), bytes(8)), "data follows"),
        (forged((ONE + bytes([0x82, 0, 0, 1, 4])) * 2, bytes(8), count=2), "1 tensors"),
        (forged(bytes([1, 0xFF, 0x82, 0, 0, 1, 4]), bytes(4)), "codec can't decode"),
    ],
)
def test_a_sound_checksum_does_not_make_a_sound_file(tmp_path, data, text):
    refused(tmp_path / "w.eqpack", data, text)


@pytest.mark.parametrize(
    "tensor",
    [
        PackedTensor("w", np.zeros((2, 0), np.int8), 4),
        PackedTensor("w", np.zeros((1,) * 9, np.int8), 4),
        PackedTensor("w", np.zeros(4, np.int16), 4),  # type: ignore[arg-type]
        PackedTensor("w", np.zeros(4, np.int8), 4, np.ones(3, np.float32)),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, tensor):
    with pytest.raises(ValueError, match="w: "):
        write_packed(tmp_path / "w.eqpack", [tensor])
    assert not (tmp_path / "w.eqpack").exists()
